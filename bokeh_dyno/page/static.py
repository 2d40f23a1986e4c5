"""The files that nginx sends itself: BokehJS of the installed bokeh package, compressed, and the page's script."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import os
import re
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bokeh_dyno.shared import private
from bokeh_dyno.shared.settings import ROOT

CACHE = ROOT / ".static"
# .js, beside this file; each imports from those before it
PAGE_MODULES = ("scripts", "values", "connection", "theme", "page")
PAGE_SCRIPT_NAME = "dyno.js"  # among the files: all of them as one
READING_NAME = "reading.js"  # what it loads when the plots are there
SCRIPTS = {PAGE_SCRIPT_NAME: PAGE_MODULES, READING_NAME: ("reading",)}
# brotli's quality: BokehJS is a fifth smaller than with gzip and takes 10 s of CPU, or a tenth smaller and 0.2 s
BEST, QUICK = 11, 5
GZIP = 9
SUMS = "sums"  # beside the files: their sha256, by which a folder is known to be whole


def source() -> Path:
    """Return the static folder of the installed bokeh package, without importing it."""
    return private.FOLDER / "server" / "static"


def page_script(folder: Path = Path(__file__).parent, name: str = PAGE_SCRIPT_NAME) -> bytes:
    """Return the modules of one of the page's scripts as one: in a closure, without what is for their readers, a third of it.

    It goes line by line, knows no text of several lines, and takes what has a line of its own: comments, `export const`,
    `export class`, `import {a, b} from "./module.js"`. Raises ValueError where something else begins like one of those.
    """
    lines = ["(() => {", '"use strict"']
    modules = SCRIPTS[name]
    for number, module in enumerate(modules):
        for line in (folder / f"{module}.js").read_text("utf-8").splitlines():
            imported = re.fullmatch(r'import \{\w+(?:, \w+)*\} from "\./(\w+)\.js"', line)
            if imported and imported[1] in modules[:number]:
                continue
            code = re.sub(r"^export (?=(const|class) )", "", line).lstrip()
            if not code or re.fullmatch(r"//.*|/\*((?!\*/).)*\*/", code):
                continue
            if re.match(r"(import|export)\b|/\*", code):
                raise ValueError(f"{module}.js has a line that cannot be joined with other modules: {line}")
            # without a comment behind it, unless what looks like one may be in a string, whose quote would come after it
            before, slashes, comment = code.rpartition(" // ")
            lines.append(before.rstrip() if slashes and not set(comment) & set("\"'`/") else code)
    return "\n".join([*lines, "})()", ""]).encode()


def _names() -> list[str]:
    """Return the names below /static/ of the files that pages load: the page's scripts, and the minified ones of BokehJS."""
    return [*SCRIPTS, *sorted(f"js/{file.name}" for file in (source() / "js").glob("*.min.js"))]


def _content(name: str) -> bytes:
    return page_script(name=name) if name in SCRIPTS else (source() / name).read_bytes()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the files that pages load, by name.

    It is the beginning of the file's sha512, for that is what Bokeh has behind ?v=; nginx takes either for the other.
    """
    return {name: hashlib.sha512(_content(name)).hexdigest()[:16] for name in _names()}


def versioned(name: str) -> str:
    """Return the name of a file below /static/ with its version before it, when it is one that has a version."""
    return f"{versions()[name]}/{name}" if name in versions() else name


def page_script_tag(prefix: str, max_upload_mb: int) -> dict[str, str]:
    """Return the attributes of the tag of the page's script; prefix is BOKEH_PREFIX."""
    return {
        "src": f"{prefix}/static/{versioned(PAGE_SCRIPT_NAME)}",
        "data-reading": f"{prefix}/static/{versioned(READING_NAME)}",
        "data-max-upload": str(max_upload_mb << 20),
    }


def prepare(cache: Path = CACHE, *, quick: bool = False) -> list[Path]:
    """Return a folder for each file that pages load: with the file, and compressed as .gz and as .br.

    Made by bin/setup, or by a build, and anew when the file has changed or the folder is not whole. quick is for the boot,
    which should not wait: it makes do with less compression, and takes the better one when that is there.
    """

    def one(name: str) -> Path:
        for quality in (BEST, QUICK) if quick else (BEST,):
            folder = cache / f"{versions()[name]}-gzip{GZIP}-brotli{quality}"
            with contextlib.suppress(OSError):  # not there, or read-only
                os.utime(folder)  # it is in use from now on, see _clean_up
            if _is_whole(folder):
                return folder
        _make(folder, name, quality)
        return folder

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing and compressing let other threads run
        folders = list(pool.map(one, versions()))
    _clean_up(cache)  # not before all of them are in use
    return folders


def _make(folder: Path, name: str, quality: int) -> None:
    import brotli

    folder.parent.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new."))
    fresh.chmod(0o755)
    file = fresh / name
    file.parent.mkdir(exist_ok=True)
    data = _content(name)
    file.write_bytes(data)
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(data, GZIP, mtime=0))
    file.with_name(f"{file.name}.br").write_bytes(brotli.compress(data, quality=quality))
    (fresh / SUMS).write_text(_sums(fresh))
    try:
        if folder.exists() and not _is_whole(folder):
            folder.rename(f"{fresh}.broken")
        fresh.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(fresh)


def _sums(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files)


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / SUMS).read_text() == _sums(folder)
    except OSError:
        return False


def _clean_up(cache: Path) -> None:
    """Remove what nobody has used for an hour: of versions gone by, of builds that were cut off. No dyno serves it: link."""
    for old in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process does the same
            if old.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(old, ignore_errors=True)


def link(run_dir: Path) -> None:
    """Make RUN_DIR/static what nginx has below /static/: the files of `prepare`, with and without a version, and Bokeh's others.

    It is a copy: what a dyno serves stays, whatever is done to the cache and to the bokeh package while it runs.
    """
    try:
        folders = prepare(quick=True)
    except OSError:  # the project is read-only
        folders = prepare(run_dir / "files", quick=True)
    fresh = Path(tempfile.mkdtemp(dir=run_dir, prefix="static."))
    (fresh / "js").mkdir()
    for folder, version in zip(folders, versions().values(), strict=True):
        shutil.copytree(folder, fresh / version, ignore=shutil.ignore_patterns(SUMS), dirs_exist_ok=True)
        for file in (fresh / version).rglob("*.js*"):
            unversioned = fresh / file.relative_to(fresh / version)
            unversioned.symlink_to(os.path.relpath(file, unversioned.parent))
    for path in [*source().iterdir(), *(source() / "js").iterdir()]:
        with contextlib.suppress(FileExistsError):
            (fresh / path.relative_to(source())).symlink_to(path)
    served = run_dir / "static"
    (named := run_dir / f"{fresh.name}.link").symlink_to(fresh.name)
    os.replace(named, served)
    for old in run_dir.glob("static.*"):  # of this folder's last dyno
        if old.name != fresh.name:
            shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    prepare()
