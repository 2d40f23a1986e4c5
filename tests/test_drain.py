"""A dyno that stops without loss, and reloads its routing under load."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import NGINXES
from dyno_under_test import Dyno, wait_for
from frames import CLOSE, Frames, close_code
from load import Load

FAST = [0.01, 0.01, 0.05, 0.01, 0.02]
SLOW = [0.2, 9.0, 1.0, 3.0, 6.0]
ENOUGH = 2000  # requests answered, before it is over
# The router hands over requests for a moment after SIGTERM; those of this time must not be lost either. STOP_LINGER is a second
# more, however slow this machine is to send them
LINGER, STOP_LINGER = 1.0, "2"


@pytest.fixture(params=NGINXES)
def loaded(request, project: Path, dyno: Callable[..., Dyno]) -> Dyno:
    """A dyno of its own with each nginx at hand."""
    if request.param != "installed":
        (project / "bin" / "nginx").symlink_to(Path(request.param).resolve())
    return dyno(project, {"STOP_LINGER": STOP_LINGER}).start()


def is_open(client: socket.socket) -> bool:
    """Return whether a WebSocket has neither ended nor been told to close, by what has come from it."""
    client.setblocking(False)
    try:
        while received := client.recv(65536):
            if received[0] == 0x88:
                return False
    except BlockingIOError:
        return True
    return False


def send_to_all(one: Dyno, number: signal.Signals) -> None:
    """Send a signal to every process of the dyno, as the platform does."""
    for process in one.processes():
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


@pytest.mark.parametrize("to", ["every process, twice", "the start script"])
def test_no_request_is_lost_when_the_platform_stops_the_dyno(loaded: Dyno, to: str, record_property):
    status, websocket = loaded.handshake("/bkapp/counter/ws", loaded.token("/with/counter"))
    assert status == 101
    fast, slow = Load(loaded, FAST, 8).start(), Load(loaded, SLOW, 10).start()
    wait_for("enough requests", lambda: len(fast.requests) + len(slow.requests) > ENOUGH, 100)
    stopped = time.monotonic()
    if to == "the start script":
        loaded.process.send_signal(signal.SIGTERM)
    else:
        send_to_all(loaded, signal.SIGTERM)
        wait_for("it to be heard", lambda: "SIGTERM received" in loaded.log())
        send_to_all(loaded, signal.SIGTERM)
    assert close_code(Frames(websocket)) == 1012
    websocket.close()
    code = loaded.wait(27)
    took = time.monotonic() - stopped
    requests = fast.stop() + slow.stop()
    lost = fast.failed(until=stopped + LINGER) + slow.failed(until=stopped + LINGER)
    in_flight = sum(request.began < stopped < request.ended for request in requests)
    record_property("figure", f"{len(requests)} requests, {in_flight} in flight, {len(lost)} lost, {took:.1f} s")
    assert lost == [], loaded.log()[-3000:]
    assert code == 0, loaded.log()[-3000:]
    loaded.assert_nothing_left()


def test_without_the_shield_one_line_says_so(project: Path, dyno: Callable[..., Dyno]):
    (project / "pyseccomp.py").write_text("raise OSError('no libseccomp here')\n")
    bare = dyno(project).start()
    assert "no shield against SIGTERM (OSError: no libseccomp here)" in bare.log()
    send_to_all(bare, signal.SIGTERM)
    assert bare.wait() == 0
    bare.assert_nothing_left()
    assert 'File "' not in bare.log()


def test_a_websocket_of_the_last_moment_gets_its_document_and_is_told(loaded: Dyno):
    opened = [loaded.handshake("/bkapp/counter/ws", loaded.token("/with/counter")) for _ in range(8)]

    def stop() -> None:
        loaded.process.send_signal(signal.SIGTERM)
        for _, websocket in opened:  # of both workers
            assert close_code(Frames(websocket)) == 1012
            websocket.close()

    status, client = loaded.handshake("/bkapp/counter/ws?document=1", loaded.token("/with/counter"), stop)
    assert status == 101
    with client:
        *document, (first, told) = Frames(client)
    assert any(b'"title"' in payload for _, payload in document)
    assert (first & 15, told) == (CLOSE, b"\x03\xf4service restart")
    assert loaded.wait() == 0


def test_a_reload_under_load_loses_no_request_and_closes_no_websocket(loaded: Dyno, record_property):
    status, websocket = loaded.handshake("/bkapp/counter/ws", loaded.token("/with/counter"))
    assert status == 101
    load = Load(loaded, [0.01, 0.05, 0.3], 8).start()
    for round_ in range(1, 5):
        wait_for("requests between the reloads", lambda n=round_: len(load.requests) > 200 * n, 40)
        workers = {process.pid for process in loaded.find("nginx: worker")}
        loaded.process.send_signal(signal.SIGHUP)
        wait_for(
            "new nginx workers",
            lambda old=workers: {process.pid for process in loaded.find("nginx: worker")} - old,
        )
    requests = load.stop()
    failed = load.failed()
    record_property("figure", f"{len(requests)} requests, {len(failed)} lost")
    # nginx before 1.27.4 closes a kept connection as it is about to be used again: a race that it cannot avoid
    races = [
        request
        for request in failed
        if request.kept and isinstance(request.outcome, str) and request.ended - request.began < 0.2
    ]
    binary = psutil.Process(loaded.find("nginx: master")[0].pid).exe()
    text = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr
    version = tuple(map(int, re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", text).groups()))
    assert ("keepalive_min_timeout" in (loaded.folder / "run" / "nginx.conf").read_text()) == (version >= (1, 27, 4))
    allowed = 0.005 if version < (1, 27, 4) else 0
    assert failed == races
    assert len(races) <= allowed * len(requests)
    assert is_open(websocket)
    websocket.close()


@pytest.mark.parametrize(
    ("broken", "says"), [("<%= nothing_of_that_name %>", "does not render"), ("nonsense on;", "does not pass nginx -t")]
)
def test_a_reload_of_a_broken_template_changes_nothing_and_says_why(
    project: Path, dyno: Callable[..., Dyno], broken: str, says: str
):
    one = dyno(project).start()
    conf = (project / "run" / "nginx.conf").read_text()
    template = project / "config" / "nginx.conf.erb"
    template.write_text(template.read_text().replace("gzip on;", broken))
    one.process.send_signal(signal.SIGHUP)
    one.wait_for_log(f"error: config/nginx.conf.erb {says}")
    assert (project / "run" / "nginx.conf").read_text() == conf
    assert one.get("/echo").status == 200


@pytest.mark.parametrize("when", ["during the boot", "later"])
def test_a_reload_takes_the_new_routing(project: Path, dyno: Callable[..., Dyno], when: str):
    one = dyno(project).launch()
    if when == "later":
        one.wait_until_it_answers()
    one.wait_for_log("starting honcho")  # the template has been rendered by then
    template = project / "config" / "nginx.conf.erb"
    template.write_text(
        template.read_text().replace("location / {", 'location = /new { return 200 "new\\n"; } location / {')
    )
    os.kill(one.process.pid, signal.SIGHUP)
    one.wait_until_it_answers()
    wait_for("the new route", lambda: one.get("/new").text == "new\n")
