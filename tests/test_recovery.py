"""Open pages that outlive workers, dynos and deploys, with the visitor's values in them."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import Dyno, wait_for
from playwright.sync_api import Page

MakeDyno = Callable[..., Dyno]
KEY = secrets.token_hex(32)
# seconds; a longer absence takes the suite's time: AWAY=60 bin/test tests/test_recovery.py, or AWAY=300
AWAY = float(os.environ.get("AWAY", "8"))
OFFLINE = float(os.environ.get("OFFLINE", "1"))  # seconds without a network; the promise is two minutes
# One document, and no view of it that is still hidden: the old one is gone, the new one has taken its place
WHOLE = """() => !document.querySelector(".bokeh-status") && Bokeh.documents.length == %d
  && !document.querySelector("[data-bokeh-token] > [style*=hidden]") && !document.querySelector(".bk-notification")"""


def open_page(page: Page, one: Dyno, apps: str = "counter", slider: int = 4) -> None:
    """Open a page with apps of the test's site, and move the first slider to `slider`."""
    page.goto(f"http://127.0.0.1:{one.port}/with/{apps}")
    assert_plots_are_drawn(page, apps.count("+") + 1)
    before = source_values(page)
    turn_slider(page, slider - 1)
    page.wait_for_function(
        "(value) => Bokeh.documents.some((doc) => doc.get_model_by_name('line').data.y[0] == value)",
        arg=slider,
        timeout=10_000,
    )
    assert source_values(page) != before


def assert_whole(page: Page, slider: int = 4, documents: int = 1, seconds: float = 20) -> None:
    """Wait until the page is as it was: the slider where the visitor left it, the plot computed from that."""
    page.wait_for_function(WHOLE % documents, timeout=seconds * 1000)
    page.wait_for_function(
        """(value) => Bokeh.documents.some((doc) => doc.get_model_by_name("height")?.value == value
          && doc.get_model_by_name("line").data.y[0] == value)""",
        arg=slider,
        timeout=5000,
    )
    assert_plots_are_drawn(page, documents)


def take_out_what_the_absence_caused(page: Page) -> None:
    """Forget what the browser says of requests to a site that is not there; nothing else."""
    page.complaints[:] = [one for one in page.complaints if "ERR_" not in one and "net::" not in one]


def runs(one: Dyno) -> int:
    """Return how often the app has run."""
    return len(Path(one.env["TEST_COUNTER"]).read_text().splitlines())


@pytest.fixture
def one(project: Path, dyno: MakeDyno, scratch: Path) -> Dyno:
    """A dyno of its own, with a key that its successors have too."""
    return dyno(project, {"BOKEH_SECRET_KEY": KEY, "TEST_COUNTER": str(scratch / "runs")}).start()


def successor(one: Dyno, dyno: MakeDyno, **env: str) -> Dyno:
    """Return the next dyno at the same address, not yet started."""
    return dyno(one.folder, {**one.env, **env})


def test_a_page_whose_worker_was_killed_is_whole_again(one: Dyno, page: Page):
    open_page(page, one)
    for worker in one.bokeh_workers():
        worker.kill()
    before = runs(one)
    wait_for("the app to run again", lambda: runs(one) > before)
    assert_whole(page)


def test_a_page_outlives_a_restart_and_says_so_quietly(one: Dyno, dyno: MakeDyno, page: Page, record_property):
    open_page(page, one)
    assert one.stop() == 0
    page.get_by_role("status").get_by_text("Reconnecting…").wait_for(timeout=5000)
    assert_plots_are_drawn(page, 1)  # the old one stays
    time.sleep(AWAY)  # this is the absence itself
    successor(one, dyno).start()
    back = time.monotonic()
    assert_whole(page)
    took = time.monotonic() - back
    take_out_what_the_absence_caused(page)
    record_property("figure", f"away {AWAY:.0f} s: the page was whole {took:.1f} s after the site")
    assert took < 6  # 3 s are the promise, measured on a machine that has nothing else to do


def test_what_the_visitor_changes_during_the_absence_is_kept_too(one: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, one)
    assert one.stop() == 0
    page.get_by_role("status").wait_for(timeout=5000)
    turn_slider(page, 2)
    successor(one, dyno).start()
    assert_whole(page, slider=6)
    take_out_what_the_absence_caused(page)


def test_a_page_that_lost_its_network_finds_the_very_same_session(one: Dyno, page: Page):
    open_page(page, one)
    before = runs(one)
    page.route("**/with/**", lambda route: route.abort())
    for process in one.find("nginx: worker"):  # whoever holds the connection in between lets go of it
        process.kill()
    page.get_by_role("status").wait_for(timeout=10_000)
    time.sleep(OFFLINE)  # this is the absence itself
    page.unroute("**/with/**")
    assert_whole(page)
    assert runs(one) == before
    take_out_what_the_absence_caused(page)


def test_two_apps_on_a_page_come_back_each_with_its_own_values(one: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, one, "counter+counter")
    assert one.stop() == 0
    successor(one, dyno).start()
    assert_whole(page, documents=2)
    heights = page.evaluate("() => Bokeh.documents.map((doc) => doc.get_model_by_name('height').value)")
    assert sorted(heights) == [1, 4]
    take_out_what_the_absence_caused(page)


def test_an_app_that_changed_in_a_deploy_gets_the_values_that_it_has_a_place_for(one: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, one)
    assert one.stop() == 0
    app = one.folder / "bokeh_app" / "counter" / "main.py"
    changed = app.read_text().replace(
        "curdoc().add_root(column(slider, plot))",
        "curdoc().add_root(column(Slider(title='new', start=0, end=9, value=2), slider, plot))",
    )
    # the new one comes first, so that every model after it has another id
    app.write_text(
        changed.replace("source = Col", 'first = Slider(title="first", start=0, end=9, value=3)\nsource = Col')
    )
    successor(one, dyno).start()
    assert_whole(page)
    others = page.evaluate(
        "() => [...Bokeh.documents[0].all_models].filter((m) => m.title == 'new').map((m) => m.value)"
    )
    assert others == [2]
    take_out_what_the_absence_caused(page)


def test_a_value_that_the_changed_app_does_not_take_is_left_out(one: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, one)
    assert one.stop() == 0
    app = one.folder / "bokeh_app" / "counter" / "main.py"
    app.write_text(app.read_text().replace("end=10", "end=3"))
    successor(one, dyno).start()
    assert_whole(page, slider=1)
    take_out_what_the_absence_caused(page)


def test_without_a_shared_key_a_page_comes_back_too_in_a_session_of_its_own(project: Path, dyno: MakeDyno, page: Page):
    one = dyno(project).start()
    open_page(page, one)
    assert one.stop() == 0
    successor(one, dyno).start()
    assert_whole(page)
    take_out_what_the_absence_caused(page)


def test_an_app_that_is_gone_says_so(one: Dyno, dyno: MakeDyno, page: Page):
    open_page(page, one)
    assert one.stop() == 0
    pages = one.folder / "flask_app" / "__init__.py"
    pages.write_text(
        pages.read_text().replace("{% for name in names %}{{ bokeh_app(name) }}{% endfor %}", "nothing here")
    )
    successor(one, dyno).start()
    page.get_by_text("This plot is not available any more. Reload the page.").wait_for(timeout=10_000)
    take_out_what_the_absence_caused(page)


def test_an_app_may_opt_out(one: Dyno, dyno: MakeDyno, page: Page):
    app = one.folder / "bokeh_app" / "counter" / "main.py"
    app.write_text(app.read_text() + "\ncurdoc().config.reconnect_session = False\n")
    assert one.stop() == 0
    alone = successor(one, dyno).start()
    open_page(page, alone)
    before, asked = runs(alone), alone.log().count('"GET /with/counter"')
    page.evaluate("() => { window.first = Bokeh.documents[0] }")
    for worker in alone.bokeh_workers():
        worker.kill()
    page.wait_for_function("() => document.querySelector('.bk-Notifications')?.shadowRoot.childElementCount > 0")
    wait_for("the workers", lambda: alone.get("/healthz").status == 200)
    assert page.evaluate("() => Bokeh.documents.length == 1 && Bokeh.documents[0] == window.first")
    assert page.locator(".bokeh-status").count() == 0
    assert (runs(alone), alone.log().count('"GET /with/counter"')) == (before, asked)


def test_an_app_without_widgets_comes_back(one: Dyno, page: Page):
    page.goto(f"http://127.0.0.1:{one.port}/with/plain.one")
    assert_plots_are_drawn(page, 1)
    for worker in one.bokeh_workers():
        worker.kill()
    page.wait_for_function(f"({WHOLE % 1})() && !window.gone", timeout=10_000)
    assert_plots_are_drawn(page, 1)
