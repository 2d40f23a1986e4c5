"""The files that nginx sends itself: BokehJS of the installed bokeh package, compressed, and the page's script."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dyno.settings import ROOT

if TYPE_CHECKING:
    from bokeh.document import Document
    from bokeh.model import Model

CACHE = ROOT / ".static"
PAGE_SCRIPT = Path(__file__).parent / "page.js"
PAGE_SCRIPT_NAME = "dyno.js"  # among the files


def source() -> Path:
    """Return the static folder of the installed bokeh package, without importing it."""
    return Path(find_spec("bokeh").submodule_search_locations[0]) / "server" / "static"


def prepare(cache: Path = CACHE) -> Path:
    """Return the folder with everything that the Bokeh server has below /static/, and the page's script as dyno.js.

    Each minified script is there a second time as .gz (gzip -9), which nginx's gzip_static sends. Made on the first
    call (bin/setup, a build step, or the first boot), and anew whenever one of the files has changed.
    """
    files = sorted((source() / "js").glob("*.min.js"))
    # in whole seconds: what a build step made has to be good after the slug, a tar archive, was packed and unpacked
    marks = [f"{file.name} {file.stat().st_size} {int(file.stat().st_mtime)}" for file in files]
    marks += [str(source()), PAGE_SCRIPT.read_text()]
    folder = cache / hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    cache.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=cache, prefix="new."))
    fresh.chmod(0o755)
    (fresh / "js").mkdir()
    for path in source().iterdir():
        if path.name != "js":
            (fresh / path.name).symlink_to(path)
    for path in (source() / "js").iterdir():
        (fresh / "js" / path.name).symlink_to(path)
    shutil.copyfile(PAGE_SCRIPT, fresh / PAGE_SCRIPT_NAME)
    for path in [*files, PAGE_SCRIPT]:
        target = fresh / f"{PAGE_SCRIPT_NAME}.gz" if path == PAGE_SCRIPT else fresh / "js" / f"{path.name}.gz"
        target.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    try:
        fresh.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(fresh)
    for old in cache.iterdir():  # of versions gone by, and of builds that were cut off
        if old != folder and old.stat().st_mtime < time.time() - 3600:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def scripts(values: Mapping[str, object], *objects: Model | Document) -> list[dict[str, str]]:
    """Return the attributes of the script tags that `objects` need, of all of BokehJS when none is given.

    values are the settings. The files are ours, or with BOKEH_RESOURCES=cdn those of Bokeh's CDN, with their hashes. Models
    of the app's own (`__implementation__`), which Bokeh compiles, are a script in a data: URL.
    """
    # imported here: a site without static plots saves 40 MB and most of a second at boot
    from bokeh.embed.bundle import bundle_for_objs_and_resources
    from bokeh.resources import Resources

    if values["BOKEH_RESOURCES"] == "cdn":
        resources = Resources(mode="cdn")
    else:
        resources = Resources(mode="server", root_url=f"{values['BOKEH_PREFIX']}/", path_versioner=versioned)
    bundle = bundle_for_objs_and_resources(objects or None, resources)
    tags = [{"src": str(url)} for url in bundle.js_files]
    for tag in tags:
        if digest := bundle.hashes.get(tag["src"]):
            tag.update(integrity=f"sha384-{digest}", crossorigin="anonymous")
    for code in bundle.js_raw[len(resources.js_raw) :]:
        tags.append({"src": f"data:text/javascript;base64,{base64.b64encode(code.encode()).decode()}"})
    return tags


@functools.cache
def versioned(name: str) -> str:
    """Return the name of a file below /static/ with the version that the Bokeh server itself gives it: its sha512."""
    path = PAGE_SCRIPT if name == PAGE_SCRIPT_NAME else source() / name
    return f"{name}?v={hashlib.sha512(path.read_bytes()).hexdigest()}"


def link(run_dir: Path) -> None:
    """Make RUN_DIR/static the folder of `prepare`, for nginx."""
    try:
        folder = prepare()
    except OSError:  # the project is read-only
        folder = prepare(run_dir / "files").resolve()
    fresh = run_dir / f"static.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder)
    os.replace(fresh, run_dir / "static")


if __name__ == "__main__":
    prepare()
