"""How a line is printed: as text, or, with LOG_FORMAT=json, as an event, which is an object in one line."""

from __future__ import annotations

import os
import re
import time

from bokeh_dyno.start.metrics import count

# bytes of a line, as of everybody's: MAX_PRINTED in bokeh_dyno/shared/log.py, whose import takes 20 ms
MAX_LINE = 10_000
COUNTED = b"\x1f"  # begins a line of nginx's that is counted and not printed
ARGUMENTS = re.compile(rb"\?(\S+)")
TOKEN = re.compile(rb"(?<![\w-])[\w-]{44,}\.[\w-]{43,}")
OF_HONCHO = re.compile(rb"(?:\x1b\[[0-9;]*m)*\d\d:\d\d:\d\d (\S+) +\| ?(?:\x1b\[0m)?(.*)", re.DOTALL)
NGINX_ERROR = re.compile(rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] (\d+)#\d+: (.*)", re.DOTALL)
LEVELS = {b"emerg": "critical", b"alert": "critical", b"crit": "critical", b"warn": "warning"}
COLOURS = (36, 33, 32, 35, 31, 34)  # honcho's, which has them where it writes to a terminal itself

_json = False
_mark = b""
_colours: dict[bytes, bytes] | None = None  # by process, where stdout is a terminal


def use(log_format: str) -> None:
    """Print as LOG_FORMAT says from now on; this process's environment gets what its children need to know for that."""
    global _json, _mark, _colours
    _json = log_format == "json"
    _colours = {b"system": b""} if os.isatty(1) and not _json else None
    if _json:
        # before the events of our own Python processes: no text that a visitor has written becomes one
        _mark = b"@" + os.urandom(8).hex().encode() + b" "
        os.environ["DYNO_LOG_MARK"] = _mark.decode()


def own(text: str, name: str) -> tuple[bytes, int]:
    """Return what is printed of a text of the start script's, and how many lines that is."""
    if _json:
        return _event(name, text), 1
    stamp = time.strftime("%H:%M:%S")
    lines = text.splitlines()
    return "".join(f"{stamp} {name:<7} | {line}\n" for line in lines).encode(errors="replace"), len(lines)


def error(text: str) -> tuple[bytes, int]:
    """Return what is printed of why the start script ends, and how many lines that is."""
    lines = [f"error: {line}" for line in text.splitlines()]
    data = b"".join(_event("dyno", line) if _json else f"{line}\n".encode(errors="replace") for line in lines)
    return data, len(lines)


def left_out(lines: int) -> bytes:
    """Return what is printed in the place of so many lines."""
    return own(f"… {lines} lines are left out", "dyno")[0]


def of_nginx(text: bytes) -> tuple[bytes, int]:
    """Return what is printed of nginx's lines, without what an address carries behind the `?`, and how many lines that is.

    Those of requests are counted, for /metrics.
    """
    lines = []
    for line in text.split(b"\n"):
        if line[:1] == COUNTED:
            count(line)
            continue
        if b" seconds=" in line:
            count(line)
        lines.append(line if len(line) <= MAX_LINE else _cut(line))
    if not lines:
        return b"", 0
    if _json:
        return b"".join(map(_of_nginx, lines)), len(lines)
    prefix = time.strftime("%H:%M:%S nginx   | ").encode()
    whole = _discreet(b"\n".join(lines)).decode(errors="replace").encode()
    return prefix + whole.replace(b"\n", b"\n" + prefix) + b"\n", len(lines)


def _discreet(text: bytes) -> bytes:
    # what follows the `?` of an address: a quote within it may be the visitor's, those behind it are the log's
    if b"?" in text:
        text = ARGUMENTS.sub(lambda one: "?…".encode() + one[1][len(one[1].rstrip(b'",')) :], text)
    return TOKEN.sub("…".encode(), text) if b"eyJ" in text else text  # as JSON begins, in base64


def _of_nginx(line: bytes) -> bytes:
    if line.startswith(b'{"time"'):  # it is an event already
        return line.decode(errors="replace").encode() + b"\n"
    line = _discreet(line)
    if found := NGINX_ERROR.fullmatch(line):
        level = LEVELS.get(found[1], found[1].decode())
        return _event("nginx", found[3].decode(errors="replace"), level, pid=int(found[2]))
    return _event("nginx", line.decode(errors="replace"))


def of_command(text: bytes) -> tuple[bytes, int]:
    """Return what is printed of COMMAND's lines, before each of which honcho has the time and a name; how many that is."""
    count = text.count(b"\n") + 1
    if not _json and not _colours and len(text) <= MAX_LINE:
        return text + b"\n", count
    return b"".join(map(_of_command, text.split(b"\n"))), count


def _of_command(line: bytes) -> bytes:
    if len(line) > MAX_LINE:
        line = _cut(line)
    found = OF_HONCHO.fullmatch(line) if _json or _colours else None
    if not _json:
        return _coloured(line, found) + b"\n"
    name, message = (found[1].decode(errors="replace"), found[2]) if found else ("command", line)
    if message.startswith(_mark) and (event := _parsed(message[len(_mark) :])):
        return _dumped({"time": event.pop("time", _now()), "process": name, **event})
    return _event(name, message.decode(errors="replace"))


def _coloured(line: bytes, found: re.Match[bytes] | None) -> bytes:
    if not found or _colours is None:
        return line
    colour = _colours.setdefault(found[1], b"\x1b[0m\x1b[%dm" % COLOURS[(len(_colours) - 1) % len(COLOURS)])
    return colour + line[: found.start(2)] + b"\x1b[0m" * bool(colour) + found[2]


def _parsed(text: bytes) -> dict[str, object] | None:
    import json

    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _cut(line: bytes) -> bytes:
    return line[:MAX_LINE] + "…".encode()


def _event(name: str, message: str, level: str = "", **more: object) -> bytes:
    begin = message.partition(":")[0].lower()
    level = level or (begin if begin in ("error", "warning") else "info")
    return _dumped({"time": _now(), "process": name, "level": level, "message": message, **more})


def _dumped(event: dict[str, object]) -> bytes:
    import json

    return json.dumps(event, ensure_ascii=False).encode(errors="replace") + b"\n"


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
