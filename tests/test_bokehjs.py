"""BokehJS on a page: only what its apps need, in time, from here or from Bokeh's CDN; and the run before the port opens."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import bokeh
import bokeh.util.paths
import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import Dyno, wait_for

MakeDyno = Callable[..., Dyno]
JS = bokeh.util.paths.static_path() / "js"
CDN = "https://cdn.bokeh.org/bokeh/release/"
BELOW = ("/with/", "/bkapp/")  # where a page of the site shows an app, where the app has its own page
ALL = ["bokeh", "bokeh-gl", "bokeh-widgets", "bokeh-tables", "bokeh-mathjax"]


def scripts(html: str) -> list[dict[str, str]]:
    """Return the attributes of the script tags of BokehJS in a page."""
    tags = re.findall(r"<script\b([^>]*\bsrc=[^>]*)>", html)
    found = [dict(re.findall(r'([a-z]+)="([^"]*)"', tag)) for tag in tags]
    return [attributes for attributes in found if "/bokeh" in attributes["src"]]


def names(urls: list[str]) -> list[str]:
    """Return the names of the scripts of BokehJS among `urls`: bokeh, bokeh-widgets, …"""
    found = [re.search(r"/(bokeh(-[a-z]+)?)(-[\d.]+)?\.min\.js", url) for url in urls]
    return [match.group(1) for match in found if match]


@pytest.fixture
def asked(page) -> list[str]:
    """The addresses that the page has asked for so far."""
    urls: list[str] = []
    page.on("request", lambda request: request.url.startswith("data:") or urls.append(request.url))
    return urls


def address(one: Dyno, path: str) -> str:
    """Return the address of a path of a dyno."""
    return f"http://127.0.0.1:{one.port}{path}"


# --- which, and when --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/with/plain.one", ["bokeh"]),
        ("/with/counter", ["bokeh", "bokeh-widgets"]),
        ("/with/plain.one+counter", ["bokeh", "bokeh-widgets"]),
        ("/drawn", ["bokeh"]),
        ("/bkapp/plain.one", ["bokeh"]),
        ("/bkapp/counter", ["bokeh", "bokeh-widgets"]),
        ("/bkapp/later?shown=3", ALL),
    ],
)
def test_a_page_loads_what_it_needs(site: Dyno, path: str, expected: list[str]) -> None:
    assert names([script["src"] for script in scripts(site.get(path).text)]) == expected


def test_nothing_is_asked_for_between_the_page_and_the_websocket_but_its_scripts(site: Dyno, page, asked) -> None:
    page.goto(address(site, "/with/counter"))
    assert_plots_are_drawn(page, 1)
    files = [re.sub(r".*:\d+|(?<=/static/)[0-9a-f]{16}/", "", url) for url in asked]
    js = "/bkapp/static/js"
    if files[4:] == ["/bkapp/static/reading.js"]:  # once the plot is there
        files.pop()
    assert files == ["/with/counter", "/bkapp/static/dyno.js", f"{js}/bokeh.min.js", f"{js}/bokeh-widgets.min.js"]


def test_the_session_is_there_before_bokehjs_is(site: Dyno, page) -> None:
    runs = Path(site.env["TEST_COUNTER"])
    before = len(runs.read_text().splitlines())
    held, arrived = [], []  # BokehJS, until the session is there; frames of its WebSocket
    page.route("**/bokeh.min.js", lambda route: held.append(route))
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: arrived.append(frame)))
    page.goto(address(site, "/with/counter"), wait_until="commit")
    wait_for("the session", lambda: page.wait_for_timeout(20) or (held and arrived))
    assert len(runs.read_text().splitlines()) == before + 1
    held[0].continue_()
    assert_plots_are_drawn(page, 1)
    values = source_values(page)
    turn_slider(page)
    source_values(page, different_from=values)
    assert len(runs.read_text().splitlines()) == before + 1


@pytest.mark.parametrize("below", BELOW)
def test_the_document_comes_without_being_asked_for(site: Dyno, page, below: str) -> None:
    asked = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: asked.append(frame)))
    page.goto(address(site, f"{below}counter"))
    assert_plots_are_drawn(page, 1)
    values = source_values(page)
    turn_slider(page)
    source_values(page, different_from=values)
    assert "PATCH-DOC" in str(asked)
    assert "PULL-DOC-REQ" not in str(asked)


def test_a_bokeh_server_that_sends_no_document_unasked_is_asked(site: Dyno, page) -> None:
    page.add_init_script("""WebSocket = new Proxy(WebSocket, {
      construct: (target, [url, protocols]) => new target(url.replace("?document=1", ""), protocols)
    })""")
    asked = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: asked.append(frame)))
    page.goto(address(site, "/with/counter"))
    assert_plots_are_drawn(page, 1)
    assert str(asked).count("PULL-DOC-REQ") == 1


@pytest.mark.parametrize("below", BELOW)
def test_what_an_app_adds_later_brings_the_script_that_it_needs(site: Dyno, page, asked, below: str) -> None:
    page.goto(address(site, f"{below}later"))
    slider = page.locator(".noUi-handle")
    slider.press("ArrowRight")
    page.locator(".slick-row").first.wait_for()
    assert names(asked) == ["bokeh", "bokeh-widgets", "bokeh-tables"]
    slider.press("ArrowRight")
    page.locator("mjx-container").wait_for()
    assert names(asked)[3:] == ["bokeh-mathjax"]
    slider.press("ArrowRight")
    assert_plots_are_drawn(page, 1)
    assert names(asked)[4:] == ["bokeh-gl"]


def test_a_script_that_did_not_arrive_is_loaded_again(site: Dyno, page) -> None:
    refused = []

    def refuse_once(route) -> None:
        refused.append(route.request.url)
        route.abort() if len(refused) == 1 else route.continue_()

    page.route("**/bokeh-tables.min.js*", refuse_once)
    page.goto(address(site, "/with/later"))
    page.locator(".noUi-handle").press("ArrowRight")
    page.locator(".slick-row").first.wait_for()
    assert len(refused) == 2
    page.complaints.clear()  # BokehJS says that it does not know the models


@pytest.mark.parametrize("below", BELOW)
def test_an_app_that_begins_otherwise_than_at_boot_has_what_it_needs(site: Dyno, page, asked, below: str) -> None:
    page.goto(address(site, f"{below}later?shown=3"))
    assert_plots_are_drawn(page, 1)
    page.locator(".slick-row").first.wait_for()
    page.locator("mjx-container").wait_for()
    assert sorted(names(asked)) == sorted(ALL)


OWN_MODEL = """
from bokeh.core.properties import String
from bokeh.io import curdoc
from bokeh.models import LayoutDOM
from bokeh.util.compiler import JavaScript


class Words(LayoutDOM):
    __implementation__ = JavaScript('''
        const {LayoutDOM, LayoutDOMView} = require("models/layouts/layout_dom")
        class WordsView extends LayoutDOMView {
          get child_models() { return [] }
          render() {
            super.render()
            const shown = document.createElement("p")
            shown.textContent = this.model.words
            this.shadow_el.append(shown)
          }
        }
        class Words extends LayoutDOM {}
        Words.__name__ = "Words"
        Words.prototype.default_view = WordsView
        Words.define(({Str}) => ({words: [Str, ""]}))
        exports.Words = Words
    ''')
    words = String()


curdoc().add_root(Words(words="a model of my own"))
"""


@pytest.fixture
def with_own_model(project: Path, dyno: MakeDyno) -> MakeDyno:
    """Return what makes a dyno with an app whose model Bokeh compiles, which takes a Node.js."""
    (project / "bokeh_app" / "own").mkdir()
    (project / "bokeh_app" / "own" / "main.py").write_text(OWN_MODEL)
    return lambda **env: dyno(project, env)


def test_a_model_of_the_apps_own_is_shown_on_every_page(with_own_model: MakeDyno, page) -> None:
    one = with_own_model().start()
    for below in BELOW:
        page.goto(address(one, f"{below}own"))
        page.get_by_text("a model of my own").wait_for()


def test_a_model_of_the_apps_own_comes_with_its_document(with_own_model: MakeDyno, page) -> None:
    one = with_own_model(BOKEH_WARM="0").start()  # nobody knows of the model before the page is there
    for below in reversed(BELOW):
        page.goto(address(one, f"{below}own"))
        page.get_by_text("a model of my own").wait_for()


# --- from Bokeh's CDN -------------------------------------------------------------------------------------------------


def test_with_bokeh_resources_cdn_every_page_loads_what_the_cdn_has_signed(
    project: Path, dyno: MakeDyno, page, asked
) -> None:
    one = dyno(project, {"BOKEH_RESOURCES": "cdn"}).start()
    for path, count in (("/with/counter", 2), ("/bkapp/counter", 2), ("/drawn", 1)):
        found = scripts(one.get(path).text)
        assert len(found) == count, path
        for script in found:
            assert script["src"].startswith(CDN), path
            assert script["crossorigin"] == "anonymous"
            digest = hashlib.sha384((JS / f"{names([script['src']])[0]}.min.js").read_bytes()).digest()
            assert script["integrity"] == f"sha384-{base64.b64encode(digest).decode()}"

    # no network in tests: the browser gets the same files from here, and checks them
    page.route(
        f"{CDN}**",
        lambda route: route.fulfill(
            path=JS / f"{names([route.request.url])[0]}.min.js",
            content_type="text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        ),
    )
    for path in ("/with/counter", "/bkapp/counter", "/drawn", "/with/later?shown=3"):
        page.goto(address(one, path))
        assert_plots_are_drawn(page, 1)
    assert not [url for url in asked if "/static/js/" in url]


# --- the run before the port opens ------------------------------------------------------------------------------------

FAILS = "raise RuntimeError('not today')\n"


def test_without_bokeh_warm_no_app_runs_before_it_is_asked_for(project: Path, dyno: MakeDyno, scratch: Path) -> None:
    (project / "bokeh_app" / "fails").mkdir()
    (project / "bokeh_app" / "fails" / "main.py").write_text(FAILS)
    one = dyno(project, {"BOKEH_WARM": "0", "TEST_COUNTER": str(scratch / "runs")}).start()
    assert not (scratch / "runs").exists()
    assert names([script["src"] for script in scripts(one.get("/with/counter").text)]) == ["bokeh", "bokeh-widgets"]
    status, websocket = one.handshake("/bkapp/counter/ws", one.token("/with/counter"))
    with websocket:
        assert status == 101
        assert websocket.recv(100)
    assert len((scratch / "runs").read_text().splitlines()) == 1


def test_an_app_that_is_no_python_is_named_without_bokeh_warm_too(project: Path, dyno: MakeDyno) -> None:
    (project / "bokeh_app" / "counter" / "main.py").write_text("this is no Python\n")
    one = dyno(project, {"BOKEH_WARM": "0"}).start()
    one.wait_for_log(r"error: bokeh_app/counter cannot run: .*line 1: SyntaxError")
    assert one.get("/bkapp/later").status == 200
