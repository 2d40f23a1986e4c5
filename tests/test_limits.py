"""One visitor, or one app, takes nothing from the others: what each may cost, through the port."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import secrets
import selectors
import signal
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from browsing import assert_plots_are_drawn
from dyno_under_test import OTHER_SITE, Dyno, copy_project, temporary_folder, token_in, wait_for
from frames import frame
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from visitor import Visitor, change, find, is_open

from bokeh_dyno.shared import private

MakeDyno = Callable[..., Dyno]
MB = 1_000_000
AT_REST = 200  # MB of a worker: 62 at first, and the C library has kept up to 141 after all that is asked of it here

# How it ends, by its argument when the page is made, and by its slider later
ENDS = """
import asyncio, os, sys
from bokeh.io import curdoc
from bokeh.models import Slider

def end(how):
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "process":
        os._exit(7)
    if how == "crash":
        os.abort()

async def end_later(how):
    await asyncio.sleep(0.01)
    end(how)

async def begin(how):
    asyncio.get_running_loop().create_task(end_later(how))

def turned(attr, old, new):
    how = "exit" if new % 2 else "interrupt"
    if new < 3:
        end(how)
    elif new < 5:
        curdoc().add_next_tick_callback(lambda: end(how))
    elif new < 7:
        curdoc().add_next_tick_callback(lambda: end_later(how))
    elif new < 9:
        curdoc().add_next_tick_callback(lambda: begin(how))
    elif new % 10 == 9:
        curdoc().kept = getattr(curdoc(), "kept", None), bytearray(b"x" * 300_000_000)
    elif new == 10:
        print("begin" + "x" * 100_000_000 + "end")
        print("a word after it")
    elif new == 11:
        for number in range(200_000):
            print(f"line {number}")
    elif new == 12:
        print("the last word")

end(curdoc().session_context.request.arguments.get("how", [b""])[0].decode())
slider = Slider(name="slider", start=0, end=100, value=0)
slider.on_change("value", turned)
curdoc().add_root(slider)
"""
# Sends more than the visitor can take
STREAMS = """
from bokeh.io import curdoc
from bokeh.models import Div

text = Div(text="0")
curdoc().add_periodic_callback(lambda: text.update(text=str((int(text.text[0]) + 1) % 10) * 500_000), 20)
curdoc().add_root(text)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Dyno]:
    """The site of the tests with apps that end, and stream; two workers."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "app", OTHER_SITE)
    for name, code in (("ends", ENDS), ("streams", STREAMS)):
        (folder / "bokeh_app" / name).mkdir()
        (folder / "bokeh_app" / name / "main.py").write_text(code)
    routing = folder / "config" / "nginx.conf.erb"
    # bodies that do not come are still waited for when 2000 connections have been made
    routing.write_text(routing.read_text().replace("client_body_timeout 10;", "client_body_timeout 60;"))
    one = Dyno(folder, {"NGINX_ACCESS_LOG_PATH": "off"})
    try:
        yield one.start()
        assert one.stop() == 0, one.log()
    finally:
        one.clean_up()


@pytest.fixture(autouse=True)
def others(site: Dyno, request: pytest.FixtureRequest, record_property) -> Iterator[None]:
    """Have another visitor ask all the while: each answer is 200, and no worker is gone afterwards."""
    before = [process.pid for process in site.bokeh_workers()]
    answers: list[tuple[int, float]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            for path in ("/bkapp/counter/metadata", "/echo"):
                began = time.monotonic()
                answers.append((site.get(path, X_Forwarded_For="198.51.100.7").status, time.monotonic() - began))

    asking = threading.Thread(target=ask)
    asking.start()
    yield
    wait_for("an answer", lambda: answers)
    over.set()
    asking.join()
    assert {status for status, _ in answers} <= {200}
    seconds = sorted(took for _, took in answers)
    record_property(
        "figure", f"others waited {1000 * seconds[int(len(seconds) * 0.99)]:.0f} ms (p99), {memory(site)} MB"
    )
    if "worker_ends" not in request.keywords:
        assert [process.pid for process in site.bokeh_workers()] == before


def memory(one: Dyno) -> list[int]:
    """Return the resident memory of each Bokeh worker, in MB."""
    return [process.memory_info().rss // MB for process in one.bokeh_workers()]


def turn(visitor: Visitor, value: object, name: str = "height") -> None:
    """Move the slider of the visitor's document."""
    visitor.send_message(change(find(visitor.document(), name), "value", value))


# --- what is logged ---------------------------------------------------------------------------------------------------


def test_a_method_of_31500_letters_is_refused_and_logged_short(site: Dyno) -> None:
    def ask(_: int) -> bytes:
        with socket.create_connection(("127.0.0.1", site.port)) as client:
            client.sendall(b"G" * 31_500 + f" / HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode())
            return client.recv(20)

    with ThreadPoolExecutor(4) as pool:
        assert {answer[9:10] for answer in pool.map(ask, range(8))} == {b"4"}
    assert site.get("/healthz").status == 200


def test_a_message_of_one_long_word_is_logged_short(site: Dyno) -> None:
    for _ in range(4):  # both workers
        with Visitor(site) as visitor:
            visitor.message("ACK")
            visitor.send(frame(b"a" * 100_000) + frame(b"{}") + frame(b"{}"))
            assert visitor.close_code() == 1011
    assert max(map(len, site.log().splitlines())) < 11_000


def test_a_line_of_100_mb_is_cut_before_honcho_has_it(site: Dyno) -> None:
    def size() -> int:
        return sum(process.memory_info().rss for process in site.find("honcho start"))

    before = size()
    with Visitor(site, "ends") as visitor:
        turn(visitor, 10, "slider")
        visitor.message("OK")
    site.wait_for_log("a word after it")
    (line,) = re.findall("begin.*", site.log())
    assert len(line) < 10_100
    assert size() < before + 5 * MB


def test_more_lines_than_honcho_can_print_are_left_out_and_counted(site: Dyno) -> None:
    with Visitor(site, "ends") as visitor:
        turn(visitor, 11, "slider")
        visitor.socket.settimeout(60)
        visitor.message("OK")
        visitor.send_message(change(find(visitor.document_json, "slider"), "value", 12))
    site.wait_for_log("the last word", 60)
    printed, left_out = re.findall(r"\| line \d+$", site.log(), re.MULTILINE), re.findall(r"… (\d+) lines", site.log())
    assert len(printed) + sum(map(int, left_out)) == 200_000
    assert len(printed) < 100_000  # 20,000, and 2,000 in each second that it took
    assert max(process.memory_info().rss for process in site.find("honcho start")) < 60 * MB


# --- what a message may cost ------------------------------------------------------------------------------------------


def test_what_is_packed_in_a_message_may_not_be_larger_than_one(site: Dyno) -> None:
    packed = base64.b64encode(gzip.compress(bytes(450 * MB))).decode()
    with Visitor(site) as visitor:
        turn(visitor, {"type": "bytes", "data": packed})
        assert visitor.message("ERROR") == {"text": "not understood", "traceback": None}
        small = base64.b64encode(gzip.compress(b"12345678")).decode()  # what Bokeh's own client sends
        array = {"type": "bytes", "data": small}
        visitor.send_message(
            {"events": [{"kind": "TitleChanged", "title": "x"}, *change("x", "value", array)["events"]]}
        )
        assert "traceback" in visitor.message("ERROR")  # no model has that id; the connection goes on
    assert max(memory(site)) < AT_REST


@pytest.mark.parametrize(
    "content",
    [
        {"type": "ndarray", "array": ["a"] * 3, "dtype": "U500000000", "shape": [3], "order": "little"},
        {"type": "ndarray", "array": [0], "dtype": "S2000000000", "shape": [1], "order": "little"},
    ],
    ids=["letters", "bytes"],
)
def test_a_message_that_takes_too_much_memory_ends_its_session_only(site: Dyno, content: dict) -> None:
    with Visitor(site) as neighbour:
        neighbour.message("ACK")
        with Visitor(site) as visitor:
            turn(visitor, content)
            assert visitor.close_code() == 4000
            assert b"it took more memory or time than it may" in visitor.received
        assert is_open(neighbour.socket)
    assert max(memory(site)) < AT_REST


def test_json_that_takes_too_much_memory_is_not_read(site: Dyno) -> None:
    with Visitor(site) as visitor:
        visitor.message("ACK")
        visitor.send_message("[" + "[]," * 6_000_000 + "[]]")
        assert visitor.close_code() == 1011
    wait_for("the memory", lambda: max(memory(site)) < AT_REST)


def test_a_callback_that_takes_too_much_memory_ends_its_session_and_the_memory_is_given_back(site: Dyno) -> None:
    with Visitor(site, "ends") as visitor:
        turn(visitor, 9, "slider")
        assert visitor.close_code() == 4000
    wait_for("the memory", lambda: max(memory(site)) < AT_REST, 30)  # what is left of sessions is collected every 10 s


def test_messages_that_do_not_end_hold_a_part_of_the_memory_and_give_it_back(site: Dyno) -> None:
    visitors = [Visitor(site, address=f"203.0.113.{number % 10}") for number in range(30)]

    def push(visitor: Visitor) -> None:
        visitor.message("ACK")
        with contextlib.suppress(OSError):  # it has been closed
            visitor.send(frame(b"x" * 15 * MB, announced=15 * MB + 1))

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(push, visitors))
    wait_for(
        "most to be closed", lambda: sum(is_open(visitor.socket) for visitor in visitors) <= 8
    )  # 64 MB in each worker
    assert any(is_open(visitor.socket) for visitor in visitors)
    assert sum(memory(site)) < 450
    for visitor in visitors:
        visitor.socket.close()
    wait_for("the memory", lambda: max(memory(site)) < AT_REST)


def test_a_message_in_many_parts_counts_as_one(site: Dyno) -> None:
    with Visitor(site) as visitor:
        visitor.message("ACK")
        header = {"msgid": "1", "msgtype": "PATCH-DOC", "num_buffers": 1_000_000}
        parts = frame(json.dumps(header).encode()) + frame(b"{}") + frame(b'{"events": []}')
        visitor.send(parts)
        with contextlib.suppress(OSError):
            for number in range(30):
                visitor.send(frame(json.dumps({"id": str(number)}).encode()) + frame(bytes(1 * MB), 2))
        assert visitor.close_code() in (1009, 1006)
    wait_for("the memory", lambda: max(memory(site)) < AT_REST)


def test_what_nobody_goes_on_with_ends(site: Dyno, project: Path, dyno: MakeDyno) -> None:
    """A message, the reading of answers, a session that no page opens: side by side, for each is given 20 s or more."""
    one = dyno(project, {"BOKEH_WORKERS": "1", "VISITOR_SESSIONS": "1"}).start()
    with Visitor(site) as visitor, Visitor(site) as quiet, Visitor(site, "streams") as idle:
        for each in (visitor, quiet, idle):
            each.message("ACK")
        visitor.socket.settimeout(40)
        visitor.send(frame(b"x", announced=1000))
        assert one.get("/bkapp/counter").status == 200
        began = time.monotonic()
        assert one.get("/bkapp/counter").status == 429
        assert visitor.close_code() == 1008
        assert is_open(quiet.socket)
        wait_for("room", lambda: one.get("/bkapp/counter").status == 200, 40)
        assert time.monotonic() - began > 15
        site.wait_for_log("WebSocket closed: what was sent is not read", 60)
    assert max(memory(site)) < AT_REST


def test_documents_are_not_sent_without_end(site: Dyno) -> None:
    with Visitor(site) as visitor:
        visitor.message("ACK")
        header = json.dumps({"msgid": "1", "msgtype": "PULL-DOC-REQ"}).encode()
        with contextlib.suppress(OSError):
            visitor.send((frame(header) + frame(b"{}") + frame(b"{}")) * 85_000)
        wait_for("the end", lambda: not is_open(visitor.socket))
    site.wait_for_log("WebSocket closed: too many documents")


def test_a_visitor_is_not_told_where_the_server_keeps_its_files(site: Dyno) -> None:
    with Visitor(site) as visitor:
        visitor.message("ACK")
        for _ in range(10):
            visitor.send_message({"events": [{"kind": "ModelChanged", "model": {"id": "none"}, "attr": "x", "new": 1}]})
            visitor.message("ERROR")
        visitor.send_message({"events": 1})
        assert visitor.close_code() == 1008  # enough of that
    assert b"Traceback" not in visitor.received
    assert b"/dyno" not in visitor.received
    assert b"site-packages" not in visitor.received


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=99",
        "permessage-deflate; nonsense=1, permessage-deflate",
        "permessage-deflate; client_max_window_bits=x",
        "x" * 5000,
    ],
)
def test_an_odd_offer_of_compression_is_declined(site: Dyno, offer: str) -> None:
    status, websocket = site.handshake(
        "/bkapp/counter/ws", site.token("/with/counter"), **{"Sec-WebSocket-Extensions": offer}
    )
    with websocket:
        assert status == 101
        assert not websocket.recv(1)[0] & 0x40  # not compressed


# --- how many sessions ------------------------------------------------------------------------------------------------


def test_300_unread_answers_of_one_visitor_leave_the_app_to_the_others(site: Dyno) -> None:
    request = f"GET /bkapp/counter/autoload.js?bokeh-autoload-element=x HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
    clients = [socket.create_connection(("127.0.0.1", site.port), timeout=30) for _ in range(300)]
    for client in clients:
        client.sendall(f"{request}X-Forwarded-For: 203.0.113.5\r\n\r\n".encode())
    assert site.get("/bkapp/counter", X_Forwarded_For="198.51.100.8").status == 200
    with Visitor(site, address="198.51.100.9") as visitor:
        visitor.message("ACK")
    found = Counter()
    for client in clients:
        with client:
            found[client.recv(12)[9:]] += 1
    assert set(found) == {b"200", b"429"}
    assert found[b"200"] < 100


# of one visitor four, and two of others
ADDRESSES = [
    ("203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.113.3"),
    ("::ffff:203.0.113.1", "203.0.113.1", "::ffff:cb00:7101", "203.0.113.1", "::ffff:203.0.113.2", "203.0.113.3"),
    ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:0:a::", "2001:db8::", "2001:db8:0:1::1", "2001:db8:1::1"),
]


@pytest.mark.parametrize("addresses", ADDRESSES, ids=["IPv4", "mapped", "IPv6"])
def test_sessions_of_a_visitor_and_of_a_worker_are_limited(
    project: Path, dyno: MakeDyno, addresses: tuple[str, ...]
) -> None:
    *same, again, second, third = addresses
    one = dyno(project, {"BOKEH_WORKERS": "1", "VISITOR_SESSIONS": "3", "BOKEH_MAX_SESSIONS": "5"}).start()
    with contextlib.ExitStack() as stack:

        def visit(address: str) -> Visitor:
            return stack.enter_context(Visitor(one, address=address))

        opened = [visit(address) for address in same]
        for visitor in opened:
            visitor.message("ACK")
        assert visit(again).close_code() == 1013  # try again later
        refused = one.get("/bkapp/counter", X_Forwarded_For=again)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "10"
        assert '<meta http-equiv="refresh"' in refused.text
        for _ in range(2):
            visit(second).message("ACK")
        assert visit(third).close_code() == 1013
        # whoever is there already may come again; whoever has left makes room
        stack.enter_context(Visitor(one, address=again, token=opened[0].token)).message("ACK")
        opened[1].socket.close()
        wait_for("room", lambda: _has_room(one, third))


def _has_room(one: Dyno, address: str) -> bool:
    with Visitor(one, address=address) as visitor:
        return next(visitor.frames())[0] != 8


# --- what the page says -----------------------------------------------------------------------------------------------


def test_a_page_that_finds_no_room_says_so_and_tries_again_by_itself(project: Path, dyno: MakeDyno, page) -> None:
    one = dyno(project, {"BOKEH_WORKERS": "1", "BOKEH_MAX_SESSIONS": "1"}).start()
    with Visitor(one) as visitor:
        visitor.message("ACK")
        page.goto(f"http://127.0.0.1:{one.port}/with/counter")
        page.get_by_role("status").get_by_text(
            "There are too many open plots here at the moment. Trying again…"
        ).wait_for()
        own = page.context.new_page()
        own.goto(f"http://127.0.0.1:{one.port}/bkapp/counter")
        own.get_by_text("That is too much at once from here. This page tries again by itself.").wait_for()
        own.close()
    assert_plots_are_drawn(page, 1, 40)
    page.get_by_role("status").wait_for(state="detached")


def test_a_page_whose_app_ends_workers_says_so_and_stops(project: Path, dyno: MakeDyno, page) -> None:
    (project / "bokeh_app" / "ends").mkdir()
    (project / "bokeh_app" / "ends" / "main.py").write_text(ENDS)
    one = dyno(project).start()
    page.goto(f"http://127.0.0.1:{one.port}/with/ends?how=process")
    told = page.get_by_role("status").get_by_text("This plot cannot be shown at the moment: its app has failed.")
    told.wait_for(timeout=60_000)  # of three workers, each of which is waited for
    wait_for("their lines", lambda: one.log().count("it ran bokeh_app/ends") >= 3)
    assert one.log().count("it ran bokeh_app/ends") == 3
    page.complaints.clear()  # WebSockets that were cut off


def test_a_page_whose_session_ended_says_so_and_stops(site: Dyno, page) -> None:
    page.goto(f"http://127.0.0.1:{site.port}/with/ends")
    page.locator(".noUi-handle").first.wait_for()
    page.wait_for_function("Bokeh.documents.length == 1")
    told = page.get_by_role("status").get_by_text("This plot has ended: it took more memory or time than it may.")
    # whose memory it is, is not known where another visitor's app has run meanwhile: then the next time counts
    for value in (9, 19, 29):
        page.evaluate("(value) => { Bokeh.documents[0].get_model_by_name('slider').value = value }", value)
        with contextlib.suppress(PlaywrightTimeout):
            told.wait_for(timeout=10_000)
            break
    assert told.is_visible()


def test_a_page_that_has_too_much_to_send_says_so_and_lives(site: Dyno, page) -> None:
    page.goto(f"http://127.0.0.1:{site.port}/with/ends")
    page.locator(".noUi-handle").first.wait_for()
    page.evaluate("""async () => {
        while (Bokeh?.documents?.length != 1) await new Promise((done) => setTimeout(done, 20))
        Bokeh.documents[0].get_model_by_name("slider").title = "x".repeat(22e6)
    }""")
    page.get_by_role("status").get_by_text(
        "That is too large to be sent: it takes 22.0 MB, and 21.0 MB are possible."
    ).wait_for()
    assert page.evaluate("Bokeh.documents.length") == 1


# --- connections ------------------------------------------------------------------------------------------------------


def test_8400_half_open_connections_leave_room_for_others(site: Dyno) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8400):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
            client.sendall(b"GET /echo HTT")
        for _ in range(50):
            assert site.get("/with/counter", X_Forwarded_For="198.51.100.8").status == 200


def test_of_bodies_that_do_not_come_a_visitor_has_20(site: Dyno) -> None:
    head = (
        f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nX-Forwarded-For: 203.0.113.5\r\nContent-Length: 99\r\n"
    )
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(2000):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=30)))
            clients[-1].sendall(f"{head}\r\nx".encode())
        # Which twenty it has is up to nginx: its workers need not take connections in the order in which they were made
        answered = selectors.DefaultSelector()
        for client in clients:
            answered.register(client, selectors.EVENT_READ)
        wait_for("1980 answers", lambda: len(answered.select(0)) == 1980, 40)
        assert {key.fileobj.recv(12)[9:] for key, _ in answered.select(0)} == {b"429"}
        assert site.request("POST", "/echo", {"X-Forwarded-For": "203.0.113.5"}, b"x").status == 429
        assert site.request("POST", "/echo", {"X-Forwarded-For": "203.0.113.6"}, b"x").status == 200
        assert site.request("GET", "/echo", {"X-Forwarded-For": "203.0.113.5"}).status == 200


def test_connections_of_a_visitor_are_limited(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project, {"VISITOR_CONNECTIONS": "3"}).start()
    # of others than the first ones, whose connections may not have ended yet
    mapped = [address.replace("203.0.113.", "::ffff:198.51.100.") for address in ADDRESSES[0]]
    for *same, again, second, third in (ADDRESSES[0], ADDRESSES[2], mapped):
        with contextlib.ExitStack() as stack:
            for address in same:
                stack.enter_context(Visitor(one, address=address)).message("ACK")
            for path, status in (("/echo", 429), ("/bkapp/counter", 429), ("/healthz", 200)):
                assert one.get(path, X_Forwarded_For=again).status == status, path
            assert one.get("/echo", X_Forwarded_For=second).status == 200
            assert one.get("/echo", X_Forwarded_For=third).status == 200


# --- other people's code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_an_app_that_ends_while_its_page_is_made_ends_no_worker(site: Dyno, how: str) -> None:
    for _ in range(8):
        assert site.get(f"/bkapp/ends?how={how}").status == 200
    token = token_in(site.get(f"/bkapp/ends?how={how}").text)
    with Visitor(site, "ends", token=token) as visitor:
        assert "This plot could not be made." in json.dumps(visitor.document())


@pytest.mark.parametrize("value", range(1, 9))
def test_an_app_that_ends_in_a_callback_ends_no_worker(site: Dyno, value: int) -> None:
    with Visitor(site, "ends") as visitor:
        turn(visitor, value, "slider")
        if value < 3:
            assert visitor.message("ERROR")["text"] == "the app has failed"
        else:
            visitor.message("OK")
        visitor.send_message({}, {"msgid": "d", "msgtype": "PULL-DOC-REQ"})
        visitor.message("PULL-DOC-REPLY")  # it goes on


@pytest.mark.worker_ends
@pytest.mark.parametrize("how", ["process", "crash"])
def test_an_app_that_ends_workers_is_off_for_a_while_and_the_others_go_on(
    project: Path, dyno: MakeDyno, how: str
) -> None:
    (project / "bokeh_app" / "ends").mkdir()
    (project / "bokeh_app" / "ends" / "main.py").write_text(ENDS)
    one = dyno(project, {"BOKEH_WORKERS": "3"}).start()
    for number in range(1, 4):
        answer = one.get(f"/bkapp/ends?how={how}")
        assert answer.status == 503
        assert "its app has failed" in answer.text
        wait_for("the worker", lambda: len(one.bokeh_workers()) == 3 and one.get("/healthz").status == 200)
        wait_for("its line", lambda number=number: one.log().count("it ran bokeh_app/ends") >= number)
        assert one.log().count("it ran bokeh_app/ends") == number  # of one worker each time
    for _ in range(7):
        assert one.get(f"/bkapp/ends?how={how}").status == 503
    with Visitor(one, "ends") as visitor:
        assert visitor.close_code() == 4000
        assert b"its app has failed" in visitor.received
    assert one.log().count("it ran bokeh_app/ends") == 3
    with Visitor(one, "counter") as visitor:
        visitor.message("ACK")
    assert one.stop(signal.SIGTERM) == 0


def test_a_page_of_the_site_that_ends_its_worker_does_not_end_the_dyno(project: Path, dyno: MakeDyno) -> None:
    site = project / "flask_app" / "__init__.py"
    route = '    @app.route("/end")\n    def end():\n        os._exit(1)\n\n    return app\n'
    site.write_text(site.read_text().replace("    return app\n", route))
    one = dyno(project).start()
    for _ in range(8):
        one.get("/end")
        wait_for("the site", lambda: one.get("/healthz").status == 200)
    one.wait_for_log("a worker died while it answered 1 requests")
    assert one.stop(signal.SIGTERM) == 0


# --- the dyno itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "value"), [("RLIMIT_FSIZE", 100), ("RLIMIT_NOFILE", 5)], ids=["disk", "files"])
def test_a_reload_for_which_there_is_no_room_changes_nothing(
    project: Path, dyno: MakeDyno, limit: str, value: int
) -> None:
    one = dyno(project).start()
    before = (project / "run" / "nginx.conf").read_text()
    process = psutil.Process(one.process.pid)
    limits = process.rlimit(getattr(psutil, limit))
    process.rlimit(getattr(psutil, limit), (value, limits[1]))
    # of a log in a file, only what comes later is of this size
    one.process.send_signal(signal.SIGHUP)
    if limit == "RLIMIT_NOFILE":
        one.wait_for_log("error: .*nginx goes on with the configuration it has")
    else:
        wait_for("the attempt", lambda: (project / "run" / "nginx.new").exists())
    assert one.get("/echo").status == 200
    process.rlimit(getattr(psutil, limit), limits)
    assert (project / "run" / "nginx.conf").read_text() == before
    one.process.send_signal(signal.SIGHUP)
    one.wait_for_log("nginx reloads its configuration")
    assert one.stop() == 0
    assert "Traceback" not in one.log()


def test_the_folder_of_the_sockets_is_its_owners(site: Dyno, project: Path, dyno: MakeDyno) -> None:
    run = site.folder / "run"
    for path in (run, *run.glob("*/*.sock")):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path
    (project / "run").mkdir(mode=0o755)  # as the version before has left it
    (project / "run" / "flask.pid").touch()
    one = dyno(project).start()
    assert not (project / "run").stat().st_mode & 0o077
    assert one.stop() == 0


@pytest.mark.parametrize("folder", ["everybody's", "full"])
def test_a_folder_of_others_is_not_taken(scratch: Path, project: Path, dyno: MakeDyno, folder: str) -> None:
    path = scratch / "other"
    path.mkdir()
    path.chmod(0o777 if folder == "everybody's" else 0o755)
    (path / "a file").touch()
    one = dyno(project, {"RUN_DIR": str(path)}).launch()
    assert one.wait() == 1
    assert re.search("error: RUN_DIR=.* is a folder of others, too", one.log())
    assert path.stat().st_mode & 0o777 in (0o777, 0o755)


# --- the example ------------------------------------------------------------------------------------------------------


def test_passwords_cannot_be_tried_without_end(example: Path, dyno: MakeDyno) -> None:
    one = dyno(example, {"DEMO_PASSWORD": secrets.token_hex(8), "WEB_CONCURRENCY": "1"}).start()
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def tried(address: str) -> int:
        return one.request("POST", "/login", {**form, "X-Forwarded-For": address}, b"name=demo&password=x").status

    for address in ("203.0.113.1", "2001:db8::{}"):  # one line's, and all of another's
        found = Counter(tried(address.format(number)) for number in range(60))
        assert set(found) == {403, 429}
        assert found[403] == 5
    form["X-Forwarded-For"] = "203.0.113.1"
    refused = one.request("POST", "/login", form, b"name=demo&password=x")
    assert "too many wrong passwords" in refused.text
    assert refused.headers["retry-after"] == "60"
    form["X-Forwarded-For"] = "203.0.113.2"
    assert one.request("POST", "/login", form, b"name=demo&password=x").status == 403
    assert one.get("/login", X_Forwarded_For="203.0.113.1").status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_login_cookie_is_secure_behind_https(example: Path, dyno: MakeDyno, scheme: str) -> None:
    one = dyno(example, {"DEMO_PASSWORD": "a password"}).start()
    form = {"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-Proto": scheme}
    answer = one.request("POST", "/login", form, b"name=demo&password=a+password")
    assert answer.status == 303
    assert ("Secure" in answer.headers["set-cookie"]) == (scheme == "https")


# --- callbacks that take long, where Bokeh calls them in threads --------------------------------------------------------

SLOW = """
import pathlib
import time
from bokeh.io import curdoc
from bokeh.models import Slider

def turned(attr, old, new):
    while not pathlib.Path("go").exists():
        time.sleep(0.05)

slider = Slider(name="slider", start=0, end=100, value=0)
slider.on_change("value", turned)
curdoc().add_root(slider)
"""
in_threads = pytest.mark.skipif(not private.IN_THREADS, reason="this Bokeh calls callbacks one after the other")


@pytest.fixture
def slow(project: Path, dyno: MakeDyno) -> Dyno:
    """A site with one worker and an app whose callback takes until there is a file `go`."""
    (project / "bokeh_app" / "slow").mkdir()
    (project / "bokeh_app" / "slow" / "main.py").write_text(SLOW)
    return dyno(project, {"BOKEH_WORKERS": "1", "BOKEH_HANG_TIMEOUT": "4"}).start()


@in_threads
def test_a_slow_callback_stops_its_own_visitor_only(slow: Dyno) -> None:
    with Visitor(slow, "slow") as visitor, Visitor(slow) as other:
        turn(visitor, 1, "slider")
        turn(other, 5)
        other.message("OK")
        (slow.folder / "go").touch()
        visitor.message("OK")


@in_threads
@pytest.mark.worker_ends
def test_a_worker_whose_callbacks_all_hang_is_replaced(slow: Dyno) -> None:
    visitors = [Visitor(slow, "slow", address=f"203.0.113.{number}") for number in range(32)]
    for visitor in visitors:
        turn(visitor, 2, "slider")
    slow.wait_for_log(r"hung for [0-9]+ s \(BOKEH_HANG_TIMEOUT\): starting it again; it ran bokeh_app/slow", 30)
    for visitor in visitors:
        visitor.socket.close()
    wait_for("the worker", lambda: slow.get("/bkapp/counter/metadata").status == 200)  # /healthz is of a second ago
    with Visitor(slow) as visitor:
        visitor.message("ACK")
