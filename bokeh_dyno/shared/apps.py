"""Which Bokeh apps there are: every folder of `bokeh_app/`, and every file that is one; its name is its URL."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from bokeh_dyno.shared.settings import ROOT

FOLDER = ROOT / "bokeh_app"
# Bokeh serves these one level below an app or beside it
RESERVED = {"static", "ws", "metadata", "autoload.js", "healthz"}
MAINS = ("main.py", "main.ipynb")
# what Bokeh reads a notebook with
FOR_NOTEBOOKS = ("nbconvert", "nbformat")


class AppsError(ValueError):
    """Something in bokeh_app/ cannot be served as an app; the message has one line for each."""


def paths() -> list[Path]:
    """Return the folders and files of `bokeh_app/` that are apps, sorted by name.

    A file is one when it is a notebook, or a script that names what every app needs, the document. What begins with `.` or
    `_` is none (`__pycache__`).
    """
    found = [path for path in _entries() if path.is_dir() or path.suffix == ".ipynb" or _shows_something(path)]
    return sorted(found, key=lambda path: name(path))


def names() -> list[str]:
    """Return the names of all apps, sorted."""
    return [name(path) for path in paths()]


def name(path: Path) -> str:
    """Return the name of the app in a folder or file."""
    return path.name if path.is_dir() else path.stem


def title(app: str) -> str:
    """Return the name of an app as a title: sea_surface, Sea surface."""
    words = app.replace("_", " ")
    return words[:1].upper() + words[1:]


def main(path: Path) -> Path:
    """Return the file of an app that is run for every visitor."""
    return next((path / file for file in MAINS if (path / file).is_file()), path)


def missing(path: Path) -> list[str]:
    """Return the packages that are missing to read an app in a folder or file: those of a notebook."""
    needed = FOR_NOTEBOOKS if main(path).suffix == ".ipynb" else ()
    return [package for package in needed if importlib.util.find_spec(package) is None]


def strays() -> list[str]:
    """Return a line for each script beside the apps that is none."""
    return [
        f"bokeh_app/{path.name} is no app, for it has neither curdoc nor servable: move it into the folder of its app, "
        f"or call it _{path.name}"
        for path in _entries()
        if path.suffix == ".py" and not path.is_dir() and not _shows_something(path)
    ]


@functools.cache
def twins() -> dict[str, list[Path]]:
    """Return the modules that several apps have under one name, and the folders of those apps.

    Python has one module of a name; which one an app gets is seen to where it is run (bokeh_dyno/bokeh/app.py).
    """
    folders: dict[str, list[Path]] = {}
    for path in paths():
        modules = {entry.stem for entry in path.glob("*.py")} | {
            entry.parent.name for entry in path.glob("*/__init__.py")
        }
        for module in modules - {"__init__", "main", "app_hooks", "server_lifecycle"}:
            folders.setdefault(module, []).append(path)
    return {module: several for module, several in folders.items() if len(several) > 1}


def check() -> None:
    """Raise AppsError when something in `bokeh_app/` cannot be served, with a line for each."""
    wrong: list[str] = []
    found = paths()
    if not found:
        wrong.append("bokeh_app/ has no app: make a folder bokeh_app/NAME with a main.py")
    for path in found:
        own = f"bokeh_app/{path.name}"
        if path.is_dir() and main(path) == path:
            wrong.append(f"{own} has no main.py: add one, or move the folder out of bokeh_app/")
        if problem := problem_of(name(path), own):
            wrong.append(problem)
        if same := [other.name for other in found if name(other) == name(path) and other != path]:
            wrong.append(f"{own} and bokeh_app/{same[0]} are two apps of the same name: choose another for one")
    if wrong:
        raise AppsError("\n".join(wrong))


def problem_of(app: str, own: str = "") -> str | None:
    """Return what is wrong with the name of an app, if anything is; `own` is what it is called in the sentence."""
    own = own or f"bokeh_app/{app}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", app):
        return f"{own} is not a name for a URL: letters, digits, `_`, `.` and `-`, such as sea_surface"
    if app in RESERVED:
        return f"{own} is a name that the Bokeh server needs itself: choose another"
    return None


def _entries() -> list[Path]:
    if not FOLDER.is_dir():
        return []
    entries = [path for path in FOLDER.iterdir() if path.name[0] not in "._"]
    return sorted(path for path in entries if path.is_dir() or path.suffix in (".py", ".ipynb"))


def _shows_something(path: Path) -> bool:
    return path.suffix == ".py" and _names_a_document(path, path.stat().st_mtime_ns)


@functools.lru_cache
def _names_a_document(path: Path, _changed: int) -> bool:
    return bool(re.search(rb"\b(curdoc|set_curdoc|servable)\b", path.read_bytes()))
