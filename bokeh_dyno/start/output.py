"""What the dyno prints: its own lines, nginx's and COMMAND's, through one place that nobody has to wait for.

What is to be printed waits in a buffer, from which one thread writes. So a reader that stops reading, or is gone, costs
lines, which are counted, and nothing else: whoever has something to say goes on at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from bokeh_dyno.start import events
from bokeh_dyno.start.events import MAX_LINE

MAX_BYTES, MAX_LINES = 4_000_000, 20_000  # that wait to be written
PART = 1 << 16  # bytes that are read or written at once
CLOSE_SECONDS = 1.0  # for the last lines, at the end
STDOUT, STDERR = 1, 2


class Output:
    """Whole lines on their way to stdout and stderr. Until `start` each is written at once, by whoever has it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, bytes, int]] = deque()  # where to, what, how many lines
        self._bytes = self._lines = 0  # that wait
        self._is_full = False
        self._left_out = 0  # lines for which there was no room
        self._lost = 0  # lines that could not be written
        self._ends_within_line = False  # what was written last
        self._writes = False
        self._writer: threading.Thread | None = None
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Have a thread write from now on."""
        self._writer = threading.Thread(target=self._write_on, name="output", daemon=True)
        self._writer.start()

    def put(self, data: bytes, lines: int, to: int = STDOUT) -> None:
        """Print whole lines, so many, or leave them out where too much waits already. Never waits itself."""
        if not lines:
            return
        if not self._writer:
            self._write(to, data, lines)
            return
        with self._changed:
            # once it is full, until half of it is written: or every second line would say what was left out before it
            room = 0.5 if self._is_full else 1.0
            if self._bytes + len(data) > room * MAX_BYTES or self._lines + lines > room * MAX_LINES:
                self._is_full = True
                self._left_out += lines
                return
            self._say_left_out()
            self._append(to, data, lines)
            self._changed.notify_all()

    def _append(self, to: int, data: bytes, lines: int) -> None:
        self._waiting.append((to, data, lines))
        self._bytes += len(data)
        self._lines += lines

    def _say_left_out(self) -> None:
        if self._left_out:
            self._append(STDOUT, events.left_out(self._left_out), 1)
        self._is_full, self._left_out = False, 0

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._writes = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                to, data, lines = self._waiting.popleft()
                while self._waiting and self._waiting[0][0] == to and len(data) < PART:
                    _, more, further = self._waiting.popleft()
                    data, lines = data + more, lines + further
                self._bytes -= len(data)
                self._lines -= lines
                self._writes = True
            self._write(to, data, lines)

    def _write(self, to: int, data: bytes, lines: int) -> None:
        """Write lines; those that cannot be written are counted, and the next ones are tried as if nothing had been."""
        lost, self._lost = self._lost, 0
        rest = memoryview(b"\n" * self._ends_within_line + (events.left_out(lost) if lost else b"") + data)
        begun = False
        while rest:
            try:
                rest, begun = rest[os.write(to, rest) :], True
            except BlockingIOError:  # somebody has made it so, for a terminal is shared by all that have it open
                with contextlib.suppress(OSError, ValueError):
                    select.select([], [to], [], 1.0)
            except OSError:  # nobody reads it any more, the disk is full, the terminal is gone
                left = bytes(rest).count(b"\n")
                self._lost = lost * (not begun) + min(lines, left)
                self._ends_within_line = self._ends_within_line if not begun else True
                return
        self._ends_within_line = False

    def follow(self, pipe: int, printed: Callable[[bytes], tuple[bytes, int]]) -> None:
        """Print what comes out of a pipe until its end, as `printed` makes it of whole lines: (data, number of lines)."""
        reader = threading.Thread(target=self._copy, args=(pipe, printed), daemon=True)
        self._readers = [*(one for one in self._readers if one.is_alive()), reader]
        reader.start()

    def _copy(self, pipe: int, printed: Callable[[bytes], tuple[bytes, int]]) -> None:
        rest = b""
        while True:
            try:
                more = os.read(pipe, PART)
            except OSError:
                more = b""
            text, line_end, rest = (rest + more).rpartition(b"\n")
            if not more:
                text, line_end, rest = rest, rest[:1], b""  # a last line that has no end
            if line_end:
                try:
                    self.put(*printed(text))
                except Exception:  # whatever is in that text: the next one is another
                    self._left_out += text.count(b"\n") + 1
            if not more:
                os.close(pipe)
                return
            rest = rest[: MAX_LINE + 1]  # enough to see that it is too long
            time.sleep(0.01)  # waking up for each line alone would cost a request more than nginx itself does

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait until all is written, for so long at most: whoever is to read it may not do so."""
        end = time.monotonic() + seconds
        for reader in self._readers:
            reader.join(max(0.0, min(0.3, end - time.monotonic())))  # what holds its pipe open may have outlived all
        with self._changed:
            self._say_left_out()
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not self._writer or not (self._waiting or self._writes), max(0.0, end - time.monotonic())
            )


OUTPUT = Output()


def say(text: str, name: str = "dyno") -> None:
    """Print a line as honcho prints those of the other processes, time, name, text; or as an event."""
    OUTPUT.put(*events.own(text, name))


def error(text: str) -> None:
    """Print to stderr why this process ends, a line for each of text."""
    OUTPUT.put(*events.error(text), STDERR)


def notify(state: str) -> None:
    """Tell systemd how it stands, where that has started us and wants to know (Type=notify, sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
            system.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
