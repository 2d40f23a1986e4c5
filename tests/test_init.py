"""`bokeh-dyno init`: sites that know nothing of the dyno adopt it, from a wheel in an environment that was empty."""

from __future__ import annotations

import os
import re
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
    assert '"two:app"' in (folder / "Procfile.dyno").read_text()


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


def test_what_the_wheel_needs_is_what_requirements_pin() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    needs = re.findall(r'^  "([\w-]+)>=([\d.]+)', text, re.MULTILINE)
    assert len(needs) > 5
    for name, oldest in needs:
        pins = re.findall(rf"^{name}==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
        assert pins, name
        for pin in pins:
            assert [int(part) for part in pin.split(".")] >= [int(part) for part in oldest.split(".")]
