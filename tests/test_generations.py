"""One generation after the other: SIGUSR2 brings up new code beside the old, and nobody notices but by what is new."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from bokeh.util.token import get_session_id
from conftest import NGINXES
from dyno_under_test import Dyno, token_in, wait_for
from load import Load
from visitor import Visitor, change, find

from bokeh_dyno.shared import tokens

MakeDyno = Callable[..., Dyno]
KEY = {"BOKEH_SECRET_KEY": secrets.token_hex(32)}
FAST, SLOW = [0.01, 0.01, 0.05, 0.01, 0.02], [0.2, 9.0, 1.0, 3.0, 6.0]


def state(one: Dyno) -> dict[str, Any]:
    """Return how its generations stand."""
    return json.loads((one.folder / "run" / "generations.json").read_text())


def replace(one: Dyno) -> str:
    """Send SIGUSR2, and return the name of the generation that has taken over."""
    before = state(one)["serving"]
    one.process.send_signal(signal.SIGUSR2)
    return taken_over(one, before)


def taken_over(one: Dyno, before: str) -> str:
    """Wait until another generation serves than `before`, and return its name."""
    try:
        return str(wait_for("another generation", lambda: (name := state(one)["serving"]) != before and name, 60))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{one.log()}") from None


def refused(one: Dyno, lines: int = 0) -> str:
    """Send SIGUSR2, and return the line that says why nothing has taken over; `lines` of them were there before."""
    one.process.send_signal(signal.SIGUSR2)
    pattern = r"error: generation \w+ cannot take over: (.*)"
    return str(wait_for("a refusal", lambda: (found := re.findall(pattern, one.log())[lines:]) and found[0], 60))


def assert_alone(one: Dyno, name: str) -> None:
    """Assert that soon every process, socket and folder is of generation `name`."""
    alone = {"serving": name, "starting": None, "leaving": []}
    wait_for("the others to end", lambda: {key: state(one)[key] for key in alone} == alone, 60)
    folders = {path.name for path in (one.folder / "run").iterdir() if re.fullmatch("[A-Za-z]{3}", path.name)}
    assert folders == {name}
    conf = (one.folder / "run" / "nginx.conf").read_text()
    assert re.findall(r"run/(\w{3})/", conf)[0] == name
    assert not re.findall(r"^ +\S+ bokeh_\w{3};$", conf, re.MULTILINE)  # no session is led elsewhere
    for process in one.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker of nginx that has sent its last answer
            assert process.environ().get("DYNO_GENERATION", name) == name, process


def edit(file: Path, old: str, new: str) -> None:
    """Replace `old`, which has to be there, in a file."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def version_of(project: Path, version: str) -> None:
    """Give the site and an app of it another version, which /version and the plot's title say."""
    site, app = project / "flask_app" / "__init__.py", project / "bokeh_app" / "counter" / "main.py"
    site.write_text(re.sub("VERSION = .*", f"VERSION = {version!r}", site.read_text()))
    app.write_text(re.sub("title=.*\\)", f"title={version!r})", app.read_text(), count=1))


def generation_of(token: str) -> str:
    """Return the generation that a session's token leads to."""
    return get_session_id(token)[2:5]


@pytest.fixture(autouse=True)
def short_sessions(project: Path) -> None:
    """Have the session of a page that is gone end after 3 s; by itself it is kept for 3 minutes, and so its generation."""
    edit(project / "Procfile.dyno", "-m bokeh_dyno.bokeh", "-m bokeh_dyno.bokeh --unused-session-lifetime 3000")


@pytest.fixture(params=NGINXES)
def running(request, project: Path, dyno: MakeDyno) -> Dyno:
    """A dyno of its own with each nginx at hand."""
    if request.param != "installed":
        (project / "bin" / "nginx").symlink_to(Path(request.param).resolve())
    return dyno(project, KEY).start()


def test_no_request_is_lost_from_one_generation_to_the_next(running: Dyno, record_property) -> None:
    fast, slow = Load(running, FAST, 6).start(), Load(running, SLOW, 8).start()
    with Visitor(running) as visitor:
        visitor.document()
        slider = find(visitor.document_json, "height")
        served = state(running)["serving"]
        for number in range(3):
            version_of(running.folder, f"version {number}")
            served = replace(running)
            assert running.get("/version").text == f"version {number}"
            wait_for("all to answer in time", lambda: running.get("/healthz").text == "ok\n")
        wait_for("enough requests", lambda: len(fast.requests) + len(slow.requests) > 600, 100)
        requests = fast.stop() + slow.stop()
        visitor.send_message(change(slider, "value", 7))  # as if nothing had been
        visitor.message("OK")
        assert "version 2" not in json.dumps(visitor.document_json)
        # that of the visitor; the others have nothing more to do
        wait_for("one to be left", lambda: len(state(running)["leaving"]) == 1, 60)
    lost = fast.failed() + slow.failed()
    unused = [
        request
        for request in lost
        if request.kept and request.outcome in ("RemoteDisconnected", "ConnectionResetError")
    ]
    record_property("figure", f"{len(requests)} requests, {len(lost)} lost, {len(unused)} of them on a kept connection")
    if "keepalive_min_timeout" not in (running.folder / "run" / "nginx.conf").read_text():
        # nginx before 1.27.4 closes at a reload what is kept and not in use, also when a request is under way: browsers and
        # routers send that again (RFC 9112, 9.3.1)
        lost = [request for request in lost if request not in unused]
    assert lost == [], running.log()[-3000:]
    assert_alone(running, served)
    with Visitor(running) as visitor:
        assert "version 2" in json.dumps(visitor.document())
        assert generation_of(visitor.token) == served
    assert running.stop() == 0


def test_a_page_finds_its_session_in_the_generation_that_has_it(project: Path, dyno: MakeDyno, scratch: Path) -> None:
    counter = scratch / "counter"
    one = dyno(project, {**KEY, "TEST_COUNTER": str(counter)}).start()
    with Visitor(one) as visitor:
        visitor.document()
        first = state(one)["serving"]
        assert generation_of(visitor.token) == first
        runs = f"{get_session_id(visitor.token)} "
        assert counter.read_text().count(runs) == 1
        replace(one)
        second = replace(one)
        # its network goes and comes back; so does another page's, whose session was not opened yet
        with Visitor(one, token=visitor.token) as again:
            again.document()
            visitor.socket.close()
        page = one.get("/with/counter", Bokeh_Token=f"/bkapp/counter 0 {visitor.token}")
        with Visitor(one, token=token_in(page.text)) as again:
            assert generation_of(again.token) == first
            again.document()
            assert counter.read_text().count(runs) == 1
        with Visitor(one) as other:
            other.document()
            assert generation_of(other.token) == second
    assert_alone(one, second)
    page = one.get("/with/counter", Bokeh_Token=f"/bkapp/counter 0 {visitor.token}")
    assert generation_of(token_in(page.text)) == second  # for the other is no more


def test_pages_come_over_when_the_lifetime_of_their_generation_is_over(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {**KEY, "GENERATION_LIFETIME": "2"}).start()
    with Visitor(one) as visitor:
        visitor.document()
        second = replace(one)
        assert visitor.close_code() == 1012
        assert "1 sessions come over (GENERATION_LIFETIME)" in one.log()
        with Visitor(one, token=visitor.token) as again:  # before the page has a new token
            again.document()
            assert_alone(one, second)
            wait_for("all to answer in time", lambda: one.get("/healthz").text == "ok\n")


BROKEN = {
    "a syntax error of the site": (
        "flask_app/__init__.py",
        "VERSION =",
        "VERSION = =",
        r"site cannot run: .*line 11: SyntaxError",
    ),
    "create_app": (
        "flask_app/__init__.py",
        "    app = Flask(__name__)",
        "    app = Flask(no_such_name)",
        "site cannot run: .*NameError",
    ),
    "an app": (
        "bokeh_app/counter/main.py",
        "import os",
        "import no_such_module",
        "bokeh_app/counter cannot run: .*no_such",
    ),
    "a template": (
        "flask_app/templates/page.html",
        "{}",
        "{% if %}",
        "template page.html, line 1, cannot be compiled: ",
    ),
    "the routing": (
        "config/nginx.conf.erb",
        "location / {",
        "location / { nonsense;",
        "does not pass nginx -t: .*nonsense",
    ),
    "the template of it": ("config/nginx.conf.erb", "<%=", "<%= no_such_name", "does not render: .*no_such_name"),
    "time": (
        "bokeh_app/counter/main.py",
        "import os",
        "import time; time.sleep(600)",
        "did not end|BOOT_TIMEOUT",
    ),
    "the Procfile": ("Procfile.dyno", "gunicorn", "no_such_gunicorn", "flask.* gone|ended with code"),
}


@pytest.mark.timeout(400)  # nine generations, one after the other
def test_what_cannot_come_up_changes_nothing(project: Path, dyno: MakeDyno) -> None:
    (project / "flask_app" / "templates").mkdir(exist_ok=True)
    (project / "flask_app" / "templates" / "page.html").write_text("{}")
    one = dyno(project, {**KEY, "BOOT_TIMEOUT": "20"}).start()
    serving = state(one)["serving"]
    before = (project / "run" / "nginx.conf").read_bytes()
    with Visitor(one) as visitor:
        visitor.document()
        version_of(project, "two")
        for number, (what, (name, old, new, why)) in enumerate(BROKEN.items()):
            edit(project / name, old, new)
            assert re.search(why, refused(one, number)), (what, one.log())
            edit(project / name, new, old)
            assert_alone(one, serving)
            assert state(one)["failed"]["why"]
            assert (project / "run" / "nginx.conf").read_bytes() == before
            assert one.get("/version").text == "one"
            visitor.send_message(change(find(visitor.document_json, "height"), "value", 3 + number))
            visitor.message("OK")
    last = replace(one)
    assert one.get("/version").text == "two"
    assert state(one)["failed"] is None
    assert_alone(one, last)
    assert one.stop() == 0


def test_another_generation_that_would_not_fit_in_memory_is_not_begun(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {**KEY, "BOKEH_MAX_MEMORY": "110", "BOKEH_WORKERS": "1"}).start()
    assert re.search(
        "the Bokeh workers of both would take [0-9]+ MB; BOKEH_MAX_MEMORY times BOKEH_WORKERS is 110", refused(one)
    )
    assert_alone(one, state(one)["serving"])


def test_settings_of_env_count_as_at_a_start(project: Path, dyno: MakeDyno) -> None:
    (project / ".env").write_text(f"BOKEH_SECRET_KEY={KEY['BOKEH_SECRET_KEY']}\nBOKEH_WORKERS=1\nTEST_WORD=one\n")
    one = dyno(project, {}, command=["honcho", "start", "web"])
    one.launch()
    one.wait_until_it_answers()
    lock = project / "run" / "lock"
    signal_it = lambda: os.kill(int(lock.read_text()), signal.SIGUSR2)  # noqa: E731
    (project / ".env").write_text(f"BOKEH_SECRET_KEY={KEY['BOKEH_SECRET_KEY']}\nBOKEH_WORKERS=3\n")
    first = state(one)["serving"]
    signal_it()
    second = taken_over(one, first)
    assert len(list((project / "run" / second).glob("bokeh.*.sock"))) == 3
    assert_alone(one, second)
    master = one.find(r"-m bokeh_dyno\.bokeh")[0]
    assert master.environ()["DYNO_GENERATION"] == second
    assert "TEST_WORD" not in master.environ()
    for wrong, why in (
        (f"PORT={one.port + 1}", "PORT or RUN_DIR has changed, which takes a restart"),
        ("RUN_DIR=elsewhere", "PORT or RUN_DIR has changed, which takes a restart"),
        ("BOKEH_WORKERS=none", "BOKEH_WORKERS='none' is not allowed: a whole number, 1 to 64"),
        ("NAME='", ".env cannot be read: No closing quotation"),
    ):
        (project / ".env").write_text(f"BOKEH_SECRET_KEY={KEY['BOKEH_SECRET_KEY']}\n{wrong}\n")
        lines = one.log().count("cannot take over")
        signal_it()
        wait_for("the refusal", lambda n=lines: one.log().count("cannot take over") > n)
        assert why in one.log()
        assert state(one)["serving"] == second
    assert_alone(one, second)


def test_two_at_once_come_one_after_the_other(running: Dyno) -> None:
    first = state(running)["serving"]
    running.process.send_signal(signal.SIGUSR2)
    wait_for("one that starts", lambda: state(running)["starting"])
    version_of(running.folder, "two")  # too late for that one, or not
    running.process.send_signal(signal.SIGUSR2)
    running.process.send_signal(signal.SIGHUP)
    wait_for("both", lambda: running.log().count("takes over from") == 2, 100)
    assert running.get("/version").text == "two"
    assert running.log().count("nginx reloads its configuration") == 1
    last = wait_for("it to be written down", lambda: not (now := state(running))["starting"] and now["serving"])
    assert last != first
    assert_alone(running, last)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle_stops_all(running: Dyno, number: signal.Signals) -> None:
    with Visitor(running) as visitor:
        visitor.document()
        replace(running)
        running.process.send_signal(signal.SIGUSR2)
        # beside those of the one that serves and of the visitor's: three each
        wait_for("processes of it", lambda: len(running.find(r"-m bokeh_dyno\.bokeh")) > 6)
        assert running.stop(number) == 0
        assert visitor.close_code() == 1012
    assert "killed what" not in running.log()
    assert not [path for path in (running.folder / "run").iterdir() if re.fullmatch("[A-Za-z]{3}", path.name)]


def test_before_the_first_serves_another_one_has_to_wait(project: Path, dyno: MakeDyno) -> None:
    edit(project / "bokeh_app" / "counter" / "main.py", "import os", "import os, time; time.sleep(1)")
    one = dyno(project, KEY).launch()
    wait_for("its beginning", (project / "run" / "generations.json").exists)
    first = state(one)["serving"]
    one.process.send_signal(signal.SIGUSR2)
    assert_alone(one, taken_over(one, first))


def test_of_a_killed_process_only_its_generation_ends(running: Dyno) -> None:
    first = state(running)["serving"]

    def kill(pattern: str, generation: str) -> None:
        def found() -> list[psutil.Process]:
            with contextlib.suppress(psutil.NoSuchProcess):  # one of another generation, which ends: look again
                return [one for one in running.find(pattern) if one.environ().get("DYNO_GENERATION") == generation]
            return []

        wait_for("the process", found)[0].kill()

    with Visitor(running) as visitor:
        visitor.document()
        for number, pattern in enumerate((r"bin/honcho ", r"bin/gunicorn "), 1):
            running.process.send_signal(signal.SIGUSR2)
            kill(pattern, str(wait_for("one that starts", lambda: state(running)["starting"])))
            wait_for("the end of it", lambda n=number: running.log().count("cannot take over") == n, 60)
            assert_alone(running, first)
            visitor.send_message(change(find(visitor.document_json, "height"), "value", 3 + number))
            visitor.message("OK")
    for pattern in (r"bin/gunicorn ", r"-m bokeh_dyno\.bokeh"):
        with Visitor(running) as visitor:
            visitor.document()
            left, serving = state(running)["serving"], replace(running)
            kill(pattern, left)
            assert_alone(running, serving)
            assert running.get("/version").text == "one"
            with Visitor(running, token=visitor.token) as again:
                again.document()
    kill(r"-m bokeh_dyno\.bokeh", serving)
    assert running.wait() != 0
    running.assert_nothing_left()


def test_static_files_of_both_are_there_as_long_as_both_are(running: Dyno) -> None:
    script = re.search(r"/bkapp/static/[0-9a-f]{16}/dyno\.js", running.get("/with/counter").text)[0]
    with Visitor(running) as visitor:
        visitor.document()
        edit(running.folder / "bokeh_dyno" / "page" / "page.js", "const ", 'console.debug("another")\nconst ')
        serving = replace(running)
        other = re.search(r"/bkapp/static/[0-9a-f]{16}/dyno\.js", running.get("/with/counter").text)[0]
        assert other != script
        for path in (script, other):
            answer = running.get(path)
            assert (answer.status, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert_alone(running, serving)
    assert running.get(script, Sec_Fetch_Dest="script").status != 200
    assert running.get(other).status == 200


def test_a_generation_of_bokeh_alone_is_replaced(project: Path, dyno: MakeDyno, monkeypatch) -> None:
    one = dyno(project, {**KEY, "WEB_CONCURRENCY": "0"}).start()
    monkeypatch.setenv("BOKEH_SECRET_KEY", KEY["BOKEH_SECRET_KEY"])  # as Flask's dyno has it
    with Visitor(one, token=tokens.mint(60, app="counter")) as visitor:
        visitor.document()
        version_of(project, "two")
        serving = replace(one)
        visitor.send_message(change(find(visitor.document_json, "height"), "value", 3))
        visitor.message("OK")
        with Visitor(one, token=tokens.mint(60, app="counter")) as other:
            assert "two" in json.dumps(other.document())
    assert_alone(one, serving)
