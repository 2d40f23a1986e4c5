"""A copy of the project in a folder of its own, and a dyno run in it by the Procfile's own line."""

from __future__ import annotations

import compileall
import contextlib
import functools
import http.client
import importlib.util
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
OTHER_SITE = Path(__file__).resolve().parent / "site"
# seconds; far more than needed, so that a machine that is busy with something else fails no test
BOOT = 60.0
STOP = 40.0
# for models that Bokeh compiles: a node comes with what has the browser driven
PLAYWRIGHT = importlib.util.find_spec("playwright")
NODE = Path(PLAYWRIGHT.origin).parent / "driver" / "node" if PLAYWRIGHT and PLAYWRIGHT.origin else Path("node")
# what a dyno under test inherits; everything else that a test needs it says itself
_PORTS = itertools.count(secrets.randbelow(5000))
INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class Answer(NamedTuple):
    """An HTTP response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> dict:
        return json.loads(self.body)


def wait_for(what: str, check: Callable[[], object], seconds: float = 20.0) -> object:
    """Call `check` until it returns something true, and return that. Raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        if found := check():
            return found
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nothing listens on and that no other test gets, below those that the system hands out itself."""
    first = 10000 + 5000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = first + next(_PORTS) % 5000
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port


def source_files() -> list[Path]:
    """Return the project's files, relative to it: those in git and new ones that git would take."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


@functools.cache
def compiled() -> list[Path]:
    """Compile the machinery, which every copy would do anew; return the files, relative to the project."""
    compileall.compile_dir(ROOT / "bokeh_dyno", quiet=2)
    tag = sys.implementation.cache_tag
    return [path.relative_to(ROOT) for path in (ROOT / "bokeh_dyno").rglob(f"__pycache__/*.{tag}.pyc")]


def copy_project(folder: Path, site: Path | None = None) -> Path:
    """Copy the project to `folder`, which must not exist; `site` takes the place of flask_app/ and bokeh_app/."""
    for name in source_files():
        if name.parts[0] in ("tests", ".static") or (site and name.parts[0] in ("flask_app", "bokeh_app")):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    for name in compiled():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    if site:
        shutil.copytree(site, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    if (ROOT / ".static").is_dir():  # compressed once, by whatever ran before
        shutil.copytree(ROOT / ".static", folder / ".static", symlinks=True)
    return folder


def temporary_folder() -> Path:
    """Make a folder with a short path: those of unix sockets end at about 100 characters."""
    folder = Path(tempfile.mkdtemp(prefix="dyno.")).resolve()
    folder.chmod(0o755)
    return folder


def installed(program: str) -> str | None:
    """Return the path of a program that Debian puts where an ordinary user's PATH does not look."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:/sbin:/opt/homebrew/bin")


def token_in(text: str) -> str:
    """Return the first session token in a page, "" when it has none."""
    found = re.search(r"eyJ[\w-]{60,}(\.[\w-]+)+", text)
    return found[0] if found else ""


def procfile_line(folder: Path, name: str = "web", file: str = "Procfile") -> str:
    """Return the command of process `name` in a Procfile of `folder`."""
    return re.search(rf"^{name}:\s*(.+)$", (folder / file).read_text(), re.MULTILINE).group(1)


class Dyno:
    """A dyno in a copy of the project, with everything in it that belongs to it."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        cwd: Path | None = None,
        before: list[str] | None = None,
    ) -> None:
        """Prepare a dyno in `folder`: config vars `env`, the Procfile's line unless `command` says otherwise.

        before is what comes before the command, to change the user, for example.
        """
        self.folder = folder
        self.port = free_port()
        path = os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ.get("PATH", os.defpath)])
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        if NODE.exists():
            inherited["BOKEH_NODEJS_PATH"] = str(NODE)
        self.env = {**inherited, "PATH": path, "VIRTUAL_ENV": sys.prefix, "PORT": str(self.port)}
        self.env |= {"STOP_LINGER": "1", **(env or {})}  # no router has to notice a stop
        self.port = int(self.env["PORT"]) if self.env["PORT"].isdigit() else 0
        self._command = [*(before or []), *(command or ["/bin/sh", "-c", f"exec {procfile_line(folder)}"])]
        self._cwd = cwd or folder
        descriptor, name = tempfile.mkstemp(prefix="dyno.", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        self.process: subprocess.Popen | None = None

    # --- from the start to the stop ---

    def launch(self) -> Dyno:
        """Start the process and return at once."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._cwd, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return self

    def start(self) -> Dyno:
        """Start the process and return when the whole site answers."""
        self.launch()
        self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self, seconds: float = BOOT) -> None:
        """Return when /healthz answers 200. Raises AssertionError, with the log, when the dyno ends before that."""
        end = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, f"the dyno ended with {self.process.returncode}:\n{self.log()}"
            assert time.monotonic() < end, f"no answer within {seconds} s:\n{self.log()}"
            try:
                if self.get("/healthz").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)

    def wait(self, seconds: float = STOP) -> int:
        """Wait until the process has ended and return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s: {self.describe()}\n{self.log()}") from None

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send the signal to the process, wait, and return the exit code. Raises AssertionError when anything is left."""
        self.process.send_signal(number)
        code = self.wait()
        self.assert_nothing_left()
        return code

    def assert_nothing_left(self) -> None:
        """Raise AssertionError when a process of the dyno lives or its port is open."""
        end = time.monotonic() + 1  # what was killed with its parent is gone a moment after it
        while (left := self.describe()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left, f"left behind: {left}\n{self.log()}"
        assert not self.port_is_open(), f"port {self.port} is still open\n{self.log()}"

    def clean_up(self) -> None:
        """Kill whatever is left, at the end of a test that may have failed."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process:
            self.process.wait(10)
        self._log.unlink(missing_ok=True)

    # --- what it consists of ---

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this dyno: those below the one we started, and orphans in its folder."""
        found: dict[int, psutil.Process] = {}
        if self.process and self.process.poll() is None:
            top = psutil.Process(self.process.pid)
            found = {process.pid: process for process in [top, *top.children(recursive=True)]}
        for process in psutil.process_iter():
            try:
                # nginx overwrites its environment to name its processes; its current folder is still ours
                if process.cwd() == str(self.folder) and process.pid != os.getpid():
                    found[process.pid] = process
            except (psutil.Error, OSError):
                continue
        return [process for process in found.values() if is_alive(process)]

    def describe(self) -> list[str]:
        """Return a line for each living process."""
        lines = []
        for process in self.processes():
            try:
                lines.append(f"{process.pid} {' '.join(process.cmdline())}")
            except psutil.Error:
                continue
        return lines

    def find(self, pattern: str) -> list[psutil.Process]:
        """Return the processes whose command line matches `pattern`, oldest first."""
        found = []
        for process in self.processes():
            try:
                if re.search(pattern, " ".join(process.cmdline())):
                    found.append((process.create_time(), process.pid, process))
            except psutil.Error:  # it has ended meanwhile
                continue
        return [process for *_, process in sorted(found)]

    def bokeh_workers(self) -> list[psutil.Process]:
        """Return the processes that run sessions: the children of the `bokeh` process."""
        master = self.find(r"-m bokeh_dyno\.bokeh")[0]
        return sorted((child for child in master.children() if is_alive(child)), key=lambda process: process.pid)

    def save(self, name: str, text: str) -> None:
        """Save a file of its folder as most editors do, put in place whole: nobody reads the half of it."""
        (fresh := self.folder / ".saved").write_text(text)
        fresh.replace(self.folder / name)

    # --- asking it ---

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        seconds: float = 30.0,
    ) -> Answer:
        """Send one request to the port, with Host and nothing else but `headers`, and return the answer."""
        headers = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if body or method in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = str(len(body))
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except http.client.HTTPException as error:  # cut off before an answer
            raise ConnectionResetError(repr(error)) from error
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET a path; the names of headers are given with `_` for `-`."""
        return self.request("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    def handshake(
        self, path: str, token: str, meanwhile: Callable[[], object] = bool, **headers: str
    ) -> tuple[int, socket.socket]:
        """Ask for a WebSocket; return the status and the socket, which the caller closes. Answers that are not 101 too.

        `meanwhile` is called when all has been sent but for the last line.
        """
        wanted = {
            "Host": f"127.0.0.1:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": f"bokeh, {token}",
            **headers,
        }
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        lines = "".join(f"{name}: {value}\r\n" for name, value in wanted.items())
        client.sendall(f"GET {path} HTTP/1.1\r\n{lines}".encode())
        meanwhile()
        client.sendall(b"\r\n")
        head = b""
        while b"\r\n\r\n" not in head and (more := client.recv(1)):
            head += more
        return int(head.split(b" ")[1]), client

    def token(self, page: str) -> str:
        """Return the session token that is in a page."""
        answer = self.get(page)
        assert answer.status == 200, answer
        return token_in(answer.text)

    def port_is_open(self) -> bool:
        """Return whether something accepts connections on the port."""
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    # --- what it says ---

    def log(self) -> str:
        """Return everything that the dyno has printed, stdout and stderr together."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, pattern: str, seconds: float = 20.0) -> re.Match:
        """Wait for a line that matches `pattern` and return the match."""
        try:
            return wait_for(f"{pattern!r} in the log", lambda: re.search(pattern, self.log(), re.MULTILINE), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None


def until_stopped(one: Dyno, scratch: Path) -> Iterator[Dyno]:
    """Start a dyno and yield it, for a fixture; stop it then, and remove the folder that it is in."""
    try:
        yield one.start()
        assert one.stop() == 0, one.log()
    finally:
        one.clean_up()
        shutil.rmtree(scratch)


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process runs: it exists and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def settings_of(folder: Path) -> dict[str, str]:
    """Return {name: default} of every config var, as the project in `folder` has it."""
    program = "import json; from bokeh_dyno.shared.settings import SETTINGS as s; print(json.dumps({n: s[n].default for n in s}))"
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)
