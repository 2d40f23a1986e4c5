"""Find nginx and erb, render the configuration, have nginx test it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bokeh_dyno.shared.settings import ROOT
from bokeh_dyno.start import erb, events
from bokeh_dyno.start.output import OUTPUT, say

if TYPE_CHECKING:
    import psutil

    from bokeh_dyno.start.generation import Generation
    from bokeh_dyno.start.processes import Children

TEMPLATE = ROOT / "config" / "nginx.conf.erb"
ROUTING = Path(__file__).parent / "routing" / "routing.rb"
# Debian puts nginx where an ordinary user's PATH does not look
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/bin", "/usr/local/bin")
ERB_SECONDS = 10
TEST_SECONDS = 30  # it asks for the addresses of hosts
RELOAD_SECONDS = 5  # until nginx has other workers
CLOSING_SECONDS = 1.0  # in which most of those who keep a connection ask for something, and are told
# nginx looks for a relative path of these from the folder of the rendered file; for other directives', from the project
FROM_THERE = re.compile(
    r"(?:^|(?<=[\s;{]))(?:auth_basic_user_file|include|(?:proxy_)?ssl_\w*(?:certificate|certificate_key|password_file|dhparam|crl))"
    r"\s+[\"']?(?![/$\"'])[^\s;]+;"
)
APT = ROOT / ".apt" / "usr" / "sbin"  # where Heroku's apt buildpack puts it, and no PATH looks


class NginxError(RuntimeError):
    """nginx or erb is missing, or the configuration is wrong; the message is one line."""


class NotInstalledError(NginxError):
    """nginx or erb is missing."""


class Nginx:
    """nginx of this dyno, and the configuration that it goes by."""

    def __init__(self, run_dir: Path) -> None:
        """Find it; run_dir is RUN_DIR. Raises NginxError when there is none that runs."""
        self._path = find()
        self.version = version(self._path)
        self.conf = run_dir / "nginx.conf"
        (run_dir / "closing").unlink(missing_ok=True)
        # at a reload, before 1.27.4: it closes kept connections at once; bin/dev, with one visitor, reloads too often to wait
        self._loses_requests = tuple(map(int, self.version.split("."))) < (1, 27, 4) and "DYNO_DEV" not in os.environ
        self._text = ""  # of the configuration; the file may have been removed
        self._children: Children | None = None

    def take(self, rendering: subprocess.Popen) -> None:
        """Make what erb renders the configuration, once nginx has tested it; what fails leaves that as it is.

        Raises NginxError.
        """
        fresh = self.conf.with_suffix(".new")
        rendered(rendering, fresh)
        if line := warning(fresh):
            say(f"warning: {line}")
        test(self._path, fresh)
        self._text = fresh.read_text()
        os.replace(fresh, self.conf)

    def start(self, children: Children, shield: Callable[[], None] | None) -> None:
        """Start it, and copy its log."""
        self._children = children
        reads, writes = os.pipe()
        # its times are those of everybody's, as events have them
        env = {**os.environ, "TZ": "UTC"} if os.environ.get("LOG_FORMAT") == "json" else None
        children.start(
            "nginx", command(self._path, self.conf), shield,
            stdin=subprocess.DEVNULL, stdout=writes, stderr=writes, env=env,
        )  # fmt: skip
        os.close(writes)
        OUTPUT.follow(reads, events.of_nginx)

    def keep_no_connections(self) -> None:
        """Have it tell whoever keeps a connection, with each answer, that it ends: see `closing` in server.conf.erb."""
        with contextlib.suppress(OSError):
            (self.conf.parent / "closing").touch()

    def reread(self) -> None:
        """Have it read the configuration that it has once more, with the addresses of what is named in it."""
        self._hang_up(self._text)

    def pid(self) -> int | None:
        """Return its pid, None when it does not run."""
        return self._children.pid("nginx") if self._children else None

    def workers(self) -> set[psutil.Process]:
        """Return its workers, those included that only finish what they have."""
        import psutil

        return set(psutil.Process(pid).children()) if (pid := self.pid()) else set()

    def reload(self, environ: Mapping[str, str], generations: Sequence[Generation]) -> None:
        """Render anew with the config vars of environ, leading to the first of generations and to the sessions of the others.

        When nginx runs, it has taken that on return. Raises NginxError when not: it goes on with what it had.
        """
        listed = ",".join(f"{one.name}:{one.values.bokeh_workers}" for one in generations)
        before = self._text
        self.take(rendering({**environ, "DYNO_GENERATIONS": listed}))
        self._hang_up(before)

    def forget(self, generation: str) -> None:
        """Lead the sessions of a generation that is about to end to the one that serves.

        Nothing is rendered for it: nobody has said that what is being edited is to count. Raises NginxError.
        """
        before = self._text
        lines = [line for line in before.splitlines(keepends=True) if not line.endswith(f" bokeh_{generation};\n")]
        self._write("".join(lines))
        self._hang_up(before)

    def _write(self, text: str) -> None:
        self._text = text
        self.conf.write_text(text)

    def _hang_up(self, before: str) -> None:
        """Have nginx read its configuration, which was `before`, and wait until it goes by it."""
        if not (pid := self.pid()):
            return
        try:
            if self._loses_requests:
                self.keep_no_connections()
                time.sleep(CLOSING_SECONDS)
            self._exchange_workers(pid, before)
        finally:
            (self.conf.parent / "closing").unlink(missing_ok=True)

    def _exchange_workers(self, pid: int, before: str) -> None:
        workers = self.workers()
        os.kill(pid, signal.SIGHUP)
        end = time.monotonic() + RELOAD_SECONDS
        while not self.workers() - workers:
            if time.monotonic() > end:
                self._write(before)
                raise NginxError("nginx does not take the configuration, and its log says why")
            time.sleep(0.01)
        # a tenth of a second later it tells the workers from before, which accept connections until they hear it
        while any(map(_accepts, workers)) and time.monotonic() < end:
            time.sleep(0.01)


def _accepts(worker: psutil.Process) -> bool:
    """Return whether an nginx worker still accepts connections: one that does not calls itself otherwise."""
    import psutil

    try:
        return "shutting down" not in " ".join(worker.cmdline())
    except psutil.Error:
        return False


def find() -> str:
    """Return the path of nginx: the buildpack's in `bin/` comes first. Raises NotInstalledError when there is none."""
    path = os.pathsep.join([str(ROOT / "bin"), os.environ.get("PATH", ""), *SBIN, str(APT)])
    if found := shutil.which("nginx", path=path):
        return found
    raise NotInstalledError("nginx is not installed: run bin/setup, or apt-get install nginx, or brew install nginx")


def is_installed() -> bool:
    """Return whether there is an nginx."""
    try:
        return bool(find())
    except NotInstalledError:
        return False


def version(nginx: str) -> str:
    """Return the version of `nginx`, such as 1.22.1. Raises NginxError when it does not run."""
    try:
        result = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NginxError(f"{nginx} does not run: {error.strerror}") from error
    if found := re.search(r"nginx/([0-9.]+)", result.stderr):
        return found[1]
    raise NginxError(f"{nginx} does not run: {result.stderr.strip().splitlines()[:1]}")


def rendering(environ: Mapping[str, str] = os.environ) -> subprocess.Popen:
    """Start the real erb on config/nginx.conf.erb, with the config vars of environ; `rendered` takes the result.

    Raises NotInstalledError without erb.

    Raises NginxError without the template.
    """
    if not TEMPLATE.is_file():
        raise NginxError("config/nginx.conf.erb is missing: the routing is made from it")
    if not (path := erb.find()):
        raise NotInstalledError("erb is not installed (it comes with ruby): run bin/setup, or apt-get install ruby")
    try:
        return erb.start(path, TEMPLATE, ROOT, {**environ, "DYNO_ROUTING": str(ROUTING)})
    except OSError as error:  # its first line names a ruby that is not there, nor is one beside it
        raise NotInstalledError(f"{path} does not run: {error.strerror} (the ruby of its first line?)") from error


def rendered(process: subprocess.Popen, target: Path) -> None:
    """Wait for erb and write what it rendered to `target`.

    Raises NginxError when either failed, and for a path that nginx would look for in another folder than the project.
    """
    try:
        text, errors = process.communicate(timeout=ERB_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise NginxError(f"config/nginx.conf.erb does not render: erb still runs after {ERB_SECONDS} s") from None
    if process.returncode:
        lines = [line for line in errors.splitlines() if line.strip()] or [f"erb ended with {process.returncode}"]
        # Ruby 3.3 shows the place of a syntax error before it says that it is one
        reason = next((line for line in lines if "rror)" in line or "syntax error" in line), lines[0])
        raise NginxError(f"config/nginx.conf.erb does not render: {reason.replace(f'{ROOT}{os.sep}', '')}")
    for line in text.splitlines():
        if relative := FROM_THERE.search(line.partition("#")[0][:1000]):
            raise NginxError(f"config/nginx.conf.erb: {relative[0]} begin the path with <%= root %>/")
    try:
        target.write_text(text)
    except OSError as error:
        raise NginxError(f"{target} cannot be written: {error.strerror}") from error


def warning(conf: Path) -> str | None:
    """Return a sentence when the routing was made from a template that does not have the machinery's part of it."""
    if re.search(r"^# routing [0-9]+$", conf.read_text(), re.MULTILINE):
        return None
    return (
        "config/nginx.conf.erb is not of this version: what the sessions of the Bokeh apps need comes with bokeh_dyno now; "
        "put your changes into the new file (CHANGELOG.md)"
    )


def command(nginx: str, conf: Path) -> list[str]:
    """Return the command line that runs nginx with `conf`, the project as its prefix and current folder."""
    return [nginx, "-p", ".", "-c", str(conf), "-e", "stderr"]


def test(nginx: str, conf: Path) -> None:
    """Let nginx test `conf`. Raises NginxError with what nginx says is wrong."""
    tested = [*command(nginx, conf), "-t", "-q"]
    try:
        result = subprocess.run(tested, capture_output=True, text=True, check=False, timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        error = f"nginx -t still runs after {TEST_SECONDS} s: a host that it names has no answer?"
        raise NginxError(error) from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "[emerg]" in line] or result.stderr.splitlines()
        reason = (
            re.split(r"\[emerg\] (?:\d+#\d+: )?", lines[0])[-1] if lines else f"nginx ended with {result.returncode}"
        )
        if unknown := re.match(r'host not found in upstream "([^"]+)"', reason):
            raise NginxError(f"BOKEH_UPSTREAM names {unknown[1]}, a host that is not known here")
        reason = reason.replace(f"{ROOT}{os.sep}", "")
        if place := re.search(rf"{re.escape(conf.name)}:(\d+)$", reason):  # whose lines are not those of the template
            number = int(place[1])
            reason += "".join(f": {line.strip()}" for line in conf.read_text().splitlines()[number - 1 : number])
        raise NginxError(f"config/nginx.conf.erb does not pass nginx -t: {reason}")
