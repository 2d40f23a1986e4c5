"""Heroku as its buildpacks document it: what each leaves in the slug, what the dyno's environment is, both start scripts.

A stand-in has the effect of each buildpack on the files and on the environment, and none of its downloads:
https://github.com/heroku/heroku-buildpack-nginx, -python (bin/compile, vendor/*.sh), -apt.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, installed, procfile_line, settings_of, wait_for
from test_drain import is_open, send_to_all
from test_start import as_an_ordinary_user, assert_the_site_works

INITIALIZED = Path("/tmp/app-initialized")
CONFIG = {"BOKEH_WORKERS": "3"}  # what the person has set with heroku config:set
NGINX = os.environ.get("TEST_NGINX") or installed("nginx")
START_NGINX = """\
#!/usr/bin/env bash
if [ "$1" = -f ]; then now=yes; shift; fi
erb config/nginx.conf.erb >config/nginx.conf
mkdir -p logs/nginx
touch logs/nginx/access.log logs/nginx/error.log
echo "started: the buildpack's script"
tail -qF -n 0 logs/nginx/*.log &
"$@" &
until [ -n "$now" ] || [ -f /tmp/app-initialized ]; do sleep 0.1; done
bin/nginx -p . -c config/nginx.conf &
wait -n
exit 1
"""
PROFILE = {
    "python.sh": 'export PYTHONUNBUFFERED=true LANG="${LANG:-en_US.UTF-8}" PYTHONPATH="${PYTHONPATH:-$HOME}"',
    "WEB_CONCURRENCY.sh": "export WEB_CONCURRENCY=${WEB_CONCURRENCY:-2}",
    "python.gunicorn.sh": "export FORWARDED_ALLOW_IPS='*' GUNICORN_CMD_ARGS=${GUNICORN_CMD_ARGS:-'--access-logfile -'}",
}


def program(path: Path, text: str) -> None:
    """Write a script over whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def nginx_buildpack(build: Path, tools: Path) -> None:
    """Put nginx and the scripts over what is there, its configuration only where there is none, and a Ruby."""
    shutil.copy(NGINX, build / "bin" / "nginx")
    for script in ("start-nginx", "start-nginx-debug", "start-nginx-solo", "start-nginx-static"):
        program(build / "bin" / script, START_NGINX)
    for name in ("mime.types", "nginx.conf.erb"):
        if not (build / "config" / name).exists():
            (build / "config" / name).write_text("events {}\n")
    program(build / ".heroku-buildpack-nginx/ruby/bin/erb", f'#!/bin/sh\nexec {shutil.which("erb")} "$@"\n')
    program(build / ".profile.d/ruby.sh", 'export PATH="$HOME/.heroku-buildpack-nginx/ruby/bin:$PATH"\n')


def apt_buildpack(build: Path, tools: Path) -> None:
    """Unpack what the Aptfile names below .apt, of which only usr/bin is on the PATH."""
    (build / ".apt/usr/sbin").mkdir(parents=True)
    shutil.copy(NGINX, build / ".apt/usr/sbin/nginx")
    program(build / ".profile.d/000_apt.sh", 'export PATH="$HOME/.apt/usr/bin:$PATH"\n')


def python_buildpack(build: Path, tools: Path) -> None:
    """Write the dyno's environment, then run the hook with the config vars. Raises CalledProcessError when it fails."""
    for name, text in PROFILE.items():
        program(build / ".profile.d" / name, f"{text}\n")
    env = {**CONFIG, "PATH": f"{Path(sys.executable).parent}:{tools}", "HOME": "/nonexistent", "STACK": "heroku-24"}
    subprocess.run([build / "bin/post_compile"], cwd=build, env=env, capture_output=True, text=True, check=True)


def without_erb(folder: Path) -> Path:
    """Return a folder with what a build finds on its PATH: no nginx, no erb."""
    folder.mkdir()
    for name in ("bash", "sh", "env", "dirname", "grep"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def build(scratch: Path, *buildpacks: Callable[[Path, Path], None], compressed: bool = True) -> Path:
    """Build the project with these buildpacks, pack the slug, unpack it where the dyno runs it; return that folder.

    compressed: BokehJS is already, as that takes 10 s of CPU.
    """
    folder = copy_project(scratch / "build", OTHER_SITE)
    if not compressed:
        shutil.rmtree(folder / ".static", ignore_errors=True)
    for line in (folder / ".slugignore").read_text().split():
        shutil.rmtree(folder / line.strip("/"), ignore_errors=True)
    tools = without_erb(scratch / "tools")
    for buildpack in buildpacks:
        buildpack(folder, tools)
    with tarfile.open(scratch / "slug.tar", "w", format=tarfile.GNU_FORMAT) as slug:
        slug.add(folder, ".")
    shutil.rmtree(folder)
    (scratch / "app").mkdir()
    subprocess.run(["tar", "-xf", scratch / "slug.tar", "-C", scratch / "app"], check=True)
    return scratch / "app"


@pytest.fixture
def run(dyno: Callable[..., Dyno]) -> Callable[..., Dyno]:
    """Make dynos that run a slug as the platform does: an ordinary user, the profile scripts, the Procfile's line in bash."""

    def make(app: Path, **config: str) -> Dyno:
        INITIALIZED.unlink(missing_ok=True)
        line = f'for script in .profile.d/*.sh; do . "$script"; done; exec {procfile_line(app)}'
        env = {**CONFIG, **config, "HOME": str(app), "DYNO": "web.1"}
        return dyno(app, env, ["bash", "-c", line], before=as_an_ordinary_user(app))

    yield make
    INITIALIZED.unlink(missing_ok=True)


def assert_it_works(one: Dyno) -> None:
    """Look at the site, and at a session that Flask mints and a Bokeh worker takes."""
    assert_the_site_works(one)
    for page in ("/with/counter", "/bkapp/counter"):
        status, websocket = one.handshake("/bkapp/counter/ws", one.token(page))
        with websocket:
            assert status == 101
            assert is_open(websocket)
    assert one.get("/bkapp/static/js/bokeh.min.js", Accept_Encoding="gzip").headers["content-encoding"] == "gzip"
    assert one.get("/echo", X_Forwarded_For="1.2.3.4").json["remote_addr"] == "1.2.3.4"
    assert len(one.bokeh_workers()) == 3
    one.wait_for_log(r'1\.2\.3\.4 "GET /echo"')
    assert len(re.findall("GET /echo", one.log())) == 2  # nginx's lines, and none of gunicorn's


def end(one: Dyno) -> None:
    """Stop what the buildpack's script has started, which it leaves to the platform."""
    send_to_all(one, signal.SIGTERM)
    one.wait()
    wait_for("the end of all", lambda: not one.describe())


@pytest.mark.parametrize(
    "buildpacks",
    [(nginx_buildpack, python_buildpack), (apt_buildpack, nginx_buildpack, python_buildpack)],
    ids=["nginx, python", "apt, nginx, python"],
)
def test_with_pythons_buildpack_last_the_dyno_is_the_one_of_the_readme(buildpacks, scratch: Path, run) -> None:
    app = build(scratch, *buildpacks, compressed=len(buildpacks) > 2)
    compressed = list((app / ".static").iterdir())
    one = run(app).start()
    assert_it_works(one)
    assert "the buildpack's script" not in one.log()
    assert not INITIALIZED.exists()
    assert list((app / ".static").iterdir()) == compressed
    send_to_all(one, signal.SIGTERM)
    assert one.wait() == 0
    one.assert_nothing_left()


@pytest.mark.parametrize("key", [None, "8b1f0c3de5a749628d0f7ce1b3a5946d7720c4f1e98ba3d56c0f12e4a7b98c3d"])
def test_with_nginxs_buildpack_last_the_site_works_under_its_script(key: str | None, scratch: Path, run) -> None:
    app = build(scratch, apt_buildpack, python_buildpack, nginx_buildpack)
    one = run(app, **({"BOKEH_SECRET_KEY": key} if key else {})).start()
    assert "the buildpack's script" in one.log()
    one.wait_for_log(r"a stop \(SIGTERM\) cuts off requests")
    assert one.log().count("a stop (SIGTERM) cuts off requests") == 1
    assert_it_works(one)
    for file in (app / "run").glob("key*"):
        assert not key
        assert file.stat().st_mode & 0o777 == 0o600
    (killed := one.bokeh_workers()[0]).kill()
    wait_for("another worker", lambda: killed not in (workers := one.bokeh_workers()) and len(workers) == 3)
    wait_for("the site", lambda: one.get("/healthz").status == 200)
    end(one)


def test_under_the_buildpacks_script_too_the_port_opens_when_everything_answers(scratch: Path, run) -> None:
    app = build(scratch, python_buildpack, nginx_buildpack)
    one = run(app).launch()
    statuses: list[int] = []
    while len(statuses) < 20:
        assert one.process.poll() is None, one.log()
        try:
            statuses.append(one.get(["/healthz", "/bkapp/counter/metadata", "/echo"][len(statuses) % 3]).status)
        except ConnectionRefusedError:
            assert not statuses
    assert set(statuses) == {200}
    one.find(r"gunicorn.*flask_app")[0].kill()
    assert one.wait() == 1  # one part ends: the dyno ends
    end(one)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("<% raise 'no such thing' %>", "error: config/nginx.conf.erb does not render: .*no such thing"),
        ("no_such_directive on;", "error: config/nginx.conf.erb does not pass nginx -t: .*no_such_directive"),
    ],
    ids=["template", "nginx"],
)
def test_a_wrong_routing_fails_the_build(broken: str, error: str, project: Path, scratch: Path) -> None:
    template = project / "config/nginx.conf.erb"
    template.write_text(f"{template.read_text()}\n{broken}\n")
    assert_the_hook_refuses(project, scratch, error)


def test_a_wrong_config_var_or_app_fails_the_build(project: Path, scratch: Path, monkeypatch) -> None:
    monkeypatch.setitem(CONFIG, "BOKEH_WORKERS", "many")
    assert_the_hook_refuses(project, scratch, "error: BOKEH_WORKERS='many' is not allowed")
    monkeypatch.setitem(CONFIG, "BOKEH_WORKERS", "1")
    (project / "bokeh_app/empty").mkdir()
    assert_the_hook_refuses(project, scratch, r"error: bokeh_app/empty has no main\.py")


def assert_the_hook_refuses(project: Path, scratch: Path, error: str) -> None:
    """Run the build step in `project`: it fails, and says why in one line."""
    tools = scratch / "tools" if (scratch / "tools").exists() else without_erb(scratch / "tools")
    nginx_buildpack(project, tools)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        python_buildpack(project, tools)
    assert re.fullmatch(f"{error}.*\n", failed.value.stderr), failed.value.stderr


def test_app_json_and_the_docs_name_what_something_reads() -> None:
    app = json.loads((ROOT / "app.json").read_text())
    docs = (ROOT / "docs" / "deploy.md").read_text()
    assert [one["url"] for one in app["buildpacks"]] == ["heroku-community/nginx", "heroku/python"]
    assert re.findall(r"heroku buildpacks:add (\S+)", docs) == ["heroku-community/nginx", "heroku/python"]
    site = "\n".join(path.read_text() for path in Path(ROOT, "flask_app").glob("*.py"))
    known = set(settings_of(ROOT)) | set(re.findall(r'os\.environ\.get\("([A-Z_]+)"', site))
    assert set(app["env"]) <= known
    assert set(re.findall(r"([A-Z][A-Z_]+_[A-Z_]+|PORT)=", docs)) <= known
    for name in ("BOKEH_SECRET_KEY", "SECRET_KEY"):
        assert app["env"][name]["generator"] == "secret"
    assert all(one["description"] for one in app["env"].values())
