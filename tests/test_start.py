"""The start: what has to be there before the port opens, what a wrong input says, what the end looks like."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dyno_under_test import BOOT, OTHER_SITE, Dyno, copy_project, installed, procfile_line, wait_for
from frames import CLOSE, Frames, frame

MakeDyno = Callable[..., Dyno]
ORDINARY_USER = 65534
SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")


def assert_the_site_works(one: Dyno) -> None:
    """Look at a page of Flask, an app's own page, and the static files."""
    wait_for("all to answer in time", lambda: one.get("/healthz").text == "ok\n")
    assert one.get("/echo").json["method"] == "GET"
    assert "counter" in one.get("/with/counter").text
    assert one.get("/bkapp/counter").status == 200
    assert one.get("/bkapp/static/js/bokeh.min.js").status == 200


# --- the port ---------------------------------------------------------------------------------------------------------


def test_the_port_opens_only_when_everything_answers(project: Path, dyno: MakeDyno) -> None:
    # an app that takes its time: the port has to wait for it
    main = project / "bokeh_app" / "counter" / "main.py"
    main.write_text(f"import time\ntime.sleep(1)\n{main.read_text()}")
    one = dyno(project).launch()
    answers = []
    paths = ["/healthz", "/bkapp/counter/metadata", "/echo", "/bkapp/static/js/bokeh.min.js"]
    end = time.monotonic() + 60
    while len(answers) < 40:
        assert time.monotonic() < end, one.log()
        try:
            answers.append(one.get(paths[len(answers) % len(paths)]).status)
        except ConnectionError:  # refused or reset: right until the first answer, and wrong after it
            if answers:
                raise
    assert set(answers) == {200}


def test_a_backend_that_never_answers_ends_the_boot_with_its_name(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {"BOOT_TIMEOUT": "3"}, ["bin/start-nginx", "sleep", "60"]).launch()
    assert one.wait(20) == 1
    assert "error: no answer from flask, bokeh.1, bokeh.2 within 3 s (BOOT_TIMEOUT)" in one.log()
    one.assert_nothing_left()


def test_with_f_the_port_opens_at_once(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, command=["bin/start-nginx", "-f", "sleep", "60"]).launch()
    wait_for("the port", one.port_is_open)
    assert one.get("/healthz").status == 503
    assert one.get("/healthz").text.startswith("flask does not answer\n")
    assert one.stop() == 0


# --- where and as whom ------------------------------------------------------------------------------------------------


def test_honcho_start_runs_the_site_too(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, command=["honcho", "start"]).start()
    assert_the_site_works(one)
    one.stop()
    assert not re.search("SIGKILL|Traceback", one.log())


def test_it_starts_from_any_current_folder(project: Path, dyno: MakeDyno) -> None:
    line = procfile_line(project).replace("bin/start-nginx", str(project / "bin" / "start-nginx"), 1)
    one = dyno(project, command=line.split(), cwd=Path("/")).start()
    assert_the_site_works(one)
    assert one.stop() == 0


def test_it_works_in_a_folder_with_a_space_in_its_name(scratch: Path, dyno: MakeDyno) -> None:
    folder = copy_project(scratch / "my site (1)", OTHER_SITE)
    one = dyno(folder, {"RUN_DIR": "run here"}).start()
    assert_the_site_works(one)
    assert one.stop() == 0
    assert (folder / "run here").is_dir()
    assert not (folder / "run").exists()


def test_two_run_side_by_side(scratch: Path, dyno: MakeDyno) -> None:
    first = dyno(copy_project(scratch / "first", OTHER_SITE)).launch()
    second = dyno(copy_project(scratch / "second", OTHER_SITE)).launch()
    first.wait_until_it_answers()
    second.wait_until_it_answers()
    assert_the_site_works(first)
    assert_the_site_works(second)
    assert first.stop() == 0
    assert_the_site_works(second)


def as_an_ordinary_user(folder: Path) -> list[str]:
    """Return what has to come before a command so that it runs as an ordinary user who owns `folder`."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv") or pytest.skip("only root here, and no setpriv to become somebody else")
    become = [setpriv, f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}", "--clear-groups"]
    # where the virtual environment is in root's home, somebody else needs the right to read (and to nothing more)
    reading = ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    for before in ([*become, "--inh-caps=-all"], [*become, *reading]):
        # through a shell: setpriv itself still has root's rights when it starts the program
        check = [*before, "/bin/sh", "-c", 'exec "$0" -c "import bokeh"', sys.executable]
        if not subprocess.run(check, capture_output=True).returncode:
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)
            return before
    return pytest.skip(f"an ordinary user cannot read {sys.prefix}, or this container does not let root become one")


def test_it_runs_as_an_ordinary_user(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {"HOME": "/nonexistent"}, before=as_an_ordinary_user(project)).start()
    assert_the_site_works(one)
    assert {process.uids().real for process in one.processes()} == {os.getuid() or ORDINARY_USER}
    assert one.stop() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_it_runs_as_root(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project).start()
    assert_the_site_works(one)  # nginx's workers would become another user, who may not open the backends' sockets
    assert {process.uids().real for process in one.processes()} == {0}
    assert one.stop() == 0


def test_nginx_in_bin_comes_before_the_installed_one(project: Path, dyno: MakeDyno) -> None:
    nginx = installed("nginx")
    own = project / "bin" / "nginx"
    own.write_text(f'#!/bin/sh\necho "started: nginx of the project"\nexec {nginx} "$@"\n')
    own.chmod(0o755)
    one = dyno(project).start()
    one.wait_for_log("started: nginx of the project")
    assert one.stop() == 0


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_is_heard_at_every_moment_of_the_boot(project: Path, dyno: MakeDyno, number: signal.Signals) -> None:
    moments = [r"starting honcho", r"bokeh\.1 started", r"Starting Bokeh server"]
    for moment in moments:
        one = dyno(project).launch()
        one.wait_for_log(moment, BOOT)
        began = time.monotonic()
        assert one.stop(number) == 0, one.log()
        assert time.monotonic() - began < 15, one.log()
        # an interpreter that is interrupted during its first imports says so; ours may not
        assert not re.search(r'File "[^"]*/bokeh_dyno/start/dyno\.py"', one.log()), one.log()
    for _ in range(2):  # right after the first answer
        one = dyno(project).start()
        one.process.send_signal(number)
        assert one.wait(15) == 0
        one.assert_nothing_left()


def test_ctrl_c_before_anything_has_started_is_no_traceback(project: Path, dyno: MakeDyno) -> None:
    for milliseconds in range(0, 300, 30):  # these are the moments themselves, not a wait for something
        one = dyno(project).launch()
        time.sleep(milliseconds / 1000)
        one.process.send_signal(signal.SIGINT)
        one.wait(10)
        one.assert_nothing_left()
        assert not re.search(r'File "[^"]*/bokeh_dyno/', one.log()), f"after {milliseconds} ms:\n{one.log()}"


def test_what_is_begun_in_the_moment_of_the_stop_is_stopped_too(project: Path, dyno: MakeDyno) -> None:
    begin = "for number in $(seq 2000); do (sleep 60 &); done; sleep 60"  # each outlives its parent
    one = dyno(project, command=["bin/start-nginx", "bash", "-c", begin]).launch()
    wait_for("some of them", lambda: len(one.find("^sleep 60")) > 20)
    one.process.send_signal(signal.SIGINT)
    assert one.wait(10) == 0  # what is left alive costs 14 s
    one.assert_nothing_left()


def answer_the_close(websocket: socket.socket) -> None:
    """Read until the server closes the WebSocket, and close it as a browser does."""
    payload = next(payload for first, payload in Frames(websocket) if first & 15 == CLOSE)
    websocket.sendall(frame(payload, CLOSE))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_orderly_stop_with_an_open_page_kills_nobody_and_is_no_error(
    project: Path, dyno: MakeDyno, number: signal.Signals
) -> None:
    one = dyno(project).start()
    status, websocket = one.handshake("/bkapp/counter/ws", one.token("/with/counter"))
    with websocket:
        assert status == 101
        one.process.send_signal(number)
        answer_the_close(websocket)
        assert one.wait() == 0
    # each process stopped by itself: none had to be killed after the time that it has for this
    assert "killed what had not stopped" not in one.log()
    one.assert_nothing_left()
    assert "Traceback" not in one.log()


def test_it_ends_with_the_exit_code_of_its_command(project: Path, dyno: MakeDyno) -> None:
    before = dyno(project, command=["bin/start-nginx", "sh", "-c", "exit 3"]).launch()
    assert before.wait() == 3
    before.assert_nothing_left()
    # and after the port has opened
    line = procfile_line(project).split(maxsplit=1)[1]
    command = ["bin/start-nginx", "sh", "-c", f"{line} & read stop < go; exit 3"]
    os.mkfifo(project / "go")
    after = dyno(project, command=command).start()
    with open(project / "go", "w") as go:
        go.write("now\n")
    assert after.wait() == 3
    after.assert_nothing_left()


def test_it_ends_with_the_exit_code_of_an_nginx_that_does_not_start(project: Path, dyno: MakeDyno) -> None:
    own = project / "bin" / "nginx"
    own.write_text('#!/bin/sh\ncase "$*" in *-v*) echo nginx/1.22.1 >&2;; *-t*);; *) exit 7;; esac\n')
    own.chmod(0o755)
    one = dyno(project).launch()
    assert one.wait() == 7
    one.assert_nothing_left()


def test_it_ends_with_137_when_nginx_was_killed(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project).start()
    one.find("nginx: master")[0].kill()
    assert one.wait() == 128 + signal.SIGKILL
    assert "nginx ended with code 137" in one.log()
    one.assert_nothing_left()


@pytest.mark.parametrize("pattern", [r"gunicorn.*flask_app", r"-m bokeh_dyno\.bokeh"], ids=["gunicorn", "bokeh"])
def test_it_ends_with_an_error_when_a_backend_is_gone_for_good(project: Path, dyno: MakeDyno, pattern: str) -> None:
    one = dyno(project).start()
    one.find(pattern)[0].kill()
    assert one.wait() != 0
    one.assert_nothing_left()


def test_nothing_is_left_when_the_start_script_itself_is_killed(project: Path, dyno: MakeDyno) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells children of the death of their parent")
    one = dyno(project).start()
    one.process.kill()
    one.wait()
    wait_for("the rest to end", lambda: not one.describe(), 15)
    one.assert_nothing_left()


# --- wrong input ------------------------------------------------------------------------------------------------------


def assert_refused(one: Dyno, *patterns: str, seconds: float = 30, traceback: str = "") -> None:
    """Run a dyno that cannot start: one error line for each pattern, an exit code above 0, nothing left.

    And no traceback, other than that of the code that `traceback` names.
    """
    began = time.monotonic()
    code = one.launch().wait(60)
    took = time.monotonic() - began
    log = one.log()
    assert code not in (0, None), log
    assert code > 0, log
    one.assert_nothing_left()
    assert ("Traceback" not in log) or (traceback and traceback in log.split("Traceback")[-1]), log
    assert not re.search(r'File "[^"]*/bokeh_dyno/[\w/]+\.py"', log), log
    errors = [line for line in log.splitlines() if re.search(r"\berror: ", line)]
    assert len(errors) == len(patterns), log
    for pattern, line in zip(patterns, errors, strict=True):
        assert re.search(pattern, line), log
    assert took < seconds, log


def hidden(program: str, scratch: Path) -> list[str]:
    """Return what has to come before a command so that it does not find `program` anywhere: a mount of its own over it."""
    places = {Path(folder, program) for folder in [*os.environ["PATH"].split(":"), *SBIN]}
    found = sorted({str(place.resolve()) for place in places if place.exists()})
    nothing = scratch / "not a program"
    nothing.write_text("")
    mounts = "".join(f'mount --bind "{nothing}" "{place}" && ' for place in found)
    before = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*before, f"{mounts}true"], capture_output=True).returncode:
        pytest.skip(f"{program} cannot be hidden here: mounting is not allowed")
    return [*before, f'{mounts}exec "$@"', "sh"]


@pytest.mark.parametrize("program", ["nginx", "erb"])
def test_a_missing_program_is_named(program: str, project: Path, scratch: Path, dyno: MakeDyno) -> None:
    one = dyno(project, before=hidden(program, scratch))
    assert_refused(one, rf"error: {program} is not installed.*bin/setup", seconds=15)


@pytest.mark.parametrize("package", ["flask", "psutil", "bokeh"])
def test_a_missing_python_package_is_named(package: str, project: Path, scratch: Path, dyno: MakeDyno) -> None:
    bare = scratch / "venv"
    venv.create(bare, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(bare)}))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != package and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    one = dyno(project)
    one.env["PATH"] = f"{bare / 'bin'}:{one.env['PATH']}"
    assert_refused(one, rf"error: Python has no package {package}\b.*bin/setup", seconds=15)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_a_port_that_is_taken_is_named(address: str, project: Path, dyno: MakeDyno) -> None:
    one = dyno(project)
    with socket.create_server((address, one.port)):
        code = one.launch().wait(10)
        assert re.search(rf"error: PORT={one.port} is taken by another program: .+", one.log())
        assert code == 1
        assert one.describe() == []
    assert "Traceback" not in one.log()


def test_a_port_below_1024_needs_the_right_to_it(project: Path, dyno: MakeDyno) -> None:
    lowest = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not lowest.exists() or int(lowest.read_text()) <= 81:
        pytest.skip("everybody may listen on any port here")
    one = dyno(project, {"PORT": "81"}, before=as_an_ordinary_user(project))
    assert_refused(one, r"error: PORT=81 needs root or the right to ports below 1024: use 1024 or above", seconds=15)


# by their names: main.py, templates/index.html, and what the log says
A_PLOT = "from bokeh.io import curdoc\nfrom bokeh.models import Div\n\ncurdoc().add_root(Div(name='one'))\n"
APPS_THAT_CANNOT_RUN = {
    "imports": ("import no_such_module\n", "", r'File "bokeh_app/imports/main\.py", line 1.*no_such_module'),
    "syntax": ("x = 1\nif x\n", "", r'File "bokeh_app/syntax/main\.py", line 2: SyntaxError'),
    "fails": ("x = 1\nx / 0\n", "", r'File "bokeh_app/fails/main\.py", line 2: ZeroDivisionError'),
    "encoding": ("x = 'ä'\n", "", r"UnicodeDecodeError"),
    "exits": ("import sys\nsys.exit()\n", "", r'File "bokeh_app/exits/main\.py", line 2: SystemExit'),
    "ends": ("import os\nos._exit(0)\n", "", r"it ends the whole process; starting again without trying it"),
    "arguments": ("curdoc().session_context.request.arguments['id'][0]", "", r"line 1: NameError"),
    "block": (
        A_PLOT,
        "{% extends base %}\n{% block contents %}\n{{ embed(roots.two) }}{% endblock %}",
        r"line 3: .*two",
    ),
    "parent": (A_PLOT, "{% extends bse %}", r'File "bokeh_app/parent/templates/index\.html", line 1: .*bse'),
    "tag": (A_PLOT, "{% if %}", r'File "bokeh_app/tag/templates/index\.html", line 1: '),
}


def test_apps_that_cannot_run_cost_only_themselves(project: Path, dyno: MakeDyno) -> None:
    for name, (code, template, _) in APPS_THAT_CANNOT_RUN.items():
        templates = project / "bokeh_app" / name / "templates"
        templates.mkdir(parents=True)
        (templates.parent / "main.py").write_text(code, "latin-1")
        if template:
            (templates / "index.html").write_text(template)
    (project / "bokeh_app" / "later" / "theme.yaml").write_text("attrs:\n  Plot: [\n")
    (project / "bokeh_app" / "noted.ipynb").write_text("{}")
    one = dyno(project).start()
    for name, (*_, error) in APPS_THAT_CANNOT_RUN.items():
        one.wait_for_log(f"error: bokeh_app/{name} cannot run: .*{error}")
    one.wait_for_log(r"bokeh_app/later cannot run: yaml.*: while parsing .* expected .*later/theme\.yaml\", line 3")
    one.wait_for_log(r"bokeh_app/noted cannot run: .*add nbconvert and nbformat to requirements\.txt")
    health = one.get("/healthz")
    assert health.status == 200
    for name in (*APPS_THAT_CANNOT_RUN, "later"):
        assert f"bokeh_app/{name} could not run at the start\n" in health.text
        if name != "ends":
            assert one.get(f"/bkapp/{name}").status in (200, 503)  # that the plot could not be made
    assert one.get("/bkapp/counter").status == 200
    # what has failed is tried again
    (project / "bokeh_app" / "imports" / "no_such_module.py").write_text("")
    assert one.get("/bkapp/imports").status == 200
    wait_for("that to be said", lambda: "bokeh_app/imports" not in one.get("/healthz").text)
    assert one.stop() == 0


def test_an_app_that_never_ends_costs_only_itself(project: Path, dyno: MakeDyno) -> None:
    (project / "bokeh_app" / "wrong").mkdir()
    (project / "bokeh_app" / "wrong" / "main.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    one = dyno(project, {"BOOT_TIMEOUT": "40"}).start()  # of which it takes half, and two boots the rest
    assert "error: bokeh_app/wrong cannot run: it still runs after 50% of BOOT_TIMEOUT; starting again" in one.log()
    wait_for(
        "all others to answer in time",
        lambda: one.get("/healthz").text == "ok\nbokeh_app/wrong could not run at the start\n",
    )


def test_a_site_whose_apps_all_fail_does_not_start(project: Path, dyno: MakeDyno) -> None:
    for app in (project / "bokeh_app").glob("*/main.py"):
        app.write_text("import no_such_module\n")
    each = [rf"error: bokeh_app/{name} cannot run: .*no_such_module" for name in ("counter", "later", r"plain\.one")]
    assert_refused(dyno(project), *each, r"error: no app of bokeh_app/ can run", traceback="main.py")


def test_folders_that_are_no_apps_are_named(project: Path, dyno: MakeDyno) -> None:
    for name in ("empty", "two words", "static"):
        (project / "bokeh_app" / name).mkdir()
    for name in ("two words", "static"):
        (project / "bokeh_app" / name / "main.py").write_text("")
    (project / "bokeh_app" / "notes.txt").write_text("a file is no app, and no error")
    (project / "bokeh_app" / "__pycache__").mkdir(exist_ok=True)
    assert_refused(
        dyno(project),
        r"error: bokeh_app/empty has no main\.py: add one",
        r"error: bokeh_app/static is a name that the Bokeh server needs",
        r"error: bokeh_app/two words is not a name for a URL",
        seconds=15,
    )


def test_a_site_without_any_app_is_told_how_to_add_one(project: Path, dyno: MakeDyno) -> None:
    shutil.rmtree(project / "bokeh_app")
    assert_refused(dyno(project), r"error: bokeh_app/ has no app: make a folder", seconds=15)


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_template_that_listens_elsewhere_is_told_and_can_be_stopped(number, project: Path, dyno: MakeDyno) -> None:
    template = project / "config" / "nginx.conf.erb"
    template.write_text(template.read_text().replace("<%= listen %>", "listen unix:elsewhere.sock;"))
    one = dyno(project, {} if number else {"BOOT_TIMEOUT": "20"}).launch()
    if number:
        wait_for("nginx", lambda: one.find("nginx: master"), BOOT)  # `nginx -t` makes the socket, too
        assert one.stop(number) == 0
    else:
        assert one.wait(60) == 1
        one.wait_for_log(rf"error: nginx does not listen on PORT={one.port}")
    one.assert_nothing_left()


@pytest.mark.parametrize("option", ["--no-such-option", "bokeh_app/counter", "--allow-websocket-origin example.com"])
def test_a_wrong_option_in_the_procfile_is_named(option: str, project: Path, dyno: MakeDyno) -> None:
    procfile = project / "Procfile.dyno"
    procfile.write_text(procfile.read_text().replace("bokeh_dyno.bokeh", f"bokeh_dyno.bokeh {option}"))
    one = dyno(project)
    assert_refused(one, rf"error: Procfile\.dyno: .*{option.split()[0]}")
    assert "usage:" not in one.log()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_module\n", r'File "flask_app/__init__\.py", line 1: .*No module named'),
        ("if x\n", r'File "flask_app/__init__\.py", line 1: SyntaxError'),
        ("import json\n\n\ndef create_app():\n    json.loads('')\n", r'File "flask_app/__init__\.py", line 5: json'),
        ("app = None\n", r"gunicorn\.errors\.AppImportError: .*'create_app'"),
    ],
)
def test_a_flask_app_that_cannot_run_ends_the_boot(code: str, error: str, project: Path, dyno: MakeDyno) -> None:
    (project / "flask_app" / "__init__.py").write_text(code)
    one = dyno(project).launch()
    assert one.wait() not in (0, None)
    assert re.search(f"error: the site cannot run: {error}", one.log()), one.log()
    assert "flask or its parent is gone" in one.log()
    assert "KeyboardInterrupt" not in one.log()
    one.assert_nothing_left()


@pytest.mark.parametrize("line", ["false", "exec gunicorn --no-such-option"])
def test_a_line_of_the_procfile_that_ends_at_once_is_named(line: str, project: Path, dyno: MakeDyno) -> None:
    procfile = project / "Procfile.dyno"
    procfile.write_text(re.sub("(?m)^flask:.*", f"flask: {line}", procfile.read_text()))
    one = dyno(project).launch()
    assert one.wait() not in (0, None)
    assert "flask or its parent is gone: stopping the dyno" in one.log()
    one.assert_nothing_left()


def test_a_site_without_the_extension_is_told_the_line_that_it_needs(project: Path, dyno: MakeDyno) -> None:
    site = "from flask import Flask\n\n\ndef create_app():\n    return Flask(__name__)\n"
    (project / "flask_app" / "__init__.py").write_text(site)
    one = dyno(project).launch()
    assert one.wait() == 1
    assert re.search(r"error: the site has no Bokeh apps: .*BokehApps\(app\)", one.log())


def test_the_site_answers_without_a_dyno(project: Path) -> None:
    ask = "from flask_app import create_app; print(create_app().test_client().get('/with/counter').text)"
    env = {"PATH": os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-c", ask], cwd=project, env=env, capture_output=True, text=True, check=True
    )
    assert 'data-bokeh-app="/bkapp/counter"' in result.stdout, result.stderr


def test_a_name_that_is_nearly_one_of_a_config_var_is_told(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {"BOKEH_WORKER": "4", "BOKEH_LOG_LEVEL": "info", "WORKERS": "4"}).start()
    assert re.findall("warning: .*", one.log()) == ["warning: BOKEH_WORKER is no config var: BOKEH_WORKERS is"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("<% raise 'no such thing' %>", r"error: config/nginx\.conf\.erb does not render: .*no such thing"),
        ("<% sleep %>", r"error: config/nginx\.conf\.erb does not render: erb still runs after 10 s"),
        ("<% if %>", r"error: config/nginx\.conf\.erb does not render: .*syntax error"),
        ("no_such_directive on;", r"error: config/nginx\.conf\.erb does not pass nginx -t: .*: no_such_directive on;"),
    ],
    ids=["ruby error", "ruby without end", "ruby syntax", "nginx"],
)
def test_a_wrong_template_is_told_from_the_line(line: str, error: str, project: Path, dyno: MakeDyno) -> None:
    template = project / "config" / "nginx.conf.erb"
    template.write_text(f"{template.read_text()}\n{line}\n")
    assert_refused(dyno(project), error)


def test_a_missing_template_is_told(project: Path, dyno: MakeDyno) -> None:
    (project / "config" / "nginx.conf.erb").unlink()
    assert_refused(dyno(project), r"error: config/nginx\.conf\.erb is missing", seconds=15)


def test_all_wrong_settings_are_named_at_once(project: Path, dyno: MakeDyno) -> None:
    wrong = {
        "PORT": "http",
        "BOKEH_WORKERS": "0",
        "BOKEH_PREFIX": "bkapp/",
        "FORCE_HTTPS": "yes",
        "BOKEH_SECRET_KEY": "x",
    }
    names = ["PORT='http'", "BOKEH_WORKERS='0'", "BOKEH_PREFIX='bkapp/'", "FORCE_HTTPS='yes'", "BOKEH_SECRET_KEY=of 1 "]
    assert_refused(dyno(project, wrong), *(f"error: {name}.* is not allowed: .+" for name in names), seconds=15)


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        (b'# a comment\n\nPORT=8000\nEMPTY=\nQUOTED="it\'s"\nSPACES = 1 # why\n', []),
        (b"PORT=8000\nPASSWORD=it's\n", [r"\.env, line 2: a quote is not closed; .*"]),
        (b"export PORT=8000\nPORT: 8000\nPORT 8000\n", [rf"\.env, line {n}: write NAME=value.*" for n in (1, 2, 3)]),
        (b"\xff\xfeP\0O\0", [r"\.env cannot be read: it is not UTF-8"]),
    ],
    ids=["good", "quote", "other forms", "UTF-16"],
)
def test_lines_of_env_that_honcho_cannot_read_are_named(content: bytes, errors: list[str], project: Path) -> None:
    (project / ".env").write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-m", "bokeh_dyno", "check", "--env"], cwd=project, capture_output=True, text=True
    )
    assert result.returncode == bool(errors)
    assert len(result.stderr.splitlines()) == len(errors), result.stderr
    for line, error in zip(result.stderr.splitlines(), errors, strict=True):
        assert re.fullmatch(rf"error: {error}", line), line


def test_a_run_folder_that_another_dyno_has_is_refused(project: Path, dyno: MakeDyno) -> None:
    first = dyno(project).start()
    second = dyno(project).launch()
    assert second.wait(10) == 1
    assert "error: RUN_DIR=run is in use by another dyno" in second.log()
    assert_the_site_works(first)
    assert first.stop() == 0


def test_a_run_folder_that_was_left_behind_is_taken_over(project: Path, dyno: MakeDyno) -> None:
    first = dyno(project).start()
    for process in first.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended with the one before
            process.kill()
    first.wait()
    second = dyno(project).start()
    assert_the_site_works(second)
    assert second.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["no-such-command", "-x"], "error: COMMAND 'no-such-command' is not to be found"),
        ([], "usage: bin/start-nginx"),
        (["-x", "sleep", "1"], "error: -x is not an option"),
    ],
    ids=["not found", "none", "unknown option"],
)
def test_a_wrong_command_line_is_explained(arguments: list[str], error: str, project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, command=["bin/start-nginx", *arguments]).launch()
    assert one.wait(10) in (1, 2)
    assert one.log().startswith(error), one.log()
    assert len(one.log().splitlines()) == 1
    one.assert_nothing_left()


# --- what is in the open ----------------------------------------------------------------------------------------------


def test_nginx_is_the_only_one_that_listens_on_tcp(site: Dyno) -> None:
    listening = []
    for process in site.processes():
        connections = process.net_connections("inet")
        listening += [(process.name(), one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN]
    assert set(listening) == {("nginx", site.port)}


def test_nobody_else_may_write_to_the_folder_of_the_sockets(site: Dyno) -> None:
    assert not (site.folder / "run").stat().st_mode & stat.S_IWOTH
