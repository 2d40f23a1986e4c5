"""The start script below bin/dev: the process, how its generations stand, and what they have noted of themselves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NoReturn

from bokeh_dyno.shared import run_dir
from bokeh_dyno.shared.settings import ROOT, Settings, SettingsError
from bokeh_dyno.shared.signals import die_with_parent
from bokeh_dyno.start import check, edits

# unless somebody has set them: one of each, and what is old ends at once
FEW = {"WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1", "NGINX_WORKERS": "1", "GENERATION_LIFETIME": "0"}


class StartScript:
    """One at a time; `state` is what it has written down of its generations (bokeh_dyno/start/generations.py)."""

    def __init__(self, values: Settings, environ: dict[str, str]) -> None:
        """Take what it is to be started with. Nothing is started yet."""
        self._run_dir, self._env = ROOT / values.run_dir, environ
        self._process: subprocess.Popen[bytes] | None = None
        self._as_of: tuple[int, int] | None = None
        self.state: dict[str, Any] = {}
        self.said: list[str] = []  # its own errors
        self.noted: list[dict[str, Any]] = []  # what a generation has noted

    def start(self) -> None:
        """Start what the Procfile has."""
        self.said, self.noted, self.state, self._as_of = [], [], {}, self._written()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", web_line()], env=self._env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        self._copying = threading.Thread(target=self._copy_errors, args=(self._process.stderr,), daemon=True)
        self._copying.start()

    def _copy_errors(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            text = line.decode(errors="replace")
            self.said += [text.removeprefix("error: ").rstrip()] * text.startswith("error: ")
            sys.stderr.write(text)
            sys.stderr.flush()

    def ended(self) -> int | None:
        """Return its exit code, None while it runs."""
        code = self._process.poll() if self._process else 0
        if code is not None and self._process:
            self._copying.join(1)  # its last words
        return code

    def stop(self) -> None:
        """End it as Ctrl-C does, and wait for that."""
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)  # a shell may be its parent
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self._run_dir / "lock").read_text()), number)

    def look(self) -> bool:
        """Read how its generations stand; return whether that has been written anew."""
        if self._as_of == (written := self._written()):
            return False
        self.state, self._as_of = run_dir.generations(self._run_dir), written
        return True

    def _written(self) -> tuple[int, int] | None:
        try:
            found = (self._run_dir / "generations.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def read_noted(self, name: str | None) -> None:
        """Read what a generation has noted; of one that is gone, what was read last stays."""
        folder = self._run_dir / (name or "-")
        if folder.is_dir():
            self.noted = [one for path in sorted(folder.glob("errors/*.json")) if (one := _read(path))]

    def forget_noted(self, name: str | None) -> None:
        """Forget what was wrong with the site's pages in a generation."""
        for path in (self._run_dir / (name or "-")).glob("errors/*.json"):
            if (_read(path) or {}).get("where") == "site":
                path.unlink(missing_ok=True)
        self.read_noted(name)

    def site(self, name: str | None) -> edits.Site | None:
        """Return where the site of a generation has its files; None when it has not said so."""
        found = _read(self._run_dir / (name or "-") / "site.json")
        return edits.Site(found["static"], found["templates"]) if found else None


def environment() -> dict[str, str]:
    """Return what the start script gets: as honcho would give it, and one of each process; people read what it prints."""
    found = _of_honcho()
    found.update({name: text for name, text in FEW.items() if not found.get(name)})
    found.update(DYNO_DEV="1", LOG_FORMAT="text")
    return found


def _of_honcho() -> dict[str, str]:
    """Return what honcho would give to the process `web`, by whose name the start script knows that .env has been read."""
    from honcho import environ

    dotenv = Path(".env").read_text() if Path(".env").exists() else ""
    found = {**os.environ, **environ.parse(dotenv)}
    return {**found, "PORT": found.get("PORT") or "5000", "HONCHO_PROCESS_NAME": "web.1"}


def become() -> NoReturn:
    """Become what the Procfile has for `web`: what bin/server does.

    As `honcho start web` does it, but for honcho itself: that would hold what nobody reads, and fail where it is written.
    """
    os.chdir(ROOT)
    os.execve("/bin/sh", ["/bin/sh", "-c", web_line()], _of_honcho())


def check_is_free(lock: Path) -> None:
    """Raise SettingsError when another dyno has this RUN_DIR, before its dev.sock is replaced."""
    with contextlib.suppress(FileNotFoundError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"RUN_DIR={lock.parent} is in use by another dyno: stop it") from None


def web_line() -> str:
    """Return what /bin/sh is to run: the command that the Procfile has for `web`."""
    from honcho import environ

    procfile = Path("Procfile").read_text() if Path("Procfile").exists() else check.LINE
    line = environ.parse_procfile(procfile).processes["web"]
    is_plain = not re.search(r"[;&|()<>`$=]|^exec ", line)
    return f"exec {line}" if is_plain else line  # or it may outlive this process as the child of a shell


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
