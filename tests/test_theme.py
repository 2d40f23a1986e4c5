"""Plots and widgets in the colours of where they stand; and their place before they are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import assert_plots_are_drawn, forget_a_missing_worker, source_values, turn_slider
from dyno_under_test import OTHER_SITE, Dyno, copy_project, temporary_folder, until_stopped, wait_for

APP = """
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Button, ColumnDataSource, Legend, Select, Slider, TextInput
from bokeh.plotting import figure

theme = curdoc().session_context.request.arguments.get("theme")
if theme:
    curdoc().theme = theme[0].decode()


def drawing(name, **options):
    plot = figure(name=name, height=200, width=300, title=name, x_axis_label="x", **options)
    plot.line([0, 1], [0, 1], legend_label="line")
    plot.text([0.5], [0.2], ["words"])
    return plot


source = ColumnDataSource({"x": [0, 1], "y": [0, 1]})
first, chosen, later = drawing("first"), drawing("chosen", background_fill_color="#ffeecc"), drawing("later")
written = drawing("written")
written.title.text_color = "navy"
first.line("x", "y", source=source)
first.ygrid.grid_line_color = "#123456"
slider = Slider(title="Height", start=0, end=10, value=1)
slider.on_change("value", lambda attr, old, new: source.data.update(y=[0, new]))
more = Button(label="More", button_type="primary")
more.on_click(lambda: layout.children.append(later))
red = Button(label="Red")
red.on_click(lambda: first.update(border_fill_color="#cc0000"))
name = TextInput(title="Name", value="typed")
options = Select(title="Options", options=["one", "two"])
layout = column(first, chosen, written, slider, more, red, name, options)
curdoc().add_root(layout)
"""
DARK = ":root { color-scheme: light dark }"
OWN = (
    ":root { color-scheme: light dark; --plot-ground: light-dark(#fafad2, rgb(1 2 40)); --plot-text: oklch(0.9 0.1 100); "
    "--plot-line: green; --plot-accent: #f0f; --plot-font: monospace }"
)
CANVAS = [18, 18, 18]  # the ground that Chromium has in the dark
WHITE = [255, 255, 255]
# by the plots' names: the colour of their border's ground, and all that is drawn, as a picture
PIXELS = """(name) => {
  const view = Bokeh.index.query_one((view) => view.model.name == name && view.canvas_view != null)
  const canvas = view?.canvas_view.shadow_el.querySelector("canvas")
  return canvas && [...canvas.getContext("2d").getImageData(3, 3, 1, 1).data].slice(0, 3)
}"""
PICTURES = """() => [...Bokeh.index.query((view) => view.canvas_view != null)].map((view) =>
  [...view.canvas_view.shadow_el.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL()).join())"""
# whether all plots are drawn
IDLE = "() => Bokeh.documents.every((doc) => doc.is_idle)"
# whether the first plot has pixels of a colour
HAS = """(colour) => {
  const view = Bokeh.index.query_one((view) => view.model.name == "first" && view.canvas_view != null)
  const canvas = view.canvas_view.shadow_el.querySelector("canvas")
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
  for (let i = 0; i < data.length; i += 4) if (colour.every((one, number) => data[i + number] == one)) return true
  return false
}"""


@pytest.fixture(scope="module")
def themed() -> Iterator[Dyno]:
    """A site whose pages take their style from the address, with an app that has a plot of its author's colours, too."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "app", OTHER_SITE)
    (folder / "bokeh_app" / "themed").mkdir()
    (folder / "bokeh_app" / "themed" / "main.py").write_text(APP)
    module = folder / "flask_app" / "__init__.py"
    head = '<head><meta charset="utf-8">'
    module.write_text(module.read_text().replace(head, f"{head}<style>{{{{ request.args.css }}}}</style>"))
    one = Dyno(folder)
    yield from until_stopped(one, scratch)


@pytest.fixture
def seen(themed: Dyno, page):
    """Return what opens a page of the site in a scheme."""
    page.emulate_media(color_scheme="dark")

    def open_page(path: str = "/with/themed", css: str = DARK, scheme: str = "dark", **arguments: str):
        page.emulate_media(color_scheme=scheme)
        query = "&".join(f"{name}={value.replace('#', '%23')}" for name, value in {"css": css, **arguments}.items())
        page.goto(f"http://127.0.0.1:{themed.port}{path}?{query}")
        assert_plots_are_drawn(page, 1)
        return page

    yield open_page
    page.emulate_media(color_scheme="light")


def has_ground(page, colour: list[int], name: str | None = "first") -> None:
    """Wait until a plot has a ground of this colour."""
    wait_for(f"{name} on {colour}", lambda: page.evaluate(PIXELS, name) == colour or page.wait_for_timeout(20))


# --- plots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/with/themed", "/bkapp/themed", "/drawn"])
def test_plots_follow_the_scheme_at_once_in_both_directions(seen, path: str) -> None:
    name = None if path == "/drawn" else "first"
    page = seen(path, scheme="light")
    has_ground(page, WHITE, name)
    page.wait_for_function(IDLE)
    light = page.evaluate(PICTURES)
    page = seen(path)
    has_ground(page, CANVAS, name)
    page.emulate_media(color_scheme="light")
    has_ground(page, WHITE, name)
    wait_for("the light as it was", lambda: page.evaluate(PICTURES) == light or page.wait_for_timeout(20))
    page.emulate_media(color_scheme="dark")
    has_ground(page, CANVAS, name)


def test_a_change_of_the_scheme_opens_no_session_and_sends_no_message(seen, page) -> None:
    sockets, sent = [], []
    page.on(
        "websocket", lambda socket: (sockets.append(socket), socket.on("framesent", lambda frame: sent.append(frame)))
    )
    seen()
    has_ground(page, CANVAS)
    page.wait_for_function(IDLE)
    before = -1
    while before != len(sent):  # sizes and ranges, until it is quiet
        before = len(sent)
        page.wait_for_timeout(500)
    for scheme, colour in [("light", WHITE), ("dark", CANVAS)]:
        page.emulate_media(color_scheme=scheme)
        has_ground(page, colour)
    assert (len(sockets), sent[before:]) == (1, [])
    unset = "(names) => names.filter((name) => Bokeh.index.query_one((v) => v.model.name == 'first').model.property(name).dirty)"
    assert page.evaluate(unset, ["background_fill_color", "border_fill_color", "outline_line_color"]) == []


def test_a_switch_of_the_site_is_noticed_and_a_place_that_is_light_stays_light(seen) -> None:
    page = seen(css=":root { color-scheme: light }")
    has_ground(page, WHITE)
    page.evaluate("document.documentElement.style.colorScheme = 'dark'")
    has_ground(page, CANVAS)
    page.evaluate("document.querySelector('[data-bokeh-app]').style.colorScheme = 'light'")
    has_ground(page, WHITE)


def test_a_place_that_was_hidden_when_the_scheme_changed_has_followed_when_it_is_shown(seen) -> None:
    page = seen()
    has_ground(page, CANVAS)
    page.evaluate("document.body.style.display = 'none'")
    page.emulate_media(color_scheme="light")
    page.evaluate("document.body.style.display = ''")
    has_ground(page, WHITE)


def test_on_a_page_that_says_nothing_of_schemes_plots_are_light(seen) -> None:
    has_ground(seen(css="p { color: red }"), WHITE)


def test_what_an_app_has_chosen_stays(seen) -> None:
    page = seen()
    has_ground(page, CANVAS)
    has_ground(page, WHITE, "chosen")  # its frame has a colour of the app's; its text is written for a light ground
    has_ground(page, WHITE, "written")
    page.wait_for_function(HAS, arg=[0x12, 0x34, 0x56])  # a property is no ground: the plot follows, but for that
    page.get_by_role("button", name="Red").click()
    has_ground(page, [204, 0, 0])
    page.emulate_media(color_scheme="light")
    has_ground(page, WHITE, "chosen")
    has_ground(page, [204, 0, 0])


@pytest.mark.parametrize(
    ("theme", "ground"), [("light_minimal", WHITE), ("dark_minimal", [21, 25, 28]), ("caliber", WHITE)]
)
def test_a_theme_that_an_app_has_chosen_stays(seen, theme: str, ground: list[int]) -> None:
    has_ground(seen(theme=theme), ground)


def test_what_comes_later_follows_too(seen) -> None:
    page = seen()
    page.get_by_role("button", name="More").click()
    page.wait_for_function(
        "Bokeh.index.query_one((view) => view.model.name == 'later' && view.canvas_view != null) != null"
    )
    has_ground(page, CANVAS, "later")


def test_a_site_says_which_colours(seen) -> None:
    page = seen(css=OWN)
    has_ground(page, [1, 2, 40])
    page.wait_for_function(HAS, arg=[0, 128, 0])  # the grid
    page.emulate_media(color_scheme="light")
    has_ground(page, [250, 250, 210])


def test_text_glyphs_can_be_read(seen) -> None:
    page = seen(css=":root { color-scheme: light dark; --plot-text: #fe00fe }")
    words = """() => {
      const view = Bokeh.index.query_one((view) => view.model.type == "Text")
      return view.text_color.value >>> 0
    }"""
    has_ground(page, CANVAS)
    assert page.evaluate(words) == 0xFE00FEFF
    page.emulate_media(color_scheme="light")
    has_ground(page, WHITE)


def test_a_page_that_comes_back_is_dark_and_has_its_values(themed: Dyno, seen, page) -> None:
    seen()
    has_ground(page, CANVAS)
    before = source_values(page)
    turn_slider(page)
    values = source_values(page, different_from=before)
    page.evaluate("window.before = Bokeh.documents[0]")
    for worker in themed.bokeh_workers():
        worker.kill()
    page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != window.before")
    has_ground(page, CANVAS)
    wait_for("the values", lambda: source_values(page) == values)
    forget_a_missing_worker(page)


# --- widgets ----------------------------------------------------------------------------------------------------------

STYLE = """([selector, property]) => {
  const all = (root) => [...root.querySelectorAll("*")].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])])
  return getComputedStyle(all(document).find((one) => one.matches(selector)))[property]
}"""


def test_widgets_have_the_sites_colours_font_and_focus_ring(seen) -> None:
    page = seen(css=OWN)
    for selector, name, value in [
        ("input.bk-input", "backgroundColor", "rgb(1, 2, 40)"),
        ("input.bk-input", "color", "oklch(0.9 0.1 100)"),
        ("input.bk-input", "fontFamily", "monospace"),
        (".bk-btn-primary", "backgroundColor", "rgb(255, 0, 255)"),
        (".noUi-connect", "backgroundColor", "rgb(255, 0, 255)"),
    ]:
        assert page.evaluate(STYLE, [selector, name]) == value, selector
    page.get_by_role("textbox").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(STYLE, ["input.bk-input", "outline"]) == "rgb(255, 0, 255) solid 2px"


def test_in_the_light_widgets_are_bokehs(seen) -> None:
    page = seen(scheme="light")
    assert page.evaluate(STYLE, ["input.bk-input", "backgroundColor"]) == "rgb(255, 255, 255)"
    assert page.evaluate(STYLE, [".bk-btn-primary", "backgroundColor"]) == "rgb(66, 139, 202)"
    assert page.evaluate(STYLE, [".noUi-connect", "backgroundColor"]) == "rgb(230, 230, 230)"


# --- the place, before ------------------------------------------------------------------------------------------------

SHIFTS = """addEventListener("load", () => new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) window.shifted = (window.shifted ?? 0) + shift.value
}).observe({type: "layout-shift", buffered: true}))"""
RING = "() => Number(getComputedStyle(document.querySelector('[data-bokeh-app]'), '::before').opacity)"
HEIGHT = "() => document.querySelector('[data-bokeh-app]').getBoundingClientRect().height"


def test_nothing_moves_when_plots_are_drawn(example_site: Dyno, page) -> None:
    page.add_init_script(SHIFTS)
    names = sorted(path.name for path in (example_site.folder / "bokeh_app").iterdir() if (path / "main.py").exists())
    found = {}
    for name in names:
        if name == "greeter":  # behind the login
            continue
        page.goto(f"http://127.0.0.1:{example_site.port}/apps/{name}")
        page.wait_for_function("document.querySelector('.bokeh-loading') == null && document.readyState == 'complete'")
        page.wait_for_timeout(300)
        found[name] = page.evaluate("window.shifted ?? 0")
    assert max(found.values()) < 0.02, found


def test_a_place_is_as_high_as_its_app_before_anything_is_loaded(themed: Dyno, page) -> None:
    held = []
    page.route("**/dyno.js", lambda route: held.append(route))
    page.goto(f"http://127.0.0.1:{themed.port}/with/themed", wait_until="commit")
    page.wait_for_function("document.querySelector('[data-bokeh-app]') != null")
    before = page.evaluate(HEIGHT)
    page.wait_for_function(f"({RING})() > 0.3")  # the sign of loading
    held[0].continue_()
    assert_plots_are_drawn(page, 3)
    page.wait_for_function(f"!(({RING})() < 1)")  # there is none any more
    assert abs(page.evaluate(HEIGHT) - before) < 20
    assert page.evaluate("document.querySelector('[data-bokeh-app]').style.minHeight") == ""


def test_without_javascript_there_is_a_sentence_in_the_place(themed: Dyno, browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    try:
        page.goto(f"http://127.0.0.1:{themed.port}/with/themed")
        assert page.locator("[data-bokeh-app] p").is_visible()
        assert page.locator("[data-bokeh-app]").bounding_box()["height"] < 60
    finally:
        context.close()


def test_a_document_takes_at_least_what_its_models_say() -> None:
    from bokeh.document import Document
    from bokeh.layouts import column, gridplot, row
    from bokeh.models import Div, Slider, TabPanel, Tabs
    from bokeh.plotting import figure

    from bokeh_dyno.bokeh import height

    def of(*roots) -> int:
        document = Document()
        for root in roots:
            document.add_root(root)
        return height.of(document)

    assert of(figure(height=200)) == 200
    assert of(figure()) == 600
    assert of(figure(height=200, sizing_mode="stretch_width")) == 200
    assert of(figure(sizing_mode="stretch_both")) == of(figure(height=300, sizing_mode="scale_width")) == of() == 0
    assert of(figure(sizing_mode="stretch_both", min_height=150)) == 150
    assert of(column(figure(height=200), figure(height=100), spacing=7)) == 307
    assert of(row(figure(height=200), figure(height=100)), figure(height=50)) == 250
    assert of(Slider(start=0, end=1, value=0, title="x")) == 47
    assert of(figure(height=200, visible=False), Div(text="")) == 28
    assert of(Tabs(tabs=[TabPanel(child=figure(height=100)), TabPanel(child=figure(height=70))])) == 131
    assert of(gridplot([[figure(height=100), figure(height=120)], [figure(height=50)]], toolbar_location=None)) >= 170


def test_only_pages_that_nobody_else_has_a_say_in_are_said_to_be_light_and_dark() -> None:
    from bokeh.document import Document
    from bokeh.models import Div, LayoutDOM

    from bokeh_dyno.bokeh.own_page import PageScript
    from bokeh_dyno.shared import settings

    class Foreign(LayoutDOM):
        """A model of an extension's, whose style sheets may be for a light ground."""

    def is_said(root: LayoutDOM, template: str | None = None) -> bool:
        document = Document()
        document.add_root(root)
        if template:
            document.template = template
        PageScript(settings.read(), "/bkapp/app", []).modify_document(document)
        return document.template_variables["is_default"]()

    assert is_said(Div())
    assert not is_said(Foreign())
    assert not is_said(Div(), "{% block contents %}{% endblock %}")
