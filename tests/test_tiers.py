"""Two tiers: Flask on one dyno, the Bokeh workers on others, behind the one entry point."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from browsing import forget_a_missing_worker, source_values
from dyno_under_test import (
    OTHER_SITE,
    ROOT,
    Dyno,
    copy_project,
    free_port,
    procfile_line,
    temporary_folder,
    wait_for,
)
from playwright.sync_api import Page
from test_metrics import Figures
from test_recovery import assert_whole, open_page, take_out_what_the_absence_caused
from test_sessions import open_websocket, runs
from visitor import Visitor

MakeDyno = Callable[..., Dyno]
KEY = secrets.token_hex(32)
WS = "/bkapp/counter/ws"
# writes down what it is asked with
SEEN = """\
import json, os
from bokeh.io import curdoc
request = curdoc().session_context.request
with open(os.environ["TEST_COUNTER"] + ".seen", "w") as file:
    json.dump({name: value for name, value in request.headers.items()}, file)
"""


class Tiers(NamedTuple):
    """A Flask dyno, and two dynos of Bokeh workers."""

    flask: Dyno
    bokeh: list[Dyno]


def make(scratch: Path, new: MakeDyno, count: int = 2, *further: Path) -> Tiers:
    """Make both tiers from one source, with further apps if any; start the Bokeh dynos, then the Flask dyno."""
    shared = {"BOKEH_SECRET_KEY": KEY, "FORWARDED_ALLOW_IPS": "*", "TEST_COUNTER": str(scratch / "runs")}
    folders = [copy_project(scratch / name, OTHER_SITE) for name in ("flask", "bokeh1", "bokeh2")[: count + 1]]
    for folder in folders:
        (folder / "bokeh_app" / "seen").mkdir()
        (folder / "bokeh_app" / "seen" / "main.py").write_text(SEEN)
        for app in further:
            shutil.copytree(app, folder / "bokeh_app" / app.name)
    bokeh = [
        new(folder, {**shared, "WEB_CONCURRENCY": "0", "NGINX_ACCESS_LOG_PATH": "off"}).launch()
        for folder in folders[1:]
    ]
    upstream = ",".join(f"127.0.0.1:{one.port}" for one in bokeh)
    flask = new(folders[0], {**shared, "BOKEH_UPSTREAM": upstream}).launch()  # it waits for one of them
    for one in (*bokeh, flask):
        one.wait_until_it_answers()
    return Tiers(flask, bokeh)


@pytest.fixture(scope="module")
def tiers() -> Iterator[Tiers]:
    """Both tiers, running; nothing in this module stops them."""
    scratch = temporary_folder()
    made: list[Dyno] = []

    def new(*arguments) -> Dyno:
        made.append(Dyno(*arguments))
        return made[-1]

    try:
        yield make(scratch, new)
        assert [one.stop() for one in reversed(made)] == [0, 0, 0]
    finally:
        for one in made:
            one.clean_up()
        shutil.rmtree(scratch)


def test_each_tier_runs_its_part_only(tiers: Tiers) -> None:
    assert tiers.flask.bokeh_workers() == []
    tiers.flask.wait_for_log(r"no worker here: Bokeh is at 127\.0\.0\.1:")
    for one in tiers.bokeh:
        assert len(one.bokeh_workers()) == 2
        assert one.find("gunicorn")[-1].children() == []
        assert one.get("/healthz").text == "ok\n"
        assert one.get("/echo").status == 404


def test_each_tier_has_figures_of_its_own(tiers: Tiers) -> None:
    with Visitor(tiers.flask) as visitor:
        visitor.document()
        of_flask, *of_bokeh = (Figures(one.get("/metrics").text) for one in (tiers.flask, *tiers.bokeh))
    assert {"flask", "flask.1"} <= of_flask.values("process_resident_memory_bytes", "process")
    assert of_flask.values("sessions", "worker") == set()
    assert sum(one.sum("websockets") for one in of_bokeh) == 1
    for one in of_bokeh:
        assert one.values("sessions", "worker") == {"1", "2"}
        assert one.values("process_resident_memory_bytes", "process") >= {"bokeh", "bokeh.1", "bokeh.2"}


@pytest.mark.parametrize("page", ["/with/counter", "/bkapp/counter"])
def test_a_session_stays_on_one_worker_and_they_all_have_some(tiers: Tiers, page: str) -> None:
    before = len(runs(tiers.flask))
    tokens = [tiers.flask.token(page) for _ in range(48)]  # by their hash: fewer might leave out one of four workers
    for _ in range(2):
        assert [open_websocket(tiers.flask, token) for token in tokens] == [101] * 48
    made = runs(tiers.flask)[before:]
    assert len(made) == 48
    workers = {str(worker.pid) for one in tiers.bokeh for worker in one.bokeh_workers()}
    assert {pid for _, pid in made} == workers


def test_who_is_asking_arrives_through_both_tiers(tiers: Tiers) -> None:
    port = tiers.flask.port
    headers = {"X_Forwarded_For": "6.6.6.6, 1.2.3.4", "X_Forwarded_Proto": "https"}
    assert tiers.flask.get("/bkapp/seen", Host="site.example", Origin="https://x.example", **headers).status == 200
    seen = json.loads(Path(tiers.flask.env["TEST_COUNTER"] + ".seen").read_text())
    assert seen["Host"] == "site.example"
    assert seen["X-Forwarded-For"] == "1.2.3.4"
    assert seen["X-Forwarded-Proto"] == "https"
    for origin, status in ((f"http://127.0.0.1:{port}", 101), ("http://stranger.example", 403)):
        answered, client = tiers.flask.handshake(WS, tiers.flask.token("/with/counter"), Origin=origin)
        with client:
            assert answered == status
            if status == 101:
                assert client.recv(1)  # the app has run: the tests below count that


def test_a_bokeh_dyno_takes_no_session_that_flask_did_not_sign(tiers: Tiers) -> None:
    before = len(runs(tiers.flask))
    for one in (tiers.flask, *tiers.bokeh):
        assert one.get("/bkapp/counter?bokeh-token=garbage").status == 403
        assert open_websocket(one, "garbage") in (400, 403)
    for one in tiers.bokeh:
        assert one.get("/bkapp/counter").status == 403
    assert len(runs(tiers.flask)) == before


def test_static_files_and_those_that_only_bokeh_has(tiers: Tiers) -> None:
    one = tiers.flask
    assert one.get("/bkapp/static/js/bokeh.min.js", Accept_Encoding="gzip").headers["content-encoding"] == "gzip"
    assert one.get("/bkapp/static/extensions/none.js").status == 404


def test_a_moment_without_any_worker_on_one_bokeh_dyno_costs_no_view(tiers: Tiers) -> None:
    tokens = [tiers.flask.token("/with/counter") for _ in range(12)]
    for worker in tiers.bokeh[0].bokeh_workers():  # its nginx answers 502, and the other dyno is asked
        worker.kill()
    answers = [tiers.flask.handshake(WS, token) for token in tokens]
    for _, client in answers:
        client.close()
    assert [status for status, _ in answers] == [101] * 12


def test_one_bokeh_dyno_stops_and_the_views_go_on(scratch: Path, dyno: MakeDyno, page: Page) -> None:
    flask, (first, second) = make(scratch, dyno)
    open_page(page, flask)
    pids = {worker.pid: one for one in (first, second) for worker in one.bokeh_workers()}
    holder = pids[int(runs(flask)[-1][1])]
    tokens = [flask.token("/with/counter") for _ in range(24)]  # by their hash: of fewer, one dyno might have all
    sockets = []
    for token in tokens:
        sockets.append(flask.handshake(WS, token)[1])
        assert sockets[-1].recv(1)  # one after the other: not many sessions of one visitor are started at once
    holder.process.send_signal(signal.SIGTERM)
    assert holder.wait() == 0
    assert 0 < sum(map(told_to_leave, sockets)) < 24  # those of the one that stopped, through both tiers
    assert_whole(page)
    assert [open_websocket(flask, token) for token in tokens] == [101] * 24
    assert [open_websocket(flask, flask.token("/with/counter")) for _ in range(12)] == [101] * 12
    silent = f"ok\nbokeh at 127.0.0.1:{holder.port} does not answer\n"
    wait_for("it to be said", lambda: flask.get("/healthz").text == silent)
    other = second if holder is first else first
    other.process.kill()
    other.wait()
    wait_for("the end of its nginx", lambda: not other.port_is_open())
    wait_for("that to be said", lambda: flask.get("/healthz").status == 503)
    dyno(holder.folder, holder.env).start()
    assert_whole(page)
    wait_for("the site", lambda: flask.get("/healthz").status == 200)
    take_out_what_the_absence_caused(page)
    forget_a_missing_worker(page)


def test_a_bokeh_dyno_that_comes_back_with_another_address_is_found(
    tiers: Tiers, scratch: Path, dyno: MakeDyno
) -> None:
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("no name can be given other addresses here")
    shared = {"BOKEH_SECRET_KEY": KEY, "TEST_COUNTER": str(scratch / "runs")}
    bokeh = tiers.bokeh[0]
    hosts, port = scratch / "hosts", free_port()
    hosts.write_text("::1 bokeh.test\n127.0.0.2 bokeh.test\n")  # nobody listens on the first
    own = f"mount --bind {hosts} /etc/hosts && exec {procfile_line(ROOT)}"
    folder = copy_project(scratch / "flask", OTHER_SITE)
    env = {**shared, "BOKEH_UPSTREAM": f"bokeh.test:{port}"}
    with relay(("127.0.0.2", port), bokeh.port):
        flask = dyno(folder, env, ["unshare", "--mount", "sh", "-c", own]).start()
        assert open_websocket(flask, flask.token("/with/counter")) == 101, flask.log()
    hosts.write_text("127.0.0.3 bokeh.test\n")  # the same file: it is mounted
    with relay(("127.0.0.3", port), bokeh.port):
        flask.wait_for_log(f"BOKEH_UPSTREAM: bokeh.test:{port} is now 127.0.0.3; nginx follows")
        wait_for("it to be found", lambda: flask.get("/healthz").text == "ok\n")
        assert open_websocket(flask, flask.token("/with/counter")) == 101
    wait_for("it to be missed", lambda: flask.get("/healthz").status == 503)


@contextlib.contextmanager
def relay(address: tuple[str, int], port: int) -> Iterator[None]:
    """Pass on connections to an address to a port of this machine; its own are cut at the end."""

    class Pipe(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as other:
                ends = {self.request: other, other: self.request}
                while not over.is_set():
                    for end in select.select(list(ends), [], [], 0.1)[0]:
                        if not (data := end.recv(65536)):
                            return
                        ends[end].sendall(data)

    class Relay(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    over = threading.Event()
    with Relay(address, Pipe) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield
        over.set()
        server.shutdown()


def told_to_leave(client: socket.socket) -> bool:
    """Return whether what has come from a WebSocket so far ends with a close frame: 1012, service restart."""
    client.settimeout(0.1)
    received = b""
    with client:
        try:
            while more := client.recv(65536):
                received += more
        except TimeoutError:
            pass
    return b"\x03\xf4service restart" in received


def test_when_the_flask_dyno_restarts_a_page_finds_the_very_same_session(
    tiers: Tiers, scratch: Path, dyno: MakeDyno, page: Page
) -> None:
    upstream = {"BOKEH_UPSTREAM": f"127.0.0.1:{tiers.bokeh[0].port}"}
    folder = shutil.copytree(tiers.flask.folder, scratch / "flask", ignore=shutil.ignore_patterns("run"))
    flask = dyno(folder, {**tiers.flask.env, "PORT": str(free_port()), **upstream}).start()
    open_page(page, flask)
    before = len(runs(flask))
    # a single one may be a router, which goes by its own name
    assert flask.get("/bkapp/seen", Host="site.example").status == 200
    seen = json.loads(Path(flask.env["TEST_COUNTER"] + ".seen").read_text())
    assert seen["Host"] == flask.env["BOKEH_UPSTREAM"]
    flask.process.kill()
    flask.wait()
    wait_for("the end of its nginx", lambda: not flask.port_is_open())
    dyno(flask.folder, flask.env).start()
    assert_whole(page)
    assert len(runs(flask)) == before
    assert source_values(page)
    take_out_what_the_absence_caused(page)
    forget_a_missing_worker(page)


def test_what_flask_does_not_know_of_an_app_comes_with_its_document(scratch: Path, dyno: MakeDyno, page: Page) -> None:
    theirs = Path(__file__).parent / "theirs" / "bokeh_app"
    apps = [theirs / "custom", *([theirs / "panel"] if importlib.util.find_spec("panel") else [])]
    tiers = make(scratch, dyno, 1, *apps)
    page.route("https://**", lambda route: route.fulfill(body="", content_type="text/css"))  # not to be had here
    for app, text in zip(apps, ("shouted", "squared 9"), strict=False):
        for kind in ("with", "bkapp"):
            page.goto(f"http://127.0.0.1:{tiers.flask.port}/{kind}/{app.name}")
            page.get_by_text(text).first.wait_for()
    page.complaints.clear()  # stylesheets of elsewhere


def test_without_any_bokeh_dyno_the_boot_ends_with_its_name(project: Path, dyno: MakeDyno) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    one = dyno(project, {"BOKEH_UPSTREAM": nobody, "BOKEH_SECRET_KEY": KEY, "BOOT_TIMEOUT": "3"}).launch()
    assert one.wait() == 1
    assert re.search(rf"error: no answer from .*bokeh at {nobody} within 3 s \(BOOT_TIMEOUT\)", one.log())


def test_a_host_that_nobody_knows_is_named(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {"BOKEH_UPSTREAM": "nobody.invalid:5000", "BOKEH_SECRET_KEY": KEY}).launch()
    assert one.wait() == 1
    assert "error: BOKEH_UPSTREAM names nobody.invalid:5000, a host that is not known here" in one.log()
