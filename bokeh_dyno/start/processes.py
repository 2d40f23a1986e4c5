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

from bokeh_dyno.shared import run_dir
from bokeh_dyno.shared.signals import Inbox, die_with_parent

KILL_SECONDS = 5.0  # until what was killed is gone, unless the system holds it


class Children:
    """What the start script itself has started, by name: nginx, and COMMAND of each generation."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.ended: dict[str, int] = {}  # exit codes, by name, until somebody takes them
        self._pids: dict[int, str] = {}

    def start(
        self, name: str, command: list[str], shield: Callable[[], None] | None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a child, deaf to SIGTERM by what `shield` does in it; options are those of Popen.

        It ends when this process is killed, and gets a session of its own: Ctrl-C in a terminal reaches this process only,
        and this one stops the others in order.
        """

        def in_child() -> None:
            die_with_parent()
            if shield:
                shield()

        process = subprocess.Popen(command, start_new_session=True, preexec_fn=in_child, **options)
        process.returncode = 0  # reaped below, with the orphans; Popen would wait for it a second time
        self._pids[process.pid] = name
        return process

    def pid(self, name: str) -> int | None:
        """Return the pid of a child, None when it has ended or never was."""
        return next((pid for pid, what in self._pids.items() if what == name), None)

    def name(self, pid: int) -> str | None:
        """Return the name of a child, None of an orphan and of what another process has started."""
        return self._pids.get(pid)

    def reap(self) -> None:
        """Collect ended children and orphans; those that have a name are then in `ended`."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if name := self._pids.pop(pid, None):
                code = os.waitstatus_to_exitcode(status)
                self.ended[name] = code if code >= 0 else 128 - code

    def wait_for(self, name: str, seconds: float) -> bool:
        """Wait until child `name` is gone; return whether it is."""
        end = time.monotonic() + seconds
        while self.pid(name):
            if time.monotonic() > end:
                return False
            self.reap()
            if self.pid(name):
                self.inbox.wait(0.05)
        return True

    def orphans(self) -> list[psutil.Process]:
        """Return the processes that this one has adopted: whoever started them has ended."""
        return [child for child in _alive(psutil.Process().children()) if child.pid not in self._pids]

    def kill(self) -> list[str]:
        """Kill whatever is left below this process, and return the name and pid of each."""
        rest = _children(os.getpid())
        _signal_all(signal.SIGKILL, rest)
        psutil.wait_procs(rest, KILL_SECONDS)
        return [_name(process) for process in rest]


class Tree:
    """COMMAND of one generation, and all that it starts, which is known by the DYNO_GENERATION in its environment."""

    def __init__(self, name: str, folder: Path, children: Children) -> None:
        self._name = name
        self._folder = folder  # its own, in RUN_DIR
        self._all = children
        self._began = self._looked = time.monotonic()
        self._of_procfile: dict[int, tuple[str, int | None]] = {}  # name and parent of each of the Procfile's processes

    def masters(self) -> dict[str, int]:
        """Return the pids of gunicorn's and Bokeh's masters, by name, of those that have written theirs."""
        pids = {name: run_dir.pid_in(self._folder / f"{name}.pid") for name in ("flask", "bokeh")}
        return {name: pid for name, pid in pids.items() if pid}

    def gone(self, is_served: bool) -> str | None:
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
        if lost and not is_served:  # one may have ended too soon to be seen: honcho kills the other 5 s later
            self._find_others()
            seen = [name for name, _ in self._of_procfile.values()]
            lost = [name for name in ("flask", "bokeh") if name not in seen] or lost
        return lost[0] if lost else None

    def _find_others(self) -> None:
        """Add what the Procfile runs beside Flask and Bokeh, which honcho names in its environment."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                name, parent = _procfile_name(process), psutil.Process(process.ppid())
                if name and name != _procfile_name(parent):
                    self._of_procfile.setdefault(process.pid, (name, parent.pid))

    def interrupt(self) -> None:
        """Have all of it end in order: SIGINT to all but the workers, which their masters stop, and honcho.

        One of gunicorn's may hang when told twice. honcho, told while it writes a line, ends with a traceback and without
        the lines that are left; untold it ends with the last of its processes.
        """
        processes = self.processes()
        masters = set(self.masters().values())
        workers = {child.pid for process in processes if process.pid in masters for child in _children(process.pid)}
        _signal_all(signal.SIGINT, [one for one in processes if one.pid not in workers and not _is_honcho(one)])

    def rest(self) -> list[psutil.Process]:
        """Return what still lives, after telling those to end whose parent has ended: a pool of processes of an app, say."""
        self._all.reap()
        processes = self.processes()
        orphans = {process.pid for process in self._all.orphans()}
        _signal_all(signal.SIGTERM, [process for process in processes if process.pid in orphans])
        return processes

    def kill(self) -> list[str]:
        """Kill every process of it until none is left, those begun meanwhile too; return the name and pid of each."""
        names: dict[int, str] = {}
        end = time.monotonic() + KILL_SECONDS
        while (processes := self.processes()) or self._all.pid(self._name):
            for process in processes:
                names.setdefault(process.pid, _name(process))
            _signal_all(signal.SIGKILL, processes)
            if time.monotonic() > end:
                break
            time.sleep(0.02)
            self._all.reap()
        self._all.ended.pop(self._name, None)
        return list(names.values())

    def memory(self, name: str = "") -> int:
        """Return the bytes that it takes, or one of the Procfile's processes with all below: what is shared counts once."""
        if name:
            master = self.masters().get(name)
            processes = [psutil.Process(master), *_children(master)] if master and psutil.pid_exists(master) else []
        else:
            processes = self.processes()
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.uss)
        return total

    def processes(self) -> list[psutil.Process]:
        """Return every living process of it: below COMMAND, and those whose parents have ended, with what is below them."""
        found: dict[int, psutil.Process] = {}
        for process in _children(os.getpid()):  # parents come before their children
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                name, parent = self._all.name(process.pid), process.ppid()
                is_orphan = parent == os.getpid() and name is None
                if name == self._name or parent in found or (is_orphan and self._is_ours(process)):
                    found[process.pid] = process
        return list(found.values())

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.environ().get("DYNO_GENERATION") == self._name
        return False


def _children(pid: int) -> list[psutil.Process]:
    """Return every process below `pid` that has not ended."""
    try:
        return _alive(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def _signal_all(number: signal.Signals, processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process.send_signal(number)


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.name()} {process.pid}"
    return str(process.pid)


def _is_honcho(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "honcho" in (os.path.basename(word) for word in process.cmdline()[:3])
    return False


def _procfile_name(process: psutil.Process) -> str:
    return process.environ().get("HONCHO_PROCESS_NAME", "").removesuffix(".1")


def _parent(pid: int) -> int | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).ppid()
    return None
