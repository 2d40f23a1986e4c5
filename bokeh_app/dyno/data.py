"""What the processes of this dyno use, sampled at most once a second in each worker, however many are looking."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

import psutil

CACHED_SECONDS = 1.0
SOCKET = re.compile(r"bokeh\.(\d+)\.sock$")
NAMES = {"bokeh_dyno start": "start script", "honcho": "honcho"}


@dataclass
class Usage:
    """One process: cpu in percent of a core, memory in MB (its share of what it shares, where the system tells).

    generation: of the code that it runs; there are several from a `kill -USR2` on until the last page has left the old one.
    """

    pid: int
    name: str
    generation: str
    cpu: float
    memory: float
    sessions: int


class Sampler:
    """Keeps the processes between samples: the CPU is what they used since the last one."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}
        self._taken = float("-inf")
        self._sample: list[Usage] = []

    def sample(self) -> list[Usage]:
        """Return the usage of every process of the dyno, that of a second ago at the oldest."""
        if time.monotonic() - self._taken >= CACHED_SECONDS:
            self._sample = [usage for process in self._current() if (usage := _usage(process))]
            self._taken = time.monotonic()
        return self._sample

    def _current(self) -> list[psutil.Process]:
        top = _top()
        try:
            found = [top, *top.children(recursive=True)]
        except psutil.Error:
            found = []
        self._processes = {process.pid: self._processes.get(process.pid, process) for process in found}
        return list(self._processes.values())


def _top() -> psutil.Process:
    """Return the start script, or, under another one, the process two above this one."""
    try:
        return psutil.Process(int(os.environ.get("DYNO_PID", "")))
    except (ValueError, psutil.Error):
        parents = psutil.Process().parents()
        return parents[min(1, len(parents) - 1)]


def _usage(process: psutil.Process) -> Usage | None:
    try:
        with process.oneshot():
            name, command = process.name(), " ".join(process.cmdline())
            parent = process.parent()
            cpu, memory = process.cpu_percent(), _memory(process)
            generation = process.environ().get("DYNO_GENERATION", "") if name != "nginx" else ""
        first = parent is None or " ".join(parent.cmdline()) != command
        if "nginx" in name:
            name = "nginx worker" if parent is not None and "nginx" in parent.name() else "nginx master"
        elif "bokeh_dyno.bokeh" in command:
            name = "bokeh master" if first else "bokeh worker"
        elif "gunicorn" in command:
            name = "flask master" if first else "flask worker"
        else:
            name = next((own for mark, own in NAMES.items() if mark in command), name)
        socket, sessions = _socket(process) if name == "bokeh worker" else ("", 0)
        return Usage(process.pid, f"{name} {socket}".rstrip(), generation, cpu, memory, sessions)
    except (psutil.Error, OSError):  # it ended meanwhile
        return None


def _memory(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().pss / 1e6
    except (psutil.AccessDenied, AttributeError):
        return process.memory_info().rss / 1e6


def _socket(process: psutil.Process) -> tuple[str, int]:
    """Return the N of the bokeh.N.sock of a worker, and its connections: nginx holds one for each open page."""
    try:
        found = [SOCKET.search(str(one.laddr)) for one in process.net_connections(kind="unix")]
    except psutil.AccessDenied:
        return "", 0
    numbers = [match[1] for match in found if match]
    return (numbers[0], len(numbers) - 1) if numbers else ("", 0)  # one of them listens


SAMPLER = Sampler()
