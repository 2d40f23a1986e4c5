"""`bokeh-dyno new-app` and `new-page`: an app, or a page of the site, that works, with a test of its own beside it."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from bokeh_dyno.shared import apps
from bokeh_dyno.shared.settings import ROOT, SETTINGS
from bokeh_dyno.start import init

KINDS = init.FILES / "apps"  # a folder for each; NAME stands for the app's name
PAGES = init.FILES / "pages"
# what a kind imports beside what every project has
NEEDS = {"panel": ("panel",), "notebook": apps.FOR_NOTEBOOKS}
# of a layout that pages extend: where one has its content
CONTENT = ("main", "content", "body")
OF_THE_DYNO = {"dyno-dev", "metrics"}  # answered before the site is asked
Files = dict[Path, str]


class NewError(ValueError):
    """What was asked for cannot be written; the message is one line."""


def app(arguments: list[str]) -> int:
    """Make a Bokeh app that works, with a test of its own."""
    kinds = sorted(path.name for path in KINDS.iterdir() if (path / "test.py").exists())
    parser = argparse.ArgumentParser("bokeh-dyno new-app", description=app.__doc__)
    parser.add_argument("NAME", help="the app's name, which is its URL: letters, digits, `_`, `.` and `-`")
    parser.add_argument("--from", dest="kind", choices=kinds, default="slider", help="what it is to begin with")
    given = parser.parse_args(arguments)
    return _write(_app, given.NAME, given.kind)


def page(arguments: list[str]) -> int:
    """Make a page of the Flask site, with a test of its own; it shows the app of the same name if there is one."""
    parser = argparse.ArgumentParser("bokeh-dyno new-page", description=page.__doc__)
    parser.add_argument("NAME", help="the page's name, which is its URL: letters, digits, `_`, `.` and `-`")
    return _write(_page, parser.parse_args(arguments).NAME)


def _write(make: Callable[..., tuple[Files, list[str]]], *arguments: str) -> int:
    """Write the files that `make` returns, none over another, and print its last words; return the exit code."""
    try:
        files, words = make(*arguments)
        for path in reversed(files):
            if os.path.lexists(path):
                raise NewError(f"{path.relative_to(ROOT)} exists already")
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except (NewError, LookupError) as error:  # of init.find_site
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{' and '.join(str(path.relative_to(ROOT)) for path in reversed(files))} are written")
    print("\n".join(words))
    return 0


def _app(name: str, kind: str) -> tuple[Files, list[str]]:
    if problem := apps.problem_of(name):
        raise NewError(problem)
    if name in apps.names():
        raise NewError(f"bokeh_app/{name} exists already")
    if missing := [package for package in NEEDS.get(kind, ()) if importlib.util.find_spec(package) is None]:
        raise NewError(
            f"an app from {kind} needs {' and '.join(missing)}, missing here: add to requirements.txt, run bin/setup"
        )
    (source,) = KINDS.glob(f"{kind}/main.*")
    place = apps.FOLDER / name / source.name if source.suffix == ".py" else apps.FOLDER / (name + source.suffix)
    files = {_test(name): (KINDS / kind / "test.py").read_text(), place: source.read_text()}
    words = [f'the app is at {_prefix()}/{name}; in a template: {{{{ bokeh_app("{name}") }}}}']
    return {path: text.replace("NAME", name) for path, text in files.items()}, words


def _prefix() -> str:
    return os.environ.get("BOKEH_PREFIX") or SETTINGS["BOKEH_PREFIX"].default


def _test(name: str) -> Path:
    """Return the path of a test, which Python must be able to import."""
    return ROOT / "tests" / f"test_{re.sub(r'[.-]', '_', name)}.py"


def _page(name: str) -> tuple[Files, list[str]]:
    if problem := apps.problem_of(name, f"/{name}"):
        raise NewError(problem)
    if name in OF_THE_DYNO | {_prefix().strip("/").partition("/")[0]}:
        raise NewError(f"/{name} is a URL of the dyno itself: choose another")
    module, _, target = init.find_site(ROOT).partition(":")
    source, folder = _module(module)
    modules = [(path, tree) for path, tree in init.modules(ROOT) if source.parent in path.parents]
    for path, tree in modules:
        if _has_text(tree, f"/{name}", f"/{name}/"):
            raise NewError(f"/{name} is a page already: {path.relative_to(ROOT)} names it")
    place = source.parent / "templates" / "pages" / f"{name}.html"
    title = re.sub(r"[_-]+", " ", name)
    values = {"NAME": name, "TITLE": title[:1].upper() + title[1:], "FILE": str(place.relative_to(ROOT))}
    values["PLOT"] = (
        f'{{{{ bokeh_app("{name}") }}}}\n<noscript><p>The plot needs JavaScript.</p></noscript>'
        if name in apps.names()
        else f'{{# a plot, when there is an app of that name: {{{{ bokeh_app("{name}") }}}} #}}'
    )
    layout = source.parent / "templates" / "base.html"
    blocks = re.findall(r"{%[-+]?\s*block\s+(\w+)", layout.read_text(errors="replace")) if layout.is_file() else []
    values["BLOCK"] = next((block for block in CONTENT if block in blocks), "")
    text = (PAGES / ("page.html" if values["BLOCK"] else "alone.html")).read_text()
    test = (PAGES / "test.py").read_text().replace("create_app()", target)
    test = test.replace("from flask_app import create_app", f"from {module} import {re.split(r'[.(]', target)[0]}")
    test = test.replace("syspath_prepend(FOLDER)", f"syspath_prepend({folder})")
    words = [f"the page is at /{name}"]
    if not any(_takes_pages(tree) for _, tree in modules):
        route = f'`app.add_url_rule("/{name}", "{name}", lambda: flask.render_template("pages/{name}.html"))`'
        words.append(f"to do: in {source.relative_to(ROOT)}, where the Flask app is made: {route}, with `import flask`")
    files = {_test(f"{name}_page"): test, place: text}
    names = re.compile("NAME|TITLE|FILE|PLOT|BLOCK")
    return {path: names.sub(lambda found: values[found[0]], text) for path, text in files.items()}, words


def _module(module: str) -> tuple[Path, str]:
    """Return the file of the site's module, and the folder that it is imported from, as the test writes that."""
    name = module.replace(".", "/")
    for root, written in ((ROOT, "FOLDER"), (ROOT / "src", 'FOLDER / "src"')):
        if found := init.source(root, name):
            return found, written
    raise LookupError(f"there is no {name}.py here, where the site is said to be")


def _has_text(tree: ast.Module, *texts: str) -> bool:
    return any(isinstance(node, ast.Constant) and node.value in texts for node in ast.walk(tree))


def _takes_pages(tree: ast.Module) -> bool:
    """Return whether this module of a site shows whatever is in templates/pages/: it has an f"pages/{…}"."""
    texts = (node.values[0] for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and node.values)
    return any(isinstance(first, ast.Constant) and str(first.value).startswith("pages/") for first in texts)
