"""The rule of the house: bokeh_dyno/, bin/ and config/ know nothing of the example, and serve any other site as it is."""

from __future__ import annotations

import ast
import filecmp
import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from dyno_under_test import OTHER_SITE, ROOT, Dyno

MACHINERY = ("bokeh_dyno", "bin", "config")
PACKAGE = ROOT / "bokeh_dyno"
# what each room may import beside its own modules
MAY_IMPORT = {
    "start": {"page", "shared"},
    "flask": {"page", "shared"},
    "bokeh": {"page", "shared"},
    "page": {"shared"},
    "shared": set(),
}
LONGEST = 300  # lines of a module


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
        allowed = {"dyno", "shared"}  # apps, but also the package and a room of it
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


def test_the_rooms_are_those_that_are_known() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_down_only(room: str) -> None:
    own = f"bokeh_dyno.{room}"
    allowed = [own, *(f"bokeh_dyno.{other}" for other in MAY_IMPORT[room])]
    for name in modules():
        if is_below(name, own):
            for imported in imports(name, everywhere=True):
                assert imported == "bokeh_dyno" or any(is_below(imported, one) for one in allowed), (
                    f"{name} imports {imported}"
                )


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imports(name, everywhere=False) - {name} for name in modules()}
    while leaves := {name for name, imported in graph.items() if not imported}:
        graph = {name: imported - leaves for name, imported in graph.items() if name not in leaves}
    assert graph == {}  # those in a circle, and what imports them


def test_no_module_is_longer_than_can_be_read_at_once() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


@functools.cache
def modules() -> dict[str, Path]:
    """Return the modules and packages of the machinery, by name."""
    paths = {path: path.relative_to(ROOT).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in paths.items()}


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@functools.cache
def imports(name: str, everywhere: bool) -> set[str]:
    """Return the modules of the machinery that one of them imports: when it is imported itself, or `everywhere` in it."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = imports_of(ast.parse(path.read_text()).body, package, everywhere)
    return {one for one in found if one in modules()}


def imports_of(body: Iterable[ast.AST], package: str, everywhere: bool) -> set[str]:
    """Return what is imported, and what may be a module or a name in one; not what is there for the types alone."""
    found = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            # `from package import module` needs no other name of the package
            found |= names if names <= modules().keys() else {module} | names
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            found |= imports_of(node.orelse, package, everywhere)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= imports_of(ast.iter_child_nodes(node), package, everywhere)
    return found


def code_of(text: str) -> str:
    """Return Python source without its comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def anchors(page: Path) -> set[str]:
    """Return the names that links may have behind a `#` for the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_link_of_the_docs_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            there = (page.parent / name).resolve() if name else page
            assert there.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {link}"


def test_every_page_of_the_docs_is_linked_from_another() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    linked = {
        (page.parent / name.partition("#")[0]).resolve()
        for page in pages
        for name in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", page.read_text())
    }
    assert [page.name for page in pages if page not in linked and page.name != "README.md"] == []
