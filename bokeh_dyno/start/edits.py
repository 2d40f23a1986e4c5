"""What has been edited in the project since it was last looked at, and what has to be done for it to be seen."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from bokeh_dyno.shared import apps
from bokeh_dyno.shared.settings import ROOT
from bokeh_dyno.start import nginx

# editors' and others' files that are there for a moment, and what is made of the sources
PASSING = re.compile(r"[.#]|4913$|.*(~|\.(py[co]|sw.|tmp|bak|orig|part))$")
NOT_WATCHED = {"__pycache__", "node_modules"}
NO_CODE = {"tests", "test", "docs"}  # of the site: Python in there is not run by it
CODE = {".py", ".ipynb"}
OF_APPS = {*CODE, ".yaml", ".yml", ".json", ".html", ".jinja", ".j2", ".css", ".less", ".js", ".ts", ".mjs"}
INSTALLED = Path(sys.prefix) / "requirements.txt"  # bin/setup puts it there once all of it is installed


def forget_compiled(names: list[str]) -> None:
    """Remove what Python has compiled of these files: it takes a second save within a second, as long as the first, for that."""
    for name in names:
        if name.endswith(".py"):
            Path(importlib.util.cache_from_source(str(ROOT / name))).unlink(missing_ok=True)


class Site(NamedTuple):
    """Where the site has its own files: the URL path of each folder of static ones, and the folders of templates."""

    static: dict[str, str]
    templates: list[str]


class Needs(NamedTuple):
    """What a number of edits needs: each is a list of files, static ones by their URL, others by their path in the project."""

    styles: list[str]
    page: list[str]
    generation: list[str]
    routing: list[str]


class Edits:
    """The project's files as they were when `take` was last called."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = (ROOT / run_dir).resolve()
        self.folders: list[str] = []
        self._files = self._look()

    def take(self) -> list[str]:
        """Return the files that have changed since, or are new or gone; brings `folders`, which are to be watched, up to date."""
        before, self._files = self._files, self._look()
        both = before.keys() | self._files.keys()
        return sorted(name for name in both if before.get(name) != self._files.get(name))

    def _look(self) -> dict[str, tuple[int, int]]:
        files: dict[str, tuple[int, int]] = {}
        self.folders = [str(ROOT)]
        for folder in self.folders:  # which grows meanwhile
            with contextlib.suppress(OSError), os.scandir(folder) as entries:  # else it is gone again
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self.folders += [entry.path] * self._is_watched(Path(entry))
                    elif entry.name == ".env" or not PASSING.match(entry.name):
                        _note(files, Path(entry))
        if ROOT in INSTALLED.parents:
            self.folders.append(str(INSTALLED.parent))
            _note(files, INSTALLED)
        return files

    def _is_watched(self, folder: Path) -> bool:
        hidden = folder.name[0] == "." or folder.name in NOT_WATCHED
        return not (hidden or folder == self._run_dir or (folder / "pyvenv.cfg").exists())


def _note(files: dict[str, tuple[int, int]], path: Path) -> None:
    with contextlib.suppress(OSError):  # it was there for a moment only
        found = path.stat()
        files[str(path.relative_to(ROOT))] = found.st_mtime_ns, found.st_size


def needs(names: list[str], site: Site | None) -> Needs:
    """Return what edits of these files need; site is None when nobody knows where its files are, for it could not run."""
    found = Needs([], [], [], [])
    for name in names:
        path = ROOT / name
        if path == nginx.TEMPLATE:
            found.routing.append(name)
        elif _is_code(path, site):
            found.generation.append(name)
        elif site and (url := _url(path, site)):
            (found.styles if path.suffix == ".css" else found.page).append(url)
        elif site and any(Path(folder) in path.parents for folder in site.templates):
            found.page.append(name)
    return found


def _is_code(path: Path, site: Site | None) -> bool:
    """Return whether only a process that is new has what is in this file."""
    first = path.relative_to(ROOT).parts[0]
    if apps.FOLDER in path.parents:
        return path.suffix in OF_APPS or bool({"static", "templates"} & set(path.relative_to(apps.FOLDER).parts[:-1]))
    if path.parent == ROOT and re.fullmatch(r"\.env|Procfile\.dyno|requirements.*\.txt", path.name):
        return True
    if site is None and path.suffix in OF_APPS:
        return True
    return path == INSTALLED or (path.suffix in CODE and first not in NO_CODE and not (site and _url(path, site)))


def _url(path: Path, site: Site) -> str:
    """Return the URL path of a static file of the site, without the first /; nothing for another file."""
    for folder, url in site.static.items():
        if Path(folder) in path.parents:
            return f"{url.strip('/')}/{path.relative_to(folder).as_posix()}".lstrip("/")
    return ""
