"""What the dyno prints costs the site nothing, whoever reads it; and what is in it: events, requests, sessions, errors."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import psutil
import pytest
from dyno_under_test import OTHER_SITE, Dyno, copy_project, free_port, temporary_folder, wait_for
from visitor import Visitor, change, find

MakeDyno = Callable[..., Dyno]
ONE = {"WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1", "NGINX_WORKERS": "1"}
# what apps and sites do that log: an error in each place where one may be raised, a line from each place where one may be
APP = """
import asyncio, logging, threading
from bokeh.io import curdoc
from bokeh.models import Slider

log = logging.getLogger("of.app")
context = curdoc().session_context
word = context.request.arguments.get("word", [b""])[0].decode()
if word == "main":
    raise KeyError("main fails")
log.warning("app runs %s", word)
slider = Slider(title="s", name="s", start=0, end=9, value=1)

def moved(attr, old, new):
    log.warning("app moved %s", word)
    threading.Thread(target=later, args=(curdoc(),)).start()
    raise ValueError(f"moved fails {context._token}")

def later(document):
    document.add_next_tick_callback(lambda: log.warning("app ticks %s", word))

slider.on_change("value", moved)
curdoc().add_root(slider)
curdoc().add_timeout_callback(lambda: log.warning("app timed %s", word), 50)
"""
SITE = """    BokehApps(app)
    import logging

    @app.route("/log/<word>")
    def log(word):
        app.logger.warning("the site logs %s", word)
        logging.getLogger("gunicorn.error").warning("gunicorn logs %s", word)
        return "logged"

    @app.route("/long/<int:count>")
    def long(count):
        print("x" * count)
        print("two\\nlines")
        return "printed"
"""


def project_that_logs(folder: Path) -> Path:
    """Copy the project, with an app `bad` and pages of the site that log."""
    copy_project(folder, OTHER_SITE)
    (folder / "bokeh_app" / "bad").mkdir()
    (folder / "bokeh_app" / "bad" / "main.py").write_text(APP)
    site = folder / "flask_app" / "__init__.py"
    site.write_text(site.read_text().replace("    BokehApps(app)\n", SITE))
    return folder


class Tracker(http.server.ThreadingHTTPServer):
    """What an error tracker's server is to sentry-sdk: keeps the events that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Envelope)
        self.events: list[dict] = []
        self.texts: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Envelope(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = brotli.decompress(self.rfile.read(int(self.headers["Content-Length"]))).decode()
        self.server.texts.append(body)
        self.server.events += [event for line in body.splitlines() if "exception" in (event := json.loads(line))]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    """The server that the dyno below sends its errors to."""
    server = Tracker()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def talker(tracker: Tracker) -> Iterator[Dyno]:
    """A dyno whose log is events, with an error tracker where sentry-sdk is installed."""
    scratch = temporary_folder()
    env = {**ONE, "LOG_FORMAT": "json"}
    if importlib.util.find_spec("sentry_sdk"):
        env["SENTRY_DSN"] = f"http://key@127.0.0.1:{tracker.server_port}/1"
    one = Dyno(project_that_logs(scratch / "app"), env)
    try:
        yield one.start()
        assert one.stop() == 0, one.log()
        assert all(json.loads(line)["time"] for line in one.log().splitlines())  # nothing else is printed
    finally:
        one.clean_up()
        shutil.rmtree(scratch)


def events(one: Dyno, text: str) -> list[dict]:
    """Return all events of a dyno in which there is `text`, once there is one that is whole."""

    def found() -> list[dict]:
        lines = one.log().splitlines(keepends=True)
        return [json.loads(line) for line in lines if text in line and line.endswith("\n")]

    return wait_for(text, found)


# --- LOG_FORMAT=json --------------------------------------------------------------------------------------------------


def test_every_line_is_an_event_with_its_process(talker: Dyno) -> None:
    word = secrets.token_hex(8)
    assert talker.get(f"/print/{word}").status == 200
    wait_for("the request, and both that it printed", lambda: len(events(talker, word)) >= 3)
    found = events(talker, "")
    assert {"dyno", "system", "nginx", "flask.1", "bokeh.1"} == {event["process"] for event in found}
    assert [
        event for event in found if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    ] == []
    assert [event for event in found if not event["level"].islower() or "message" not in event] == []
    assert sorted(event["message"] for event in found if word in event["message"]) == [
        f"GET /print/{word} 200",
        f"flask complained {word}",
        f"flask printed {word}",
    ]


def test_a_request_is_an_event_with_fields(talker: Dyno) -> None:
    word = secrets.token_hex(8)
    talker.request("GET", f'/{word}"\\?secret=1', {"X-Request-Id": word})
    [event] = wait_for("it", lambda: [one for one in events(talker, word) if one["process"] == "nginx"])
    assert (event["method"], event["path"], event["status"]) == ("GET", f'/{word}"\\', 404)
    assert (event["backend"], event["request_id"], event["remote_addr"]) == ("flask", word, "127.0.0.1")
    assert re.fullmatch(r"unix:run/\w+/flask\.sock", event["upstream"])
    assert 0 <= event["upstream_seconds"] <= event["seconds"] + 0.01 < 10
    assert isinstance(event["bytes"], int)


def test_what_nginx_complains_about_is_an_event(talker: Dyno) -> None:
    [path] = (talker.folder / "run").glob("*/bokeh.1.sock")
    path.rename(path.with_suffix(".aside"))
    try:
        assert talker.get("/bkapp/counter/metadata?secret=hunter2", Referer='http://a/?"=hunter2').status == 502
    finally:
        path.with_suffix(".aside").rename(path)
    event = events(talker, "connect() to unix:")[-1]
    assert (event["process"], event["level"]) == ("nginx", "critical")
    assert "hunter2" not in str(event)


def test_a_traceback_is_one_event(talker: Dyno) -> None:
    word = secrets.token_hex(8)
    talker.get("/fail", X_Request_Id=word)
    [event] = wait_for("it", lambda: [one for one in events(talker, word) if one["process"] == "flask.1"])
    assert (event["level"], event["message"], event["logger"]) == ("error", "Exception on /fail [GET]", "flask_app")
    assert re.fullmatch(r"Traceback [\s\S]+this page always fails", event["exception"])


def test_long_lines_are_cut_and_each_line_of_a_print_is_an_event(talker: Dyno) -> None:
    talker.get("/long/50000")
    [event] = events(talker, "x" * 5000)
    assert event["process"] == "flask.1"
    assert 9000 < len(event["message"]) < 10_100
    assert [event["message"] for event in events(talker, '"two"')] == ["two"]
    assert [event["message"] for event in events(talker, '"lines"')] == ["lines"]


def test_what_a_visitor_has_printed_is_no_event(talker: Dyno) -> None:
    forged = "@0123456789abcdef {%22level%22:%22critical%22}"
    assert talker.get(f"/print/{forged.replace(' ', '%20')}").status == 200
    event = events(talker, "flask printed @0123456789abcdef {")[0]
    assert event["level"] == "info"


# --- requests and sessions --------------------------------------------------------------------------------------------


def test_the_id_of_a_request_is_in_every_line_and_in_no_other(talker: Dyno) -> None:
    word = secrets.token_hex(8)
    talker.get(f"/log/{word}", X_Request_Id=f"id-{word}")
    talker.get(f"/log/after{word}")
    wait_for("the second one", lambda: f"gunicorn logs after{word}" in talker.log())
    wait_for("nginx", lambda: f"/log/after{word}" in talker.log())
    found = events(talker, word)
    assert sorted(event["message"] for event in found if event.get("request_id") == f"id-{word}") == [
        f"GET /log/{word} 200",
        f"gunicorn logs {word}",
        f"the site logs {word}",
    ]
    assert len({event["request_id"] for event in found}) == 2


@pytest.mark.parametrize("wrong", ["a" * 129, 'a"b', "a b", "{}", ""])
def test_an_id_that_is_none_is_replaced(talker: Dyno, wrong: str) -> None:
    headers = dict(talker.request("GET", "/echo", {"X-Request-Id": wrong}).json["headers"])
    assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-Id"])


def test_what_a_session_logs_has_its_request_and_its_session(talker: Dyno) -> None:
    word = secrets.token_hex(8)
    token = talker.token(f"/with/bad?word={word}")
    with Visitor(talker, "bad", token=token, **{"X-Request-Id": f"ws-{word}"}) as visitor:
        document = visitor.document()
        visitor.send_message(change(find(document, "s"), "value", 3))
        for what in ("runs", "timed", "moved", "ticks"):
            [event] = events(talker, f"app {what} {word}")
            assert event["request_id"] == f"ws-{word}", event
            assert re.fullmatch(r"[0-9a-f]{10}", event["session"])
            assert (event["logger"], event["level"], event["worker"]) == ("of.app", "warning", 1)
    wait_for("the end", lambda: [one for one in events(talker, f"ws-{word}") if "closed" in one["message"]])
    found = [one for one in events(talker, f"ws-{word}") if one["process"] == "bokeh.1"]
    assert {one["session"] for one in found} == {event["session"]}
    closed = found[-1]["message"]
    assert re.fullmatch(r"WebSocket closed: code=1006 by=visitor seconds=\d+\.\d+ messages=2", closed)
    assert any("moved fails" in one.get("exception", "") for one in found)
    assert token.split(".")[1] not in talker.log()


# --- the error tracker ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not importlib.util.find_spec("sentry_sdk"), reason="sentry-sdk is not installed")
def test_each_unhandled_error_is_sent_once_and_nothing_private_with_it(talker: Dyno, tracker: Tracker) -> None:
    word = secrets.token_hex(8)

    def found() -> list[tuple]:  # others of the talker's may come late, too
        return [
            (one["tags"]["request_id"][:1], one["tags"].get("where"), one["exception"]["values"][-1]["type"])
            for one in tracker.events
            if word in one["tags"]["request_id"]
        ]

    talker.get("/fail?password=hunter2", Cookie="session=hunter2", X_Request_Id=f"a-{word}", Bokeh_Token="hunter2")
    talker.get("/bkapp/bad?word=main", X_Request_Id=f"b-{word}", Cookie="session=hunter2")
    token = talker.token("/with/bad?word=hunter2")
    with Visitor(talker, "bad", token=token, **{"X-Request-Id": f"c-{word}"}) as visitor:
        visitor.send_message(change(find(visitor.document(), "s"), "value", 3))
        wait_for("three errors", lambda: {name for name, *_ in found()} == {"a", "b", "c"})
    talker.get("/fail", X_Request_Id=f"d-{word}")
    wait_for("the last one", lambda: any(name == "d" for name, *_ in found()))
    assert sorted(found(), key=str) == [
        ("a", None, "RuntimeError"),
        ("b", "bokeh_app/bad", "KeyError"),
        ("c", "bokeh_app/bad", "ValueError"),
        ("d", None, "RuntimeError"),
    ]
    sent = "".join(tracker.texts)
    for private in ("hunter2", token[:60], token.split(".")[1], '"vars"'):
        assert private not in sent, private


def test_an_address_of_the_tracker_without_its_package_ends_the_boot(project: Path, dyno: MakeDyno) -> None:
    (project / "bokeh_dyno" / "shared" / "sentry.py").write_text(
        (project / "bokeh_dyno" / "shared" / "sentry.py")
        .read_text()
        .replace('find_spec("sentry_sdk")', 'find_spec("no_such")')
    )
    one = dyno(project, {"SENTRY_DSN": "https://key@example.org/1"}).launch()
    assert one.wait(20) == 1
    assert one.log() == "error: SENTRY_DSN is set, and Python has no package sentry-sdk: add it to requirements.txt\n"


# --- whoever reads it -------------------------------------------------------------------------------------------------


class Read:
    """A dyno whose output goes through a pipe to a `cat` that can be stopped, and to `text`."""

    def __init__(self, one: Dyno, file: Path) -> None:
        self.one, self._file = one, file
        with file.open("wb") as target:
            self.reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=target)
        one.process = subprocess.Popen(
            one._command, cwd=one.folder, env=one.env, stdin=subprocess.DEVNULL, stdout=self.reader.stdin,
            stderr=self.reader.stdin, start_new_session=True,
        )  # fmt: skip
        self.reader.stdin.close()
        one.wait_until_it_answers()

    @property
    def text(self) -> str:
        return self._file.read_text(errors="replace")  # its end may be a part of a character

    def _processes(self) -> list[psutil.Process]:
        """Return the start script, and those of honcho."""
        return self.one.find(r"bokeh_dyno start|honcho")

    def memory(self) -> int:
        """Return the bytes of the start script and of honcho."""
        return sum(process.memory_info().rss for process in self._processes())

    def is_idle(self) -> bool:
        """Return whether they have next to nothing to do for a moment."""
        return sum(process.cpu_percent(0.2) for process in self._processes()) < 10


def test_a_reader_that_pauses_costs_lines_and_never_the_site(project: Path, dyno: MakeDyno, scratch: Path) -> None:
    project_that_logs(scratch / "loud")
    one = dyno(scratch / "loud", ONE)
    read = Read(one, scratch / "out")
    try:
        before = read.memory()
        read.reader.send_signal(signal.SIGSTOP)
        sent = 600  # of which the buffer takes some 450
        for _ in range(sent):
            began = time.monotonic()
            assert one.get("/long/9000").status == 200
            assert time.monotonic() - began < 10
        assert read.memory() < before + 15e6
        wait_for("honcho, which has printed all", read.is_idle)
        read.reader.send_signal(signal.SIGCONT)

        def all_are_accounted_for() -> bool:
            one.get("/print/back")  # before the next line it is said how many are left out
            found = re.findall(r"^\S+ dyno    \| … (\d+) lines are left out$", read.text, re.MULTILINE)
            of_requests = re.findall(r"x{9000}$|\| two$|\| lines$|GET /long/", read.text, re.MULTILINE)
            # and perhaps a few of those that this asks for
            return sum(map(int, found)) > 100 and 0 <= len(of_requests) + sum(map(int, found)) - 4 * sent < 40

        wait_for("an account of each line", all_are_accounted_for)
        assert read.text.count("x" * 9000) > 400
        whole = read.text.rpartition("\n")[0].splitlines()
        assert [line[:50] for line in whole if not re.match(r"\d\d:\d\d:\d\d \S+ +\| ", line)] == []
        # at the end, too, nobody has to read
        read.reader.send_signal(signal.SIGSTOP)
        for _ in range(30):
            one.get("/long/9000")
        began = time.monotonic()
        assert one.stop() == 0
        assert time.monotonic() - began < 20
    finally:
        read.reader.send_signal(signal.SIGCONT)
        read.reader.wait(10)


def test_a_reader_that_is_gone_is_no_error_and_ends_nothing(project: Path, dyno: MakeDyno) -> None:
    # what bin/server does once all is installed
    one = dyno(project, {**ONE, "PORT": ""}, ["python3", "-m", "bokeh_dyno", "server"])
    one.port = free_port()
    (project / ".env").write_text(f"PORT={one.port}\n")
    with open(project / "err", "wb") as errors:
        one.process = subprocess.Popen(
            one._command, cwd=project, env=one.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    assert b"BOKEH_SECRET_KEY" in one.process.stdout.readline()
    one.process.stdout.close()
    one.wait_until_it_answers()
    for _ in range(20):
        assert one.get("/print/x").status == 200
    assert one.stop() == 0
    assert (project / "err").read_text() == ""


def test_other_commands_end_without_a_traceback_when_nobody_reads_on(project: Path) -> None:
    command = "python3 -m bokeh_dyno settings | head -1; exec python3 -m bokeh_dyno settings >/dev/full"
    result = subprocess.run(
        ["sh", "-c", command.partition(";")[0]], cwd=project, capture_output=True, text=True, check=False
    )
    assert (result.stdout.count("\n"), result.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_what_cannot_be_written_is_counted_and_the_next_line_is_whole() -> None:
    from bokeh_dyno.start.output import Output

    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    output = Output()
    output.put(b"one\n", 1, writes)
    full = os.open("/dev/full", os.O_WRONLY)
    output.put(b"two\nthree\n", 2, full)
    output.put(b"four\n", 1, full)
    output.put(b"five\n", 1, writes)
    assert re.fullmatch(rb"one\n\S+ dyno    \| \xe2\x80\xa6 3 lines are left out\nfive\n", os.read(reads, 1000))
    # a reader who is late: an unblocking pipe is waited for
    output.start()
    output.put(b"x" * 200_000 + b"\n", 1, writes)
    got = b""
    while not got.endswith(b"\n"):
        got += os.read(reads, 50_000)
    assert len(got) == 200_001
    output.close()
    for descriptor in (reads, writes, full):
        os.close(descriptor)


# --- the logging of others --------------------------------------------------------------------------------------------


def test_handlers_and_formats_of_a_site_and_of_apps_are_theirs(project: Path, dyno: MakeDyno) -> None:
    site = project / "flask_app" / "__init__.py"
    config = """    import logging.config
    logging.config.dictConfig({
        "version": 1,
        "formatters": {"own": {"format": "SITE %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
        "root": {"level": "INFO", "handlers": ["own"]},
        "disable_existing_loggers": True,
    })
    app = Flask(__name__)
"""
    text = site.read_text().replace("    app = Flask(__name__)\n", config)
    site.write_text(text.replace("def echo():\n", 'def echo():\n        app.logger.info("asked")\n'))
    app = project / "bokeh_app" / "own"
    app.mkdir()
    (app / "main.py").write_text("""
import logging
from bokeh.io import curdoc
logging.basicConfig(format="APP %(name)s: %(message)s", level=1, force=True)
handler = logging.FileHandler("own.log")
handler.setFormatter(logging.Formatter("FILE %(name)s: %(message)s"))
logging.getLogger().addHandler(handler)
logging.getLogger("of.app").info("runs")
""")
    # an app with hooks is run in each worker, while the start script asks whether that answers: it does so silently
    (project / "bokeh_app" / "slow").mkdir()
    (project / "bokeh_app" / "slow" / "app_hooks.py").write_text("")
    (project / "bokeh_app" / "slow" / "main.py").write_text("import time\ntime.sleep(1)\n")
    one = dyno(project, {**ONE, "BOKEH_PY_LOG_LEVEL": "trace"}).start()
    assert not re.search(r"\b503 [A-Z]+ |HTTP 503|starting$", one.log())
    one.get("/echo")
    one.wait_for_log(r"^\S+ flask\.1 +\| SITE INFO flask_app: asked$")
    token = one.token("/with/own?password=hunter2")
    with Visitor(one, "own", token=token) as visitor:
        visitor.document()
    one.wait_for_log(r"^\S+ bokeh\.1 +\| APP of\.app: runs$")
    one.wait_for_log(r"^\S+ bokeh\.1 +\| APP bokeh_dyno\.bokeh\.websocket: WebSocket closed: ")
    with Visitor(one, "own", token=token) as visitor:
        visitor.document()
    text = (project / "own.log").read_text()
    assert "FILE of.app: runs\n" in text
    assert "FILE bokeh.server.views.ws: Supplied subprotocol headers: " in text
    for private in ("hunter2", token[:60], token.split(".")[1], "bokeh-token="):
        assert private not in text + one.log(), private
