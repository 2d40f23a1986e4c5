"""What routers are told: /healthz is true, at once, and true of a stop from its beginning."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import NGINXES
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, temporary_folder, wait_for
from load import Load

MakeDyno = Callable[..., Dyno]
WITHIN = 5.0  # s; it is 1, with what a busy machine adds


@contextlib.contextmanager
def stopped(*processes: psutil.Process) -> Iterator[None]:
    """Have processes do nothing for a while."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def health(one: Dyno, query: str = "") -> tuple[int, str]:
    """Return what /healthz says, which must not take long."""
    began = time.monotonic()
    answer = one.get(f"/healthz{query}")
    assert time.monotonic() - began < WITHIN
    return answer.status, answer.text


def says(one: Dyno, status: int, pattern: str, query: str = "") -> None:
    """Wait until /healthz says this: an answer is kept for a second."""

    def is_said() -> bool:
        found, text = health(one, query)
        return found == status and bool(re.fullmatch(pattern, text))

    wait_for(f"{status} {pattern!r}", is_said)


@pytest.fixture(scope="module")
def steady() -> Iterator[Dyno]:
    """A dyno whose processes are stopped, and go on."""
    folder = temporary_folder()
    one = Dyno(copy_project(folder / "app", OTHER_SITE), {"BOKEH_HANG_TIMEOUT": "0"}).start()
    yield one
    try:
        one.stop()
    finally:
        one.clean_up()


def test_it_is_200_as_long_as_one_worker_answers_and_names_those_that_do_not(steady: Dyno) -> None:
    first, second = steady.bokeh_workers()
    with stopped(first):
        says(steady, 200, r"ok\nbokeh\.[12] does not answer\n")
        says(steady, 503, r"bokeh\.[12] does not answer\n", "?all=1")
    says(steady, 200, "ok\n", "?all=1")
    with stopped(first, second):
        says(steady, 503, r"bokeh\.1 does not answer\nbokeh\.2 does not answer\n")
        assert steady.get("/bkapp/static/js/bokeh.min.js").status == 200
        assert steady.get("/with/counter").status == 200
    says(steady, 200, "ok\n")


def test_it_names_flask_when_that_hangs(steady: Dyno) -> None:
    with stopped(*steady.find(r"gunicorn.*flask_app")):
        says(steady, 503, "flask does not answer\n")
    says(steady, 200, "ok\n")


def test_an_answer_is_kept_for_a_second(steady: Dyno) -> None:
    says(steady, 200, "ok\n")
    time_of_100 = time.monotonic()
    for _ in range(100):
        assert health(steady)[0] == 200
    assert time.monotonic() - time_of_100 < 10
    assert steady.request("HEAD", "/healthz").body == b""


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 70000, b"POST /nothing HTTP/1.1\r\n\r\n", b""]
)
def test_nothing_that_is_sent_to_its_socket_stops_it(steady: Dyno, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(steady.folder / "run" / "status.sock"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(request_)
    says(steady, 200, "ok\n")


@pytest.mark.parametrize("nginx", NGINXES)
def test_a_stop_is_told_from_its_beginning_and_costs_kept_connections_nothing(
    project: Path, dyno: MakeDyno, nginx: str, record_property
) -> None:
    if nginx != "installed":
        (project / "bin" / "nginx").symlink_to(Path(nginx).resolve())
    one = dyno(project, {"STOP_LINGER": "4"}).start()
    load = Load(one, [0.01], 8).start()
    wait_for("enough requests", lambda: len(load.requests) > 3000, 100)
    router = http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)  # closed by the dyno

    def is_well() -> bool:
        router.request("GET", "/healthz")
        return router.getresponse().read() == b"ok\n"

    wait_for("all to answer in time", is_well)
    nearly_over = time.monotonic() + 3
    one.process.send_signal(signal.SIGTERM)
    wait_for("it to be heard", (project / "run" / "closing").exists)
    router.request("GET", "/healthz")
    answer = router.getresponse()
    assert (answer.status, answer.read()) == (503, b"stopping\n")
    assert answer.getheader("Connection") == "close"
    assert one.get("/version?a=%2F&b=c%20d").text == "one"
    assert one.get("/echo?a=%2F").json["arguments"] == {"a": "/"}
    assert one.wait() == 0
    requests = load.stop()
    # what connects at the moment in which the port is closed is reset; nobody is to ask any more by then. A request may be a
    # second on its way there
    lost = [request for request in load.failed() if request.kept or request.began < nearly_over]
    record_property("figure", f"{len(requests)} requests, {len(lost)} lost")
    assert lost == []


def test_the_linger_outlasts_the_check_of_the_router_that_comes_with_it() -> None:
    check = re.search(r"check inter (\d+)s fall (\d+)", Path(ROOT, "config/haproxy.cfg").read_text())
    timeout = re.search(r"timeout check (\d+)s", Path(ROOT, "config/haproxy.cfg").read_text())
    program = "from bokeh_dyno.shared.settings import read; print(read({}).stop_linger)"
    linger = subprocess.run(["python3", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(linger) > int(check[1]) * int(check[2])
    assert int(timeout[1]) >= 1


def test_it_listens_on_ipv6_too(steady: Dyno) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 here")
    with contextlib.closing(http.client.HTTPConnection("::1", steady.port, timeout=10)) as connection:
        connection.request("GET", "/version")
        assert connection.getresponse().read() == b"one"
