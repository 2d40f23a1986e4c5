"""The page's script where something fails: it tries again, less and less often, and ends with a sentence."""

from __future__ import annotations

import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import Dyno, wait_for

# Time goes TIMES as fast for the page's timers, which are noted; its WebSockets are kept, and may be made otherwise
TIMES = 100
STANDS = 1000  # ms after which a connection stands: more than one takes to be closed where all is slow
BEFORE = """
  window.waits = []
  window.sockets = []
  window.make = (target, args) => new target(...args)
  const native = window.setTimeout
  window.soon = native
  window.setTimeout = (run, ms = 0, ...args) => {
    if (ms >= 400 && ms < 40000) waits.push(ms)
    if (ms == 10000) return native(run, STANDS, ...args)
    return native(run, ms / TIMES, ...args)
  }
  WebSocket = new Proxy(WebSocket, {construct(target, args) {
    sockets.push(null)
    return sockets[sockets.length - 1] = make(target, args)
  }})
  const ready = () => { READY }
  if (String(ready).includes("make =")) ready() // of the first WebSocket, which is made while the page is read
  else addEventListener("DOMContentLoaded", ready, {capture: true})
""".replace("TIMES", str(TIMES)).replace("STANDS", str(STANDS))
AGAIN = "This plot cannot be shown: its connection is lost again and again. Reload the page."
BLOCKED = "This plot cannot be shown: its WebSocket does not get through. Reload the page."
UNSHOWN = "This plot cannot be shown."
SENTENCES = {  # what is said, and how many WebSockets were opened before, by what fails
    "dial": ("make = () => { throw new Error('no WebSocket') }", BLOCKED, 21),
    "a WebSocket that is refused": ("make = (target, [url, protocols]) => new target(url, ['bokeh', 'x'])", BLOCKED, 21),
    "a WebSocket that is cut at once": (
        "make = (target, args) => { const socket = new target(...args); socket.onopen = () => socket.close(); return socket }",
        AGAIN, 21,
    ),
    "a WebSocket that is cut once the plot is there": (
        """make = (target, args) => {
          const socket = new target(...args), look = () => window.Bokeh?.documents?.length > 0 ? socket.close() : soon(look, 5)
          soon(look, 5)
          return socket
        }""",
        AGAIN, 21,
    ),
    "connect": ("Bokeh = {...Bokeh, embed: {add_document_from_session() { throw new Error('no') }}}", UNSHOWN, 3),
    "connect, later": (
        "Bokeh = {...Bokeh, embed: {add_document_from_session: async () => { throw new Error('no') }}}", UNSHOWN, 3,
    ),
    "watch": ("Bokeh.documents.find = () => { throw new Error('no') }", UNSHOWN, 3),
    "what was entered at first": ("JSON.stringify = () => { throw new Error('no') }", UNSHOWN, 3),
    "a BokehJS of another version": ("Bokeh = {...Bokeh, embed: {}}", UNSHOWN, 1),
    "no BokehJS": ("delete window.Bokeh", "This plot cannot be shown: a part of the page did not load. Reload it.", 1),
}  # fmt: skip


def prepare(page, ready: str = "") -> None:
    """Have each page make `ready` true of itself before bokeh_dyno/page/page.js opens its apps."""
    page.add_init_script(BEFORE.replace("READY", ready))


@pytest.mark.parametrize(
    ("step", "below"), [*((step, "/with/") for step in SENTENCES), ("connect", "/bkapp/"), ("no BokehJS", "/bkapp/")]
)
def test_what_always_fails_ends_with_a_sentence(site: Dyno, page, step: str, below: str) -> None:
    ready, sentence, most = SENTENCES[step]
    prepare(page, ready)
    page.goto(f"http://127.0.0.1:{site.port}{below}counter")
    page.get_by_role("status").get_by_text(sentence, exact=True).wait_for(timeout=90_000)
    opened = page.evaluate("sockets.length")
    assert 1 <= opened <= most
    waits = page.evaluate("waits.filter((ms) => ms < 30000 && ![1000, 2000, 10000].includes(ms))")
    if most > 20:
        assert max(waits[-5:]) > 20_000  # it has become patient
        assert waits[5] > 5 * waits[0]
    page.wait_for_timeout(30_000 / TIMES)  # the longest wait that there is
    assert page.evaluate("sockets.length") == opened, "it goes on"
    wait_for("the WebSockets", lambda: page.evaluate("sockets.every((one) => one == null || one.readyState == 3)"))
    assert page.evaluate("document.querySelectorAll('.bk-Figure').length") == 0
    page.complaints.clear()


NOT_LET_IN = "You are not let in to this plot at the moment. Reload the page."
ANSWERS = {  # what is said when the site answers so
    "401": (lambda route: route.fulfill(status=401), NOT_LET_IN),
    "another page": (
        lambda route: route.continue_(url=route.request.url.replace("/with/counter", "/absolute")),
        NOT_LET_IN,
    ),
    "410": (lambda route: route.fulfill(status=410), "This plot is not available any more. Reload the page."),
    "nothing": (
        lambda route: route.abort(),
        "This plot has ended: the site has not answered for hours. Reload the page.",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_page_that_is_not_to_come_back_ends_with_a_sentence(site: Dyno, page, answer: str) -> None:
    handle, sentence = ANSWERS[answer]
    page.add_init_script(BEFORE.replace("READY", "").replace("ms / 100", "ms / (window.times ?? 100)"))
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    page.route("**/with/counter", handle)
    page.evaluate("() => { window.times = 1e5; sockets.at(-1).close() }")
    page.get_by_role("status").get_by_text(sentence, exact=True).wait_for(timeout=90_000)  # "nothing" is 500 requests
    page.complaints.clear()


def test_a_websocket_that_is_refused_to_whoever_is_not_let_in(site: Dyno, page) -> None:
    prepare(page, SENTENCES["a WebSocket that is refused"][0])
    page.route("**/bkapp/counter/metadata", lambda route: route.fulfill(status=403))
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    page.get_by_role("status").get_by_text(NOT_LET_IN, exact=True).wait_for()
    page.complaints.clear()


@pytest.mark.parametrize(
    "fault",
    {
        "enter": "Bokeh.documents[0].roots = () => { throw new Error('no') }",
        "replace": "Object.defineProperty(document, 'activeElement', {get() { throw new Error('no') }})",
        "remove": "Bokeh.documents[0].views_manager.clear = () => { throw new Error('no') }",
    }.items(),
    ids=lambda item: item[0],
)
def test_what_fails_beside_the_plot_costs_no_plot(site: Dyno, page, fault: tuple[str, str]) -> None:
    prepare(page)
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    turn_slider(page, 3)
    page.evaluate(f"() => {{ window.gone = Bokeh.documents[0]; {fault[1]}; sockets.at(-1).close() }}")
    page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != gone")
    assert_plots_are_drawn(page, 1)
    wait_for("the notice to go", lambda: page.get_by_role("status").count() == 0)
    assert page.evaluate("document.querySelectorAll('[data-bokeh-app] > div').length") == 1
    assert page.evaluate("sockets.length") == 2
    # BokehJS meets the fault, too, when it is still drawing: that is an "error: no" of its own
    assert {complaint for complaint in page.complaints if "bokeh-dyno" not in complaint} <= {"error: no"}
    page.complaints.clear()


def test_a_server_that_restarts_is_no_failure(site: Dyno, page) -> None:
    opened = []

    def pass_on(websocket) -> None:
        websocket.connect_to_server()
        opened.append(websocket)

    page.route_web_socket("**/ws?*", pass_on)
    page.add_init_script("""window.waits = []
      const native = window.setTimeout
      window.setTimeout = (run, ms, ...args) => (waits.push(ms), native(run, ms, ...args))""")
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    turn_slider(page, 3)
    for _ in range(4):
        page.evaluate("window.gone = Bokeh.documents[0]")
        opened[-1].close(code=1012, reason="service restart")
        page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != gone")
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('height').value") == 4
    assert page.evaluate("waits.filter((ms) => ms > 1200 && ms < 10000 && ms != 2000)") == []


def test_what_fails_for_a_while_is_forgotten_once_a_connection_has_stood(site: Dyno, page) -> None:
    prepare(page)
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    values = source_values(page)
    for _ in range(3):
        page.evaluate("async () => { await new Promise((done) => soon(done, STANDS + 100)); window.gone = Bokeh.documents[0];"
                      "sockets.at(-1).close() }".replace("STANDS", str(STANDS)))  # fmt: skip
        page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != gone")
    assert page.evaluate("waits.filter((ms) => ms > 1200 && ms < 10000 && ms != 2000)") == []
    turn_slider(page)
    source_values(page, different_from=values)
