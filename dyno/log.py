"""What the processes print: a line at once and whole, and nothing that is private to a visitor."""

from __future__ import annotations

import logging
import os
import re
import sys

from dyno.settings import ROOT

MAX_LINE = 2000  # characters; Bokeh logs messages that it cannot read, and those may have 20 MB


class Discreet(logging.Formatter):
    """Leaves session ids, tokens and what follows the `?` of a URL out of the log."""

    SECRET = re.compile(r"[\w-]{44,}\.[\w-]{43,}|(?<=\?)[^\s\"']+")

    def format(self, record: logging.LogRecord) -> str:
        text = self.SECRET.sub("…", super().format(record))
        return "\n".join(line if len(line) <= MAX_LINE else line[:MAX_LINE] + "…" for line in text.split("\n"))


def print_whole_lines() -> None:
    """Have this process write each line that it prints at once, and in one piece.

    Python keeps them until its buffer is full, or, with PYTHONUNBUFFERED, writes the end of each line by itself: other
    processes' lines come in between.
    """
    sys.stdout.reconfigure(line_buffering=True, write_through=False)


def one_line(traceback: str) -> str:
    """Return what went wrong in one line, with the last place in it that is the site's or an app's own."""
    lines = [line.strip() for line in traceback.strip().splitlines()]
    own = re.compile(rf'File "{re.escape(str(ROOT) + os.sep)}(?!dyno/|.*/site-packages/)([^"]+", line \d+)')
    places = [found[1] for line in lines if (found := own.match(line))]
    return f'File "{places[-1]}: {lines[-1]}' if places else lines[-1]
