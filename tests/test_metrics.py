"""/metrics: who may have it, and that what it says changes with what happens."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from browsing import assert_plots_are_drawn
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, temporary_folder, until_stopped, wait_for
from prometheus_client.parser import text_string_to_metric_families as families
from visitor import Visitor, change, find

from bokeh_dyno.shared import numbers, settings
from bokeh_dyno.start import metrics

TOKEN = "a-token-of-the-tests"
ELSEWHERE = "203.0.113.5"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LABELS = {"backend", "code", "generation", "le", "process", "reason", "state", "status", "worker"}
# The slider's value says what is done
BUSY = """
import asyncio, time
from bokeh.io import curdoc
from bokeh.models import Slider

def turned(attr, old, new):
    if new == 1:
        time.sleep(1.2)
    elif new == 2:
        curdoc().add_next_tick_callback(later)
    elif new == 3:
        curdoc().add_timeout_callback(lambda: time.sleep(1.2), 10)

async def later():
    await asyncio.sleep(3)
    time.sleep(1.2)

slider = Slider(name="slider", start=0, end=100, value=0)
slider.on_change("value", turned)
curdoc().add_root(slider)
"""


class Figures:
    """What a dyno says in one answer."""

    def __init__(self, text: str) -> None:
        self.families = list(families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all series of a name that have these labels."""
        found = [
            one for one in self.samples if one.name == f"bokeh_dyno_{name}" and labels.items() <= one.labels.items()
        ]
        return sum(one.value for one in found)

    def values(self, name: str, label: str) -> set[str]:
        """Return the values of a label of a name's series."""
        return {one.labels[label] for one in self.samples if one.name == f"bokeh_dyno_{name}"}


def ask(one: Dyno) -> Figures:
    """Ask once an answer is not given again any more."""
    time.sleep(metrics.KEPT_SECONDS + 0.05)
    answer = one.get("/metrics")
    assert answer.status == 200, answer
    return Figures(answer.text)


def wait_until(one: Dyno, what: Callable[[Figures], object], seconds: float = 20) -> Figures:
    """Ask until what is said is as expected, and return it."""
    return wait_for("the figures", lambda: found if what(found := ask(one)) else None, seconds)


@pytest.fixture(scope="module")
def site() -> Iterator[Dyno]:
    """The site of the tests with an app that takes its time, and a token for /metrics; a visitor may have two sessions."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "app", OTHER_SITE)
    (folder / "bokeh_app" / "busy").mkdir()
    (folder / "bokeh_app" / "busy" / "main.py").write_text(BUSY)
    one = Dyno(
        folder, {"METRICS_TOKEN": TOKEN, "VISITOR_SESSIONS": "2", "BOKEH_WORKERS": "1", "GENERATION_LIFETIME": "0"}
    )
    yield from until_stopped(one, scratch)


# --- who may have it ---


def test_an_address_that_is_trusted_or_a_token_is_answered_and_nobody_else(site: Dyno) -> None:
    assert site.get("/metrics").status == 200
    refused = [
        site.get("/metrics", X_Forwarded_For=ELSEWHERE),
        site.get("/metrics", X_Forwarded_For=ELSEWHERE, Authorization="Bearer another-token-of-theirs"),
        site.get("/metrics", X_Forwarded_For=ELSEWHERE, Authorization=f"Basic {TOKEN}"),
        site.get("/metrics", X_Forwarded_For=ELSEWHERE, X_Real_IP="127.0.0.1"),
    ]
    assert {(one.status, one.headers["www-authenticate"], one.body) for one in refused} == {
        (401, "Bearer", refused[0].body)
    }
    assert site.get("/metrics", X_Forwarded_For=ELSEWHERE, **BEARER).status == 200


@pytest.mark.parametrize(
    ("address", "authorization", "env", "status"),
    [
        ("127.0.0.1", "", {}, 200),
        ("::1", "", {}, 200),
        ("::ffff:127.0.0.1", "", {}, 200),
        (ELSEWHERE, "", {}, 403),
        (ELSEWHERE, "Bearer ", {}, 403),
        ("unix:", "", {}, 403),
        ("", "", {}, 403),
        (ELSEWHERE, "", {"METRICS_ALLOW_IPS": "*"}, 200),
        (ELSEWHERE, "", {"METRICS_ALLOW_IPS": "203.0.113.0/24"}, 200),
        ("127.0.0.1", "", {"METRICS_ALLOW_IPS": "203.0.113.0/24"}, 403),
        (ELSEWHERE, "", {"METRICS_TOKEN": TOKEN}, 401),
        (ELSEWHERE, f"bearer  {TOKEN}", {"METRICS_TOKEN": TOKEN}, 200),
        (ELSEWHERE, f"Bearer {TOKEN}x", {"METRICS_TOKEN": TOKEN}, 401),
        (ELSEWHERE, "Bearer \xff\ud800", {"METRICS_TOKEN": TOKEN}, 401),
        (ELSEWHERE, TOKEN, {"METRICS_TOKEN": TOKEN}, 401),
    ],
)
def test_who_is_answered(tmp_path: Path, address: str, authorization: str, env: dict[str, str], status: int) -> None:
    headers = {"x-real-ip": address, "authorization": authorization}
    assert metrics.answer(headers, tmp_path, settings.read(env))[0] == status


# --- what is counted ---


def counted(line: bytes) -> dict[tuple[str, str], int]:
    """Return what one line of nginx's has counted."""
    before, _ = metrics.requests()
    metrics.count(line)
    after, _ = metrics.requests()
    return {key: number - before.get(key, 0) for key, number in after.items() if number != before.get(key)}


def test_a_request_is_counted_by_its_line() -> None:
    line = b'2001:db8::1 "GET /a b" 200 12 seconds=0.300 request_id=x backend=flask upstream=unix:run/a/flask.sock'
    _, before = metrics.requests()
    assert counted(line) == {("flask", "200"): 1}
    _, after = metrics.requests()
    more = [one - other for one, other in zip(after["flask"], before["flask"], strict=True)]
    assert more[:-1] == [0.3 < 1 and bucket == 0.5 for bucket in (*numbers.BUCKETS, 99)]
    assert more[-1] == pytest.approx(0.3)
    assert counted(b"\x1f304 seconds=0.000 backend=nginx") == {("nginx", "304"): 1}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"2026/11/28 18:00:00 [error] 1#1: connect() failed, seconds=1 backend=flask",
        b'a "GET /" 200 1 seconds=1 request_id=y',
        b'a "GET /" 200 1 seconds=- request_id=y backend=flask',
        b'a "GET / 200 1 seconds=1 request_id=y backend=flask',
        b"\x1f200 seconds=1 backend=somebody",
        b"\x1f999 seconds=1 backend=flask",
    ],
)
def test_other_lines_count_for_nothing(line: bytes) -> None:
    assert counted(line) == {}


def test_requests_by_status_and_backend_and_their_seconds(site: Dyno) -> None:
    before = ask(site)
    for path in ("/echo", "/slow/3.0", "/no-page", "/bkapp/counter/metadata", "/bkapp/static/js/bokeh.min.js"):
        site.get(path)
    after = wait_until(site, lambda now: now.sum("requests_total") >= before.sum("requests_total") + 5)

    def more(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert more("requests_total", backend="flask", status="200") == 2
    assert more("requests_total", backend="flask", status="404") == 1
    assert more("requests_total", backend="bokeh", status="200") == 1
    assert more("requests_total", backend="nginx", status="200") == 1
    assert more("request_seconds_count", backend="flask") == 3
    assert more("request_seconds_bucket", backend="flask", le="2.5") == 2
    assert more("request_seconds_bucket", backend="flask", le="+Inf") == 3
    assert 3 < more("request_seconds_sum", backend="flask") < 8


def test_the_series_of_a_generation_go_with_it(site: Dyno) -> None:
    (first,) = ask(site).values("sessions", "generation")
    site.process.send_signal(signal.SIGUSR2)
    site.wait_for_log(f"generation {first} ends", 60)
    now = ask(site)
    (second,) = now.values("sessions", "generation")
    assert now.sum("generation_state", generation=second, state="serving") == 1
    assert now.sum("generation_state") == 1
    assert time.time() - 120 < now.sum("generation_start_time_seconds", generation=second) < time.time()
    assert f'generation="{first}"' not in site.get("/metrics").text


def test_sessions_and_websockets(site: Dyno) -> None:
    before = ask(site)
    with Visitor(site, "counter") as visitor:
        visitor.document()
        during = wait_until(site, lambda now: now.sum("sessions") > before.sum("sessions"))
        assert during.sum("websockets") == before.sum("websockets") + 1
        assert during.sum("websockets_opened_total") == before.sum("websockets_opened_total") + 1
        assert during.sum("sessions_opened_total") == before.sum("sessions_opened_total") + 1
        assert during.sum("sessions_recovered_total") == before.sum("sessions_recovered_total")
        with Visitor(site, "counter", token=visitor.token) as second:  # of the same session
            second.document()
    requests = {"backend": "bokeh", "status": "101"}  # nginx counts one by itself, once that has ended
    after = wait_until(
        site,
        lambda now: (
            now.sum("websockets") == before.sum("websockets")
            and now.sum("requests_total", **requests) >= before.sum("requests_total", **requests) + 2
        ),
    )
    assert after.sum("websockets_closed_total", code="1006") == before.sum("websockets_closed_total", code="1006") + 2
    assert after.sum("websockets_opened_total") == before.sum("websockets_opened_total") + 2
    assert after.sum("sessions_opened_total") == before.sum("sessions_opened_total") + 1
    assert after.sum("requests_total", **requests) == before.sum("requests_total", **requests) + 2
    # for as long as it is open, which would be the longest request of all
    assert after.sum("request_seconds_count", backend="bokeh") == before.sum("request_seconds_count", backend="bokeh")


def test_who_is_refused_and_why(site: Dyno) -> None:
    before = ask(site)
    status, client = site.handshake("/bkapp/counter/ws", "eyJhbGciOi.none")
    client.close()
    assert status == 403
    address = "192.0.2.251"
    with Visitor(site, "counter", address) as one, Visitor(site, "counter", address) as other:
        one.document()
        other.document()
        with Visitor(site, "counter", address) as third:
            assert third.close_code() == 1013
    closed = before.sum("websockets_closed_total", code="1013")
    after = wait_until(site, lambda now: now.sum("websockets_closed_total", code="1013") > closed)
    for reason, more in (("token", 1), ("visitor", 1), ("full", 0)):
        count = after.sum("sessions_refused_total", reason=reason) - before.sum("sessions_refused_total", reason=reason)
        assert count == more, reason
    assert after.sum("websockets_closed_total", code="1013") == closed + 1


@pytest.mark.parametrize("how", ["sync", "async", "timer"])
def test_the_seconds_of_a_callback_are_those_in_which_it_runs(site: Dyno, how: str) -> None:
    with Visitor(site, "busy") as visitor:
        slider = find(visitor.document(), "slider")
        before = ask(site)
        visitor.send_message(change(slider, "value", ["sync", "async", "timer"].index(how) + 1))
        seconds = "callback_seconds_sum"
        after = wait_until(site, lambda now: now.sum(seconds) > before.sum(seconds) + 1.1)
    assert after.sum(seconds) - before.sum(seconds) < 3  # the async one has waited for 3 s
    long = {
        le: after.sum("callback_seconds_bucket", le=le) - before.sum("callback_seconds_bucket", le=le)
        for le in ("1.0", "+Inf")
    }
    assert long["+Inf"] == long["1.0"] + 1


def test_a_page_that_came_back_a_killed_worker_and_counts_that_never_go_back(site: Dyno, page) -> None:
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    before = ask(site)
    (worker,) = site.bokeh_workers()
    worker.kill()
    after = wait_until(
        site, lambda now: now.sum("sessions_recovered_total") > before.sum("sessions_recovered_total"), 40
    )
    assert after.sum("sessions_recovered_total") == before.sum("sessions_recovered_total") + 1
    restarts = {"process": "bokeh.1"}
    assert after.sum("process_restarts_total", **restarts) == before.sum("process_restarts_total", **restarts) + 1
    wait_until(site, lambda now: now.sum("sessions") == now.sum("websockets") == 1)  # those of the killed one are gone
    for family in before.families:
        if family.type in ("counter", "histogram"):
            for one in family.samples:
                now = next((s.value for s in after.samples if (s.name, s.labels) == (one.name, one.labels)), None)
                assert now is not None, one
                assert now >= one.value or family.name == "bokeh_dyno_process_cpu_seconds", one
    page.goto("about:blank")  # what it has complained of comes only now: nothing was asked of it meanwhile
    page.complaints.clear()


def test_a_killed_worker_of_gunicorn_is_counted(site: Dyno) -> None:
    before = ask(site)
    site.find("gunicorn --config")[-1].kill()
    wait_until(
        site,
        lambda now: (
            now.sum("process_restarts_total", process="flask.workers")
            == before.sum("process_restarts_total", process="flask.workers") + 1
        ),
    )


def test_the_answer_comes_within_a_second_though_everything_else_hangs(site: Dyno) -> None:
    stopped = [*site.bokeh_workers(), *site.find(r"-m bokeh_dyno\.bokeh")[:1], *site.find("gunicorn --config")[1:]]
    before = ask(site)
    for process in stopped:
        process.suspend()
    try:
        time.sleep(2.5)
        began = time.monotonic()
        during = Figures(site.get("/metrics").text)
        took = time.monotonic() - began
    finally:
        for process in stopped:
            process.resume()
    assert took < 5, f"{took:.1f} s"  # within 1 s on a machine that is not busy with other tests
    assert during.sum("event_loop_max_lag_seconds") > 1

    def late(figures: Figures) -> float:
        return figures.sum("event_loop_lag_seconds_count") - figures.sum("event_loop_lag_seconds_bucket", le="1.0")

    after = wait_until(site, lambda now: late(now) > late(before))
    assert after.sum("event_loop_max_lag_seconds") > 2  # in the last half minute


def test_processes_and_versions(site: Dyno) -> None:
    now = ask(site)
    processes = now.values("process_resident_memory_bytes", "process")
    assert processes >= {"dyno", "nginx", "nginx.1", "nginx.2", "flask", "flask.1", "flask.2", "bokeh", "bokeh.1"}
    for name in ("resident", "proportional"):
        assert 1e6 < now.sum(f"process_{name}_memory_bytes", process="bokeh.1") < 1e9
    assert now.sum("process_resident_memory_bytes", process="bokeh.1") == pytest.approx(
        site.bokeh_workers()[0].memory_info().rss, rel=0.1
    )
    assert now.sum("process_cpu_seconds_total", process="bokeh") > 0.1
    began = psutil.Process(site.process.pid).create_time()
    assert now.sum("process_start_time_seconds", process="dyno") == pytest.approx(began, abs=1)
    (build,) = [one for one in now.samples if one.name == "bokeh_dyno_build_info"]
    assert re.fullmatch(r"3\.\d+\.\d+", build.labels["bokeh"])
    assert all(build.labels[name] for name in ("version", "python", "flask", "gunicorn", "nginx"))


def test_names_and_labels_are_as_prometheus_wants_them_and_nothing_of_a_visitor_is_in_them(site: Dyno) -> None:
    site.get("/with/counter?word=secret", X_Forwarded_For="192.0.2.77", User_Agent="secret")
    now = ask(site)
    text = site.get("/metrics").text
    assert site.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not re.search(r"secret|192\.0\.2|eyJ|/|counter|\bbusy", re.sub("(?m)^#.*", "", text))
    for family in now.families:
        assert re.fullmatch(r"bokeh_dyno_[a-z_]+", family.name), family
        assert family.documentation.endswith("."), family
        assert family.type in ("counter", "gauge", "histogram"), family
        assert not re.search(r"_(count|sum|total|bucket|ms|milliseconds|mb|percent)$", family.name), family
        assert ("seconds" in family.name) <= family.name.endswith("_seconds"), family
        for sample in family.samples:
            assert (set(sample.labels) <= LABELS) or family.name == "bokeh_dyno_build_info", sample
            assert all(re.fullmatch(r"[\w.+]*", value) for value in sample.labels.values()), sample
    assert len(now.samples) < 500


# --- what is made of it ---


def documented() -> set[str]:
    """Return the names in the table of docs/operate.md."""
    section = (ROOT / "docs" / "operate.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(bokeh_dyno_\w+)`", section, re.MULTILINE))


def test_the_documentation_names_every_metric(site: Dyno) -> None:
    names = {family.name + "_total" * (family.type == "counter") for family in ask(site).families}
    assert documented() == names


def test_the_dashboard_shows_what_there_is(site: Dyno) -> None:
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    now = ask(site)
    names = {sample.name for sample in now.samples}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    used = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert x + w <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            query = target["expr"]
            assert query.count("(") == query.count(")"), query
            found = re.findall(r"(bokeh_dyno_\w+)\{([^}]*)\}", query)
            assert found, query
            assert len(found) == query.count("bokeh_dyno_"), query
            for name, matchers in found:
                assert name in names, query
                labels = {key for sample in now.samples if sample.name == name for key in sample.labels}
                assert set(re.findall(r"(\w+)=", matchers)) <= labels | {"instance"}, query
                used.add(name)
                for by in re.findall(r" by \(([^)]*)\)", query):
                    assert set(by.split(", ")) <= labels | {"instance"}, query
    names_of_variables = {one["name"]: one["type"] for one in board["templating"]["list"]}
    assert names_of_variables == {"datasource": "datasource", "instance": "query"}
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert shown == documented()
