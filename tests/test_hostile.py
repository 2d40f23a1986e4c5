"""Whatever one visitor sends, nobody else notices: more than a thousand requests and messages that keep to no rule.

hypothesis makes them, the same ones each time. None is answered with an error of ours, none learns what is private, no
process of the dyno ends, and another visitor is always answered.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from attacker import (
    ATTACKER,
    Answers,
    Neighbour,
    WebSocket,
    cpu_seconds,
    deflated,
    megabytes,
    private,
    processes,
    send_raw,
)
from conftest import run_for_the_session
from dyno_under_test import OTHER_SITE, Dyno, wait_for
from frames import BINARY, frame
from hostile import address, frames, handshakes, messages, one_of, requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

AT_ONCE = 10  # attacks that run at the same time
# CPU seconds of a worker that one message may take: BOKEH_MESSAGE_SECONDS is 2, the parser may take as much again, and a
# machine that others use, too, counts up to twice as many. What the neighbour waited is reported
BUSY = 10.0
GROWTH = 250  # MB that all workers together may keep of what they were sent


def attacks(examples: int) -> settings:
    """Return settings for a test: the same examples each time, and no search for a smaller one when one fails."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def target() -> Iterator[Dyno]:
    """The site of the tests, for the attacks of this file alone."""
    yield from run_for_the_session(OTHER_SITE, "installed", BOKEH_WORKERS="2")


@contextmanager
def watched(dyno: Dyno, record_property: Callable[[str, str], None]) -> Iterator[Answers]:
    """Collect answers; afterwards all processes have to be the same, and a neighbour to have been answered always."""
    before, memory = processes(dyno), megabytes(dyno)
    answers = Answers(dyno)
    with Neighbour(dyno) as neighbour:
        yield answers
    after = processes(dyno)
    record_property(
        "figure", f"{answers.figures()}; {neighbour.figures()}; {memory:.0f} MB before, {megabytes(dyno):.0f} after"
    )
    assert sorted(after) == sorted(before), f"before: {before}\nafter: {after}"
    assert neighbour.failed() == []
    assert not answers.faults, f"{len(answers.faults)} faults, such as\n" + "\n".join(answers.faults[:20])


def test_no_request_is_an_error_of_ours_or_stops_anything(target: Dyno, record_property) -> None:
    @attacks(60)
    @given(st.lists(requests(), min_size=AT_ONCE, max_size=AT_ONCE))
    def attack(batch: list[bytes]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for sent, received in zip(batch, pool.map(lambda one: send_raw(target, one), batch), strict=True):
                answers.note(sent, received)

    with watched(target, record_property) as answers:
        attack()
    assert answers.count["sent"] >= 500
    assert answers.count["answered"] >= 400
    for status in (200, 400, 404, 405):
        assert answers.count[f"{status}"] >= 10, answers.count


def test_no_handshake_is_an_error_of_ours_or_stops_anything(target: Dyno, record_property) -> None:
    token = target.token("/with/counter")

    def send(lines: list[str]) -> bytes:
        text = "\r\n".join(lines).replace("{token}", token) + "\r\n\r\n"
        # so that the answer ends: whoever is let in says good-bye
        return send_raw(target, text.encode("latin-1") + frame(b"\x03\xe8", 8))

    @attacks(35)
    @given(st.lists(handshakes(), min_size=AT_ONCE, max_size=AT_ONCE))
    def attack(batch: list[list[str]]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for sent, received in zip(batch, pool.map(send, batch), strict=True):
                answers.note(sent, received)

    with watched(target, record_property) as answers:
        attack()
    assert answers.count["sent"] >= 200
    assert answers.count["101"] >= 60
    assert answers.count["403"] >= 10


def test_no_frame_says_anything_private_or_stops_anything(target: Dyno, record_property) -> None:
    def send(batch: tuple[str, list[bytes]]) -> bytes:
        with WebSocket(target, batch[0]) as websocket:
            answers.add(f"handshake {websocket.status}")
            answers.add("acknowledged", websocket.is_acknowledged())
            websocket.send(b"".join(batch[1]))
            websocket.socket.settimeout(0.3)
            try:
                for _ in websocket.fragments():
                    pass
            except TimeoutError:
                answers.add("not closed", 1)
            return websocket.received

    batches = st.tuples(address, st.lists(frames, min_size=1, max_size=5))

    @attacks(25)
    @given(st.lists(batches, min_size=AT_ONCE, max_size=AT_ONCE))
    def attack(batch: list[tuple[str, list[bytes]]]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for sent, received in zip(batch, pool.map(send, batch), strict=True):
                answers.note(sent, received, http=False)

    with watched(target, record_property) as answers:
        attack()
    assert answers.count["sent"] >= 200
    assert answers.count["acknowledged"] >= 150


def model_ids(document: str) -> dict[str, str]:
    """Return the ids of the models of the app `counter` by the names that stand for them here."""
    kinds = {"SLIDER": "Slider", "SOURCE": "ColumnDataSource", "PLOT": "Figure", "COLUMN": "Column"}
    return {name: re.search(rf'"name":"{kind}","id":"(\w+)"', document)[1] for name, kind in kinds.items()}


def test_no_message_says_anything_private_or_stops_anything(target: Dyno, record_property) -> None:
    def send(batch: tuple[str, bool, list[list[str | bytes]]]) -> bytes:
        visitor, impatient, sent = batch
        with WebSocket(target, visitor) as websocket:
            if impatient:  # a message before the session is there
                websocket.send_message({"events": []})
            if websocket.is_acknowledged():
                answers.add("acknowledged", 1)
                known = model_ids(document) if (document := websocket.document()) else {}
                for parts in sent:
                    for part in parts:
                        for name, model in known.items() if isinstance(part, str) else ():
                            part = part.replace(f'"{name}"', f'"{model}"')
                        websocket.send_fragment(part)
                    answers.add("single", 1)
                answers.add("survived", websocket.is_alive())
            return websocket.received

    batches = st.tuples(address, one_of(True, *[False] * 9), st.lists(messages(), min_size=1, max_size=3))

    @attacks(50)
    @given(st.lists(batches, min_size=AT_ONCE // 2, max_size=AT_ONCE // 2))
    def attack(batch: list) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for sent, received in zip(batch, pool.map(send, batch), strict=True):
                answers.note(sent, received, http=False)
                for kind in ("OK", "ERROR", "PULL-DOC-REPLY"):
                    answers.add(kind, received.count(f'"msgtype":"{kind}"'.encode()))
                    answers.add(kind, received.count(f'"msgtype": "{kind}"'.encode()))

    with watched(target, record_property) as answers:
        attack()
    assert answers.count["single"] >= 300
    assert answers.count["acknowledged"] >= 150
    assert answers.count["OK"] >= 20
    assert answers.count["ERROR"] >= 20


# --- one message that is made to cost much ----------------------------------------------------------------------------


def model(kind: str, number: int = 0, **attributes: object) -> dict:
    """Return an event that adds a new model to the document."""
    return {
        "kind": "RootAdded",
        "model": {"type": "object", "name": kind, "id": f"new{number}", "attributes": attributes},
    }


def value(one: object) -> dict:
    """Return an event whose value is whatever Bokeh reads from one."""
    return {"kind": "TitleChanged", "title": one}


def array(dtype: object, data: object, shape: tuple[int, ...] = (1,)) -> dict:
    """Return an ndarray as Bokeh writes it."""
    return {"type": "ndarray", "array": data, "dtype": dtype, "shape": list(shape), "order": "little"}


def patch(*some: dict, buffers: tuple[bytes, ...] = ()) -> Callable[[WebSocket], None]:
    """Return what sends a PATCH-DOC with these events."""
    return lambda websocket: websocket.send_message({"events": some}, buffers=buffers)


def text(content: str) -> Callable[[WebSocket], None]:
    """Return what sends a PATCH-DOC with that as its content."""
    return lambda websocket: websocket.send_message(content)


def logged(content: str) -> Callable[[WebSocket], None]:
    """Return what sends a message with a header that is none: Bokeh writes its content to the log."""
    return lambda websocket: [websocket.send_fragment(part) for part in ("1", "{}", json.dumps(content))]


def never_ending(websocket: WebSocket) -> None:
    """Send 300 MB of buffers of a message that announces many more."""
    websocket.send_fragment(json.dumps({"msgid": "1", "msgtype": "PATCH-DOC", "num_buffers": 10**9}))
    websocket.send_fragment("{}")
    websocket.send_fragment('{"events": []}')
    for number in range(300):
        websocket.send_fragment(json.dumps({"id": f"b{number}"}))
        websocket.send_fragment(bytes(1_000_000))


def streamed(websocket: WebSocket) -> None:
    """Have the session keep 400 MB: each message adds to a column."""
    websocket.send_message({"events": [model("ColumnDataSource", data={"type": "map", "entries": [["x", [0]]]})]})
    for _ in range(40):
        more = {
            "kind": "ColumnsStreamed",
            "model": {"id": "new0"},
            "attr": "data",
            "data": {"x": ["x" * 10_000_000]},
            "rollover": None,
        }
        websocket.send_message({"events": [more]})


def pulled(websocket: WebSocket) -> None:
    """Ask for the document again and again, and read none."""
    websocket.send_message({"events": [model("Div", text="x" * 5_000_000)]})
    for _ in range(50):
        websocket.send_message({}, "PULL-DOC-REQ")


SAME_HASH = 2**61 - 1  # and each of its multiples has the hash 0
PICTURE = array("uint8", {"type": "bytes", "data": {"id": "b0"}}, (1000, 1000, 3))
NOISE = random.Random(1).randbytes(30_000) * 100
BOMB = base64.b64encode(gzip.compress(bytes(300_000_000), 1)).decode()
COSTLY = {
    "letters that are logged": logged("a" * 100_000),
    "capitals that are logged": logged("G" * 100_000),
    "dashes that are logged": logged("-" * 100_000),
    "zeros that are logged": lambda websocket: websocket.send_fragment(bytes(15_000_000)),
    "an error with long words": patch(model("Div", nothing="a" * 100_000), {"kind": "b" * 100_000}),
    "a length that is none": patch(model("Label", text_font_size="1" * 50_000)),
    "a set of numbers with the same hash": patch(
        value({"type": "set", "entries": [SAME_HASH * n for n in range(40_000)]})
    ),
    "a map of numbers with the same hash": patch(
        value({"type": "map", "entries": [[SAME_HASH * n, 0] for n in range(40_000)]})
    ),
    "many models": patch(*(model("Spacer", number) for number in range(4000))),
    "many pictures": patch(*(model("CustomAction", n, icon=PICTURE) for n in range(100)), buffers=(NOISE,)),
    "many small events": patch(*[value("a")] * 300_000),
    "long numbers": text('{"events": [' + ",".join(["9" * 4300] * 4500) + "]}"),
    "a number that is too long": text('{"events": [' + "9" * 1_000_000 + "]}"),
    "many lists": text("[" + "[]," * 6_000_000 + "[]]"),
    "many dicts": text("[" + "{}," * 6_000_000 + "{}]"),
    "deep lists": text("[" * 15_000_000),
    "a gzip bomb": patch(value({"type": "bytes", "data": BOMB})),
    "ten gzip bombs": patch(*(value({"type": "bytes", "data": BOMB[:]}) for _ in range(10))),
    "long strings of numpy": patch(value(array("U75000000", ["a"]))),
    "a large record of numpy": patch(value(array({"names": ["a"], "formats": ["f8"], "itemsize": 300_000_000}, [0]))),
    "a large array of numpy": patch(value(array("(40000000,)f8", [0]))),
    "a compressed bomb": lambda websocket: websocket.send(frame(deflated(bytes(200_000_000), 1), BINARY, reserved=4)),
    "buffers without end": never_ending,
    "columns without end": streamed,
    "documents that nobody reads": pulled,
    "the log as a picture": patch(model("CustomAction", icon="/dev/stdout")),
}


@pytest.fixture(scope="module")
def fragile() -> Iterator[Dyno]:
    """A site with one Bokeh worker, which is replaced when it does nothing else for 15 seconds."""
    yield from run_for_the_session(OTHER_SITE, "installed", BOKEH_WORKERS="1", BOKEH_HANG_TIMEOUT="15")


@pytest.mark.parametrize("name", COSTLY)
def test_no_message_costs_the_others_much(fragile: Dyno, name: str, record_property) -> None:
    (before,) = wait_for("the worker", fragile.bokeh_workers)
    memory, cpu = megabytes(fragile), cpu_seconds(fragile)
    visitor = f"{ATTACKER}{1 + list(COSTLY).index(name)}"  # each is a first offence
    with Neighbour(fragile) as neighbour, WebSocket(fragile, visitor) as websocket:
        assert websocket.is_acknowledged()
        COSTLY[name](websocket)
        try:
            websocket.is_alive()
        except TimeoutError:  # it is still busy
            pass
        wait_for("the worker", lambda: fragile.get("/bkapp/counter/metadata").status == 200, 60)
    workers = fragile.bokeh_workers()
    cpu, grown = cpu_seconds(fragile) - cpu, megabytes(fragile) - memory
    record_property("figure", f"{name}: {websocket.wire:,} bytes, {cpu:.2f} s, {grown:+.0f} MB; {neighbour.figures()}")
    assert [worker.pid for worker in workers] == [before.pid], "the worker has ended"
    assert neighbour.failed() == []
    assert cpu < BUSY
    # what is free it gives back every second; the session, and what that keeps, stays for longer than this waits
    wait_for("the rest of it to be given back", lambda: megabytes(fragile) - memory < GROWTH, 5)
    assert [one for one in private(fragile) if one in websocket.received] == []


def test_no_file_of_the_server_is_sent_to_a_visitor(fragile: Dyno) -> None:
    """Bokeh's Image takes the name of a file, from the browser, too, and sends what is in it."""
    (fragile.folder / "bokeh_app" / "private.svg").write_text("<svg>hunter2</svg>")
    paths = ["bokeh_app/private.svg", str(fragile.folder / "bokeh_app" / "private.svg")]
    with WebSocket(fragile, f"{ATTACKER}250") as websocket:
        assert websocket.is_acknowledged()
        websocket.send_message({"events": [model("CustomAction", n, icon=path) for n, path in enumerate(paths)]})
        assert "hunter2" not in websocket.document()
        assert b"hunter2" not in websocket.received


def test_no_file_of_the_server_is_sent_as_the_icon_of_a_tool_either(fragile: Dyno) -> None:
    """A tool is in the document already: such a message is short, and Bokeh 3.10 would read it in a thread."""
    (fragile.folder / "bokeh_app" / "private.svg").write_text("<svg>hunter2</svg>")
    with WebSocket(fragile, f"{ATTACKER}251") as websocket:
        assert websocket.is_acknowledged()
        tool = re.search(
            r'"name": ?"(?:Pan|WheelZoom|BoxZoom|Save|Reset)Tool", ?"id": ?"([^"]+)"', websocket.document()
        )
        for path in ("bokeh_app/private.svg", str(fragile.folder / "bokeh_app" / "private.svg")):
            change = {"kind": "ModelChanged", "model": {"id": tool[1]}, "attr": "icon", "new": path}
            websocket.send_message({"events": [change]})
        document = websocket.document()
        assert "hunter2" not in document
        assert base64.b64encode(b"<svg>hunter2</svg>").decode() not in document
