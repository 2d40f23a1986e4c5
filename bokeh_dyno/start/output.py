"""What the start script prints: its own lines, and nginx's."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from typing import IO

# bytes of a line of nginx's, as of everybody's: MAX_PRINTED in bokeh_dyno/shared/log.py, whose import takes 20 ms
MAX_LINE = 10_000


def say(text: str, name: str = "dyno") -> None:
    """Print a line as honcho prints those of the other processes: time, name, text."""
    stamp = time.strftime("%H:%M:%S")
    try:
        sys.stdout.write("".join(f"{stamp} {name:<7} | {line}\n" for line in text.splitlines()))
        sys.stdout.flush()
    except OSError:
        pass  # nobody reads it, or it is a file on a full disk: the site goes on


def copy_log(pipe: IO[bytes]) -> None:
    """Print what nginx prints, with its name before each line and without what a URL carries behind the `?`."""
    rest = b""
    while more := os.read(pipe.fileno(), 1 << 16):
        text, line_end, rest = (rest + more).rpartition(b"\n")
        if line_end:
            lines = (line[:MAX_LINE].decode(errors="replace") for line in text.split(b"\n"))
            say("\n".join(re.sub(r"\?[^\s\"]*", "?…", line) for line in lines), "nginx")
        time.sleep(0.01)  # waking up for each line alone would cost a request more than nginx itself does


def notify(state: str) -> None:
    """Tell systemd how it stands, where that has started us and wants to know (Type=notify, sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
            system.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
