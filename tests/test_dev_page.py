"""What bin/dev does to an open page (bokeh_dyno/page/dev.js): puts edits in place and says what is wrong with them."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import assert_plots_are_drawn, turn_slider
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, temporary_folder, until_stopped, wait_for
from playwright.sync_api import Page

SCRIPT = ROOT / "bokeh_dyno/page/dev.js"
SITE = """
from flask import Flask, redirect, render_template, request
from bokeh_dyno.flask import BokehApps

def create_app():
    app = Flask(__name__)
    app.jinja_env.cache = None  # as below bin/dev
    BokehApps(app)
    app.add_url_rule("/<name>", "page", lambda name: render_template(f"{name}.html"), methods=["GET", "POST"])
    app.add_url_rule("/login", "login", lambda: "<title>Log in</title><body>Log in</body>")
    app.add_url_rule("/favicon.ico", "icon", lambda: ("", 204))
    return app
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8"><title>{title}</title>
  <link rel="stylesheet" href="/static/site.css">
  {head}
</head>
<body>
<main>{main}</main>
</body>
</html>
"""
FORM = """<h1>Before</h1>
<form method="post">
<p><label>Name <input name="name" value="as sent"></label></p>
<p><label><input type="checkbox" name="sure"> sure</label> <label><input type="radio" name="of" value="1"> one</label>
<label><input type="radio" name="of" value="2"> two</label></p>
<p><select name="which"><option>a</option><option>b</option><option>c</option></select></p>
<p><textarea name="text" rows="3"></textarea></p>
<p><button>Send</button></p>
</form>
<div style="height: 3000px">far</div><p id="end">The end</p>"""
ERROR = {
    "where": "bokeh_app/counter", "file": "bokeh_app/counter/main.py", "line": 12,
    "message": "NameError: name 'slidr' is not defined. Did you mean: 'slider'?",
    "traceback": 'Traceback (most recent call last):\n  File "bokeh_app/counter/main.py", line 12, in <module>\n'
    "    column(slidr, plot, a_name_that_is_so_long_that_it_does_not_fit_into_the_window_of_a_phone)\n"
    "NameError: name 'slidr' is not defined. Did you mean: 'slider'?",
}  # fmt: skip


class Events:
    """What bin/dev sends to pages, from a server of the test's own."""

    def __init__(self) -> None:
        self.hello: dict[str, object] = {"type": "hello", "generation": "aaa", "errors": []}
        self.count = 0  # of all connections that there were
        self._open: list[queue.Queue] = []
        this = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                if self.path == "/dyno-dev/page.js":
                    self.send_header("Content-Type", "text/javascript")
                    self.end_headers()
                    self.wfile.write(SCRIPT.read_bytes())
                    return
                mine: queue.Queue = queue.Queue()
                mine.put(dict(this.hello))
                this.count += 1
                this._open.append(mine)  # before a test sees that the answer begins
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    while (message := mine.get()) is not None:
                        self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())
                except OSError:
                    pass  # the page is gone

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def send(self, **message: object) -> None:
        """Send a message to all pages."""
        for one in self._open:
            one.put(message)

    def drop(self) -> None:
        """End all connections; the pages come back."""
        while self._open:
            self._open.pop().put(None)

    def close(self) -> None:
        """End."""
        self.drop()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def events() -> Iterator[Events]:
    """The events, and the script of the pages."""
    one = Events()
    yield one
    one.close()


@pytest.fixture(scope="module")
def shown(events: Events) -> Iterator[Dyno]:
    """A dyno whose pages are templates, with the script in each."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "app", OTHER_SITE)
    (folder / "flask_app" / "__init__.py").write_text(SITE)
    for name in ("templates", "static"):
        (folder / "flask_app" / name).mkdir()
    routing = folder / "config" / "nginx.conf.erb"
    routes = f"""        proxy_set_header Accept-Encoding "";
        sub_filter '</body>' '<script src="/dyno-dev/page.js" data-method="$request_method"></script></body>';
        location /dyno-dev/ {{ proxy_pass http://127.0.0.1:{events.port}; proxy_buffering off; proxy_read_timeout 1h; }}
        # A REDIRECT"""
    routing.write_text(routing.read_text().replace("        # A REDIRECT", routes))
    one = Dyno(folder, {"TEST_COUNTER": str(scratch / "runs"), "BOKEH_WORKERS": "1", "WEB_CONCURRENCY": "1"})
    yield from until_stopped(one, scratch)


NUMBERS = itertools.count()


class Edited:
    """A page of its own for each test, open in the browser."""

    def __init__(self, dyno: Dyno, page: Page, events: Events) -> None:
        self.dyno, self.page, self.events = dyno, page, events
        self.name = f"page{next(NUMBERS)}"
        self.style("h1 { color: rgb(1, 0, 0) }")

    def write(self, main: str, head: str = "", title: str = "a page") -> None:
        text = PAGE.replace("{title}", title).replace("{head}", head).replace("{main}", main)
        self.dyno.save(f"flask_app/templates/{self.name}.html", text)

    def style(self, text: str, name: str = "site.css") -> None:
        self.dyno.save(f"flask_app/static/{name}", text)

    def open(self, main: str, head: str = "", path: str = "") -> Page:
        """Write the page, open it, and mark its window: a page that is loaded anew has no such mark."""
        self.write(main, head)
        with self.page.expect_response("**/dyno-dev/events"):
            self.page.goto(f"http://127.0.0.1:{self.dyno.port}{path or '/' + self.name}")
        self.page.evaluate("window.marked = true")
        return self.page

    def assert_same_window(self) -> None:
        assert self.page.evaluate("window.marked") is True, "it was loaded anew"


@pytest.fixture
def edited(shown: Dyno, page: Page, events: Events) -> Iterator[Edited]:
    events.hello = {"type": "hello", "generation": "aaa", "errors": []}
    yield Edited(shown, page, events)
    page.goto("about:blank")  # or what is sent in the next test is for this page, too
    events.drop()
    page.complaints[:] = [one for one in page.complaints if "net::ERR_ABORTED" not in one]


def color(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.querySelector('h1')).color")


# --- style sheets ---


@pytest.mark.parametrize("how", ["link", "@import", "@import in the page"])
def test_a_style_sheet_is_exchanged_without_a_reload(edited: Edited, how: str) -> None:
    edited.style("h1 { color: rgb(1, 0, 0) }", "colors.css")
    if how == "@import":
        edited.style("@import 'colors.css';")
    if how == "link":
        edited.style("h1 { color: rgb(1, 0, 0) }")
    head = "<style>@import '/static/colors.css';</style>" if how == "@import in the page" else ""
    if head:
        edited.style("")
    page = edited.open("<h1>one</h1>", head)
    page.wait_for_function("getComputedStyle(document.querySelector('h1')).color == 'rgb(1, 0, 0)'")
    # at no moment it has no colour: looked at in each frame
    page.evaluate("""() => {
      window.colors = new Set()
      const look = () => {
        colors.add(getComputedStyle(document.querySelector("h1")).color)
        requestAnimationFrame(look)
      }
      look()
    }""")
    name = "site.css" if how == "link" else "colors.css"
    for number in (2, 3, 4):
        edited.style(f"h1 {{ color: rgb({number}, 0, 0) }}", name)
        edited.events.send(type="styles", files=[f"static/{name}"])
        page.wait_for_function(f"getComputedStyle(document.querySelector('h1')).color == 'rgb({number}, 0, 0)'")
    page.wait_for_function("colors.has('rgb(4, 0, 0)')")  # from the next frame on
    assert page.evaluate("[...colors]") == [f"rgb({number}, 0, 0)" for number in (1, 2, 3, 4)]
    page.wait_for_function(f"document.querySelectorAll('link, style').length == {2 if head else 1}")
    edited.assert_same_window()


def test_edits_of_a_style_sheet_that_come_at_once_leave_the_last(edited: Edited) -> None:
    page = edited.open("<h1>one</h1>")
    for number in range(2, 8):
        edited.style(f"h1 {{ color: rgb({number}, 0, 0) }}")
        edited.events.send(type="styles", files=["static/site.css"])
    page.wait_for_function("getComputedStyle(document.querySelector('h1')).color == 'rgb(7, 0, 0)'")
    page.wait_for_function("document.querySelectorAll('link').length == 1")
    edited.assert_same_window()


def test_an_image_is_shown_as_it_is_now(edited: Edited) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{0}"></svg>'
    edited.style(svg.format(20), "one.svg")
    page = edited.open('<img src="/static/one.svg" alt="">')
    page.wait_for_function("document.querySelector('img').naturalWidth == 20")
    edited.style(svg.format(30), "one.svg")
    edited.events.send(type="page", files=["static/one.svg"])
    page.wait_for_function("document.querySelector('img').naturalWidth == 30")
    edited.assert_same_window()


# --- pages ---


def fill_in(page: Page) -> None:
    """Enter something in each field, put the focus into the text with a part of it selected, and scroll down."""
    page.fill("[name=name]", "mine")
    page.check("[name=sure]")
    page.check("[value='2']")
    page.select_option("select", "b")
    page.fill("textarea", "a text that I have typed")
    page.evaluate("document.querySelector('textarea').setSelectionRange(2, 6)")
    page.evaluate("scrollTo(0, 1500)")


FILLED = """() => [
  ...document.querySelectorAll("[name=name], textarea, select")].map((one) => one.value).concat(
  document.querySelector("[name=sure]").checked, document.querySelector("[value='2']").checked,
  document.activeElement.tagName, document.activeElement.selectionStart, document.activeElement.selectionEnd,
  scrollY)"""
AS_ENTERED = ["mine", "b", "a text that I have typed", True, True, "TEXTAREA", 2, 6, 1500]


@pytest.mark.parametrize("kind", ["page", "serving"])
def test_a_page_is_put_in_place_and_keeps_what_is_the_visitors(edited: Edited, kind: str) -> None:
    page = edited.open(FORM)
    fill_in(page)
    page.evaluate("document.querySelector('form').dataset.made = 'by a script'")
    changed = FORM.replace("Before", "After").replace("The end", "The very end")
    edited.write(changed, title="another title")
    edited.events.send(type=kind, generation="bbb")
    page.get_by_role("heading", name="After").wait_for()
    assert page.title() == "another title"
    assert page.inner_text("#end") == "The very end"
    assert page.evaluate(FILLED) == AS_ENTERED
    # fields before and between them, another option, and all of it in another element
    moved = changed.replace("<p><label>Name", '<p><label>New <input name="new"></label></p><p><label>Name')
    moved = moved.replace("<option>a", "<option>z</option><option>a").replace("<form", "<section><form")
    moved = moved.replace("</form>", "</form></section>").replace("After", "After that")
    edited.write(moved)
    edited.events.send(type=kind, generation="ccc")
    page.get_by_role("heading", name="After that").wait_for()
    assert page.locator("section [name=new]").count() == 1
    assert page.evaluate(FILLED)[:-1] == AS_ENTERED[:-1]
    edited.assert_same_window()


def test_what_a_page_shows_is_what_the_site_sends(edited: Edited) -> None:
    """Whatever is edited, in the end there is what a page that is loaded has."""
    parts = [
        "<p>one</p>", "<p id=a>two</p>", "<ul><li>a<li>b<li>c</ul>", "<!-- a note -->", "text", "<p class='x y'>one</p>",
        "<table><tr><td>1<td>2</table>", "<svg viewBox='0 0 1 1'><circle r=1 /></svg>", "<p id=b hidden>three</p>",
        "<select id=s><option>1<option selected>2</select>", "<template><b>t</b></template>", "<div><p id=c>four</p></div>",
        "<noscript><p>no</p></noscript>", "<input name=n value=v>", "<pre>\n a\n</pre>", "<custom-thing a=b>c</custom-thing>",
    ]  # fmt: skip
    page = edited.open("")
    look = "() => document.querySelector('main').outerHTML"
    for step in range(24):  # each order and choice another, with no chance in it
        chosen = [parts[(start * 7 + step * 5) % len(parts)] for start in range(3 + step % 11)]
        chosen = [part for number, part in enumerate(chosen) if part not in chosen[:number]]
        if step % 3 == 0:
            chosen = [f"<section>{''.join(chosen)}</section>"]
        edited.write(f"{''.join(chosen)}<i id=step{step}></i>")
        edited.events.send(type="page")
        page.wait_for_selector(f"#step{step}", state="attached")
        fresh = page.evaluate("""async () => {
          const text = await (await fetch(location.href)).text()
          return new DOMParser().parseFromString(text, "text/html").querySelector("main").outerHTML
        }""")
        shown = page.evaluate(look)
        assert re.sub(r"<noscript>.*</noscript>", "", shown) == re.sub(r"<noscript>.*</noscript>", "", fresh)
    edited.assert_same_window()


def test_what_scripts_have_made_stays(edited: Edited) -> None:
    head = (
        "<script>addEventListener('load', () => { document.body.prepend(Object.assign(document.createElement('aside'),"
    )
    head += " {textContent: 'made'})); document.querySelector('p').classList.add('toggled') })</script>"
    page = edited.open("<p class=a>one</p><p>two</p>", head)
    page.wait_for_selector(".toggled")
    edited.write("<p class=a>three</p><h2>new</h2><p>two</p>", head)
    edited.events.send(type="page")
    page.get_by_role("heading", name="new").wait_for()
    assert page.inner_text("aside") == "made"
    assert page.get_attribute("p", "class") == "a toggled"
    edited.write("<p class=b>three</p>", head)
    edited.events.send(type="page")
    page.wait_for_selector("p.b")
    assert page.locator("aside").count() == 1
    edited.assert_same_window()


@pytest.mark.parametrize(
    "head",
    ["<script>window.value = 2</script>", "<script src='/static/two.js'></script>", ""],
    ids=["inline", "src", "gone"],
)
def test_other_scripts_load_the_page_anew_with_what_is_the_visitors(edited: Edited, head: str) -> None:
    edited.style("", "two.js")
    # as a plot does, the page becomes long after a while
    late = "<script>setTimeout(() => document.querySelector('div').style.height = '3000px', 1000)</script>"
    form = FORM.replace("height: 3000px", "height: 10px")
    page = edited.open(form, f"<script>window.value = 1</script>{late}")
    page.wait_for_function("document.querySelector('div').offsetHeight == 3000")
    fill_in(page)
    edited.write(form.replace("Before", "After"), f"{head}{late}")
    edited.events.send(type="page")
    page.get_by_role("heading", name="After").wait_for()
    assert page.evaluate("window.marked") is None
    page.wait_for_function("scrollY == 1500", timeout=10_000)
    assert page.evaluate(FILLED) == AS_ENTERED
    assert page.evaluate("sessionStorage.length") == 0


def test_a_page_that_leads_elsewhere_now_is_loaded_anew(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1>")
    page.route(
        f"**/{edited.name}", lambda route: route.continue_(url=re.sub(r"/page\d+$", "/login", route.request.url))
    )
    edited.write("<h1>After</h1>")
    page.route(f"**/{edited.name}", lambda route: route.fulfill(status=302, headers={"Location": "/login"}, body=""))
    edited.events.send(type="page")
    page.wait_for_url("**/login")


def test_a_page_that_is_gone_is_shown_as_that_and_comes_back(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1>")
    page.route(f"**/{edited.name}", lambda route: route.fulfill(
        status=404, content_type="text/html", body="<h1>No such page</h1><script src='/dyno-dev/page.js'></script>"
    ))  # fmt: skip
    edited.events.send(type="page")
    page.get_by_role("heading", name="No such page").wait_for()
    page.unroute(f"**/{edited.name}")
    with page.expect_response("**/dyno-dev/events"):
        page.reload()
    page.get_by_role("heading", name="Before").wait_for()
    page.complaints.clear()


def test_a_page_that_fails_now_is_said_to_and_stays(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1><input name=n>")
    page.fill("input", "mine")
    edited.write("<h1>{{ 1 / 0 }}</h1>")
    edited.events.send(type="page")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("This page is now 500").wait_for()
    edited.write("<h1>After</h1><input name=n>")
    edited.events.send(type="page")
    page.get_by_role("heading", name="After").wait_for()
    dialog.wait_for(state="hidden")
    assert page.input_value("input") == "mine"
    edited.assert_same_window()
    assert page.complaints
    page.complaints.clear()


def test_the_answer_to_a_form_is_not_asked_for_again(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1><form method=post><button>Send</button></form>")
    with page.expect_response("**/dyno-dev/events"):
        page.get_by_role("button", name="Send").click()
    edited.write("<h1>After</h1>")
    edited.events.send(type="page")
    page.get_by_role("alert").get_by_text("the answer to a form").wait_for()
    assert page.inner_text("h1") == "Before"


def test_the_last_of_several_edits_is_what_is_shown(edited: Edited) -> None:
    page = edited.open("<h1>0</h1>")
    for number in range(1, 12):
        edited.write(f"<h1>{number}</h1>")
        edited.events.send(type="page")
    page.wait_for_function("document.querySelector('h1').textContent == '11'")
    edited.assert_same_window()
    assert {one for one in page.complaints if "ERR_ABORTED" not in one} == set()
    page.complaints.clear()


# --- apps ---

APP = '<h1>Before</h1><div class="sheet">{{ bokeh_app("counter") }}</div><p>below</p>'
HEIGHTS = '() => Bokeh.documents.map((doc) => doc.get_model_by_name("height")?.value)'


def runs(one: Dyno) -> int:
    """Return how often the app has run."""
    return len(Path(one.env["TEST_COUNTER"]).read_text().splitlines())


def open_with_app(edited: Edited, main: str = APP, path: str = "") -> Page:
    """Open a page with an app, and move its slider to 4."""
    page = edited.open(main, path=path)
    assert_plots_are_drawn(page, main.count("counter"))
    turn_slider(page, 3)
    page.wait_for_function("Bokeh.documents.some((doc) => doc.get_model_by_name('line').data.y[0] == 4)")
    page.evaluate("window.before = [...Bokeh.documents]")
    return page


def test_an_app_stays_as_it_is_when_the_page_around_it_changes(edited: Edited) -> None:
    page = open_with_app(edited)
    before = runs(edited.dyno)
    # in its place, elsewhere, in another element
    for number, main in enumerate(
        (
            APP.replace("Before", "0"),
            '<p>below</p><h1>1</h1><div class="sheet">{{ bokeh_app("counter") }}</div>',
            '<h1>2</h1><section><article>{{ bokeh_app("counter") }}</article></section>',
        )
    ):
        edited.write(main)
        edited.events.send(type="page")
        page.get_by_role("heading", name=str(number), exact=True).wait_for()
        assert page.evaluate("Bokeh.documents[0] == before[0] && Bokeh.documents.length") == 1
        assert page.evaluate(HEIGHTS) == [4 + number]
        turn_slider(page)
        page.wait_for_function(f"Bokeh.documents[0].get_model_by_name('line').data.y[0] == {5 + number}")
    assert_plots_are_drawn(page, 1)
    assert runs(edited.dyno) == before
    edited.assert_same_window()


def test_an_app_with_other_arguments_is_begun_anew(edited: Edited) -> None:
    main = '{{ bokeh_app("counter", arguments={"word": "one"}) }}<h1>Before</h1>'
    page = open_with_app(edited, main)
    edited.write(main.replace("one", "two").replace("Before", "After"))
    edited.events.send(type="page")
    page.get_by_role("heading", name="After").wait_for()
    page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != before[0]")
    assert_plots_are_drawn(page, 1)
    turn_slider(page)
    edited.dyno.wait_for_log("bokeh moved two")
    edited.assert_same_window()


def test_apps_come_and_go(edited: Edited) -> None:
    page = open_with_app(edited)
    for number, (names, heights) in enumerate(
        [
            (["plain.one", "counter"], [4]),
            (["counter", "counter", "plain.one"], [4, 1]),
            (["counter"], [4]),
            (["plain.one"], []),
            ([], []),
            (["later", "counter"], [1]),
        ]
    ):
        tags = "".join(f'{{{{ bokeh_app("{name}") }}}}' for name in names)
        edited.write(f"<h1>{number}</h1>{tags}")
        edited.events.send(type="page")
        page.get_by_role("heading", name=str(number), exact=True).wait_for()
        page.wait_for_function(f"Bokeh.documents.length == {len(names)}")
        assert_plots_are_drawn(page, len([name for name in names if name != "later"]))
        page.wait_for_function("document.querySelectorAll('.bokeh-status').length == 0")
        assert sorted(filter(None, page.evaluate(HEIGHTS)), reverse=True) == heights
    edited.assert_same_window()


def test_the_first_app_of_a_page_is_loaded_with_it(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1><input name=n>")
    page.fill("input", "mine")
    edited.write(APP + "<input name=n>")
    edited.events.send(type="page")
    assert_plots_are_drawn(page, 1)
    assert page.input_value("input") == "mine"


WHOLE = """() => Bokeh.documents.every((doc) => !before.includes(doc)) && Bokeh.documents.length == %d
  && !document.querySelector(".bokeh-status")"""


def lose(edited: Edited) -> None:
    """End the Bokeh workers, as a new generation of the dyno does; the next one is there when it is looked for."""
    before = runs(edited.dyno)
    for worker in edited.dyno.bokeh_workers():
        worker.kill()
    edited.page.wait_for_function(WHOLE % 1, timeout=20_000)
    assert runs(edited.dyno) > before


def test_an_app_and_the_page_around_it_come_from_another_server(edited: Edited) -> None:
    page = open_with_app(edited, APP + "<input name=n>")
    page.fill("input", "mine")
    edited.write(APP.replace("Before", "After") + "<input name=n><p>more</p>")
    edited.events.send(type="building")
    edited.events.send(type="serving", generation="bbb")
    lose(edited)
    page.get_by_role("heading", name="After").wait_for()
    assert page.evaluate(HEIGHTS) == [4]
    assert page.input_value("input") == "mine"
    # and once more, first the app, then the page
    page.evaluate("window.before = [...Bokeh.documents]")
    lose(edited)
    edited.write(f"<section>{APP.replace('Before', 'Later')}</section>")
    edited.events.send(type="serving", generation="ccc")
    page.get_by_role("heading", name="Later").wait_for()
    edited.write(APP.replace("Before", "In the end"))
    edited.events.send(type="page")
    page.get_by_role("heading", name="In the end").wait_for()
    assert page.evaluate(HEIGHTS) == [4]
    assert_plots_are_drawn(page, 1)
    turn_slider(page)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 5")
    edited.assert_same_window()


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_the_template_of_an_apps_own_page_is_put_in_place(edited: Edited, when: str) -> None:
    page = open_with_app(edited, "counter", path="/bkapp/counter")

    def with_another_template(route) -> None:
        answer = route.fetch()
        text = re.sub(
            r"<div id=\S+ data-root-id=\S+[^>]*></div>", r"<h1>Title</h1><section>\g<0></section>", answer.text()
        )
        route.fulfill(response=answer, body=text.replace("<head>", '<head lang="de">'))

    page.route("**/bkapp/counter", with_another_template)
    if when == "after":
        lose(edited)
    before = runs(edited.dyno)
    if when == "meanwhile":
        page.evaluate("""() => new MutationObserver(() => {
          window.beside ||= document.querySelector("body [style*=hidden]") != null
        }).observe(document.body, {subtree: true, childList: true, attributes: true})""")
        for worker in edited.dyno.bokeh_workers():
            worker.kill()
        page.wait_for_function("window.beside")  # the view that comes next, for a fifth of a second
    edited.events.send(type="serving", generation=f"b{when}")
    page.wait_for_function("document.querySelector('section > div')")
    if when == "before":
        lose(edited)
    page.wait_for_function(WHOLE % 1)
    assert page.evaluate(HEIGHTS) == [4]
    assert page.evaluate("document.querySelectorAll('section > div').length") == 1
    assert_plots_are_drawn(page, 1)
    turn_slider(page)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 5")
    assert runs(edited.dyno) <= before + 1  # what is fetched to be put in place is no view of its own
    edited.assert_same_window()


# --- what it is told, and when ---


def test_the_sign_is_there_while_an_edit_is_taken(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1>")
    sign = page.get_by_role("status")
    assert sign.inner_text() == ""
    edited.events.send(type="building")
    sign.get_by_text("Taking the edit…").wait_for()
    assert sign.bounding_box()["height"] <= 4
    for end in ("serving", "errors", "styles", "page"):
        edited.events.send(type="building")
        sign.get_by_text("Taking the edit…").wait_for()
        edited.events.send(type=end, generation="bbb", errors=[], files=[])
        sign.and_(page.locator(":empty")).wait_for(state="attached")


def test_a_page_comes_back_to_bin_dev_and_sees_what_it_has_missed(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1>")
    edited.write("<h1>After</h1>")
    edited.events.hello["generation"] = "bbb"
    with page.expect_response("**/dyno-dev/events"):
        edited.events.drop()
    page.get_by_role("heading", name="After").wait_for()
    # edits that began no generation
    edited.events.hello["state"] = "1"
    with page.expect_response("**/dyno-dev/events"):
        edited.events.drop()
    edited.write("<h1>Later</h1>")
    edited.style("h1 { color: rgb(9, 0, 0) }")
    edited.events.hello["state"] = "2"
    with page.expect_response("**/dyno-dev/events"):
        edited.events.drop()
    page.get_by_role("heading", name="Later").wait_for()
    page.wait_for_function("getComputedStyle(document.querySelector('h1')).color == 'rgb(9, 0, 0)'")
    edited.assert_same_window()


def test_a_page_that_is_not_seen_leaves_its_connection_to_others(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1>")
    edited.events.hello["state"] = "1"
    see = """(state) => {
      Object.defineProperty(document, "visibilityState", {value: state, configurable: true})
      document.dispatchEvent(new Event("visibilitychange"))
    }"""
    before = edited.events.count
    with page.expect_event("requestfailed"):
        page.evaluate(see, "hidden")
    edited.events.drop()
    edited.write("<h1>After</h1>")
    edited.events.hello["generation"] = "bbb"
    page.evaluate(see, "visible")
    page.get_by_role("heading", name="After").wait_for()
    assert edited.events.count == before + 1
    edited.assert_same_window()


# --- errors ---


def test_an_error_is_shown_over_the_page_until_it_is_mended(edited: Edited) -> None:
    page = edited.open(FORM)
    page.focus("textarea")
    edited.events.send(type="building")
    edited.events.send(type="errors", errors=[ERROR])
    dialog = page.get_by_role("dialog", name="This edit does not run")
    dialog.get_by_role("heading", name="bokeh_app/counter/main.py:12").wait_for()
    assert "NameError" in dialog.locator("p.message").inner_text()
    assert dialog.locator("pre").inner_text() == ERROR["traceback"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    edited.events.send(type="errors", errors=[])
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    edited.assert_same_window()


def test_an_error_that_was_closed_stays_so_until_there_is_another(edited: Edited) -> None:
    page = edited.open("<h1>Before</h1>")
    dialog = page.get_by_role("dialog")
    edited.events.send(type="errors", errors=[ERROR])
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    edited.events.send(type="errors", errors=[ERROR])
    edited.events.hello["errors"] = [ERROR]
    edited.events.send(type="building")
    page.get_by_role("status").get_by_text("Taking").wait_for()
    assert not dialog.is_visible()
    edited.events.send(type="errors", errors=[ERROR, {**ERROR, "where": "site", "file": None, "line": None}])
    dialog.get_by_text("2 errors").wait_for()
    assert dialog.get_by_role("heading", name="site").is_visible()
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")
    page.reload()  # whoever opens the page is told
    dialog.wait_for()
    edited.events.send(type="serving", generation="bbb", errors=[])
    dialog.wait_for(state="hidden")


def test_an_error_in_a_callback_does_not_cover_the_page(edited: Edited) -> None:
    page = edited.open("<button>Press</button>")
    page.evaluate("document.querySelector('button').addEventListener('click', () => (window.pressed = true))")
    edited.events.send(type="errors", errors=[{**ERROR, "running": True}])
    notes = page.get_by_role("alert")
    notes.get_by_text("bokeh_app/counter/main.py:12").wait_for()
    page.get_by_role("button", name="Press").click()
    assert page.evaluate("window.pressed")
    assert page.get_by_role("dialog").count() == 0
    notes.get_by_role("button", name="Close").click()
    assert notes.get_by_role("heading").count() == 0


def test_the_sites_own_look_and_policy_do_not_reach_what_is_said(edited: Edited) -> None:
    head = (
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'self'\">"
        "<link rel=stylesheet href='/static/loud.css'>"
    )
    edited.style(
        "* { display: none !important; color: red !important } html, body { display: block !important }", "loud.css"
    )
    page = edited.open("<h1>Before</h1>", head)
    edited.events.send(type="errors", errors=[ERROR])
    page.get_by_role("dialog").get_by_role("heading", name="bokeh_app/counter").wait_for()
    assert page.get_by_role("dialog").locator("pre").is_visible()
    edited.write("<h1>After</h1>", head)
    edited.events.send(type="page")
    page.locator("h1", has_text="After").wait_for(state="attached")
    edited.assert_same_window()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_what_is_said_has_room_in_any_window(edited: Edited, scheme: str, width: int) -> None:
    edited.page.set_viewport_size({"width": width, "height": 640})
    edited.page.emulate_media(color_scheme=scheme)
    page = edited.open(FORM)
    edited.events.send(type="errors", errors=[ERROR, {**ERROR, "line": 13, "running": True}])
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    box = dialog.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = dialog.evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=f"{folder}/error-{scheme}-{width}.png")
        page.keyboard.press("Escape")
        page.screenshot(path=f"{folder}/note-{scheme}-{width}.png")


# --- bin/dev itself ---

APP_FILE, TEMPLATE, STYLE = "bokeh_app/counter/main.py", "flask_app/templates/one.html", "flask_app/static/site.css"


@pytest.fixture
def dev(project: Path, dyno: Callable[..., Dyno], scratch: Path) -> Dyno:
    """A run of bin/dev with a page that has an app, a form and a style sheet."""
    (project / "flask_app" / "__init__.py").write_text(SITE)
    main = f"{APP}<form><input name=n></form>"
    text = PAGE.replace("{title}", "one").replace("{head}", "").replace("{main}", main)
    for name, content in ((TEMPLATE, text), (STYLE, "h1 { color: rgb(1, 0, 0) }")):
        (project / name).parent.mkdir()
        (project / name).write_text(content)
    command = [sys.executable, "-m", "bokeh_dyno", "dev"]
    return dyno(project, {"TEST_COUNTER": str(scratch / "runs")}, command).start()


def edit(one: Dyno, name: str, old: str, new: str) -> None:
    """Save a file with something else in it."""
    text = (one.folder / name).read_text()
    assert old in text
    one.save(name, text.replace(old, new))


def open_in_dev(one: Dyno, page: Page, path: str = "/one") -> None:
    """Open a page, move the slider of its app to 4, and enter something in its form."""
    with page.expect_response("**/dyno-dev/events"):
        page.goto(f"http://127.0.0.1:{one.port}{path}")
    assert_plots_are_drawn(page, 1)
    turn_slider(page, 3)
    page.wait_for_function("Bokeh.documents.some((doc) => doc.get_model_by_name('line').data.y[0] == 4)")
    if path == "/one":
        page.fill("[name=n]", "mine")
    page.evaluate("() => { window.marked = true; window.before = [...Bokeh.documents] }")


def take_out_what_a_generation_causes(page: Page) -> None:
    """Forget what the browser says of streams that were ended; nothing else."""
    page.complaints[:] = [one for one in page.complaints if "/dyno-dev/events" not in one and "ERR_" not in one]


TITLES = "() => Bokeh.documents.map((doc) => [...doc.all_models].find((model) => model.type == 'Title').text)"


def test_each_saved_edit_is_seen_on_the_open_page(dev: Dyno, page: Page) -> None:
    open_in_dev(dev, page)

    edit(dev, STYLE, "rgb(1", "rgb(2")
    page.wait_for_function("getComputedStyle(document.querySelector('h1')).color == 'rgb(2, 0, 0)'")

    edit(dev, TEMPLATE, "Before", "After")
    page.get_by_role("heading", name="After").wait_for()
    assert page.evaluate("Bokeh.documents[0] == before[0]")

    for number in range(3):  # one soon after the other
        page.evaluate("() => { window.before = [...Bokeh.documents] }")
        edit(dev, APP_FILE, f'title="counter{number or ""}"', f'title="counter{number + 1}"')
        page.wait_for_function(f"({WHOLE % 1})() && ({TITLES})()[0] == 'counter{number + 1}'")
        assert page.evaluate(HEIGHTS) == [4]

    page.evaluate("() => { window.before = [...Bokeh.documents] }")
    edit(
        dev, "flask_app/__init__.py", 'render_template(f"{name}.html")', 'render_template(f"{name}.html", more="more")'
    )
    edit(dev, TEMPLATE, "After", "With {{ more }}")
    page.get_by_role("heading", name="With more").wait_for()
    page.wait_for_function(WHOLE % 1)

    assert page.evaluate(HEIGHTS) == [4]
    assert page.input_value("[name=n]") == "mine"
    assert page.evaluate("window.marked"), "it was loaded anew"
    assert_plots_are_drawn(page, 1)
    turn_slider(page)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 5")
    take_out_what_a_generation_causes(page)


def test_an_edit_that_does_not_run_is_shown_and_the_page_goes_on(dev: Dyno, page: Page) -> None:
    open_in_dev(dev, page)
    edit(dev, APP_FILE, "slider = Slider", "slider = Slidr")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Slidr").first.wait_for()
    number = (dev.folder / APP_FILE).read_text().partition("Slidr")[0].count("\n") + 1
    assert dialog.get_by_role("heading", name=f"{APP_FILE}:{number}").is_visible()
    page.keyboard.press("Escape")
    turn_slider(page)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 5")
    assert page.evaluate("Bokeh.documents[0] == before[0]")
    edit(dev, APP_FILE, "Slidr", "Slider")
    page.wait_for_function(WHOLE % 1)
    assert page.evaluate(HEIGHTS) == [5]
    assert not dialog.is_visible()
    # a page that cannot be rendered
    edit(dev, TEMPLATE, "Before", "{{ 1 / 0 }}")
    page.get_by_text("ZeroDivisionError").first.wait_for()
    assert page.inner_text("main h1") == "Before"
    edit(dev, TEMPLATE, "{{ 1 / 0 }}", "After")
    page.get_by_role("heading", name="After").wait_for()
    dialog.wait_for(state="hidden")
    page.wait_for_function("!document.querySelector('main').innerText.includes('ZeroDivisionError')")
    # a callback
    page.evaluate("() => { window.before = [...Bokeh.documents] }")
    edit(
        dev,
        APP_FILE,
        "def move(attr, old, new):",
        "def move(attr, old, new):\n    if new == 7:\n        raise ValueError(new)",
    )
    page.wait_for_function(WHOLE % 1)
    with page.expect_console_message(lambda said: "the app has failed" in said.text):
        turn_slider(page, 2)
    page.get_by_role("alert").get_by_text("ValueError: 7", exact=True).wait_for()
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("window.marked"), "it was loaded anew"
    take_out_what_a_generation_causes(page)
    page.complaints[:] = [one for one in page.complaints if "500" not in one and "the app has failed" not in one]


def test_an_apps_own_page_gets_its_template_and_its_further_parts(dev: Dyno, page: Page) -> None:
    name = "bokeh_app/counter/templates/index.html"
    open_in_dev(dev, page, "/bkapp/counter")
    (dev.folder / name).parent.mkdir()
    parts = "{% for root in roots %}{{ embed(root) }}{% endfor %}"
    template = f"{{% extends base %}}{{% block contents %}}<h1>Mine</h1>{parts}{{% endblock %}}"
    dev.save(name, template)
    page.get_by_role("heading", name="Mine").wait_for()
    page.wait_for_function(WHOLE % 1)
    assert page.evaluate(HEIGHTS) == [4]
    assert page.evaluate("window.marked"), "it was loaded anew"
    assert_plots_are_drawn(page, 1)
    page.evaluate("() => { window.before = [...Bokeh.documents] }")
    edit(dev, APP_FILE, "curdoc().add_root(column(slider, plot))", "curdoc().add_root(slider)\ncurdoc().add_root(plot)")
    page.wait_for_function(f"document.querySelectorAll('[data-root-id]').length == 2 && ({WHOLE % 1})()")
    assert page.evaluate(HEIGHTS) == [4]
    assert_plots_are_drawn(page, 1)
    assert page.evaluate("window.marked"), "it was loaded anew"
    # where each has a place of its own, a further one cannot be put in place
    edit(dev, name, "{{ embed(root) }}", "<h2>Part</h2>{{ embed(root) }}")
    page.wait_for_function("document.querySelectorAll('h2').length == 2")
    edit(
        dev,
        APP_FILE,
        "curdoc().add_root(plot)",
        "curdoc().add_root(plot)\ncurdoc().add_root(Slider(start=0, end=1, value=0))",
    )
    page.wait_for_function("document.querySelectorAll('h2 + [data-root-id] > [class]').length == 3")
    assert page.evaluate("window.marked") is None
    assert_plots_are_drawn(page, 1)
    take_out_what_a_generation_causes(page)


def test_a_site_that_cannot_start_is_there_once_it_is_mended(
    project: Path, dyno: Callable[..., Dyno], page: Page
) -> None:
    source = project / "flask_app" / "__init__.py"
    text = source.read_text()
    source.write_text(text.replace("def create_app():", "def create_app(:"))
    one = dyno(project, {}, [sys.executable, "-m", "bokeh_dyno", "dev"]).launch()
    wait_for("what is wrong", lambda: "waiting for the next edit" in one.log(), 60)
    with page.expect_response("**/dyno-dev/events"):
        page.goto(f"http://127.0.0.1:{one.port}/with/counter")
    page.get_by_role("dialog").get_by_role("heading", name="flask_app/__init__.py").wait_for()
    source.write_text(text)
    assert_plots_are_drawn(page, 1, 60)
    assert page.get_by_role("dialog").count() == 0
    page.complaints.clear()  # there was nobody for a while


def test_a_page_sees_a_dyno_end_and_come_back(dev: Dyno, page: Page) -> None:
    open_in_dev(dev, page)
    dev.find("gunicorn")[0].kill()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    edit(dev, TEMPLATE, "Before", "After")
    page.get_by_role("heading", name="After").wait_for()
    dialog.wait_for(state="hidden")
    page.wait_for_function(WHOLE % 1)
    assert page.evaluate(HEIGHTS) == [4]
    assert page.input_value("[name=n]") == "mine"
    assert page.evaluate("window.marked"), "it was loaded anew"
    page.complaints.clear()  # there was nobody for a while
