"""What a visitor is told, in a sentence inside the window; and that a value does harm twice at most."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import OTHER_SITE, Dyno, copy_project, temporary_folder, wait_for
from playwright.sync_api import Page

# Waits, fails or ends its worker as it is told; the files that it waits for are named by the visitor
APP = """
import os
import time
from functools import partial
from pathlib import Path

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Div, FileInput, Slider, TextInput

doc = curdoc()
asked = {name: values[0].decode() for name, values in doc.session_context.request.arguments.items()}


def wait(name):
    while not Path(name).exists():
        time.sleep(0.02)


def fail():
    raise RuntimeError("not today")


def act(attr, old, new):
    if new == "fail":
        fail()
    elif new == "fail later":
        doc.add_next_tick_callback(fail)
    elif new.startswith("wait for "):
        wait(new.removeprefix("wait for "))
    seen.text = f"seen: {new}"


def move(attr, old, new):
    if new == 3:
        os._exit(1)
    height.text = f"height is {new}"


seen, height = Div(text="seen: nothing"), Div(text="height is 0")
what, slider = TextInput(title="what"), Slider(title="height", start=0, end=9, value=0)
what.on_change("value", act)
slider.on_change("value", move)
page = column(what, slider, FileInput(title="file"), seen, height)
if "wait" in asked:
    wait(asked["wait"])
if "empty" in asked:
    def show():
        if Path(asked["empty"]).exists() and not doc.roots:
            doc.add_root(page)
    doc.add_periodic_callback(show, 50)
else:
    doc.add_root(page)
"""
# an app may end three workers in a minute, so each kind of page has one of its own
PAGES = {"a page of the site": "/with/told", "the app's own page": "/bkapp/said"}
FAILED = "This plot may be out of date: its app has failed."


@pytest.fixture(scope="module")
def told() -> Iterator[Dyno]:
    """A dyno with the app, twice."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "app", OTHER_SITE)
    for name in ("told", "said"):
        (folder / "bokeh_app" / name).mkdir()
        (folder / "bokeh_app" / name / "main.py").write_text(APP)
    one = Dyno(folder)
    try:
        yield one.start()
        assert one.stop() == 0
    finally:
        one.clean_up()
        shutil.rmtree(scratch)


@pytest.fixture(params=PAGES.values(), ids=PAGES)
def path(request: pytest.FixtureRequest) -> str:
    return request.param


def url(one: Dyno, path: str) -> str:
    return f"http://127.0.0.1:{one.port}{path}"


def enter(page: Page, text: str) -> None:
    """Enter a text in the app's first input."""
    field = page.locator(".bk-TextInput input")
    field.fill(text)
    field.press("Enter")


def move(page: Page, value: int) -> None:
    """Move the slider at once to a value, without those in between."""
    page.evaluate("(value) => Bokeh.documents[0].all_models.forEach((one) => { if (one.type == 'Slider') one.value = value })",
                  value)  # fmt: skip


def wait_until_told(page: Page, text: str) -> None:
    """Wait until the page says `text`, and see that this is inside the window."""
    status = page.get_by_role("status").get_by_text(text, exact=True)
    status.wait_for()
    box, window = status.bounding_box(), page.viewport_size
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= window["height"]
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= window["width"]


def assert_nothing_is_told(page: Page) -> None:
    wait_for("the page to say nothing", lambda: page.get_by_role("status").count() == 0)


# --- a view that is there ---------------------------------------------------------------------------------------------


def test_a_callback_that_fails_or_takes_long_or_a_file_that_is_too_large(told: Dyno, page: Page, path: str) -> None:
    page.set_viewport_size({"width": 500, "height": 200})
    page.goto(url(told, path))
    enter(page, "fail")
    wait_until_told(page, FAILED)
    page.evaluate("window.first = Bokeh.documents[0]")
    page.get_by_role("status").click()
    assert_nothing_is_told(page)
    enter(page, "fail")  # said once
    flag = told.folder / f"flag{path.replace('/', '-')}"
    enter(page, f"wait for {flag}")
    wait_until_told(page, "Working…")
    flag.touch()
    page.get_by_text("seen: wait for").wait_for()
    assert_nothing_is_told(page)
    file = told.folder / "large"
    file.write_bytes(b"x" * 18_000_000)
    page.locator("input[type=file]").set_input_files(file)
    wait_until_told(page, "That is too large to be sent: it takes 24.0 MB, and 21.0 MB are possible.")
    enter(page, "something else")
    page.get_by_text("seen: something else").wait_for()
    assert page.evaluate("Bokeh.documents.length == 1 && Bokeh.documents[0] == first")  # no connection was lost
    page.complaints[:] = [one for one in page.complaints if "the app has failed" not in one]


def test_a_callback_that_no_message_called_and_fails(told: Dyno, page: Page) -> None:
    page.goto(url(told, "/with/told"))
    enter(page, "fail later")
    wait_until_told(page, FAILED)


def test_what_ends_a_worker_is_entered_again_once(told: Dyno, page: Page, path: str) -> None:
    page.goto(url(told, path))
    enter(page, "kept")
    page.get_by_text("seen: kept").wait_for()
    line = f"it ran bokeh_app/{path.split('/')[-1]}"
    ended = told.log().count(line)
    move(page, 3)
    wait_until_told(page, "Not entered again, for the connection was lost after it: “height”.")
    wait_for("both lines", lambda: told.log().count(line) >= ended + 2)
    assert told.log().count(line) == ended + 2
    page.get_by_text("seen: kept").wait_for()
    move(page, 4)
    page.get_by_text("height is 4").wait_for()
    page.complaints.clear()  # WebSockets that were cut off


# --- where the plot would be ------------------------------------------------------------------------------------------


def test_an_app_that_is_slow_and_then_empty(told: Dyno, page: Page, path: str) -> None:
    page.set_viewport_size({"width": 500, "height": 200})
    first, second = (told.folder / f"{name}{path.replace('/', '-')}" for name in ("first", "second"))
    if "/with/" not in path:  # its own page comes when the app has run
        first.touch()
    page.goto(url(told, f"{path}?wait={first}&empty={second}"))
    if "/with/" in path:
        wait_until_told(page, "This plot takes longer than usual: its server is busy.")
        first.touch()
    wait_until_told(page, "This plot is empty so far.")
    second.touch()
    page.get_by_text("height is 0").wait_for()
    assert_nothing_is_told(page)


# --- parts of a page, and what a document needs -----------------------------------------------------------------------

COUNT_SOCKETS = """window.sockets = []
  WebSocket = new Proxy(WebSocket, {
    construct: (target, args) => { sockets.push(new target(...args)); return sockets.at(-1) }
  })"""


def assert_alive(page: Page, documents: int = 1) -> None:
    assert_plots_are_drawn(page, documents)
    before = source_values(page)
    turn_slider(page)
    source_values(page, different_from=before)


def test_a_page_in_a_srcdoc(told: Dyno, page: Page) -> None:
    page.goto(url(told, "/echo"))
    page.evaluate("""async () => {
      const frame = document.createElement("iframe")
      frame.srcdoc = await (await fetch("/with/counter")).text()
      document.body.replaceChildren(frame)
    }""")
    handle = page.frame_locator("iframe").locator(".noUi-handle")
    handle.wait_for()
    inner = page.frames[1]
    inner.evaluate("window.first = Bokeh.documents[0]")
    for worker in told.bokeh_workers():
        worker.kill()
    inner.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != first")
    handle.press("ArrowRight")
    inner.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 2")
    page.complaints.clear()  # WebSockets that were cut off


@pytest.mark.parametrize("first", ["/with/counter", "/echo"], ids=["beside an app", "on a page without"])
def test_a_fragment_comes_later_is_moved_and_goes(told: Dyno, page: Page, first: str) -> None:
    page.add_init_script(COUNT_SOCKETS)
    page.goto(url(told, first))
    there = int(first != "/echo")
    if there:
        assert_plots_are_drawn(page, 1)
    else:  # with the page's script, but nothing else
        src = page.evaluate(
            """async () => /src="([^"]+dyno.js[^"]*)"/.exec(await (await fetch("/with/counter")).text())[1]"""
        )
        page.add_script_tag(url=src)
    page.evaluate("""async () => {
      const part = document.body.appendChild(document.createElement("section"))
      part.innerHTML = (await (await fetch("/with/counter")).text()).replace(/^[^]*<h1/, "<h1")
    }""")
    page.wait_for_function(f"window.Bokeh?.documents.length == {there + 1}")
    assert_alive(page, there + 1)
    page.evaluate("document.body.prepend(document.querySelector('section'))")
    assert_alive(page, there + 1)
    page.evaluate("document.querySelector('section').remove()")
    page.wait_for_function(f"Bokeh.documents.length == {there}")
    states = page.evaluate("sockets.map((one) => one.readyState)")
    assert states[:there] == [1] * there
    page.wait_for_function("sockets.at(-1).readyState == 3")
    assert len(page.evaluate("sockets")) == there + 1
    if there:
        assert_alive(page)


def with_metadata(page: Page, **more) -> None:
    """Have the ACKs that the page gets say more."""

    def between(socket) -> None:
        seen = []

        def pass_on(message) -> None:
            seen.append(message)
            socket.send(json.dumps({**json.loads(message), **more}) if len(seen) == 2 else message)

        server = socket.connect_to_server()
        server.on_message(pass_on)

    page.route_web_socket("**/ws*", between)


def test_the_scripts_and_styles_that_a_document_needs(told: Dyno, page: Page, path: str) -> None:
    scripts = [
        {"src": "/extra.js?1"},
        {"src": "/extra.js?2", "type": "module"},
        {"src": "/extra.js?3", "crossorigin": "anonymous"},
    ]
    with_metadata(page, scripts=scripts, styles=["/extra.css"])
    note = (
        "(window.ran ??= []).push([(document.currentScript?.src ?? import.meta.url).slice(-1), Bokeh.documents.length])"
    )
    page.route("**/extra.js?*", lambda route: route.fulfill(
        content_type="text/javascript",
        body=note if route.request.url.endswith("2") else note.replace(" ?? import.meta.url", ""),
    ))  # fmt: skip
    page.route("**/extra.css", lambda route: route.fulfill(content_type="text/css", body="h1 { color: red }"))
    page.goto(url(told, path))
    page.get_by_text("height is 0").wait_for()
    assert page.evaluate("ran") == [["1", 0], ["2", 0], ["3", 0]]
    page.wait_for_function("[...document.styleSheets].filter((one) => one.href?.endsWith('/extra.css')).length == 1")


def test_a_script_of_the_document_that_does_not_load(told: Dyno, page: Page) -> None:
    with_metadata(page, scripts=[{"src": "/extra.js"}])
    page.goto(url(told, "/with/told"))
    wait_until_told(page, "This plot cannot be shown: a part of the page did not load. Reload it.")
    page.complaints.clear()


def test_the_script_of_an_apps_own_page_twice(told: Dyno, page: Page) -> None:
    page.add_init_script(
        COUNT_SOCKETS
        + """
      new MutationObserver((_, observer) => {  // as a template has it that says where each of the two goes
        const script = document.querySelector("script[data-bokeh-token]")
        if (script == null) return
        observer.disconnect()
        const again = document.createElement("script")
        for (const {name, value} of script.attributes) again.setAttribute(name, value)
        again.onload = () => window.again = true
        script.after(again)
      }).observe(document, {childList: true, subtree: true})"""
    )

    def twice(route) -> None:
        if "bokeh-token" not in route.request.headers:
            route.continue_()
            return
        answer = route.fetch()
        script = re.search(r"<script[^>]*data-bokeh-token[^>]*></script>", answer.text()).group(0)
        route.fulfill(response=answer, body=answer.text().replace(script, 2 * script))

    page.route("**/bkapp/counter", twice)
    page.goto(url(told, "/bkapp/counter"))
    assert_alive(page)
    page.wait_for_function("window.again")
    assert page.evaluate("sockets.length") == 1
    page.evaluate("() => { window.first = Bokeh.documents[0]; sockets[0].close() }")
    page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != first")
    assert_alive(page)
    assert page.evaluate("sockets.length") == 2
