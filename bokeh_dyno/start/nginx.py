"""Find nginx and erb, render the configuration, have nginx test it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from bokeh_dyno.shared.settings import ROOT
from bokeh_dyno.shared.signals import die_with_parent

TEMPLATE = ROOT / "config" / "nginx.conf.erb"
ROUTING = Path(__file__).parent / "routing" / "routing.rb"
# Debian puts nginx where an ordinary user's PATH does not look
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/bin", "/usr/local/bin")
ERB_SECONDS = 10
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


def rendering() -> subprocess.Popen:
    """Start the real erb on config/nginx.conf.erb; `rendered` takes the result. Raises NotInstalledError without erb.

    Raises NginxError without the template.
    """
    if not TEMPLATE.is_file():
        raise NginxError("config/nginx.conf.erb is missing: the routing is made from it")
    erb = shutil.which("erb")
    if not erb:
        raise NotInstalledError("erb is not installed (it comes with ruby): run bin/setup, or apt-get install ruby")
    return subprocess.Popen(
        [erb, str(TEMPLATE)],
        cwd=ROOT,
        env={**os.environ, "DYNO_ROUTING": str(ROUTING)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )


def rendered(erb: subprocess.Popen, target: Path) -> None:
    """Wait for `erb` and write what it rendered to `target`.

    Raises NginxError when either failed, and for a path that nginx would look for in another folder than the project.
    """
    try:
        text, errors = erb.communicate(timeout=ERB_SECONDS)
    except subprocess.TimeoutExpired:
        erb.kill()
        erb.communicate()
        raise NginxError(f"config/nginx.conf.erb does not render: erb still runs after {ERB_SECONDS} s") from None
    if erb.returncode:
        lines = [line for line in errors.splitlines() if line.strip()] or [f"erb ended with {erb.returncode}"]
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
    result = subprocess.run([*command(nginx, conf), "-t", "-q"], capture_output=True, text=True, check=False)
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
