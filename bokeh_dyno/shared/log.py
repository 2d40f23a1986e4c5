"""What the processes print: a line at once and whole, none too long, and nothing that is private to a visitor."""

from __future__ import annotations

import io
import logging
import os
import re
import string
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from bokeh_dyno.shared.settings import ROOT

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_LINE = (
    2000  # characters of a line that is logged; Bokeh logs messages that it cannot read, and those may have 20 MB
)
MAX_LINES = 200  # of one record, a traceback's among them
MAX_PRINTED = 10_000  # bytes of a line that is printed, as Heroku's log has it; honcho holds a line until it ends
MAX_BURST, MAX_RATE = 20_000, 2_000  # lines that a process prints at once, and in a second


class Discreet(logging.Formatter):
    """Leaves session ids, tokens and what follows the `?` of a URL out of the log, and cuts what is long.

    Cut first, and all in linear time: a visitor may have written what is logged.
    """

    # no match begins within a word, or a long word would be read once from each of its letters
    SECRET = re.compile(r"(?<![\w-])[\w-]{44,}\.[\w-]{43,}|(?<=\?)[^\s\"']+")
    WORD = string.ascii_letters + string.digits + "_-."

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record.args = tuple(arg[:MAX_LINE] if isinstance(arg, str | bytes) else arg for arg in record.args)
        return self.SECRET.sub("…", self._cut(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        return self._cut(super().formatMessage(record))

    def _cut(self, text: str) -> str:
        """Return `text` with the beginning of each long line, and the first and the last of many lines."""
        half = MAX_LINE * MAX_LINES // 2
        if len(text) > 2 * half:
            text = f"{text[:half]}…\n…{text[-half:].lstrip(self.WORD)}"
        lines = text.split("\n")
        if len(lines) > MAX_LINES:
            lines[MAX_LINES // 2 : -MAX_LINES // 2] = ["…"]
        # the last word is left out, for it may be a part of what is secret
        return "\n".join(line if len(line) <= MAX_LINE else line[:MAX_LINE].rstrip(self.WORD) + "…" for line in lines)


class _Brake(io.RawIOBase):
    """Writes to a file descriptor what it is given, but the beginning only of a very long line, and not too many at once.

    honcho holds what it has not printed yet, in its memory, and prints 10,000 lines a second.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._length = 0  # of the line that has not ended yet
        self._allowed, self._since = float(MAX_BURST), time.monotonic()  # lines
        self._left_out = 0  # lines
        self._in_left_out = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Write a part of data; return how much of it is done, as a raw stream does."""
        taken = bytes(memoryview(data)[:65536])
        now = time.monotonic()
        self._allowed, self._since = min(MAX_BURST, self._allowed + MAX_RATE * (now - self._since)), now
        text = b"".join(map(self._part, taken.splitlines(keepends=True)))
        while text:
            text = text[os.write(self._descriptor, text) :]
        return len(taken)

    def _part(self, part: bytes) -> bytes:
        """Return what is written of a line, or of a part of one."""
        begin = b""
        if self._length == 0:
            self._in_left_out = self._allowed < 1
            if self._in_left_out:
                self._left_out += 1
            else:
                self._allowed -= 1
                if self._left_out:
                    begin, self._left_out = f"… {self._left_out} lines are left out\n".encode(), 0
        room = MAX_PRINTED - self._length
        ends = part.endswith(b"\n")
        self._length = 0 if ends else self._length + len(part)
        if self._in_left_out:
            return b""
        if len(part) > room:
            part = (part[:room] + "…".encode() if room >= 0 else b"") + b"\n" * ends
        return begin + part


def print_whole_lines() -> None:
    """Have this process write each line that it prints at once, in one piece, and its beginning only if it is very long.

    Python keeps them until its buffer is full, or, with PYTHONUNBUFFERED, writes the end of each line by itself: other
    processes' lines come in between.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()  # and left as it is: logging may hold it
        lines = io.BufferedWriter(_Brake(stream.fileno()))
        fresh = io.TextIOWrapper(lines, stream.encoding, stream.errors, line_buffering=True)
        setattr(sys, name, fresh)


def one_line(traceback: str) -> str:
    """Return in one line what a traceback is about, with the last place in it that is the site's own or an app's."""
    places, what = own_places(traceback), what_of(traceback)
    return f'File "{places[-1].file}", line {places[-1].line}: {what}' if places else what


class Place(NamedTuple):
    """A place in the sources, and the number of the traceback's line that names it."""

    file: str
    line: int
    at: int


def own_places(traceback: str) -> list[Place]:
    """Return the places in a traceback that are the site's own or an app's."""
    own = re.compile(rf'\s*File "{re.escape(str(ROOT) + os.sep)}(?!bokeh_dyno/|.*/site-packages/)([^"]+)", line (\d+)')
    found = ((at, own.match(line)) for at, line in enumerate(traceback.strip().splitlines()))
    return [Place(one[1], int(one[2]), at) for at, one in found if one]


def what_of(traceback: str) -> str:
    """Return in one line what is said below the frames of a traceback."""
    lines = traceback.strip().splitlines()
    # it begins behind the last frame, at the margin, and may have several lines
    frame = max((number for number, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    begin = next((number for number in range(frame + 1, len(lines)) if not lines[number].startswith(" ")), -1)
    return " ".join(line.strip() for line in lines[begin:] if line.strip())
