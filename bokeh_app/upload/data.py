"""Has the visitor's CSV read by reader.py, in a process of its own, and makes little of much for the browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MAX_BYTES = 10_000_000
MAX_SECONDS = 30.0  # for one file; reader.py has the limits of CPU and memory
POINTS = 5000  # in a line; more cannot be told apart on a screen
READER = Path(__file__).with_name("reader.py")
# what it needs to start, and nothing that is secret; one thread, for its memory
INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
ENV = {name: os.environ[name] for name in INHERITED if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"}
# Bokeh runs main.py for each visitor, but this module once: all visitors of a worker share it
ONE_AT_A_TIME = asyncio.Semaphore(1)


@dataclass
class Table:
    """A CSV that can be drawn: x is the date column (datetime64) or the number of the row, from 1."""

    x: np.ndarray
    columns: dict[str, np.ndarray]
    ignored: list[str] = field(default_factory=list)
    x_name: str = "row"

    @property
    def has_dates(self) -> bool:
        """Whether x is a date."""
        return self.x.dtype.kind == "M"


async def parse(encoded: str, tell: Callable[[str], None]) -> Table:
    """Read a CSV that is in base64: any usual delimiter, with a header or without, UTF-8, UTF-16 or Latin-1, gaps as NaN.

    Files are read one after the other; tell is called with what goes on meanwhile. When this is cancelled, the process
    that reads is gone. Raises ValueError, with a sentence for the visitor, when there is nothing in the file to draw.
    """
    size = len(encoded) * 3 // 4 - encoded[-2:].count("=")
    if size > MAX_BYTES:
        raise ValueError(f"This file has {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB can be drawn.")
    if ONE_AT_A_TIME.locked():
        tell("waiting until another file has been read …")
    async with ONE_AT_A_TIME:
        tell("reading …")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", READER, str(os.getpid()), env=ENV, limit=2**20,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            return await asyncio.wait_for(_answer(process, encoded, tell), MAX_SECONDS)
        except asyncio.TimeoutError as error:
            raise ValueError("This file takes too long to read.") from error
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                process.kill()
            await process.wait()


async def _answer(process: asyncio.subprocess.Process, encoded: str, tell: Callable[[str], None]) -> Table:
    """Hand the file over, and return the table that comes back."""
    with contextlib.suppress(ConnectionError):  # what it says, or how it ended, tells more
        process.stdin.write(encoded.encode())
        await process.stdin.drain()
        process.stdin.close()
    while line := await process.stdout.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        if "columns" in answer:
            break
        tell(f"reading … {answer['percent']} %")
    else:
        too_long = await process.wait() == -signal.SIGXCPU
        raise ValueError("This file takes too long to read." if too_long else "This file could not be read.")
    rows, names = answer["rows"], answer["columns"]
    numbers = np.frombuffer(await process.stdout.readexactly(8 * rows * (len(names) + answer["dates"])))
    arrays = iter(numbers.reshape(-1, rows))
    x = next(arrays).view("datetime64[ms]") if answer["dates"] else np.arange(1, rows + 1)
    return Table(x, dict(zip(names, arrays, strict=True)), answer["ignored"], answer["x_name"])


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `points` of a line: of each stretch its lowest and its highest, so that no peak is lost."""
    if len(y) <= points:
        return x, y
    size = -(-len(y) // (points // 2))
    starts = np.arange(0, len(y), size)
    padded = np.full(len(starts) * size, np.nan)
    padded[: len(y)] = y
    stretches = padded.reshape(len(starts), size)
    low = np.where(np.isnan(stretches), np.inf, stretches).argmin(axis=1)
    high = np.where(np.isnan(stretches), -np.inf, stretches).argmax(axis=1)
    # a stretch without any number is a gap: it keeps one of its NaN
    kept = np.unique(np.concatenate([starts + low, starts + high]))
    kept = kept[kept < len(y)]
    return x[kept], y[kept]
