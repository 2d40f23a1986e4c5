"""Checks .env before honcho reads it: that stops with a traceback at some lines, and skips others without a word."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from honcho import environ

from dyno.settings import ROOT


def wrong(path: Path) -> list[str]:
    """Return a sentence for each line of the file that honcho cannot read; nothing when there is no such file."""
    if not path.exists():
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{path.name} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"]
    return [f"{path.name}, line {number}: {why}" for number, line in enumerate(lines, 1) if (why := _wrong(line))]


def _wrong(line: str) -> str | None:
    # without its content: it may be a password
    if re.fullmatch(r"\s*(#.*|[A-Za-z_]\w*\s*=\s*)?", line):
        return None
    try:
        if environ.parse(line):
            return None
    except ValueError:
        return 'a quote is not closed; a value with one in it goes into double quotes: NAME="it\'s"'
    return "write NAME=value, without `export` and `:`"


if __name__ == "__main__":
    sentences = wrong(ROOT / ".env")
    for sentence in sentences:
        print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1 if sentences else 0)
