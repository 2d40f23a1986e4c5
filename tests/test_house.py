"""The rule of the house: bokeh_dyno/, bin/ and config/ know nothing of the example, and serve any other site as it is."""

from __future__ import annotations

import ast
import filecmp
import re
from pathlib import Path

import pytest
from dyno_under_test import OTHER_SITE, ROOT, Dyno

MACHINERY = ("bokeh_dyno", "bin", "config")


def files(folder: Path) -> list[Path]:
    """Return the text files of the machinery below `folder`, relative to it."""
    found = []
    for room in MACHINERY:
        found += [path.relative_to(folder) for path in sorted((folder / room).rglob("*")) if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and path.name != "nginx"]


def test_the_other_site_runs_on_an_untouched_machinery(site: Dyno) -> None:
    assert files(site.folder) == files(ROOT)
    for path in files(ROOT):
        assert filecmp.cmp(ROOT / path, site.folder / path, shallow=False), path
    for room in ("flask_app", "bokeh_app"):
        ours = {path.name for path in (site.folder / room).iterdir()} - {"__pycache__"}
        assert ours == {path.name for path in (OTHER_SITE / room).iterdir()} - {"__pycache__"}


def test_the_other_site_works(site: Dyno) -> None:
    assert site.get("/healthz").text == "ok\n"
    assert site.get("/echo").status == 200
    for name in ("counter", "plain.one"):
        assert f"/bkapp/{name}" in site.get(f"/with/{name}").text
        assert site.get(f"/bkapp/{name}").status == 200
    assert site.get("/bkapp/static/js/bokeh.min.js").status == 200


def test_the_other_sites_plots_are_drawn_and_move(site: Dyno, page) -> None:
    from browsing import assert_plots_are_drawn, source_values, turn_slider

    # the second has no widget on its page
    for path in ("/with/counter+plain.one+counter", "/with/plain.one", "/bkapp/counter", "/bkapp/plain.one"):
        page.goto(f"http://127.0.0.1:{site.port}{path}")
        assert_plots_are_drawn(page, path.count("counter") + path.count("plain"))
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    before = source_values(page)
    turn_slider(page, 3)
    assert source_values(page, different_from=before) != before


@pytest.mark.parametrize("room", ["flask_app", "bokeh_app"])
def test_the_machinery_names_no_page_and_no_app_of_the_example(room: str) -> None:
    if room == "bokeh_app":
        names = {path.name for path in (ROOT / room).iterdir() if path.is_dir() and path.name[0] not in "._"}
        assert names
        allowed = {"dyno"}  # the app that shows the dyno, and the package
    else:
        text = "\n".join(path.read_text() for path in (ROOT / room).rglob("*.py"))
        routes = re.findall(r"""(?:route|add_url_rule)\(\s*f?["']/([\w/-]+)""", text)
        names = {part for route in routes for part in route.split("/") if part}
        assert names
        allowed = {"apps", "healthz", "static"}
    for path in files(ROOT):
        text = (ROOT / path).read_text()
        if path.suffix == ".py":  # code and strings, not what a docstring gives as an example
            text = code_of(text)
        elif path.suffix == ".js":
            text = re.sub(r"//.*", "", text)
        elif path.suffix == ".erb" or path.suffix == "":
            text = re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)
        for name in names - allowed:
            assert not re.search(rf"[\"'/]{re.escape(name)}[\"'/]", text), f"{path} names {name}"


def code_of(text: str) -> str:
    """Return Python source without its comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)
