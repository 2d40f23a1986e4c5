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
    """Return in one line what a traceback is about, with the last place in it that is the site's own or an app's."""
    lines = traceback.strip().splitlines()
    own = re.compile(rf'\s*File "{re.escape(str(ROOT) + os.sep)}(?!dyno/|.*/site-packages/)([^"]+", line \d+)')
    places = [found[1] for line in lines if (found := own.match(line))]
    # it begins behind the last frame, at the margin, and may have several lines
    frame = max((number for number, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    begin = next((number for number in range(frame + 1, len(lines)) if not lines[number].startswith(" ")), -1)
    what = " ".join(line.strip() for line in lines[begin:] if line.strip())
    return f'File "{places[-1]}: {what}' if places else what
