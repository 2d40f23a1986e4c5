"""bin/new-app and bin/new-page: what they write works as it is, and passes the test that comes with it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import ROOT, Dyno, copy_project, temporary_folder

PROJECT = ROOT / "bokeh_dyno" / "start" / "project"
KINDS = sorted(path.name for path in (PROJECT / "apps").iterdir())
LACKING = {  # packages that are not installed here, by kind
    kind: lacks
    for kind, packages in {"panel": ["panel"], "notebook": ["nbconvert", "nbformat"]}.items()
    if (lacks := [package for package in packages if importlib.util.find_spec(package) is None])
}
# a site that knows nothing of pages
SHOP = """
import flask
from bokeh_dyno.flask import BokehApps

app = flask.Flask(__name__)
BokehApps(app)


@app.get("/cart")
def cart():
    return "empty"
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `python -m …` in a folder."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def new(folder: Path, what: str, *arguments: str) -> str:
    """Make an app or a page in a project; return what was said."""
    result = run(folder, "bokeh_dyno", f"new-{what}", *arguments)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def refusal(folder: Path, what: str, *arguments: str) -> str:
    """Ask for an app or a page that there cannot be; return the line that says why. Nothing is written."""
    before = sorted(folder.rglob("*"))
    result = run(folder, "bokeh_dyno", f"new-{what}", *arguments)
    assert (result.returncode, result.stdout) == (1, ""), result.stdout
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    after = sorted(folder.rglob("*"))
    assert [path for path in after if "__pycache__" not in path.parts and path not in before] == []
    return result.stderr


def serve_from_package(route) -> None:
    """Answer in the place of Panel's CDN, which not every machine reaches, with the same file of the package."""
    folder = Path(importlib.util.find_spec("panel").origin).parent / "dist"
    route.fulfill(path=folder / route.request.url.split("?")[0].partition("/dist/")[2])


@pytest.fixture(scope="module")
def project_with_all() -> Iterator[Path]:
    """The example with an app of each kind in the place of its own, and a page for one of them."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "example")
    shutil.rmtree(folder / "bokeh_app")
    for kind in KINDS:
        if kind not in LACKING:
            new(folder, "app", f"my-{kind}", "--from", kind)
    new(folder, "page", "my-slider")
    yield folder
    shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def own_tests(project_with_all: Path) -> subprocess.Popen:
    """A run of the tests that come with these, beside what the others do; it writes to said.txt."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-W", "error"]
    with (project_with_all / "said.txt").open("w") as file:
        return subprocess.Popen(command, cwd=project_with_all, stdout=file, stderr=file)


@pytest.fixture(scope="module")
def made(own_tests: subprocess.Popen, project_with_all: Path) -> Iterator[Dyno]:
    """A dyno of that project."""
    one = Dyno(project_with_all, {"BOKEH_WORKERS": "1", "WEB_CONCURRENCY": "1"})
    try:
        yield one.start()
        own_tests.wait()  # whose folder is the dyno's, of which nothing is to be left
        assert one.stop() == 0, one.log()
    finally:
        one.clean_up()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_app_shows_its_plot(kind: str, made: Dyno, page) -> None:
    if kind in LACKING:
        pytest.skip(f"needs {' and '.join(LACKING[kind])}")
    if kind == "panel":
        page.route("https://cdn.holoviz.org/**", serve_from_package)
    where = ("apps", "bkapp")[KINDS.index(kind) % 2]  # tests/test_pages.py sees both of other apps
    page.goto(f"http://127.0.0.1:{made.port}/{where}/my-{kind}")
    assert_plots_are_drawn(page, 1)
    before = source_values(page)
    if kind == "upload":
        files = [{"name": "a.csv", "mimeType": "text/csv", "buffer": b"x,y\n1,5\n2,7\n"}]
        page.locator("input[type=file]").set_input_files(files)
    elif kind == "table":
        page.locator(".slick-cell.l2").first.dblclick()
        page.keyboard.type("9")
        page.keyboard.press("Enter")
        page.get_by_text("The mean of y is 5.40.").wait_for()
    elif kind != "stream":
        turn_slider(page, 3)
    assert source_values(page, different_from=before) != before


def test_a_new_page_shows_the_app_of_its_name(made: Dyno, page) -> None:
    page.goto(f"http://127.0.0.1:{made.port}/my-slider")
    assert_plots_are_drawn(page, 1)
    assert page.locator("main h1").inner_text() == "My slider"


def test_a_new_page_is_there_at_once(made: Dyno, own_tests: subprocess.Popen) -> None:
    own_tests.wait(120)  # the test of this page is none of those
    assert made.get("/about_us").status == 404
    assert new(made.folder, "page", "about_us") == (
        "flask_app/templates/pages/about_us.html and tests/test_about_us_page.py are written\nthe page is at /about_us\n"
    )
    answer = made.get("/about_us")
    assert (answer.status, "<h1>About us</h1>" in answer.text, "<nav" in answer.text) == (200, True, True)
    assert made.get("/about").status == 404


def test_the_tests_that_come_with_them_pass_as_they_are(own_tests: subprocess.Popen, project_with_all: Path) -> None:
    code, said = own_tests.wait(120), (project_with_all / "said.txt").read_text()
    assert code == 0, said
    assert f"{len(KINDS) - len(LACKING) + 1} passed" in said


def test_the_notebook_is_one() -> None:
    notebook = json.loads((PROJECT / "apps" / "notebook" / "main.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    if importlib.util.find_spec("nbformat"):
        import nbformat

        nbformat.validate(notebook)


def test_what_a_kind_needs_is_named(project: Path) -> None:
    before = "import sys; sys.modules.update(dict.fromkeys(['panel', 'nbconvert', 'nbformat']));"
    for kind, packages in (("panel", "panel"), ("notebook", "nbconvert and nbformat")):
        program = f"{before} from bokeh_dyno.start import new; sys.exit(new.app(['x', '--from', '{kind}']))"
        result = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: an app from {kind} needs {packages}, missing here: ")
        assert not (project / "bokeh_app" / "x").exists()


def test_what_there_is_is_not_overwritten(made: Dyno, own_tests: subprocess.Popen) -> None:
    own_tests.wait(120)  # they write files of their own
    folder = made.folder
    for names, words in (
        (("app", "my-slider"), "bokeh_app/my-slider exists already"),
        (("app", "my.slider"), "tests/test_my_slider.py exists already"),
        (("app", "ws"), "bokeh_app/ws is a name that "),
        (("app", "../x"), "bokeh_app/../x is not a name"),
        (("page", "my-slider"), "flask_app/templates/pages/my-slider.html exists already"),
        (("page", "a b"), "/a b is not a name for a URL"),
        (("page", "plot"), "/plot is a page already: flask_app/pages.py names it"),
        (("page", "bkapp"), "/bkapp is a URL of the dyno itself"),
    ):
        assert words in refusal(folder, *names), names


def test_a_page_of_another_site_says_what_to_add(project: Path) -> None:
    for name in ("flask_app", "pyproject.toml"):
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (project / "shop.py").write_text(SHOP)
    (project / "Procfile.dyno").write_text("flask: exec gunicorn shop:app\n")
    assert "/cart is a page already: shop.py names it" in refusal(project, "page", "cart")
    said = new(project, "page", "about")
    assert "to do: in shop.py, where the Flask app is made: `app.add_url_rule(" in said
    line = said.rpartition("made: `")[2].partition("`, with")[0]
    (project / "shop.py").write_text(f"{SHOP}\n\n{line}\n")
    # plain pytest, which puts tests/ on sys.path and not the folder above it
    command = [Path(sys.executable).with_name("pytest"), "-q"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
