"""What a Bokeh worker counts for /metrics: sessions, WebSockets, the seconds of callbacks, and how late its event loop is."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from bokeh_dyno.shared import numbers

LAG_SECONDS = 0.25  # between two looks at the event loop
WINDOW_SECONDS = 30.0  # the longest lag is that of the last one or two of these

_rows: list[numbers.Row] = []  # of all workers, from 1
_row = numbers.Row(numbers.BOKEH)  # what counts before the fork counts for nobody


def share(run_dir: Path, workers: int) -> None:
    """In the master: make the memory for so many workers."""
    _rows[:] = numbers.make(run_dir / "metrics" / "bokeh", numbers.BOKEH, workers)


def restarted(number: int) -> None:
    """In the master: count that worker `number` has to be started again."""
    if _rows:
        _rows[number - 1].add("restarts")


def in_worker(number: int) -> None:
    """Count for worker `number` from now on: further what it has counted, while what is now begins at 0."""
    global _row
    if not _rows:
        return
    _row = _rows[number - 1]
    for field in ("sessions", "websockets", "longest_lag"):
        _row.set(field, 0)
    _row.set("alive", time.monotonic())
    _row.set("pid", os.getpid())


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Look from now on how late an event loop is: one look costs it some 10 µs."""
    due, began, before, longest = loop.time() + LAG_SECONDS, loop.time(), 0.0, 0.0

    def look() -> None:
        nonlocal due, began, before, longest
        now = loop.time()
        lag = max(0.0, now - due)
        _row.observe("lag", lag)
        if now - began > WINDOW_SECONDS:
            began, before, longest = now, longest, 0.0
        longest = max(longest, lag)
        _row.set("longest_lag", max(before, longest))
        _row.set("alive", time.monotonic())
        due = now + LAG_SECONDS
        loop.call_at(due, look)

    loop.call_at(due, look)


def sessions(count: int) -> None:
    """Note how many sessions this worker has."""
    _row.set("sessions", count)


def session_opened(again: bool) -> None:
    """Count a session that begins; again: for a page that had one before, which is gone, and now enters its values there."""
    _row.add("opened")
    if again:
        _row.add("recovered")


def refused(reason: str) -> None:
    """Count a session that was not opened, for a reason of numbers.REFUSED."""
    _row.add(f"refused:{reason}")


def websocket_opened() -> None:
    """Count a WebSocket that is there."""
    _row.add("websockets_opened")
    _row.add("websockets")


def websocket_closed(code: int | None) -> None:
    """Count a WebSocket that is there no more; code is the one it was closed with, None when the connection was just lost."""
    _row.add(f"closed:{code or 1006}" if str(code or 1006) in numbers.CODES else "closed:other")
    _row.add("websockets", -1)


def callback(seconds: float) -> None:
    """Count a callback of an app, which took so long."""
    _row.observe("callback", seconds)
