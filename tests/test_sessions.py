"""Sessions that Flask mints: one run, one worker, nothing leaked, strangers refused."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id, get_session_id, get_token_payload
from conftest import run_for_the_session
from dyno_under_test import OTHER_SITE, Dyno, token_in, wait_for

from bokeh_dyno.shared import tokens

KEY = secrets.token_hex(32)
PAGE = "/with/counter"
WS = "/bkapp/counter/ws"


@pytest.fixture(scope="module")
def four() -> Iterator[Dyno]:
    """A site with four Bokeh workers and a key that the tests know."""
    yield from run_for_the_session(OTHER_SITE, "installed", BOKEH_WORKERS="4", BOKEH_SECRET_KEY=KEY)


@pytest.fixture(scope="module")
def closed() -> Iterator[Dyno]:
    """A site whose apps are shown in its own pages only."""
    yield from run_for_the_session(
        OTHER_SITE,
        "installed",
        BOKEH_SESSIONS="flask",
        BOKEH_SECRET_KEY=KEY,
        BOKEH_ALLOW_WS_ORIGIN="friend.example",
    )


def runs(dyno: Dyno) -> list[list[str]]:
    """Return (session id, pid of the worker) of every run of the app so far, those of the boot included."""
    with open(dyno.env["TEST_COUNTER"]) as file:
        return [line.split() for line in file]


def open_websocket(dyno: Dyno, token: str, path: str = WS) -> int:
    """Open a WebSocket, wait until its session is there, close it; return the status of the handshake."""
    status, client = dyno.handshake(path, token)
    with client:
        if status == 101:
            client.settimeout(10)
            assert client.recv(1)  # the first byte of the ACK, sent when the session exists
    return status


def forged(change: str) -> str:
    """Return a token that is not to be accepted."""
    other = b"another key, as long as it has to be"
    good = {"secret_key": KEY.encode(), "signed": True}
    session = generate_session_id(**good)
    payload = base64.urlsafe_b64encode(json.dumps({"session_id": session, "session_expiry": 2e9}).encode()).decode()
    return {
        "unsigned": lambda: generate_jwt_token(session, signed=False, expiration=600),
        "foreign key": lambda: generate_jwt_token(
            generate_session_id(secret_key=other, signed=True), secret_key=other, signed=True, expiration=600
        ),
        "foreign session": lambda: generate_jwt_token("a" * 44, **good, expiration=600),
        "tampered": lambda: "A" + generate_jwt_token(session, **good, expiration=600)[1:],
        "tampered signature": lambda: re.sub(
            r"\.(.)", lambda first: f".{'AB'[first[1] == 'A']}", generate_jwt_token(session, **good, expiration=600)
        ),
        "expired": lambda: generate_jwt_token(session, **good, expiration=-1),
        "own signature": lambda: payload.rstrip("=") + ".c2lnbmVk",
        "empty": lambda: "",
        "garbage": lambda: "garbage",
        "not base64": lambda: "%21%21%21.%21%21%21",
        "not ASCII": lambda: "%C3%A4.%C3%B6",
        "nested": lambda: base64.urlsafe_b64encode(b"[" * 3000).decode() + ".x",
        "oversized": lambda: "A" * 20_000 + ".x",
    }[change]()


FORGED = ["unsigned", "foreign key", "foreign session", "tampered", "tampered signature", "expired", "own signature"]
FORGED += ["empty", "garbage", "not base64", "not ASCII", "nested", "oversized"]


def test_12_of_12_dropped_websockets_find_their_session_again(four: Dyno):
    minted = [four.token(PAGE) for _ in range(12)]
    before = len(runs(four))
    for _ in range(3):
        assert [open_websocket(four, token) for token in minted] == [101] * 12
    made = runs(four)[before:]
    assert len(made) == 12
    assert len({pid for _, pid in made}) == 4
    # nginx has sent each where its id was to lead
    assert len({(tokens.worker_of(session_id, 4), pid) for session_id, pid in made}) == 4


BUSY = """
import os
import time

from bokeh.io import curdoc

def stay():
    with open(os.environ["TEST_COUNTER"] + ".busy", "w") as file:
        file.write(str(os.getpid()))
    while os.path.exists(file.name):
        time.sleep(0.01)

if "stay" in curdoc().session_context.request.arguments:
    curdoc().add_next_tick_callback(stay)
"""


def test_a_new_session_goes_to_no_worker_that_is_in_a_callback(project: Path, dyno, scratch: Path):
    (project / "bokeh_app" / "busy").mkdir()
    (project / "bokeh_app" / "busy" / "main.py").write_text(BUSY)
    one = dyno(project, {"TEST_COUNTER": str(scratch / "runs")}).start()
    token = one.token("/with/busy?stay=1")
    busy = tokens.worker_of(get_session_id(token), 2)
    assert open_websocket(one, token, "/bkapp/busy/ws") == 101
    pid = wait_for("the callback", lambda: (path := scratch / "runs.busy").exists() and path.read_text())

    def minted(count: int) -> list[str]:
        return [one.token(page) for page in (PAGE, "/bkapp/counter") for _ in range(count // 2)]

    def others(found: list[str]) -> bool:
        return busy not in (tokens.worker_of(get_session_id(token), 2) for token in found)

    # by pages of the site: an own page asks the worker for its session at once
    wait_for("pages of the site to go elsewhere", lambda: others([one.token(PAGE) for _ in range(12)]))
    before = len(runs(one))
    found = minted(12)
    assert others(found)
    assert [open_websocket(one, token) for token in found] == [101] * 12
    assert pid not in {worker for _, worker in runs(one)[before:]}
    renewed = one.get("/with/busy?stay=1", Bokeh_Token=f"/bkapp/busy 0 {token}").text
    assert token[:80] in renewed
    (scratch / "runs.busy").unlink()
    wait_for("pages of the site to go there again", lambda: not others([one.token(PAGE) for _ in range(4)]))
    assert one.stop() == 0


COUNT = """
import gc, os, sys
from bokeh.document import Document
from tornado.ioloop import PeriodicCallback

def count():
    modules = sum(name.startswith("bokeh_app_") for name in sys.modules)
    documents = sum(isinstance(one, Document) for one in gc.get_objects())
    with open(os.environ["TEST_COUNTER"] + ".new", "w") as file:
        file.write(f"{modules} {documents}")
    os.replace(file.name, os.environ["TEST_COUNTER"])

counting = PeriodicCallback(count, 100)
"""


def test_sessions_that_have_ended_leave_nothing_behind(project: Path, dyno, scratch: Path):
    app = project / "bokeh_app" / "leftovers"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "count.py").write_text(COUNT)  # imported once, where the app's own module ends with each session
    (app / "main.py").write_text("from .count import counting\ncounting.is_running() or counting.start()\n")
    procfile = project / "Procfile.dyno"
    soon = "--unused-session-lifetime 8000 --check-unused-sessions 100"
    procfile.write_text(procfile.read_text().replace("bokeh_dyno.bokeh", f"bokeh_dyno.bokeh {soon}"))
    counted = scratch / "counted"
    one = dyno(project, {"BOKEH_WORKERS": "1", "BOKEH_WARM": "0", "TEST_COUNTER": str(counted)}).start()

    def left() -> list[int]:
        return [int(number) for number in counted.read_text().split()] if counted.exists() else [0]

    for _ in range(10):
        assert one.get("/bkapp/leftovers").status == 200
    wait_for("ten sessions", lambda: min(left()) >= 10)
    wait_for("their end", lambda: left() == [2, 0], 40)  # the app's package and count.py, which all sessions share
    assert one.stop() == 0


def test_the_apps_own_page_runs_the_app_once(four: Dyno):
    before = len(runs(four))
    for _ in range(8):
        assert open_websocket(four, four.token("/bkapp/counter")) == 101
    assert len(runs(four)) - before == 8


def test_arguments_of_the_apps_own_page_reach_it_in_the_token(four: Dyno):
    payload = get_token_payload(four.token("/bkapp/counter?word=a&word=%C3%A4&empty="))
    assert payload["arguments"] == {"word": [b"a", "ä".encode()], "empty": [b""]}


def test_arguments_that_are_too_long_for_a_token_are_refused_with_a_sentence(four: Dyno):
    answer = four.get("/bkapp/counter?word=" + "a" * 4100)
    assert answer.status == 414
    assert "too long" in answer.text


@pytest.mark.parametrize("page", [PAGE, "/bkapp/counter"])
def test_a_token_is_small_and_holds_nothing_of_the_visitors_request(four: Dyno, page: str):
    cookies = "; ".join(f"cookie{number}=secret{'x' * 1000}" for number in range(24))
    answer = four.get(page, Cookie=cookies, X_Private="secret", User_Agent="secret")
    assert answer.status == 200
    token = token_in(answer.text)
    assert len(token) < 512
    assert set(get_token_payload(token)) == {"session_expiry", "arguments", "bokeh_app"}
    assert open_websocket(four, token) == 101


@pytest.mark.parametrize("change", FORGED)
@pytest.mark.parametrize("path", ["/bkapp/counter", "/bkapp/counter/autoload.js"])
def test_a_forged_token_is_refused_on_pages(four: Dyno, path: str, change: str):
    before = len(runs(four))
    answer = four.get(f"{path}?bokeh-autoload-element=a&bokeh-token={forged(change)}")
    assert answer.status in (400, 403, 414), answer
    assert len(runs(four)) == before


@pytest.mark.parametrize("change", FORGED)
def test_a_forged_token_is_refused_for_websockets(four: Dyno, change: str):
    before = len(runs(four))
    assert open_websocket(four, forged(change)) in (400, 403)
    assert len(runs(four)) == before


@pytest.mark.parametrize("protocols", ["x, {}", "{}, x", "x, x, {}", "{0}, {0}"])
def test_a_good_token_among_other_protocols_is_refused(four: Dyno, protocols: str):
    assert open_websocket(four, protocols.format(four.token(PAGE))) == 403


@pytest.mark.parametrize(
    ("arguments", "visitor", "error"),
    [
        ({"a": [2]}, {}, "arguments are text, and a=2 is not: write '2'"),
        ({}, {"cookies": "x"}, "visitor may not contain cookies"),
        ({}, {"name": {1, 2}}, "set is not JSON"),
        ({}, {"name": secrets.token_hex(20_000)}, r"a token of [0-9,]+ bytes; 24,000 are allowed"),
    ],
    ids=["number", "reserved", "not JSON", "too long"],
)
def test_what_a_token_cannot_hold_is_told_the_pages_author(monkeypatch, arguments, visitor, error: str):
    monkeypatch.setenv("BOKEH_SECRET_KEY", KEY)
    with pytest.raises((TypeError, ValueError), match=error):
        tokens.mint(60, arguments, visitor)


def test_a_good_token_is_accepted(four: Dyno):
    good = {"secret_key": KEY.encode(), "signed": True}
    token = generate_jwt_token(generate_session_id(**good), **good, expiration=600)
    assert four.get(f"/bkapp/counter?bokeh-token={token}").status == 200
    assert open_websocket(four, token) == 101


@pytest.mark.parametrize("path", ["/bkapp/plain.one/ws", "/bkapp/plain.one", "/bkapp/plain.one/autoload.js"])
def test_a_token_opens_the_app_that_it_is_for_and_no_other(closed: Dyno, path: str):
    token = closed.token(PAGE)
    for asked, allowed in ((path.replace("plain.one", "counter"), True), (path, False)):
        if path.endswith("ws"):
            status = open_websocket(closed, token, asked)
        else:
            status = closed.get(f"{asked}?bokeh-token={token}&bokeh-autoload-element=1").status
        assert status in ((101, 200) if allowed else (403,)), asked


def test_an_argument_called_bytes_is_one_like_any_other(four: Dyno):
    token = four.token("/with/counter?bytes=1")
    status, websocket = four.handshake(WS, token)
    websocket.close()
    assert status == 101
    assert four.get("/with/counter?bytes=1", Bokeh_Token=f"/bkapp/counter 0 {token}").status == 200
    assert four.get("/bkapp/counter?bytes=1").status == 200


def test_a_visitor_who_leaves_at_once_is_no_error(
    project: Path, dyno
):  # and asks for the document in bytes of no alphabet
    one = dyno(project).start()
    for _ in range(20):
        status, websocket = one.handshake("/bkapp/counter/ws?document=%ff", one.token("/with/counter"))
        websocket.close()
        assert status == 101
    wait_for("the log", lambda: one.log().count('"GET /bkapp/counter/ws" 101') == 20)
    assert "Traceback" not in one.log()
    assert "ERROR" not in one.log()


def test_with_sessions_from_flask_only_an_apps_own_page_is_refused(closed: Dyno):
    before = len(runs(closed))
    for path in ("/bkapp/counter", "/bkapp/counter/", "/bkapp/counter/autoload.js?bokeh-autoload-element=a"):
        answer = closed.get(path)
        assert answer.status == 403
        assert "in a page of the site only" in answer.text
    assert len(runs(closed)) == before


def test_with_sessions_from_flask_only_a_page_of_the_site_works(closed: Dyno):
    token = closed.token(PAGE)
    assert open_websocket(closed, token) == 101
    assert closed.get(f"/bkapp/counter?bokeh-token={token}").status == 200


@pytest.mark.parametrize(
    ("origin", "readable"),
    [("https://friend.example", True), ("https://stranger.example", False), ("null", False)],
)
def test_autoload_js_can_be_read_by_listed_sites_only(closed: Dyno, origin: str, readable: bool):
    token = closed.token(PAGE)
    answer = closed.get(
        f"/bkapp/counter/autoload.js?bokeh-autoload-element=a&bokeh-token={token}", Origin=origin, Cookie="a=b"
    )
    assert answer.status == 200
    assert answer.headers.get("access-control-allow-origin") == (origin if readable else None)
    assert "access-control-allow-credentials" not in answer.headers


def test_no_token_no_session_id_and_no_argument_reaches_the_log(four: Dyno):
    token = four.token("/bkapp/counter?private=confidential")
    session = (
        get_token_payload(token) and json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["session_id"]
    )
    assert four.get(f"/bkapp/counter?bokeh-token={token}").status == 200
    open_websocket(four, token)
    four.get(f"/bkapp/counter?bokeh-token={token[:-3]}abc")
    four.get("/echo?last=one")
    four.wait_for_log(r'"GET /echo"')
    log = four.log()
    assert "confidential" not in log
    assert token[:60] not in log
    assert session[:40] not in log


def test_a_page_asked_for_again_gets_the_same_session_with_a_new_expiry(four: Dyno):
    token = four.token(PAGE)
    id_of = {"session": token[:80]}

    def later() -> str:
        answer = four.get(PAGE, Bokeh_Token=f"/bkapp/counter 0 {token}")
        return token_in(answer.text)

    fresh = wait_for("a token with a later expiry", lambda: (t := later()) != token and t)
    assert fresh[:80] == id_of["session"]
    assert get_token_payload(fresh)["session_expiry"] > get_token_payload(token)["session_expiry"] >= time.time()


def test_the_visitor_is_the_same_after_json_too(monkeypatch):
    monkeypatch.setenv("BOKEH_SECRET_KEY", KEY)
    visitor = {"groups": ("a", "b"), "by number": {1: "one"}}
    token = tokens.mint(60, {}, visitor)
    assert tokens.mint(60, {}, visitor, renews=token)[:80] == token[:80]
    assert tokens.mint(60, {}, {**visitor, "groups": ("a",)}, renews=token)[:80] != token[:80]


def test_a_page_asked_for_again_with_a_forged_token_gets_a_session_of_its_own(four: Dyno):
    token = forged("tampered signature")
    answer = four.get(PAGE, Bokeh_Token=f"/bkapp/counter 0 {token}")
    assert answer.status == 200
    assert token[:80] not in answer.text


@pytest.mark.parametrize("key", ["short", "a" * 64, "0123456789" * 5, "password" * 8])
def test_a_weak_key_is_refused_with_the_command_that_makes_a_good_one(project, dyno, key: str):
    weak = dyno(project, {"BOKEH_SECRET_KEY": key}).launch()
    assert weak.wait() == 1
    log = weak.log()
    assert "BOKEH_SECRET_KEY" in log
    assert "secrets.token_hex(32)" in log
    assert key not in log


def test_without_a_key_one_is_made_and_said_so(site: Dyno):
    assert len(re.findall("BOKEH_SECRET_KEY is not set: made one", site.log())) == 1
