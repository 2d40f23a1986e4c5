"""Numbers that the processes of a generation keep for /metrics, in RUN_DIR/NAME/metrics/: memory that the start script reads.

A number costs its process less than a microsecond, is there while the process hangs, and stays when another one takes its
place: so what is counted never goes back. All names are known in advance, whatever a visitor sends.
"""

from __future__ import annotations

import bisect
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

# seconds, at most; what is longer has its own
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REFUSED = ("full", "visitor", "starts", "offences", "off", "token", "user")  # why a session was not opened
# of a closed WebSocket
CODES = ("1000", "1001", "1002", "1006", "1008", "1009", "1011", "1012", "1013", "4000", "other")
HISTOGRAMS = ("callback", "lag")


def _histogram(name: str) -> list[str]:
    return [*(f"{name}:{bucket}" for bucket in (*BUCKETS, "more")), f"{name}:sum"]


# of a Bokeh worker, and of all of gunicorn's
BOKEH = (
    *("pid", "restarts", "sessions", "opened", "recovered", "websockets", "websockets_opened", "longest_lag", "alive"),
    *(f"refused:{reason}" for reason in REFUSED),
    *(f"closed:{code}" for code in CODES),
    *(field for name in HISTOGRAMS for field in _histogram(name)),
)
FLASK = ("restarts",)


class Row:
    """The numbers of one process, by name."""

    def __init__(self, fields: Sequence[str], memory: memoryview[float] | None = None) -> None:
        """Keep them in `memory`, of one double for each field; without it, for nobody but this process."""
        self._memory = memoryview(bytearray(8 * len(fields))).cast("d") if memory is None else memory
        self._at = {field: place for place, field in enumerate(fields)}
        self._first = {field.partition(":")[0]: place for place, field in reversed(list(enumerate(fields)))}
        self._lock = threading.Lock()  # callbacks run in several threads

    def add(self, field: str, more: float = 1.0) -> None:
        """Count."""
        with self._lock:
            self._memory[self._at[field]] += more

    def set(self, field: str, value: float) -> None:
        """Note how it is now."""
        self._memory[self._at[field]] = value

    def observe(self, histogram: str, seconds: float) -> None:
        """Count something that took so long."""
        first = self._first[histogram]
        with self._lock:
            self._memory[first + bisect.bisect_left(BUCKETS, seconds)] += 1
            self._memory[first + len(BUCKETS) + 1] += seconds


def make(path: Path, fields: Sequence[str], rows: int) -> list[Row]:
    """Return so many rows, all 0, that every process forked from now on shares and others read in the file `path`."""
    path.parent.mkdir(exist_ok=True)
    size, fresh = 8 * len(fields), path.with_suffix(".new")
    with open(fresh, "w+b") as file:
        file.truncate(max(1, rows) * size)
        memory = memoryview(mmap.mmap(file.fileno(), 0))
    os.replace(fresh, path)  # whoever reads the old one has it whole
    return [Row(fields, memory[row * size : (row + 1) * size].cast("d")) for row in range(rows)]


def read(path: Path, fields: Sequence[str]) -> list[dict[str, float]]:
    """Return what is in the rows of such a file, none when it is not there or of another version."""
    try:
        values = memoryview(path.read_bytes()).cast("d").tolist()
    except (OSError, TypeError):
        return []
    if len(values) % len(fields):
        return []
    return [
        dict(zip(fields, values[first : first + len(fields)], strict=True))
        for first in range(0, len(values), len(fields))
    ]
