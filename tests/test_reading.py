"""Who reads a page without seeing it, or without a mouse: names, roles, keys, the data as tables; and axe on every page."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from browsing import assert_plots_are_drawn, turn_slider
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, temporary_folder
from playwright.sync_api import expect

MakeDyno = Callable[..., Dyno]
TOOLS = ROOT / "tests" / "page"
APPS = ROOT / "tests" / "reading" / "bokeh_app"
EXAMPLE = sorted(path.parent.name for path in (ROOT / "bokeh_app").glob("*/main.py"))
PAGES = sorted(path.stem for path in (ROOT / "flask_app" / "templates" / "pages").glob("*.html"))
RUN_AXE = """async () => {
  const {violations} = await axe.run(document, {resultTypes: ["violations"]})
  return violations.filter(({impact}) => impact != "minor")
    .flatMap(({id, impact, nodes}) => nodes.map(({html}) => `${impact} ${id}: ${html.slice(0, 200)}`))
}"""


@functools.cache
def axe_source() -> str:
    """Return axe-core's script, which npm brings as it brings what bin/lint checks with; skip the test where there is no npm."""
    file = TOOLS / "node_modules" / "axe-core" / "axe.min.js"
    if not file.exists():
        if not shutil.which("npm"):
            pytest.skip("axe did not run: it needs npm")
        command = ["npm", "ci", "--prefix", TOOLS, "--loglevel=error", "--no-audit", "--no-fund"]
        subprocess.run(command, check=True, timeout=300)
    return file.read_text("utf-8")


def complaints_of_axe(page) -> list[str]:
    """Return what axe finds wrong with a page, but for what is minor, once its plots are there and named."""
    page.wait_for_function(
        "!document.querySelector('[data-bokeh-token]') || Bokeh.documents.some((doc) => doc.is_idle)"
    )
    page.evaluate(axe_source())
    end = time.monotonic() + 20  # all is named a second after the page, what BokehJS changes by itself a moment later
    while (found := page.evaluate(RUN_AXE)) and time.monotonic() < end:
        page.wait_for_timeout(100)
    return found


@pytest.fixture(scope="module")
def readable() -> Iterator[Dyno]:
    """The site of the tests with apps of which everything is to be read."""
    folder = temporary_folder()
    one = None
    try:
        project = copy_project(folder / "app", OTHER_SITE)
        shutil.copytree(APPS, project / "bokeh_app", dirs_exist_ok=True)
        one = Dyno(project).start()
        yield one
        assert one.stop() == 0, one.log()
    finally:
        if one:
            one.clean_up()
        shutil.rmtree(folder)


def address(one: Dyno, path: str) -> str:
    """Return the address of a path of a dyno."""
    return f"http://127.0.0.1:{one.port}{path}"


def open_app(page, one: Dyno, path: str) -> None:
    """Open a page with plots, and return when they are named."""
    page.goto(address(one, path))
    assert_plots_are_drawn(page, 1)
    page.get_by_role("img").first.wait_for()


# --- axe on every page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", *(f"/apps/{name}" for name in EXAMPLE), *(f"/{name}" for name in PAGES), "/plot", "/login", "/nowhere",
     *(f"/bkapp/{name}" for name in EXAMPLE)],
)  # fmt: skip
def test_axe_finds_nothing_on_the_pages_of_the_example(example_site: Dyno, page, path: str) -> None:
    axe_source()
    page.goto(address(example_site, path))
    if path == "/nowhere":
        page.complaints.clear()
    for scheme in ("light", "dark"):
        for width in (1280, 320):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            assert complaints_of_axe(page) == [], f"{scheme}, {width} px wide"


@pytest.mark.parametrize("path", ["/bkapp/widgets?which=bare", "/bkapp/plain.one"])
def test_axe_finds_nothing_on_an_own_page_with_every_widget_of_bokeh(readable: Dyno, page, path: str) -> None:
    open_app(page, readable, path)
    assert complaints_of_axe(page) == []
    if "widgets" in path:  # what is there only while it is used
        page.locator(".choices").click()
        assert complaints_of_axe(page) == []
        page.locator(".slick-cell").nth(1).dblclick()
        page.get_by_role("textbox", name="Where").wait_for()
        assert complaints_of_axe(page) == []


# --- widgets ----------------------------------------------------------------------------------------------------------

TITLED = [
    ("slider", "Amount"), ("slider", "Between, from"), ("slider", "Between, to"), ("slider", "Day"), ("slider", "Days, to"),
    ("slider", "Hours, from"), ("slider", "Station"), ("textbox", "Name"), ("textbox", "Story"), ("textbox", "Secret"),
    ("button", "Show Secret"), ("textbox", "Number"), ("textbox", "Steps"), ("button", "Increase Steps"), ("textbox", "Search"),
    ("button", "Decrease Steps"), ("combobox", "One of"), ("listbox", "Some of"), ("combobox", "Several of"),
    ("button", "Palette: grey"), ("textbox", "Date"), ("textbox", "Dates"), ("textbox", "Free days"),
    ("textbox", "Date and time"), ("textbox", "Dates and times"), ("textbox", "Time"), ("checkbox", "Agreed"),
    ("switch", "Lamp"), ("button", "Pressed"), ("button", "Go"), ("button", "More"), ("button", "Help"),
    ("progressbar", "Progress"), ("group", "Stations"), ("tab", "First"), ("img", "All tools"),
]  # fmt: skip
BARE = [
    ("slider", "Slider"), ("slider", "Range slider, from"), ("slider", "Date slider"), ("textbox", "Numeric"),
    ("combobox", "Select"), ("textbox", "Date range"), ("switch", "Switch"), ("button", "Toggle"), ("checkbox", "Checkbox"),
]  # fmt: skip


def test_what_a_visitor_works_with_is_called_what_it_is_called_on_the_page(readable: Dyno, page) -> None:
    for which, expected in (("titled", TITLED), ("bare", BARE)):
        open_app(page, readable, f"/with/widgets?which={which}")
        for role, name in expected:
            expect(page.get_by_role(role, name=name, exact=True), f"{role} {name}").to_have_count(1)


def test_a_slider_says_where_it_stands_as_it_shows_it(readable: Dyno, page) -> None:
    open_app(page, readable, "/with/widgets")
    day = page.get_by_role("slider", name="Day", exact=True)
    expect(day).to_have_attribute("aria-valuetext", "01 Mar 2026")
    said = day.evaluate("""async (handle) => { // at once: a screen reader does not wait
      handle.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}))
      await null
      return handle.getAttribute("aria-valuetext")
    }""")
    assert said == "02 Mar 2026"
    expect(page.get_by_role("slider", name="Station")).to_have_attribute("aria-valuetext", "south")


def test_what_is_on_or_off_is_said(readable: Dyno, page) -> None:
    open_app(page, readable, "/with/widgets")
    lamp = page.get_by_role("switch", name="Lamp")
    expect(lamp).to_be_checked()
    lamp.press(" ")
    expect(lamp).not_to_be_checked()
    pressed = page.get_by_role("button", name="Pressed", exact=True)
    expect(pressed).to_have_attribute("aria-pressed", "true")
    pressed.press("Enter")
    expect(pressed).to_have_attribute("aria-pressed", "false")
    page.get_by_role("tab", name="First").press("Enter")
    expect(page.get_by_role("tab", name="First")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("first", exact=True)).to_be_visible()


# --- plots ------------------------------------------------------------------------------------------------------------


def test_a_plot_is_called_by_what_its_author_says_of_it(readable: Dyno, page) -> None:
    open_app(page, readable, "/with/plain.one?alt=A%20line%20that%20rises")
    expect(page.get_by_role("group", name="Plain.one", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="plain: A line that rises", exact=True)).to_have_count(1)
    open_app(page, readable, "/with/widgets?alt=unused")
    expect(page.get_by_role("img", name="All tools", exact=True)).to_have_count(1)  # its title, for there are two plots
    expect(page.get_by_role("img", name="Three dots that fall", exact=True)).to_have_count(1)  # said in the app


def test_the_tools_of_a_plot_work_by_keyboard_and_for_a_screen_reader(readable: Dyno, page) -> None:
    open_app(page, readable, "/with/widgets")
    tools = page.locator(".bk-Figure").first.get_by_role("toolbar")
    pan, zoom = (tools.get_by_role("button", name=name, exact=True) for name in ("Pan", "Lasso Select"))
    expect(pan).to_have_attribute("aria-pressed", "true")
    for activate in (
        lambda: zoom.press(" "),
        lambda: zoom.evaluate("(one) => one.click()"),
        lambda: zoom.press("Enter"),
    ):
        expect(zoom).to_have_attribute("aria-pressed", "false")
        activate()
        expect(zoom).to_have_attribute("aria-pressed", "true")
        expect(pan).to_have_attribute("aria-pressed", "false")
        pan.press("Enter")
    more = tools.get_by_role("button", name="More tools")
    more.press(" ")
    page.get_by_role("button", name="Reset", exact=True).press(" ")


# --- the data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["/apps/", "/bkapp/"])
def test_the_data_of_a_plot_are_a_table_for_whoever_asks(example_site: Dyno, page, below: str) -> None:
    open_app(page, example_site, f"{below}sea_surface")
    button = page.get_by_role("button", name="Data as a table")
    section = page.locator(".bokeh-data")
    assert section.bounding_box()["height"] <= 1
    button.focus()
    assert section.bounding_box()["height"] > 20
    button.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    table = page.locator(".bokeh-data table").first
    assert re.search(r"200 of \d\d,\d{3} rows", table.locator("caption").text_content())
    assert table.locator("th").all_text_contents() == ["time", "Temperature (°C): reading", "Temperature (°C): average"]
    cells = table.locator("td").all_text_contents()
    assert len(cells) == 600
    assert [cells[0], cells[-3][:10]] == ["2016-02-15", "2017-03-22"]
    assert float(cells[1]) == pytest.approx(4.5, abs=5)
    expect(page.get_by_role("region", name="Data")).to_be_focused()
    page.keyboard.press("Escape")
    expect(table).to_have_count(0)
    expect(button).to_be_focused()


def test_a_site_can_show_the_button_to_everybody(readable: Dyno, page) -> None:
    (rule,) = re.findall(r"\n(\.bokeh-data .*)\n", (ROOT / "docs/accessibility.md").read_text("utf-8"))
    open_app(page, readable, "/with/counter")
    section = page.locator(".bokeh-data")
    assert section.bounding_box()["height"] <= 1
    page.evaluate(
        "(rule) => document.head.append(Object.assign(document.createElement('style'), {textContent: rule}))", rule
    )
    assert section.bounding_box()["height"] > 20
    assert section.evaluate("(one) => getComputedStyle(one).clipPath") == "none"


def test_an_open_table_follows_the_plot(readable: Dyno, page) -> None:
    open_app(page, readable, "/with/counter")
    page.get_by_role("button", name="Data as a table").press("Enter")
    cells = page.locator(".bokeh-data td")
    expect(cells).to_have_text(["0", "1", "1", "1", "2", "1"])
    for count in (8, 10, 12):  # the first one may find a page that is not quiet yet
        page.evaluate(
            "Bokeh.documents[0].get_model_by_name('line').stream({x: [1.5], y: [1]}, undefined, {sync: false})"
        )
        expect(cells).to_have_count(count)
    kept = cells.first.element_handle()
    page.evaluate("""Bokeh.documents[0].get_model_by_name('line').setv(
      {data: {x: [0, 1, 2, 3, 4, 5], y: [7, null, 1.23456789, NaN, 1e9, -0.5]}}, {sync: false})""")
    expect(cells).to_have_text(["0", "7", "1", "", "2", "1.23457", "3", "", "4", "1000000000", "5", "-0.5"])
    assert kept.evaluate("(cell) => cell.isConnected")  # whoever reads it is not thrown out


def test_the_table_and_the_names_outlive_a_restart(readable: Dyno, page) -> None:
    open_app(page, readable, "/with/counter?alt=What%20is%20counted")
    page.get_by_role("button", name="Data as a table").press("Enter")
    cells = page.locator(".bokeh-data td")
    expect(cells).to_have_text(["0", "1", "1", "1", "2", "1"])
    turn_slider(page)
    page.evaluate("document.querySelector('[data-bokeh-app] > div').isOld = true")
    for worker in readable.bokeh_workers():
        worker.kill()
    page.wait_for_function("[...document.querySelectorAll('[data-bokeh-app] > div')].every((place) => !place.isOld)")
    expect(page.get_by_role("slider")).to_have_attribute("aria-label", re.compile("."))
    expect(page.get_by_role("img", name="What is counted")).to_have_count(1)
    expect(cells).to_have_text(["0", "2", "1", "2", "2", "2"])
    expect(page.get_by_role("region", name="Data")).to_be_visible()
    page.complaints.clear()


def test_a_static_plot_has_a_name_and_a_table_too(site: Dyno, page) -> None:
    open_app(page, site, "/drawn")
    expect(page.get_by_role("img", name="drawn")).to_have_count(1)
    page.get_by_role("button", name="Data as a table").press("Enter")
    expect(page.locator(".bokeh-data td")).to_have_text(["1", "3", "2", "1", "3", "2"])


# --- own pages ----------------------------------------------------------------------------------------------------------


def test_an_own_page_without_a_template_says_what_it_is(readable: Dyno, page) -> None:
    html = readable.get("/bkapp/plain.one").text
    for part in ('<html lang="en">', "<title>Plain.one</title>", "<main>", "<h1", "<noscript>", 'name="viewport"'):
        assert part in html
    assert "<title>Widgets</title>" in readable.get("/bkapp/widgets").text
    open_app(page, readable, "/bkapp/plain.one")
    assert page.title() == "Plain.one"
    # what fills its page fills it
    open_app(page, readable, "/bkapp/full")
    box = page.locator(".bk-Figure").bounding_box()
    assert [box["width"], box["height"]] == [page.viewport_size["width"], page.viewport_size["height"]]
