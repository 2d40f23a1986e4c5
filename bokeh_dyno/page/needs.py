"""What a page needs to show a document: parts of BokehJS, and scripts and stylesheets of extensions and of an app's own models.

Bokeh itself gives each page all that any class of the process needs, whichever app has imported it; here a page gets what its
own document needs. That is found when an app is first run, mostly before the port opens, and kept for the pages of the site in
RUN_DIR/needs; a document that needs more than was found then brings it along (bokeh_dyno/bokeh/websocket.py).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bokeh_dyno.page import static
from bokeh_dyno.shared import apps, private
from bokeh_dyno.shared.settings import Settings

if TYPE_CHECKING:
    from bokeh.core.has_props import HasProps
    from bokeh.document import Document
    from bokeh.model import Model
    from bokeh.resources import Resources

# of an app's own models, what their script is made of; and what they want loaded beside it
SOURCES = ("__implementation__", "__javascript__", "__css__")


# ... what BokehJS makes code of when it shows it (new Function), beside the models whose name begins with CustomJS: a template
# of a table's cells, and WebGL, for which its library writes code; and what in an app's source says that there may be some
EVAL = "'unsafe-eval'"
MAX_FILES, MAX_BYTES, SUFFIXES = 1000, 1_000_000, (".py", ".ipynb", ".md", ".html", ".yaml", ".json")
COMPILED = ("HTMLTemplateFormatter", "FuncTickFormatter")
# ... as in the JSON of a static plot
COMPILED_ON_PAGE = re.compile(
    rb'"name":\s*"(CustomJS\w*|HTMLTemplateFormatter|FuncTickFormatter)"|"output_backend":\s*"webgl"'
)
NAMED = re.compile(
    rb"CustomJS|TemplateFormatter|FuncTickFormatter|webgl|\bjs_?link|jscallback|\bimport panel|\bfrom panel|holoviews|hvplot"
)


class Needs(NamedTuple):
    """Attributes of script tags, in their order, addresses of stylesheets; sources for the page's policy beside those.

    height: the pixels that the document takes at least, 0 where that is not known.
    """

    scripts: list[dict[str, str]]
    styles: list[str]
    sources: list[str] = []  # noqa: RUF012 (never changed)
    height: int = 0


class CompileError(RuntimeError):
    """The script of an app's own model cannot be made; the log has why."""


def of(values: Settings, *objects: Model | Document) -> Needs:
    """Return what `objects` need, or all of BokehJS when none is given; values are the settings.

    The files are ours, or with BOKEH_RESOURCES=cdn those of Bokeh's CDN, with their hashes. Models of an app's own
    (`__implementation__`), which Bokeh compiles with node when they are first seen, are a script in a data: URL. Raises
    CompileError when that fails.
    """
    if not private.has("scripts"):
        names = (f"js/bokeh{part}.min.js" for part in ("", "-gl", "-widgets", "-tables", "-mathjax"))
        prefix, versions = values.bokeh_prefix, static.versions()
        return Needs([{"src": f"{prefix}/static/{static.versioned(name)}"} for name in names if name in versions], [])
    from bokeh.document import Document

    models = [model for one in objects for model in (one.models if isinstance(one, Document) else one.references())]
    if not objects:
        return _of_bokeh(values)
    if not models:  # nothing yet; Bokeh would take that for everything
        return Needs(_of_bokeh(values).scripts[:1], [])
    key = _key(models)
    if not key:
        return Needs(_tags(values, models).scripts, [], sources(models))
    if key not in _found:
        _found[key] = _with_extensions(values, models)
    return _found[key]


_found: dict[frozenset[tuple[str, ...]], Needs] = {}


def sources(models: Iterable[HasProps]) -> list[str]:
    """Return what script-src has to allow for these models to work; those of others than Bokeh may do anything."""
    found: list[str] = []
    for one in models:
        cls = type(one)
        name = cls.__name__
        if name.startswith("CustomJS") or name in COMPILED or getattr(one, "output_backend", None) == "webgl":
            found.append(EVAL)
        if _package(cls) == "bokeh":
            continue
        found.append(EVAL)
        if getattr(one, "esm", None):  # Panel's, which imports modules from anywhere
            found.append("https:")
        wanted = getattr(cls, "__javascript__", None) or []
        for address in [wanted] if isinstance(wanted, str) else wanted:
            if host := re.match(r"https?://[^/?#;,\s]+", str(address)):
                found.append(host[0])
    return list(dict.fromkeys(found))


@functools.cache
def sources_named(name: str) -> list[str]:
    """Return what the source of app `name` says that it may need: some of it is only made when a visitor does something."""
    path = next((path for path in apps.paths() if apps.name(path) == name), None)
    files = [] if path is None else [path] if path.is_file() else sorted(path.rglob("*"))[:MAX_FILES]
    for file in files:
        with contextlib.suppress(OSError):
            if file.suffix in SUFFIXES and file.stat().st_size <= MAX_BYTES and NAMED.search(file.read_bytes()):
                return [EVAL]
    return []


def sources_of_app(run_dir: Path, name: str) -> list[str]:
    """Return what app `name` needs of a page's policy: what its source says, and what was found when it was first run."""
    found = saved(run_dir, name)
    return [*sources_named(name), *(found.sources if found else [])]


def is_known(document: Document) -> bool:
    """Return whether `of` this document compiles nothing."""
    key = _key(document.models)
    return not key or key in _found


def has_own(document: Document) -> bool:
    """Return whether there is a model in the document that is not Bokeh's."""
    return bool(_own_classes(document.models))


def _key(models: Iterable[HasProps]) -> frozenset[tuple[str, ...]]:
    """Return what models that are not Bokeh's are known by; nothing when there are none."""
    return frozenset(map(_description, _own_classes(models)))


def _own_classes(models: Iterable[HasProps]) -> set[type[HasProps]]:
    return {cls for cls in map(type, models) if _package(cls) != "bokeh"}


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _description(cls: type[HasProps]) -> tuple[str, ...]:
    """Return what a class is known by: one that an app's main.py defines is another for every session."""
    module = "" if _package(cls).startswith("bokeh_app_") else cls.__module__
    sources = (getattr(cls, name, None) for name in SOURCES)
    return module, cls.__name__, *(str(getattr(source, "code", source)) for source in sources)


@functools.cache
def _resources(cdn: bool, prefix: str) -> Resources:
    # imported here: a site without static plots saves 40 MB and most of a second at boot
    from bokeh.resources import Resources

    if cdn:
        return Resources(mode="cdn")
    return Resources(mode="server", root_url=f"{prefix}/", path_versioner=static.versioned)


def _of_bokeh(values: Settings) -> Needs:
    """Return all of BokehJS, and nothing else."""
    resources = _resources(values.bokeh_resources == "cdn", values.bokeh_prefix)
    files, _, hashes = resources._resolve("js")
    return Needs([_tag(file, hashes) for file in files], [])


def _tag(address: str, hashes: Mapping[str, str]) -> dict[str, str]:
    if digest := hashes.get(address):
        return {"src": address, "integrity": f"sha384-{digest}", "crossorigin": "anonymous"}
    return {"src": address}


def _tags(values: Settings, models: Sequence[Model]) -> Needs:
    """Return what Bokeh finds that models need, without what classes need that no model is of."""
    from bokeh.embed.bundle import bundle_for_objs_and_resources

    resources = _resources(values.bokeh_resources == "cdn", values.bokeh_prefix)
    try:
        bundle = bundle_for_objs_and_resources(models, resources)
    except SystemExit as error:  # Bokeh ends the process
        raise CompileError("the script of a model of its own cannot be compiled") from error
    foreign = _foreign(models)
    scripts = [_tag(str(url), bundle.hashes) for url in bundle.js_files if str(url) not in foreign]
    for code in bundle.js_raw[len(resources.js_raw) :]:
        scripts.append({"src": f"data:text/javascript;base64,{base64.b64encode(code.encode()).decode()}"})
    return Needs(scripts, [str(url) for url in bundle.css_files if str(url) not in foreign])


def _foreign(models: Sequence[Model]) -> set[str]:
    """Return the addresses that classes want which are neither of these models nor of a package of theirs.

    Bokeh's list is of all classes in the process; a package may need what is of another class of its own, later.
    """
    from bokeh.model import Model

    own = _own_classes(models)
    packages = {_package(cls) for cls in own}
    wanted: dict[bool, set[str]] = {True: set(), False: set()}
    for cls in Model.model_class_reverse_map.values():
        for name in ("__javascript__", "__css__"):
            addresses = getattr(cls, name, None) or []
            is_own = cls in own or _package(cls) in packages
            wanted[is_own].update([addresses] if isinstance(addresses, str) else addresses)
    return wanted[False] - wanted[True]


def _with_extensions(values: Settings, models: Sequence[Model]) -> Needs:
    """Return what models need of which some are not Bokeh's: all of BokehJS, for an extension's script may use any of it."""
    bokeh = _of_bokeh(values).scripts
    found = _tags(values, models)
    addresses = [tag["src"] for tag in found.scripts]
    core = addresses.index(bokeh[0]["src"])
    after = [tag for tag in found.scripts[core:] if tag not in bokeh]
    _serve_extensions(values.run_dir)
    scripts = [*found.scripts[:core], *bokeh, *after]
    prefix = values.bokeh_prefix
    return Needs(
        [{**tag, "src": _absolute(tag["src"], prefix)} for tag in scripts],
        [_absolute(address, prefix) for address in found.styles],
        sources(models),
    )


def _absolute(address: str, prefix: str) -> str:
    # Panel's are relative to its own page
    return f"{prefix}/{address}" if address.startswith("static/") else address


def _serve_extensions(run_dir: Path) -> None:
    """Have nginx send the files of extensions: a worker whose apps have not imported one does not know where they are."""
    from bokeh.embed.bundle import extension_dirs

    folder = run_dir / "static" / "extensions"
    with contextlib.suppress(OSError):  # not in a dyno
        folder.mkdir(exist_ok=True)
        for name, files in extension_dirs.items():
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(Path(files).resolve())


def save(run_dir: Path, name: str, needs: Needs) -> None:
    """Keep what app `name` needs (by "": all of BokehJS) for the pages of the site."""
    folder = run_dir / "needs"
    folder.mkdir(exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=folder, prefix=".")
    with open(descriptor, "w") as file:
        json.dump(needs, file)
    os.replace(fresh, folder / f"{name}.json")


def saved(run_dir: Path, name: str) -> Needs | None:
    """Return what was kept; None for an app that nobody has run yet."""
    try:
        return Needs(*json.loads((run_dir / "needs" / f"{name}.json").read_text()))
    except OSError:
        return None
