"""Which Bokeh apps there are: every folder of `bokeh_app/` is one, and its name is its URL."""

from __future__ import annotations

import re
from pathlib import Path

from dyno.settings import ROOT

FOLDER = ROOT / "bokeh_app"
# Bokeh serves these one level below an app or beside it
RESERVED = {"static", "ws", "metadata", "autoload.js", "healthz"}


class AppsError(ValueError):
    """A folder in bokeh_app/ is not an app; the message has one line for each."""


def folders() -> list[Path]:
    """Return the folders of `bokeh_app/`, sorted; those that begin with `.` or `_` are not apps (`__pycache__`)."""
    if not FOLDER.is_dir():
        return []
    return sorted(path for path in FOLDER.iterdir() if path.is_dir() and path.name[0] not in "._")


def names() -> list[str]:
    """Return the names of all apps, sorted."""
    return [path.name for path in folders()]


def check() -> None:
    """Raise AppsError when a folder of `bokeh_app/` cannot be served, with a line for each."""
    wrong = []
    if not names():
        wrong.append("bokeh_app/ has no app: make a folder bokeh_app/NAME with a main.py")
    for path in folders():
        if not (path / "main.py").is_file() and not (path / "main.ipynb").is_file():
            wrong.append(f"bokeh_app/{path.name} has no main.py: add one, or move the folder out of bokeh_app/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", path.name):
            wrong.append(
                f"bokeh_app/{path.name} is not a name for a URL: letters, digits, `_`, `.` and `-`, such as sea_surface"
            )
        if path.name in RESERVED:
            wrong.append(f"bokeh_app/{path.name} is a name that the Bokeh server needs itself: choose another")
    if wrong:
        raise AppsError("\n".join(wrong))
