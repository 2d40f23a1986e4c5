"""What a config var may be: each check takes its text and returns the value, or raises ValueError."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HOST = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]"


class Setting(NamedTuple):
    """A config var.

    check returns the value as Python wants it, or raises ValueError; `allowed` completes "NAME=… is not allowed: …".
    """

    default: str
    allowed: str
    about: str
    check: Callable[[str], object]
    secret: bool = False


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return the check of a whole number."""

    def check(text: str) -> int:
        # int() would take " 7", "+7", "1_000" and other alphabets' digits; nginx and gunicorn would not
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return check


def match(pattern: str) -> Callable[[str], str]:
    """Return the check of a text that a pattern has to match as a whole."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return check


def folder(pattern: str) -> Callable[[str], Path]:
    """Return the check of a path."""
    return lambda text: Path(match(pattern)(text))


def switch(text: str) -> bool:
    """Check 0 or 1."""
    return {"0": False, "1": True}[match("[01]")(text)]


def listed(pattern: str) -> Callable[[str], tuple[str, ...]]:
    """Return the check of a list separated by commas, each part of which has to match a pattern."""

    def check(text: str) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in text.split(",")) if text else ()
        for part in parts:
            match(pattern)(part)
        return parts

    return check


def key(text: str) -> str:
    """Check a key: what zlib can make much shorter is a word or a pattern; 14 bytes of what it returns are its frame."""
    if text and (len(text) < 32 or len(zlib.compress(text.encode(), 9)) - 14 < 16):
        raise ValueError
    return text


def addresses(text: str) -> tuple[str, ...]:
    """Check a list of IP addresses and networks, or `*` for all."""
    import ipaddress

    parts = listed(r"\S+")(text)
    for part in parts:
        if part != "*":
            ipaddress.ip_network(part, strict=False)  # raises a ValueError
    return parts


def upstreams(text: str) -> tuple[str, ...]:
    """Check a list of HOST:PORT."""
    parts = listed(rf"({HOST}):[0-9]{{1,5}}")(text)
    for part in parts:
        whole(1, 65535)(part.rpartition(":")[2])
    return parts
