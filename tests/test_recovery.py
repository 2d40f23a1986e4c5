"""Open pages that outlive workers, dynos and deploys, with the visitor's values in them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import assert_plots_are_drawn, forget_a_missing_worker, source_values, turn_slider
from dyno_under_test import OTHER_SITE, Dyno, copy_project, temporary_folder, wait_for
from playwright.sync_api import Page

MakeDyno = Callable[..., Dyno]
KEY = secrets.token_hex(32)
# seconds; a longer absence takes the suite's time: AWAY=60 bin/test tests/test_recovery.py, or AWAY=300
AWAY = float(os.environ.get("AWAY", "8"))
OFFLINE = float(os.environ.get("OFFLINE", "1"))  # seconds without a network; the promise is two minutes
# So many documents, none of those that were there before the loss, and no view that is still hidden: each new one has taken
# the place of an old one
WHOLE = """() => !Bokeh.documents.some((doc) => window.before_the_loss?.includes(doc))
  && !document.querySelector(".bokeh-status") && Bokeh.documents.length == %d
  && !document.querySelector("[data-bokeh-token] > [style*=hidden]") && !document.querySelector(".bk-notification")"""

# An app with every widget that takes input, some of which others make, that shows what the server knows of them
INPUTS = """
import json
from datetime import date
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import *

LABELS = ["a", "b", "c"]
KINDS = {"fruit": ["apple", "pear"], "vegetable": ["kale", "leek"]}
first, last = date(2020, 1, 1), date(2020, 12, 31)
kind, item = Select(title="kind", options=list(KINDS), value="fruit"), Select(title="item", options=KINDS["fruit"])
count, parts = Slider(title="count", start=0, end=5, value=0), column()
table = DataTable(
    source=ColumnDataSource({"n": [1, 2, 3]}), columns=[TableColumn(field="n", editor=IntEditor())], editable=True
)
inputs = [
    kind, item, count, TextInput(title="text", value=""), TextAreaInput(title="area", value=""),
    PasswordInput(value=""), AutocompleteInput(completions=LABELS, value=""), NumericInput(value=1), Spinner(value=1),
    RangeSlider(start=0, end=9, value=(1, 2)), DateSlider(start=first, end=last, value=first),
    DateRangeSlider(start=first, end=last, value=(first, last)), CategoricalSlider(categories=LABELS, value="a"),
    DatePicker(value="2020-01-01"), DateRangePicker(value=("2020-01-01", "2020-01-05")),
    MultipleDatePicker(value=["2020-01-01"]), DatetimePicker(value="2020-01-01T10:00:00"), TimePicker(value="10:00:00"),
    MultiSelect(options=LABELS, value=[]), MultiChoice(options=LABELS, value=[]), ColorPicker(color="#000000"),
    CheckboxGroup(labels=LABELS, active=[]), CheckboxButtonGroup(labels=LABELS, active=[]),
    RadioGroup(labels=LABELS), RadioButtonGroup(labels=LABELS), Switch(), Toggle(), Checkbox(), FileInput(),
    Tabs(tabs=[TabPanel(title=label, child=Div(text=label)) for label in LABELS]),
]
seen, files = Div(name="seen"), []

def show(attr, old, new):
    held = []
    for one in [*inputs, *parts.children]:
        value = one.properties_with_values(include_defaults=False)
        chosen = value.get("active")
        if isinstance(one, (CheckboxGroup, CheckboxButtonGroup)):
            chosen = sorted(one.labels[index] for index in chosen or [])
        elif isinstance(one, (RadioGroup, RadioButtonGroup)) and chosen is not None:
            chosen = one.labels[chosen]
        held.append([type(one).__name__, value.get("value"), value.get("color"), chosen])
    held.append([list(table.source.data["n"]), table.source.selected.indices, files])
    seen.text = json.dumps(held, default=str)

def choose(attr, old, new):
    item.update(options=KINDS[new], value=KINDS[new][0])

def make(attr, old, new):
    parts.children = [Slider(title=f"part {number}", start=0, end=9, value=0) for number in range(new)]
    for part in parts.children:
        part.on_change("value", show)

inputs[-2].on_change("filename", lambda attr, old, new: files.append(new))  # before it is set, reading it is an error
kind.on_change("value", choose)
count.on_change("value", make)
for one in inputs:
    for name in {"value", "active", "color"} & set(one.properties()):
        one.on_change(name, show)
table.source.on_change("data", show)
table.source.selected.on_change("indices", show)
show(None, None, None)
curdoc().add_root(column(*inputs, parts, table, seen))
"""
ENTER = """(steps) => {
  const all = [...new Set(Bokeh.documents[0].roots().flatMap((root) => [...root.references()]))]
  for (const [called, values] of Object.entries(steps)) {
    for (const model of all.filter((one) => one.type == called || one.title == called)) model.setv(values)
  }
}"""
SEEN = "() => Bokeh.documents[0].get_model_by_name('seen').text"


def open_page(page: Page, one: Dyno, apps: str = "counter", slider: int = 4, below: str = "/with/") -> None:
    """Open a page with apps of the test's site, and move the first slider to `slider`."""
    page.goto(f"http://127.0.0.1:{one.port}{below}{apps}")
    assert_plots_are_drawn(page, apps.count("+") + 1)
    before = source_values(page)
    turn_slider(page, slider - 1)
    page.wait_for_function(
        "(value) => Bokeh.documents.some((doc) => doc.get_model_by_name('line').data.y[0] == value)",
        arg=slider,
    )
    assert source_values(page) != before
    page.evaluate("() => { window.before_the_loss = [...Bokeh.documents] }")


def assert_whole(page: Page, slider: int = 4, documents: int = 1, seconds: float = 40) -> None:
    """Wait until the page is as it was: the slider where the visitor left it, the plot computed from that."""
    page.wait_for_function(WHOLE % documents, timeout=seconds * 1000)
    page.wait_for_function(
        """(value) => Bokeh.documents.some((doc) => doc.get_model_by_name("height")?.value == value
          && doc.get_model_by_name("line").data.y[0] == value)""",
        arg=slider,
    )
    assert_plots_are_drawn(page, documents)


def take_out_what_the_absence_caused(page: Page) -> None:
    """Forget what the browser says of requests to a site that is not there; nothing else."""
    page.complaints[:] = [one for one in page.complaints if "ERR_" not in one and "net::" not in one]


def runs(one: Dyno) -> int:
    """Return how often the app has run."""
    return len(Path(one.env["TEST_COUNTER"]).read_text().splitlines())


def successor(one: Dyno, dyno: MakeDyno) -> Dyno:
    """Return the next dyno at the same address, not yet started."""
    return dyno(one.folder, one.env)


class Address:
    """A folder and a port, where one dyno follows the other."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.dynos: list[Dyno] = []

    def running(self) -> Dyno:
        """Return the dyno that is there."""
        return self.dynos[-1] if self.dynos and self.dynos[-1].process.poll() is None else self.next().start()

    def next(self) -> Dyno:
        """Return the next one, not yet started."""
        if self.dynos:
            self.dynos.append(successor(self.dynos[-1], Dyno))
        else:
            env = {"BOKEH_SECRET_KEY": KEY, "TEST_COUNTER": str(self._scratch / "runs")}
            self.dynos.append(Dyno(copy_project(self._scratch / "app", OTHER_SITE), env))
        return self.dynos[-1]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """Where the tests that change nothing in the folder have their dynos.

    A worker that is killed 6 times within a minute ends its dyno: one of them restarts it between those that kill some.
    """
    scratch = temporary_folder()
    there = Address(scratch)
    try:
        yield there
        assert there.running().stop() == 0
    finally:
        for one in there.dynos:
            one.clean_up()
        shutil.rmtree(scratch)


@pytest.fixture
def one(address: Address) -> Dyno:
    """The dyno that is there."""
    return address.running()


@pytest.fixture
def alone(project: Path, dyno: MakeDyno, scratch: Path) -> Dyno:
    """A dyno of its own, for those that change an app or the site, with a key that its successors have too."""
    return dyno(project, {"BOKEH_SECRET_KEY": KEY, "TEST_COUNTER": str(scratch / "runs")}).start()


@pytest.mark.parametrize("below", ["/with/", "/bkapp/"], ids=["a page of the site", "the app's own page"])
def test_a_page_whose_worker_was_killed_is_whole_again(one: Dyno, page: Page, below: str):
    open_page(page, one, below=below)
    before = runs(one)
    for worker in one.bokeh_workers():
        worker.kill()
    wait_for("the app to run again", lambda: runs(one) > before)
    assert_whole(page)
    forget_a_missing_worker(page)


def test_a_page_outlives_a_restart_and_says_so_quietly(one: Dyno, address: Address, page: Page, record_property):
    open_page(page, one)
    gone = time.monotonic()
    assert one.stop() == 0
    page.get_by_role("status").get_by_text("Reconnecting…").wait_for()
    assert_plots_are_drawn(page, 1)  # the old one stays
    time.sleep(AWAY)  # this is the absence itself
    address.next().start()
    back = time.monotonic()
    assert_whole(page)
    took = time.monotonic() - back
    take_out_what_the_absence_caused(page)
    record_property("figure", f"away {AWAY:.0f} s: the page was whole {took:.1f} s after the site")
    # 3 s are the promise, measured on a machine that has nothing else to do; and after a long boot the page looks less often
    assert took < max(6, 4 + 1.5 * (back - gone) / 20)


@pytest.mark.parametrize("below", ["/with/", "/bkapp/"], ids=["a page of the site", "the app's own page"])
def test_a_page_whose_first_websocket_fails_tries_again(one: Dyno, page: Page, below: str):
    page.add_init_script("""WebSocket = new Proxy(WebSocket, {
      construct: (target, [url, protocols]) => {
        if (!window.tried) url = url.replace("/ws", "/no/ws")
        window.tried = true
        return new target(url, protocols)
      }
    })""")
    open_page(page, one, below=below)
    assert len(page.complaints) == 1
    assert "/no/ws" in page.complaints.pop()


@pytest.mark.parametrize("below", ["/with/", "/bkapp/"], ids=["a page of the site", "the app's own page"])
def test_a_page_that_was_about_to_be_left_comes_back_too(one: Dyno, page: Page, below: str):
    open_page(page, one, below=below)
    page.route("**/attachment", lambda route: route.fulfill(status=204))
    page.evaluate("() => { addEventListener('beforeunload', () => window.left = true); location.href = '/attachment' }")
    page.wait_for_function("() => window.left")
    before = runs(one)
    for worker in one.bokeh_workers():
        worker.kill()
    wait_for("the app to run again", lambda: page.wait_for_timeout(10) or runs(one) > before)
    assert_whole(page)
    take_out_what_the_absence_caused(page)
    forget_a_missing_worker(page)


def test_what_the_visitor_changes_during_the_absence_is_kept_too(one: Dyno, address: Address, page: Page):
    open_page(page, one)
    assert one.stop() == 0
    page.get_by_role("status").wait_for()
    turn_slider(page, 2)
    address.next().start()
    assert_whole(page, slider=6)
    take_out_what_the_absence_caused(page)


def test_a_second_loss_while_the_values_are_entered(one: Dyno, page: Page):
    open_page(page, one)
    # the new views are counted, for each is hidden for a moment only, and whoever looks for it may come later
    page.evaluate("""() => {
      window.views = 0
      const is_new = (node) => node.style?.visibility == "hidden" && node.parentElement?.matches("[data-bokeh-token]")
      new MutationObserver((records) => {
        for (const {addedNodes} of records) window.views += [...addedNodes].filter(is_new).length
      }).observe(document.body, {childList: true, subtree: true})
    }""")
    for count in (1, 2):
        for worker in one.bokeh_workers():
            worker.kill()
        page.wait_for_function("(count) => window.views >= count", arg=count)
        wait_for("the workers", lambda: one.get("/healthz").status == 200)
    assert_whole(page)
    forget_a_missing_worker(page)


def test_what_the_visitor_goes_on_to_change_while_values_are_entered_is_kept(alone: Dyno, page: Page):
    open_page(page, alone)
    # every tenth of a second, up to the moment in which the new view takes its place
    page.evaluate("""() => {
      const slider = before_the_loss[0].get_model_by_name("height")
      const going_on = setInterval(() => {
        if (Bokeh.documents.includes(before_the_loss[0])) slider.value = window.last = slider.value % 9 + 1
        else clearInterval(going_on)
      }, 100)
    }""")
    for worker in alone.bokeh_workers():
        worker.kill()
    page.wait_for_function("!Bokeh.documents.includes(before_the_loss[0])", timeout=60_000)
    page.wait_for_function(
        "Bokeh.documents.length == 1 && Bokeh.documents[0].get_model_by_name('height').value == window.last"
        "&& Bokeh.documents[0].get_model_by_name('line').data.y[0] == window.last"
    )
    forget_a_missing_worker(page)


def test_the_script_on_a_page_twice_shows_each_app_once(one: Dyno, page: Page):
    page.add_init_script("""window.opened = 0
      WebSocket = new Proxy(WebSocket, {construct: (target, args) => (window.opened += 1, new target(...args))})""")
    open_page(page, one)
    page.evaluate("""() => new Promise((done) => {
      const again = document.createElement("script")
      again.src = [...document.scripts].find((script) => script.src.includes("dyno.js")).src + "?again"
      again.onload = done
      document.head.append(again)
    })""")
    assert page.evaluate("() => window.opened") == 1


def test_a_site_that_goes_away_again_while_a_page_comes_back(one: Dyno, address: Address, page: Page):
    open_page(page, one)
    stopped = []

    def stop_in_between(route) -> None:
        answer = route.fetch()
        if not stopped:
            stopped.append(one.stop())
        route.fulfill(response=answer)

    page.route("**/with/**", stop_in_between)
    for worker in one.bokeh_workers():
        worker.kill()
    wait_for("the page to ask", lambda: page.wait_for_timeout(10) or stopped)
    page.unroute("**/with/**")
    page.get_by_role("status").wait_for()
    address.next().start()
    assert_whole(page)
    take_out_what_the_absence_caused(page)


def test_a_loss_while_the_views_are_made(one: Dyno, page: Page):
    def kill() -> None:
        for worker in one.bokeh_workers():
            worker.kill()

    page.expose_function("kill", kill)
    # some views wait, for an image or for MathJax, and the connection may be lost meanwhile: here it is, once
    page.add_init_script("""const made_slowly = (native) => async (...args) => {
        const socket = WebSocket.last
        const views = await native(...args)
        if (!window.killed) {
          window.killed = kill()
          while (socket.readyState != socket.CLOSED) await new Promise((done) => setTimeout(done, 50))
        }
        return views
      }
      const Native = WebSocket
      WebSocket = class extends Native {
        constructor(...args) {
          super(...args)
          Native.last = this
        }
      }
      addEventListener("DOMContentLoaded", () => {
        const add_document_from_session = made_slowly(Bokeh.embed.add_document_from_session)
        window.Bokeh = {__proto__: Bokeh, embed: {__proto__: Bokeh.embed, add_document_from_session}}
      }, true)""")
    page.goto(f"http://127.0.0.1:{one.port}/with/counter")
    page.wait_for_function("() => Boolean(window.killed)")
    page.wait_for_function("() => performance.getEntriesByType('resource').some((one) => one.initiatorType == 'fetch')")
    turn_slider(page, 3)
    assert_whole(page)
    forget_a_missing_worker(page)


def test_a_page_that_lost_its_network_finds_the_very_same_session(one: Dyno, page: Page):
    open_page(page, one)
    before = runs(one)
    page.route("**/with/**", lambda route: route.abort())
    for process in one.find("nginx: worker"):  # whoever holds the connection in between lets go of it
        process.kill()
    page.get_by_role("status").wait_for()
    time.sleep(OFFLINE)  # this is the absence itself
    page.unroute("**/with/**")
    assert_whole(page)
    assert runs(one) == before
    take_out_what_the_absence_caused(page)


def test_an_app_without_widgets_comes_back(one: Dyno, page: Page):
    page.goto(f"http://127.0.0.1:{one.port}/with/plain.one")
    assert_plots_are_drawn(page, 1)
    page.evaluate("() => { window.before_the_loss = [...Bokeh.documents] }")
    for worker in one.bokeh_workers():
        worker.kill()
    page.wait_for_function(WHOLE % 1)
    assert_plots_are_drawn(page, 1)
    forget_a_missing_worker(page)


def test_two_apps_on_a_page_come_back_each_with_its_own_values(one: Dyno, address: Address, page: Page):
    open_page(page, one, "counter+counter")
    assert one.stop() == 0
    address.next().start()
    assert_whole(page, documents=2)
    heights = page.evaluate("() => Bokeh.documents.map((doc) => doc.get_model_by_name('height').value)")
    assert sorted(heights) == [1, 4]
    take_out_what_the_absence_caused(page)


def test_an_app_that_changed_in_a_deploy_gets_the_values_that_it_has_a_place_for(
    alone: Dyno, dyno: MakeDyno, page: Page
):
    open_page(page, alone)
    assert alone.stop() == 0
    app = alone.folder / "bokeh_app" / "counter" / "main.py"
    changed = app.read_text().replace(
        "curdoc().add_root(column(slider, plot))",
        "curdoc().add_root(column(Slider(title='new', start=0, end=9, value=2), slider, plot))",
    )
    # the new one comes first, so that every model after it has another id
    app.write_text(
        changed.replace("source = Col", 'first = Slider(title="first", start=0, end=9, value=3)\nsource = Col')
    )
    successor(alone, dyno).start()
    assert_whole(page)
    others = page.evaluate(
        "() => [...Bokeh.documents[0].all_models].filter((m) => m.title == 'new').map((m) => m.value)"
    )
    assert others == [2]
    take_out_what_the_absence_caused(page)


def test_every_input_keeps_what_the_visitor_entered(project: Path, dyno: MakeDyno, page: Page):
    main = project / "bokeh_app" / "inputs" / "main.py"
    main.parent.mkdir()
    main.write_text(INPUTS)
    one = dyno(project, {"BOKEH_SECRET_KEY": KEY}).start()
    page.goto(f"http://127.0.0.1:{one.port}/with/inputs")
    page.wait_for_function("() => window.Bokeh?.documents[0]?.is_idle")

    def enter(wanted: str, **values: dict) -> None:
        page.evaluate(ENTER, values)
        page.wait_for_function(f"(wanted) => ({SEEN})().includes(wanted)", arg=wanted)

    enter('["Slider", 2', count={"value": 2})
    enter('["Slider", 3', kind={"value": "vegetable"}, count={"value": 3})  # the parts are made anew
    enter("[[1, 9, 3], [2], []]", ColumnDataSource={"data": {"n": [1, 9, 3]}}, Selection={"indices": [2]})
    enter(
        '["Slider", 7',
        item={"value": "leek"}, area={"value": "two\nlines"}, PasswordInput={"value": "secret"},
        AutocompleteInput={"value": "b"}, NumericInput={"value": 5}, Spinner={"value": 5}, RangeSlider={"value": [3, 7]},
        DateSlider={"value": 1588291200000}, DateRangeSlider={"value": [1588291200000, 1590969600000]},
        CategoricalSlider={"value": "c"}, DatePicker={"value": "2020-05-01"},
        DateRangePicker={"value": ["2020-05-01", "2020-05-03"]}, MultipleDatePicker={"value": ["2020-05-01"]},
        DatetimePicker={"value": "2020-05-01T11:00:00"}, TimePicker={"value": "11:00:00"},
        MultiSelect={"value": ["a", "c"]}, MultiChoice={"value": ["b"]}, ColorPicker={"color": "#ff0000"},
        CheckboxGroup={"active": [0, 1]}, CheckboxButtonGroup={"active": [2]}, RadioGroup={"active": 0},
        RadioButtonGroup={"active": 2}, Switch={"active": True}, Toggle={"active": True}, Checkbox={"active": True},
        Tabs={"active": 1}, FileInput={"value": "aGVsbG8=", "filename": "hello.txt", "mime_type": "text/plain"},
        **{"part 1": {"value": 5}, "part 2": {"value": 7}},
    )  # fmt: skip
    before = page.evaluate(SEEN)
    page.locator(".bk-TextInput input").first.click()
    page.keyboard.type("half ")
    assert one.stop() == 0
    page.get_by_role("status").wait_for()
    page.keyboard.type("of it ")
    main.write_text(INPUTS.replace('["a", "b", "c"]', '["c", "b", "a"]'))
    successor(one, dyno).start()
    page.wait_for_function(WHOLE % 1)
    page.keyboard.type("and the rest")  # where the focus is
    page.keyboard.press("Tab")
    expected = before.replace('["TextInput", null, ', '["TextInput", "half of it and the rest", ')
    assert expected != before
    wait_for("the values", lambda: page.evaluate(SEEN) == expected)
    page.locator(".slick-cell").get_by_text("9").wait_for()
    take_out_what_the_absence_caused(page)


def test_a_value_that_the_changed_app_does_not_take_is_left_out(alone: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, alone)
    assert alone.stop() == 0
    app = alone.folder / "bokeh_app" / "counter" / "main.py"
    app.write_text(app.read_text().replace("end=10", "end=3"))
    successor(alone, dyno).start()
    assert_whole(page, slider=1)
    take_out_what_the_absence_caused(page)


def test_without_a_shared_key_a_page_comes_back_too_in_a_session_of_its_own(project: Path, dyno: MakeDyno, page: Page):
    one = dyno(project).start()
    open_page(page, one)
    assert one.stop() == 0
    successor(one, dyno).start()
    assert_whole(page)
    take_out_what_the_absence_caused(page)


def test_an_app_that_is_gone_says_so(alone: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, alone)
    assert alone.stop() == 0
    pages = alone.folder / "flask_app" / "__init__.py"
    pages.write_text(re.sub(r"{% for name in names %}.*{% endfor %}", "nothing here", pages.read_text()))
    successor(alone, dyno).start()
    page.get_by_text("This plot is not available any more. Reload the page.").wait_for()
    take_out_what_the_absence_caused(page)


def test_an_app_may_opt_out(alone: Dyno, dyno: MakeDyno, page: Page):
    app = alone.folder / "bokeh_app" / "counter" / "main.py"
    app.write_text(app.read_text() + "\ncurdoc().config.reconnect_session = False\n")
    assert alone.stop() == 0
    alone = successor(alone, dyno).start()
    open_page(page, alone)
    alone.wait_for_log('"GET /with/counter"')  # which may come later than the page
    before, asked = runs(alone), alone.log().count('"GET /with/counter"')
    page.evaluate("() => { window.first = Bokeh.documents[0] }")
    for worker in alone.bokeh_workers():
        worker.kill()
    page.wait_for_function("() => document.querySelector('.bk-Notifications')?.shadowRoot.childElementCount > 0")
    wait_for("the workers", lambda: alone.get("/healthz").status == 200)
    assert page.evaluate("() => Bokeh.documents.length == 1 && Bokeh.documents[0] == window.first")
    assert page.locator(".bokeh-status").count() == 0
    assert (runs(alone), alone.log().count('"GET /with/counter"')) == (before, asked)
