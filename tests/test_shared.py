"""The board that all visitors see: on three dynos behind haproxy, with a Redis that dies, hangs, and has nonsense in it."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis_under_test
from browsing import assert_plots_are_drawn
from dyno_under_test import ROOT, Dyno, copy_project, temporary_folder, wait_for
from redis_under_test import RedisServer, needs_redis
from router import router
from test_recovery import take_out_what_the_absence_caused
from visitor import Visitor, find

from bokeh_app.shared import board

OTHERS = ("dyno", "sliders", "upload")  # apps that have no part in this


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis for all tests of this file."""
    yield from redis_under_test.run()


def edit(file: Path, before: str, after: str) -> None:
    """Replace what is in the file once."""
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def dynos(redis: RedisServer) -> Iterator[list[Dyno]]:
    """Three dynos of one source and one Redis, then the router before them."""
    scratch = temporary_folder()
    values = {"BOKEH_SECRET_KEY": secrets.token_hex(32), "WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1"}
    started: list[Dyno] = []
    try:
        for number in (1, 2, 3):
            folder = copy_project(scratch / f"web.{number}")
            for name in OTHERS:
                shutil.rmtree(folder / "bokeh_app" / name)
            edit(folder / "Procfile.dyno", "bokeh_dyno.bokeh", "bokeh_dyno.bokeh --unused-session-lifetime 500")
            if number > 1:  # nothing but a message tells these
                edit(folder / "bokeh_app" / "shared" / "board.py", "LOOK = 5.0", "LOOK = 500.0")
            started.append(Dyno(folder, {**values, "REDIS_URL": redis.url}).launch())
        for one in started:
            one.wait_until_it_answers()
        assert redis.connections() == 0  # the run at boot has made none
        started.append(router(scratch / "router", started).start())
        yield started
        started[-1].stop()
        assert [one.stop() for one in started[:-1]] == [0, 0, 0]
    finally:
        for one in started:
            one.clean_up()
        shutil.rmtree(scratch)


@pytest.fixture(autouse=True)
def nothing_on_the_board(request: pytest.FixtureRequest) -> None:
    """Have each test begin with an empty board."""
    if "redis" in request.fixturenames:
        client = request.getfixturevalue("redis").client
        client.flushall()
        client.publish(board.KEY, "")


class Guest(Visitor):
    """A visitor of the board, who knows what it shows."""

    def __init__(self, dyno: Dyno) -> None:
        super().__init__(dyno, "shared", token=dyno.token("/apps/shared"))
        assert self.status == 101
        document = self.document()
        self._plot = find(document, "board")
        self.send_event("document_ready")

    def send_event(self, name: str, **values: object) -> None:
        """Send what a browser sends when something happens."""
        data = {"type": "event", "name": name, "values": {"type": "map", "entries": list(values.items())}}
        self.send_message({"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": data}]})

    def tap(self, x: object, y: object) -> None:
        """Tap a place of the board."""
        self.send_event("tap", model={"id": self._plot}, sx=1, sy=1, x=x, y=y)

    def wait_for(self, text: str) -> str:
        """Read messages until one has `text` in it, and return that."""
        self.socket.settimeout(15)
        while text not in (content := json.dumps(self.message("PATCH-DOC"), ensure_ascii=False)):
            pass
        return content


# --- across dynos -----------------------------------------------------------------------------------------------------


@needs_redis
def test_what_one_visitor_changes_is_seen_on_all_dynos(dynos: list[Dyno], redis: RedisServer) -> None:
    *dynos, site = dynos
    guests = []
    try:
        while not all("WebSocket connection opened" in one.log() for one in dynos):
            guests.append(Guest(site))
            assert len(guests) < 40, "the router never chose one of the dynos"
        for guest in guests:
            guest.wait_for("No dot is here yet.")
        guests[0].tap(30, 40)
        for guest in guests:
            guest.wait_for("1 of 60 dots.")
        guests[-1].tap(30.5, 40.5)
        for guest in guests:
            guest.wait_for("No dot is here yet.")
    finally:
        for guest in guests:
            guest.socket.close()
    # who has left is told nothing more, and the last one of a worker ends its connections
    wait_for("the end of the connections", lambda: redis.connections() == 0)


@needs_redis
def test_nothing_that_a_visitor_sends_is_on_the_board_unless_it_may_be(dynos: list[Dyno], redis: RedisServer) -> None:
    with Guest(dynos[0]) as guest:
        guest.wait_for("No dot is here yet.")
        for x, y in (
            (-1, 5),
            (1e308, 5),
            ("5", 5),
            (None, 5),
            ([5], 5),
            (True, 5),
            ({"type": "number", "value": "nan"}, 5),
        ):
            guest.tap(x, y)
            time.sleep(1.5 * EVERY)
        guest.tap(5, 5)
        guest.wait_for("1 of 60 dots.")
        assert [json.loads(text)[:2] for text in redis.client.lrange(board.KEY, 0, -1)] == [[5, 5]]
        for number in range(20):
            guest.tap(10 + 4 * number, 50)  # sooner than EVERY
        time.sleep(2 * EVERY)
        assert 1 <= redis.client.llen(board.KEY) < 10
    assert "Traceback" not in dynos[0].log()


EVERY = 0.2  # as main.py has it


@needs_redis
def test_nonsense_in_redis_is_left_out_and_logged(dynos: list[Dyno], redis: RedisServer) -> None:
    good = json.dumps([50, 30, "blue", "<b>good</b>"])
    bad = ["", "{", "[]", "7", "null", '{"x": 1}', '[1, 2, "pink", ""]', f'[1, 2, "red", "{"x" * 21}"]', "[" * 200_000,
           '[NaN, 2, "red", ""]', '[1, 2, "red", "a\\nb"]', '[1, 2, ["red"], ""]', "\udcff"]  # fmt: skip
    redis.client.rpush(board.KEY, *(text.encode(errors="surrogateescape") for text in (*bad, good)))
    redis.client.publish(board.KEY, "")  # the worker may still have the page of another test
    with Guest(dynos[0]) as guest:
        assert '["<b>good</b>"]' in guest.wait_for("good")  # in the plot, which shows it as text
        redis.client.publish(board.KEY, b"\xff" * 100_000)
        redis.client.delete(board.KEY)
        redis.client.set(board.KEY, "of somebody else")
        redis.client.publish(board.KEY, "")
        guest.wait_for(board.LOST)
        redis.client.delete(board.KEY)
        guest.wait_for("No dot is here yet.")
    wait_for("their lines", lambda: dynos[0].log().count("not shown, for") >= len(bad))
    dynos[0].wait_for_log("WRONGTYPE")
    assert max(map(len, dynos[0].log().splitlines())) < 1000


# --- a Redis that is lost ---------------------------------------------------------------------------------------------


@needs_redis
def test_a_redis_that_hangs_stops_nobody(dynos: list[Dyno], redis: RedisServer) -> None:
    with Guest(dynos[0]) as guest:
        guest.wait_for("No dot is here yet.")
        redis.pause()
        try:
            guest.tap(10, 10)
            began = time.monotonic()
            with Guest(dynos[0]) as another:
                another.wait_for(board.LOST)
            assert dynos[0].get("/healthz").text == "ok\n"
            guest.wait_for(board.LOST)
            assert time.monotonic() - began < 10
        finally:
            redis.go_on()
        guest.wait_for("dot")


@needs_redis
def test_a_dyno_stops_though_redis_hangs(dynos: list[Dyno], redis: RedisServer) -> None:
    one = dynos[2]
    with Guest(one) as guest:
        guest.wait_for("No dot is here yet.")
        redis.pause()
        try:
            guest.tap(10, 10)
            began = time.monotonic()
            assert one.stop() == 0, one.log()
            assert time.monotonic() - began < 25  # a platform kills after 30
        finally:
            redis.go_on()
    one.start()


@needs_redis
def test_a_redis_that_dies_is_told_and_the_board_comes_back(
    dynos: list[Dyno], redis: RedisServer, browser, page
) -> None:
    other = browser.new_context(viewport={"width": 360, "height": 740}).new_page()
    try:
        pages = (page, other)
        for one, dyno in zip(pages, dynos, strict=False):
            one.goto(f"http://127.0.0.1:{dyno.port}/apps/shared")
            assert_plots_are_drawn(one, 1)
            one.locator(".sheet").get_by_text("No dot is here yet.").wait_for()
        other.locator("input[type=text]").fill("from a phone")
        other.keyboard.press("Tab")
        box = other.locator(".bk-events").bounding_box()
        other.mouse.click(box["x"] + 150, box["y"] + 200)
        for one in pages:
            one.locator(".sheet").get_by_text("1 of 60 dots.").wait_for()
            wait_for("the word", lambda one=one: words(one) == ["from a phone"])
        redis.kill()
        for one in pages:
            one.locator(".sheet").get_by_text(board.LOST).wait_for()
        box = page.locator(".bk-events").bounding_box()
        page.mouse.click(box["x"] + 100, box["y"] + 100)
        page.wait_for_timeout(300)
        assert words(page) == ["from a phone"]  # the board as it was
        redis.start()
        redis.client.rpush(board.KEY, json.dumps([50, 30, "blue", "what is there now"]))
        redis.client.publish(board.KEY, "")  # a dyno may have been there before, and have read nothing
        for one in pages:
            one.locator(".sheet").get_by_text("1 of 60 dots.").wait_for()
            wait_for("the word", lambda one=one: words(one) == ["what is there now"])
        # a session that is lost, too, is replaced by one that shows the present board
        dynos[0].bokeh_workers()[0].kill()
        redis.client.rpush(board.KEY, json.dumps([20, 20, "red", "later"]))
        wait_for("the present board", lambda: words(page) == ["what is there now", "later"], 30)
        take_out_what_the_absence_caused(page)
    finally:
        other.context.close()


def words(page) -> list[str]:
    """Return the words on the board, as a browser has them."""
    return page.evaluate(
        """() => Bokeh.documents.flatMap((doc) => [...doc._all_models.values()])
             .filter((model) => model.type == "ColumnDataSource").flatMap((model) => Array.from(model.data.word))"""
    )


def run(use: Callable[[], Coroutine]) -> None:
    """Run a coroutine in a thread: the browser has an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(use())).result()


# --- without, and its parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "REDIS_URL is not set."),
        ("http://secret@host", "REDIS_URL is no redis://HOST:PORT or rediss://…."),
        ("secret", "REDIS_URL is no redis://HOST:PORT or rediss://…."),
        ("redis://secret@host:port", "REDIS_URL is no redis://HOST:PORT or rediss://…."),
    ],
)
def test_without_a_redis_the_page_says_why(url: str, sentence: str, caplog: pytest.LogCaptureFixture) -> None:
    made = board.make(url)
    assert type(made) is board.Board
    assert made.about == f"Only the visitors of one worker see each other: {sentence}"
    assert [record.getMessage() for record in caplog.records] == ([sentence] if url else [])


def test_without_the_package_the_page_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "redis", None)
    assert board.make("redis://host").about.endswith("not installed: see requirements-redis.txt.")


def test_a_board_in_memory_tells_its_listeners_and_keeps_the_newest() -> None:
    async def use() -> None:
        one, told = board.make(""), []
        first, second = (lambda: told.append(1)), (lambda: told.append(2))
        one.join(first)
        one.join(second)
        dots = [board.Dot.of(number, 1, "red", "word") for number in range(board.MAX_DOTS + 2)]
        await one.add(dots[0])
        assert told == [1, 2, 1, 2] or told == [1, 2, 2, 1]
        one.leave(second)
        for dot in dots[1:]:
            await one.add(dot)
        assert one.dots == tuple(dots[2:])
        await one.remove(dots[5])
        assert dots[5] not in one.dots
        assert told.count(2) == 2

    run(use)


@needs_redis
def test_a_board_in_redis_keeps_the_newest(redis: RedisServer) -> None:
    async def use() -> None:
        one, changed = board.make(redis.url), asyncio.Event()
        one.join(changed.set)
        dots = [board.Dot.of(number, 1, "red") for number in range(board.MAX_DOTS + 2)]
        for dot in dots:
            await one.add(dot)
        while one.dots != tuple(dots[2:]):
            changed.clear()
            await asyncio.wait_for(changed.wait(), 10)
        one.leave(changed.set)
        await asyncio.sleep(0.1)

    run(use)
    assert redis.client.llen(board.KEY) == board.MAX_DOTS
    wait_for("the end of the connections", lambda: redis.connections() == 0)


def test_what_redis_needs_is_pinned_alike_for_the_tests() -> None:
    lines = [(ROOT / f"requirements-{name}.txt").read_text().splitlines() for name in ("redis", "dev")]
    pins, of_the_tests = ([line for line in some if line and line[0] not in "#-"] for some in lines)
    assert lines[0][0] == "-r requirements.txt"
    assert pins
    assert set(pins) <= set(of_the_tests)
