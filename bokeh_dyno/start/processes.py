"""The processes below the start script: started behind the shield, watched, ended with whatever they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bokeh_dyno.shared import sigterm
from bokeh_dyno.shared.signals import Inbox, die_with_parent


class Processes:
    """COMMAND and nginx, by these names, and all that COMMAND starts."""

    def __init__(self, run_dir: Path, inbox: Inbox, shield: Callable[[], None] | None) -> None:
        self._run_dir = run_dir
        self._inbox = inbox
        self._shield = shield
        self._pids: dict[int, str] = {}
        self._began = self._looked = time.monotonic()
        self._of_procfile: dict[int, tuple[str, int | None]] = {}  # name and parent of each of the Procfile's processes

    def start(self, name: str, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a child, deaf to SIGTERM; options are those of Popen. It ends when this process is killed.

        It gets a session of its own: Ctrl-C in a terminal reaches this process only, and this one stops the others in
        order.
        """
        deafen = self._shield if name == "nginx" else sigterm.block

        def in_child() -> None:
            die_with_parent()
            if deafen:
                deafen()

        process = subprocess.Popen(command, start_new_session=True, preexec_fn=in_child, **options)
        process.returncode = 0  # reaped below, with the orphans; Popen would wait for it a second time
        self._pids[process.pid] = name
        return process

    def forget(self) -> None:
        """Begin anew: what there was has been killed."""
        self._began = self._looked = time.monotonic()
        self._pids.clear()
        self._of_procfile.clear()

    def pid(self, name: str) -> int | None:
        """Return the pid of a child, None when it has ended or never was."""
        return next((pid for pid, what in self._pids.items() if what == name), None)

    def reap(self) -> tuple[str, int] | None:
        """Collect ended children and orphans; return (name, exit code) of COMMAND or nginx when it is among them."""
        ended = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if name := self._pids.pop(pid, None):
                code = os.waitstatus_to_exitcode(status)
                ended = ended or (name, code if code >= 0 else 128 - code)

    def masters(self) -> dict[str, int]:
        """Return the pids of gunicorn's and Bokeh's masters, by name, of those that have written theirs."""
        pids = {}
        for file in self._run_dir.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):  # just being written
                pids[file.stem] = int(file.read_text())
        return pids

    def gone(self) -> str | None:
        """Return the name of a process of the Procfile (flask, bokeh, clock) that is gone, or its parent.

        honcho notices the first, but then stops the others with SIGTERM, to which they are deaf, and kills them 5 s
        later. Of the parent's death nobody hears: it is the part of honcho that reads what the process prints, and a
        print to nobody is an error.
        """
        for name, pid in self.masters().items():
            self._of_procfile.setdefault(pid, (name, _parent(pid)))
        now = time.monotonic()
        if now - self._looked > 0.2 * (now - self._began):  # often at first: a wrong command is gone in no time
            self._looked = now
            self._find_others()
        lost = [name for pid, (name, parent) in self._of_procfile.items() if not parent or _parent(pid) != parent]
        if lost and not self.pid("nginx"):  # one may have ended too soon to be seen: honcho kills the other 5 s later
            self._find_others()
            seen = [name for name, _ in self._of_procfile.values()]
            lost = [name for name in ("flask", "bokeh") if name not in seen] or lost
        return lost[0] if lost else None

    def _find_others(self) -> None:
        """Add what the Procfile runs beside Flask and Bokeh, which honcho names in its environment."""
        for process in self._below(self.pid("COMMAND")):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                name, parent = _procfile_name(process), psutil.Process(process.ppid())
                if name and name != _procfile_name(parent):
                    self._of_procfile.setdefault(process.pid, (name, parent.pid))

    def wait_for(self, name: str | None, seconds: float) -> bool:
        """Wait until child `name`, or every process below this one, is gone; return whether it is.

        Of all, those are told to end whose parent has ended: a pool of processes of an app, say.
        """
        end = time.monotonic() + seconds
        while True:
            self.reap()
            if not name:
                orphans = [process for process in self._below() if _parent(process.pid) == os.getpid()]
                _signal_all(signal.SIGTERM, [process for process in orphans if process.pid not in self._pids])
            if not (self.pid(name) if name else self._below()):
                return True
            if time.monotonic() > end:
                return False
            self._inbox.wait(0.05)

    def interrupt(self) -> None:
        """Send SIGINT to all but the workers, which their masters stop: one of gunicorn's may hang when told twice."""
        processes = self._below()
        masters = set(self.masters().values())
        workers = {child.pid for process in processes if process.pid in masters for child in self._below(process.pid)}
        _signal_all(signal.SIGINT, [process for process in processes if process.pid not in workers])

    def kill(self) -> list[str]:
        """Kill every process below this one; return the name and pid of each."""
        processes = self._below()
        names = [_name(process) for process in processes]
        _signal_all(signal.SIGKILL, processes)
        return names

    @staticmethod
    def _below(pid: int | None = None) -> list[psutil.Process]:
        """Return every process below `pid` (this one when none is given) that has not ended."""
        alive: list[psutil.Process] = []
        try:
            children = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return alive
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    alive.append(child)
        return alive


def _signal_all(number: signal.Signals, processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process.send_signal(number)


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.name()} {process.pid}"
    return str(process.pid)


def _procfile_name(process: psutil.Process) -> str:
    return process.environ().get("HONCHO_PROCESS_NAME", "").removesuffix(".1")


def _parent(pid: int) -> int | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).ppid()
    return None
