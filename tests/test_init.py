"""`bokeh-dyno init`: sites that know nothing of the dyno adopt it, from a wheel in an environment that was empty."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import assert_plots_are_drawn
from dyno_under_test import ROOT, Dyno, procfile_line, temporary_folder

INDEX = '<!doctype html><html lang="en"><title>ours</title><link rel="icon" href="data:,"><h1>Hello</h1>\n'
FACTORY = {
    "flaskr/__init__.py": """\
from flask import Flask, render_template


def create_app(test_config=None):
    app = Flask(__name__, instance_relative_config=True)

    @app.route("/")
    def index():
        return render_template("index.html")

    return app
""",
    "flaskr/templates/index.html": INDEX,
    "requirements.txt": "flask\n",
}
MODULE = {
    "models.py": "",
    "wsgi.py": """\
import flask

application = flask.Flask(__name__)


@application.get("/")
def index():
    return flask.render_template("index.html")
""",
    "templates/index.html": INDEX,
    "Procfile": "web: gunicorn wsgi:application\nworker: python worker.py\n",
    "Aptfile": "# ours\nlibpq5\nnginx\n",
    ".gitignore": "__pycache__\n",
    "tests/test_site.py": "from flask import Flask\napp = Flask('not the site')\n",
}
SITES = {"a factory": (FACTORY, "flaskr:create_app()"), "a module": (MODULE, "wsgi:application")}


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The bin folder of an environment with nothing but the wheel of this project, and what that brings."""
    folder = temporary_folder()
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(wheel, check=True)
    venv.create(folder / "venv", with_pip=True)
    (made,) = folder.glob("bokeh_dyno-*.whl")
    pip = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "requirements.txt", made], check=True)
    yield folder / "venv" / "bin"
    shutil.rmtree(folder)


def repository(folder: Path, files: dict[str, str]) -> Path:
    """Write somebody's repository."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(commands: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the command `bokeh-dyno` in a folder."""
    env = {"PATH": f"{commands}:{os.environ['PATH']}"}
    command = [commands / "bokeh-dyno", *arguments]
    return subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.parametrize("kind", SITES)
def test_a_site_adopts_the_dyno(kind: str, installed: Path, scratch: Path, dyno: Callable[..., Dyno], page) -> None:
    files, target = SITES[kind]
    folder = repository(scratch / "repository", files)
    first = run(installed, folder, "init")
    assert (first.returncode, first.stderr) == (0, "")
    assert f" for {target}\n" in first.stdout
    for name, text in files.items():
        assert (folder / name).read_text() == text
    for name in (
        "Procfile.dyno",
        "bin/start-nginx",
        "bin/server",
        "bin/dev",
        "config/nginx.conf.erb",
        "bokeh_app/hello/main.py",
        "app.json",
    ):
        assert (folder / name).exists()
    todo = re.findall(r"^to do: (.*)$", first.stdout, re.MULTILINE)
    module = {"flaskr:create_app()": "flaskr/__init__.py", "wsgi:application": "wsgi.py"}[target]
    assert any(line.startswith(f"in {module}, ") for line in todo)

    # what it says is to do
    source = re.sub(r"( *)(\w+) = (flask\.)?Flask\(.*\)\n", r"\g<0>\1BokehApps(\2)\n", files[module])
    (folder / module).write_text(f"from bokeh_dyno.flask import BokehApps\n{source}")
    template = next(folder.rglob("index.html"))
    template.write_text(template.read_text() + '{{ bokeh_app("hello") }}\n')
    (folder / "requirements.txt").write_text("bokeh-dyno\n")
    if "Procfile" in files:
        assert any(
            line.startswith("Procfile does not run the start script: write `web: bin/start-nginx ") for line in todo
        )
        refused = run(installed, folder, "check", "--env")
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: Procfile does not run the start script: ")
        web = re.search(r"`(web: [^`]*)`", "\n".join(todo))[1]
        (folder / "Procfile").write_text(f"{web}\n")
    with (folder / ".gitignore").open("a") as file:
        file.write("/.venv/\n/.static/\n/run/\n/logs/\n/config/nginx.conf\n/.env\n")

    again = run(installed, folder, "init")
    assert "written" not in again.stdout
    assert "to do" not in again.stdout
    assert run(installed, folder, "check").stderr == ""
    one = dyno(folder, {"PATH": f"{installed}:{os.environ['PATH']}", "VIRTUAL_ENV": str(installed.parent)}).start()
    page.goto(f"http://127.0.0.1:{one.port}/")
    assert_plots_are_drawn(page, 1)
    one.wait_for_log(r"bokeh-dyno [0-9.]+: starting honcho")


def test_the_site_may_be_that_of_another_folder(
    installed: Path, project: Path, scratch: Path, dyno: Callable[..., Dyno]
) -> None:
    shutil.rmtree(project / "bokeh_dyno")
    (scratch / "elsewhere").mkdir()
    env = {"PATH": f"{installed}:{os.environ['PATH']}", "DYNO_ROOT": "../app", "VIRTUAL_ENV": str(installed.parent)}
    command = ["bokeh-dyno", "start", "honcho", "start", "-e", "/dev/null", "-f", "Procfile.dyno"]
    one = dyno(project, env, command, cwd=scratch / "elsewhere").start()
    assert one.get("/echo").status == 200
    assert one.get("/bkapp/counter").status == 200
    assert list((scratch / "elsewhere").iterdir()) == []


def test_a_later_version_says_what_differs(installed: Path, scratch: Path) -> None:
    folder = repository(scratch / "repository", FACTORY)
    run(installed, folder, "init")
    assert run(installed, folder, "init", "--diff").stdout.count("\n@@") == 0
    routing = folder / "config" / "nginx.conf.erb"
    routing.write_text(routing.read_text().replace("gzip_vary on;", "gzip_vary off;"))
    (folder / "Aptfile").unlink()
    differs = run(installed, folder, "init", "--diff").stdout
    assert "Aptfile: missing\n" in differs
    assert "\n-    gzip_vary off;\n+    gzip_vary on;\n" in differs
    assert not (folder / "Aptfile").exists()
    assert "gzip_vary off;" in routing.read_text()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"one.py": ""}, "no create_app() and no Flask(…) is found"),
        ({"one.py": "from flask import Flask\na = Flask('a')\nb = Flask('b')\n"}, "found one:a, one:b"),
        (
            {"one/__init__.py": "def create_app(): ...", "two.py": "def make_app(): ..."},
            "found one:create_app(), two:make_app()",
        ),
        ({"one.py": "def create_app(:"}, "no create_app() and no Flask(…) is found"),
    ],
    ids=["none", "two apps", "two factories", "not Python"],
)
def test_a_site_that_is_not_plain_is_asked_for(
    files: dict[str, str], says: str, installed: Path, scratch: Path
) -> None:
    folder = repository(scratch / "repository", files)
    result = run(installed, folder, "init")
    assert result.returncode == 1
    assert result.stderr == f"error: which is your Flask site? {says}: say so with --app MODULE:NAME\n"
    assert sorted(path.name for path in folder.iterdir()) == sorted(name.split("/")[0] for name in files)
    assert run(installed, folder, "init", "--app", "two:app").returncode == 0
    assert procfile_line(folder) == "bin/start-nginx honcho start -e /dev/null -f Procfile.dyno"
    assert " two:app\n" in (folder / "Procfile.dyno").read_text()
    assert run(installed, folder, "init", "--app", "two.py").stderr.startswith("error: 'two.py' is no site: ")


PROCFILES = {
    "web: gunicorn shop.wsgi:app --workers 2 --bind unix:run.sock -c file:conf.py": "shop.wsgi:app",
    "web: exec /venv/bin/gunicorn -k gevent \"shop:create_app('production')\"": "shop:create_app('production')",
    "# web: gunicorn old:app\nadmin: gunicorn admin:app\nweb: gunicorn app:app.server": "app:app.server",
}


@pytest.mark.parametrize("procfile", PROCFILES)
def test_what_gunicorn_was_told_is_what_it_is_told(procfile: str, installed: Path, scratch: Path) -> None:
    folder = repository(
        scratch / "a repository", {"Procfile": procfile, "gunicorn.conf.py": "", ".gitignore": "caf\u00e9"}
    )
    (folder / ".gitignore").write_bytes(b"caf\xe9\n")
    result = run(installed, folder, "init")
    assert (result.returncode, result.stderr) == (0, "")
    assert f" for {PROCFILES[procfile]}\n" in result.stdout
    assert shlex.split(procfile_line(folder, "flask", "Procfile.dyno"))[-1] == PROCFILES[procfile]
    assert "to do: gunicorn.conf.py is not read any more" in result.stdout
    assert "to do: .gitignore has no line for " in result.stdout


@pytest.mark.parametrize(
    ("files", "site"),
    [
        (
            {"shop.py": "def create_app(config): ...", "wsgi.py": "from shop import *\napp = create_app('x')\n"},
            "wsgi:app",
        ),
        ({"src/shop/__init__.py": "def create_app(config=None): ..."}, "--pythonpath src 'shop:create_app()'"),
        ({"one.py": "import flask\napp: flask.Flask = flask.Flask('one')\n"}, "one:app"),
    ],
    ids=["a factory with arguments", "src", "annotated"],
)
def test_a_site_is_found(files: dict[str, str], site: str, installed: Path, scratch: Path) -> None:
    folder = repository(scratch / "repository", files)
    result = run(installed, folder, "init")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"gunicorn --config python:bokeh_dyno.flask.gunicorn {site}\n" in (folder / "Procfile.dyno").read_text()


def test_what_cannot_be_written_is_told_before_anything_is(installed: Path, scratch: Path) -> None:
    folder = repository(scratch / "repository", FACTORY)
    (folder / "bin" / "server").mkdir(parents=True)
    result = run(installed, folder, "init")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: .*bin/server: Is a directory\n", result.stderr)
    assert not (folder / "Procfile").exists()
    (folder / "bin" / "server").rmdir()
    (folder / "Aptfile").symlink_to(scratch / "elsewhere")
    assert run(installed, folder, "init").returncode == 1
    assert not (scratch / "elsewhere").exists()


@pytest.mark.parametrize(
    ("line", "is_enough"),
    [("bokeh-dyno", True), ("Bokeh_Dyno==0.2.0", True), ("./vendor/bokeh_dyno-0.2.0-py3-none-any.whl", True),
     ("bokeh-dyno @ file:///wheels/bokeh_dyno.whl", True), ("bokeh-dyno-more", False), ("bokeh", False)],
)  # fmt: skip
def test_lines_of_requirements(line: str, is_enough: bool, installed: Path, scratch: Path) -> None:
    folder = repository(scratch / "repository", {**FACTORY, "requirements.txt": f"{line}\n"})
    assert (
        "to do: requirements.txt has no line for bokeh-dyno" not in run(installed, folder, "init").stdout
    ) == is_enough


def test_a_copy_of_the_machinery_does_it_too(scratch: Path) -> None:
    folder = repository(scratch / "repository", FACTORY)
    shutil.copytree(ROOT / "bokeh_dyno", folder / "bokeh_dyno")
    command = [sys.executable, "-m", "bokeh_dyno", "init"]
    result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    for name in (
        "bin/dev",
        "bin/new-app",
        "bin/new-page",
        "bin/setup",
        "bin/start-nginx",
        "config/nginx.conf.erb",
        "Aptfile",
        "Procfile",
        "bin/post_compile",
    ):
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes(), f"cp {name} bokeh_dyno/start/project/{name}"
    assert os.access(folder / "bin" / "server", os.X_OK)


def test_a_new_app_is_one_that_works(project: Path, dyno: Callable[..., Dyno], page) -> None:
    def new_app(name: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "bokeh_dyno", "new-app", name]
        return subprocess.run(command, cwd=project, capture_output=True, text=True)

    assert new_app("my.plot").returncode == 0
    one = dyno(project).start()
    page.goto(f"http://127.0.0.1:{one.port}/with/my.plot")
    assert_plots_are_drawn(page, 1)
    for name, why in (
        ("my.plot", "exists already"),
        ("ws", "is a name that"),
        ("a b", "is not a name"),
        ("../x", "is not a name"),
    ):
        result = new_app(name)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: bokeh_app/{name} {why}")
        assert result.stderr.count("\n") == 1


def test_the_wheel_has_what_new_apps_and_pages_begin_as(installed: Path, scratch: Path) -> None:
    base = "<!doctype html><title>{% block title %}{% endblock %}</title>{% block content %}{% endblock %}"
    folder = repository(scratch / "repository", {**FACTORY, "flaskr/templates/base.html": base})
    for command in ("new-app one --from stream", "new-page one"):
        result = run(installed, folder, *command.split())
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert "to do: in flaskr/__init__.py, where the Flask app is made: " in result.stdout
    text = (folder / "flaskr" / "templates" / "pages" / "one.html").read_text()
    assert text.startswith('{% extends "base.html" %}\n')
    assert "{% block content %}\n<h1>One</h1>" in text
    assert '{{ bokeh_app("one") }}' in text
    assert {path.name for path in (folder / "tests").iterdir()} == {"test_one.py", "test_one_page.py"}


def test_what_the_wheel_needs_is_what_requirements_pin() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    needs = re.findall(r'^  "([\w-]+)>=([\d.]+)', text, re.MULTILINE)
    assert len(needs) > 5
    for name, oldest in needs:
        pins = re.findall(rf"^{name}==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
        assert pins, name
        for pin in pins:
            assert [int(part) for part in pin.split(".")] >= [int(part) for part in oldest.split(".")]
