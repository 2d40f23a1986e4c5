"""What the processes print: a line at once and whole, none too long, and nothing that is private to a visitor."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import string
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from bokeh_dyno.shared.settings import ROOT

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_LINE = (
    2000  # characters of a line that is logged; Bokeh logs messages that it cannot read, and those may have 20 MB
)
MAX_LINES = 200  # of one record, a traceback's among them
MAX_PRINTED = 10_000  # bytes of a line that is printed, as Heroku's log has it; honcho holds a line until it ends
MAX_EVENT = 9_000  # bytes of an event, in which there is room for the name that is added to it
TRACEBACK = "Traceback (most recent call last):\n"
MAX_BURST, MAX_RATE = 20_000, 2_000  # lines that a process prints at once, and in a second


# of whom what is logged now is about: a request, and a Bokeh session by what `short` makes of its id
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
SESSION: ContextVar[str] = ContextVar("session", default="")
# whose records are made discreet at once, for the handlers of the site, or of an app, that they may come to: what we log,
# and what those log that know a request. What a site and its apps log themselves is theirs
LIBRARIES = {"bokeh", "bokeh_dyno", "tornado", "asyncio", "concurrent", "gunicorn", "werkzeug", "urllib3"}
# no match begins within a word, or a long word would be read once from each of its letters
SECRET = re.compile(r"(?<![\w-])[\w-]{44,}\.[\w-]{43,}|(?<=\?)[^\s\"']+")
PRINTED_TOKEN = re.compile(rb"(?<![\w-])[\w-]{44,}\.[\w-]{43,}")
HEADER = re.compile(r"(?<![\w-])((?i:(?:set-)?cookie|(?:proxy-)?authorization))([\"']?[:=,] ?)[^\n]*")
SESSION_ID = re.compile(r"(?<![\w.-])_[\w-]{43}\.[\w-]{43}(?![\w-])")
WORD = string.ascii_letters + string.digits + "_-."


def begin(request_id: str | None, session_id: str = "") -> None:
    """Note of which request, and of which session, everything is that is logged from now on in this context."""
    REQUEST_ID.set(request_id if request_id and re.fullmatch(r"[A-Za-z0-9._:=+/-]{1,128}", request_id) else "")
    SESSION.set(short(session_id))


@contextlib.contextmanager
def about(request_id: str, session: str) -> Iterator[None]:
    """Have what is logged meanwhile be of a request and a session, by the name that `short` has made of its id."""
    before = REQUEST_ID.set(request_id), SESSION.set(session)
    try:
        yield
    finally:
        REQUEST_ID.reset(before[0])
        SESSION.reset(before[1])


def short(session_id: str) -> str:
    """Return what a session is called in the log, by which nobody gets in; nothing for none."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:10] if session_id else ""


def discreet(text: str) -> str:
    """Return `text` without tokens, cookies and what follows the `?` of a URL, session ids by their short names, and cut.

    Cut first, and all in linear time: a visitor may have written what is logged.
    """
    text = SESSION_ID.sub(lambda one: short(one[0]), _cut(text))
    return HEADER.sub(r"\1\2…", SECRET.sub("…", text))


def _cut(text: str) -> str:
    """Return `text` with the beginning of each long line, and the first and the last of many lines."""
    half = MAX_LINE * MAX_LINES // 2
    if len(text) > 2 * half:
        text = f"{text[:half]}…\n…{text[-half:].lstrip(WORD)}"
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES // 2 : -MAX_LINES // 2] = ["…"]
    # the last word is left out, for it may be a part of what is secret
    return "\n".join(line if len(line) <= MAX_LINE else line[:MAX_LINE].rstrip(WORD) + "…" for line in lines)


def guard() -> None:
    """Have every record of LIBRARIES be discreet from its making, whoever prints it, and however."""
    made = logging.getLogRecordFactory()
    plain = logging.Formatter()

    def make(name: str, *arguments: Any, **options: Any) -> logging.LogRecord:
        record = made(name, *arguments, **options)
        if name.partition(".")[0] in LIBRARIES:
            if isinstance(record.args, tuple):
                record.args = tuple(one[:MAX_LINE] if isinstance(one, str | bytes) else one for one in record.args)
            with contextlib.suppress(Exception):  # arguments that do not fit: logging says so where it prints them
                # a quote in an address may be the visitor's
                text = discreet(record.getMessage())
                record.msg, record.args = re.sub(r"(?<=\?)[^\s…]\S*", "…", text), ()
            if record.exc_info and record.exc_info[0]:
                record.exc_text = discreet(plain.formatException(record.exc_info))
        return record

    logging.setLogRecordFactory(make)


class Discreet(logging.Formatter):
    """The format of our own handlers: a line of text, discreet as above, or, with LOG_FORMAT=json, an event.

    Behind the message comes what it is about: session=…, request_id=….
    """

    def __init__(self, text_format: str, worker: int | None = None) -> None:
        super().__init__(text_format)
        self._worker = worker
        self._json = os.environ.get("LOG_FORMAT") == "json"
        self._mark = os.environ.get("DYNO_LOG_MARK", "")  # by which our start script knows it for an event

    def format(self, record: logging.LogRecord) -> str:
        return self._mark + self._event(record) if self._json else discreet(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        first, line_end, rest = _cut(super().formatMessage(record)).partition("\n")
        about = {"session": SESSION.get(), "request_id": REQUEST_ID.get()}
        return first + "".join(f" {name}={value}" for name, value in about.items() if value) + line_end + rest

    def _event(self, record: logging.LogRecord) -> str:
        message, exception = discreet(record.getMessage()), ""
        if record.exc_info and record.exc_info[0]:
            exception = discreet(record.exc_text or self.formatException(record.exc_info))
        elif TRACEBACK in message:  # as Bokeh logs some
            message, _, exception = message.partition(TRACEBACK)
            exception = TRACEBACK + exception
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, Any] = {
            "time": f"{now}.{int(record.created * 1000) % 1000:03}Z",
            "level": record.levelname.lower(),
            "message": message.strip()[: 2 * MAX_LINE],
            "logger": record.name,
            "pid": record.process,
            "worker": self._worker,
            "session": SESSION.get(),
            "request_id": REQUEST_ID.get(),
            "exception": exception,
        }
        event = {name: value for name, value in event.items() if value}
        text, room = json.dumps(event), MAX_PRINTED
        while len(text) > MAX_EVENT and room > 100:  # its last lines say what it is about
            room //= 2
            for name in ("message", "exception"):
                if len(long := event.get(name, "")) > room:
                    event[name] = f"{long[: room // 4]}…\n…{long[-room * 3 // 4 :]}"
            text = json.dumps(event)
        return text


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
        text = PRINTED_TOKEN.sub("…".encode(), b"".join(map(self._part, taken.splitlines(keepends=True))))
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
