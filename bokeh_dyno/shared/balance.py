"""Which worker a new session goes to: the one with the fewest sessions that is not in an app's callback.

RUN_DIR/workers is memory that the Bokeh processes write (bokeh_dyno/bokeh/faults.py) and Flask's read. In it are, for
each worker from 0, which is the master, THREADS places: the number of the app whose code a thread runs, 0 for none, and
when that began; then the number of sessions of each worker.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from pathlib import Path

THREADS = 64  # of a worker that run code of apps, at most; from Bokeh 3.10 on callbacks run in several
BUSY_SECONDS = 0.1  # that an app's code runs: a new session would notice


def shared(workers: int, path: Path | None = None) -> memoryview[float]:
    """Return that memory, empty, for so many workers; all processes forked from now on share it. Without a path in no file."""
    size = 8 * (2 * THREADS + 1) * (workers + 1)
    if path is None:
        return memoryview(mmap.mmap(-1, size)).cast("d")
    fresh = path.with_suffix(".new")
    with open(fresh, "w+b") as file:
        file.truncate(size)
        memory = mmap.mmap(file.fileno(), size)
    os.replace(fresh, path)  # whoever reads the old one sees that it is another
    return memoryview(memory).cast("d")


def sessions(path: Path, workers: int) -> int:
    """Return how many sessions the workers of one generation have, those included that have just lost their connection."""
    try:
        counts = memoryview(path.read_bytes()).cast("d")[2 * THREADS * (workers + 1) + 1 :]
    except OSError:  # it has none
        return 0
    return int(sum(counts.tolist()))


class Choice:
    """Chooses a worker for each new session, in a process of Flask's."""

    def __init__(self, path: Path, workers: int) -> None:
        self._path = path
        self._workers = workers
        self._file: tuple[int, int] | None = None  # that is open
        self._seen = [0.0] * workers  # sessions, as the file has them, which is of the last second, and ...
        self._sent = [0] * workers  # ... those that went there since

    def worker(self) -> int:
        """Return the number of a worker for a session, from 1; 0 when nothing is known of them: any will do."""
        try:
            status = os.stat(self._path)
            if self._file != (status.st_dev, status.st_ino):
                with open(self._path, "rb") as file:
                    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._memory = memoryview(memory).cast("d")
                self._file = (status.st_dev, status.st_ino)
        except (OSError, ValueError):
            return 0
        first = 2 * THREADS * (self._workers + 1) + 1
        sessions = self._memory[first : first + self._workers].tolist()
        if len(sessions) < self._workers:  # BOKEH_WORKERS differs between the two
            return 0
        for worker, count in enumerate(sessions):
            if count != self._seen[worker]:
                self._seen[worker], self._sent[worker] = count, 0
        least = sorted(range(self._workers), key=lambda one: (sessions[one] + self._sent[one], random.random()))
        now = time.monotonic()
        chosen = next((one for one in least if not self._is_busy(one + 1, now)), least[0])
        self._sent[chosen] += 1
        return chosen + 1

    def _is_busy(self, worker: int, now: float) -> bool:
        first = 2 * THREADS * worker
        apps = self._memory[first : first + 2 * THREADS : 2].tolist()
        return any(apps) and any(
            app and now - self._memory[first + 2 * place + 1] > BUSY_SECONDS for place, app in enumerate(apps)
        )
