"""From a saved edit to the open page that shows it: bin/dev beside the development servers of others, in Chromium."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from dyno_under_test import copy_project, free_port

from bench.client import WrongAnswer
from bench.examples import chromium
from bench.peers import VENV, dyno
from bench.server import SITE, Server, Urls
from bench.tables import Run, Table, Target, part

EDITS = 10  # of each kind
BOOTS = 5
PATIENCE = 15.0  # s; a page that shows an edit later than that is reloaded by hand
PAUSE = 2.0  # s between an edit that is seen and the next
KEPT = 3.0  # s after the edit is seen, until the value has to be there, too
# What all of them show: a slider, a curve, and a text made from a title and the slider's value. Bokeh and Panel run the same
# file, Streamlit one that shows the same
APP = '''"""A slider and what it makes."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, Slider
from bokeh.plotting import figure

TITLE = "edit 0"
x = np.linspace(0, 10, 200)
source = ColumnDataSource({"x": x, "y": np.cos(x)})
plot = figure(height=300, width=600)
plot.line("x", "y", source=source)
slider = Slider(title="height", start=0, end=100, step=1, value=1)
text = Div()


def move() -> None:
    source.data = {"x": x, "y": slider.value * np.cos(x)}
    text.text = f"{TITLE}: {slider.value:.0f}."


slider.on_change("value", lambda attr, old, new: move())
move()
curdoc().add_root(column(text, slider, plot))
'''
# Panel tells those pages to reload that have something of its own
PANEL = APP.replace("import numpy", "import panel\nimport numpy", 1).replace(
    "curdoc().add_root(column(text, slider, plot))", "panel.pane.Bokeh(column(text, slider, plot)).servable()"
)
STREAMLIT = """import numpy as np
import streamlit as st

TITLE = "edit 0"
value = st.slider("height", 0, 100, 1)
st.write(f"{TITLE}: {value:.0f}.")
st.line_chart(value * np.cos(np.linspace(0, 10, 200)))
"""
PAGE = '<p>edit 0.</p>\n<link rel="stylesheet" href="{{ url_for("static", filename="edited.css") }}">\n'
STYLE = ":root { --edited: edit 0; }\n"
# Whether the page says so: in its text, in whatever shadow root, or in its style
TEXT = """(wanted) => {
  const has = (root) => [...root.querySelectorAll("*")].some((one) => one.shadowRoot && has(one.shadowRoot)) ||
    [...root.querySelectorAll("p, div")].some((one) => one.textContent.includes(wanted))
  return document.body != null && has(document.body)
}"""
LOOKS = """(wanted) =>
  `${getComputedStyle(document.documentElement).getPropertyValue("--edited").trim()}.`.startsWith(wanted)"""
SLIDER = "[role=slider], input[type=range]"


def dev(server: Server, example: bool) -> Urls:
    """Run bin/dev, without its bin/setup, with the site of the benchmark and the one app, or with the example's beside."""
    port, app = free_port(), server.folder / "bokeh_app" / "edited"
    copy_project(server.folder, None if example else SITE)
    if not example:
        shutil.rmtree(app.parent)
    app.mkdir(parents=True)
    (app / "main.py").write_text(APP)
    template = landing_page(server)
    template.write_text(template.read_text().replace("<ul", f"{PAGE}<ul", 1))
    (server.folder / "flask_app" / "static").mkdir(exist_ok=True)
    (server.folder / "flask_app" / "static" / "edited.css").write_text(STYLE)
    server.run("python -m bokeh_dyno dev", venv=str(VENV), PORT=str(port))
    site = f"http://127.0.0.1:{port}"
    return Urls(site, [f"{site}/healthz"], views=f"{site}/{'apps' if example else 'view'}/edited")


def landing_page(server: Server) -> Path:
    """Return the template of a site's first page."""
    templates = server.folder / "flask_app" / "templates"
    return next(path for name in ("page.html", "index.html") if (path := templates / name).exists())


def dev_alone(server: Server) -> Urls:
    """`bin/dev`, this app alone"""
    return dev(server, example=False)


def dev_example(server: Server) -> Urls:
    """`bin/dev`, the example and this app"""
    return dev(server, example=True)


def bokeh_serve(server: Server) -> Urls:
    """`bokeh serve --dev`"""
    return other(server, APP, "bokeh serve edited --dev --port {port}", "/edited/metadata")


def panel_serve(server: Server) -> Urls:
    """`panel serve --dev`"""
    return other(server, PANEL, "panel serve edited/main.py --dev --port {port}", "/main", views="/main")


def streamlit_run(server: Server) -> Urls:
    """`streamlit run --server.runOnSave true`"""
    command = (
        "streamlit run edited/main.py --server.runOnSave true --server.headless true --server.address 127.0.0.1"
        " --browser.gatherUsageStats false --server.port {port}"
    )
    return other(server, STREAMLIT, command, "/_stcore/health", views="/")


def other(server: Server, app: str, command: str, ready: str, views: str = "/edited") -> Urls:
    """Run a development server that shows one app."""
    port, folder = free_port(), server.folder / "edited"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(app)
    server.run(command.format(port=port))
    site = f"http://127.0.0.1:{port}"
    return Urls(site, [f"{site}{ready}"], views=f"{site}{views}")


def titled(adapter: Callable[[Server], Urls]) -> str:
    """Return the name of somebody's server, with the version that is installed here."""
    with contextlib.suppress(PackageNotFoundError):
        return f"{adapter.__doc__} ({version(adapter.__name__.partition('_')[0])})"
    return adapter.__doc__


OURS = {adapter.__doc__: adapter for adapter in (dev_example, dev_alone)}
OTHERS = {titled(adapter): adapter for adapter in (bokeh_serve, panel_serve, streamlit_run)}


class Edits:
    """One open page, the file that is edited, and what says that the page shows it."""

    def __init__(self, page, file: Path, shows: str) -> None:
        self._page, self._file, self._shows = page, file, shows
        self._number, self._value = 0, 1
        self.by_itself = True

    def edit(self) -> float:
        """Save the next edit; return the seconds until it is seen. Raises WrongAnswer when it never is.

        Where the page does not show the first one by itself, it is reloaded: at once, and again until it does.
        """
        self._number += 1
        text = self._file.read_text().replace(f"edit {self._number - 1}", f"edit {self._number}")
        began = time.monotonic()
        self._file.write_text(text)
        if self.by_itself and not self.shows(self._now(), PATIENCE):
            self.by_itself = False
            return self.edit()
        while not self.by_itself and not self.shows(self._now(), 0.05):
            if time.monotonic() > began + 4 * PATIENCE:
                raise WrongAnswer(f"edit {self._number} of {self._file.name} is not to be seen")
            self._reload()
        return time.monotonic() - began

    def _now(self) -> str:
        return f"edit {self._number}{':' if self._file.suffix == '.py' else '.'}"

    def _reload(self) -> None:
        """Load the page anew, and wait until it shows whatever edit it has."""
        from playwright.sync_api import Error

        with contextlib.suppress(Error):  # nobody listens for a moment
            self._page.reload(wait_until="commit", timeout=PATIENCE * 1000)
            self.shows("edit ", PATIENCE)

    def shows(self, wanted: str, seconds: float) -> bool:
        """Wait until the page shows something, which is looked for in each frame that it draws; return whether it does."""
        from playwright.sync_api import Error

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(Error):  # it is being replaced, or the time is over
                self._page.wait_for_function(self._shows, arg=wanted, timeout=left * 1000)
                return True
        return False

    def move(self) -> None:
        """Move the slider by a step, and wait for what follows it."""
        self._page.locator(SLIDER).first.press("ArrowRight")
        self._value += 1
        if not self._has_value(PATIENCE):
            raise WrongAnswer(f"the slider was moved to {self._value}, but nothing follows it")

    def value_is_kept(self) -> bool:
        """Return whether the app's text has the slider's value, with the title that was saved last."""
        if kept := self._has_value(KEPT):
            return kept
        self._value = 1
        return kept

    def _has_value(self, seconds: float) -> bool:
        return self.shows(f"{self._now()} {self._value}.", seconds)


def figures(browser, server: Server, kind: str) -> Iterator[dict[str, float]]:
    """Open a page of a server, edit what it shows, and yield the figures of each edit."""
    from playwright.sync_api import Error

    site = kind != "app"
    file = {
        "app": next(server.folder.glob("**/edited/main.py")),
        "page": site and landing_page(server),
        "style": server.folder / "flask_app" / "static" / "edited.css",
    }[kind]
    context = browser.new_context(viewport={"width": 1000, "height": 900}, bypass_csp=True)
    try:
        page = context.new_page()
        page.goto(server.urls.site if site else server.urls.views, wait_until="commit")
        edits = Edits(page, file, LOOKS if kind == "style" else TEXT)
        if not edits.shows("edit 0", PATIENCE):
            raise WrongAnswer(f"{page.url} does not show what it has")
        for _ in range(EDITS):
            time.sleep(PAUSE)
            if not site:
                edits.move()
            found = {f"{kind} s": edits.edit(), f"{kind}, by itself": float(edits.by_itself)}
            yield found if site else {**found, "value kept": float(edits.value_is_kept())}
    except Error as error:
        raise WrongAnswer(f"{kind} in Chromium: {error}") from error
    finally:
        context.close()


def run_alone(name: str, adapter: Callable[..., Urls], use: Callable[[Server, float], None], **options: object) -> None:
    """Start a server, use it, with the seconds that it took to answer, and stop it."""
    server = Server(name, adapter, "")
    try:
        server.start(**options)
        use(server, server.wait())
    except (WrongAnswer, OSError) as error:
        raise WrongAnswer(f"{error}\n{server.log()[-1000:]}") from error
    finally:
        server.stop()


@part
def edits(run: Run) -> Iterator[Table]:
    """save to seen on the open page: app, page, style sheet; beside the development servers of others"""
    table = Table(
        "Save to seen",
        "From the moment at which an edited file is there until the open page in Chromium shows the edit, ten edits of each "
        f"kind, {PAUSE:.0f} s after the one before was seen: a title in an app's main.py, after its slider was moved; a "
        "template of the site's first page; a style sheet. by itself: 1 where the page did so, 0 where it had to be "
        f"reloaded, which was then done at once and again until the edit was there. value kept: 1 where, {KEPT:.0f} s "
        "later, the server knew the slider's value. A bare boot: `bin/start-nginx` with one worker of each until all of it "
        "answers, which is what an edit cannot be seen sooner than by starting all anew.",
    )
    example, boot = dev_example.__doc__, "a bare boot of the same"
    names = {**(OURS if "dyno" in run.peers else {}), **OTHERS}

    def once(name: str) -> None:
        def use(server: Server, _: float) -> None:
            with chromium() as browser:
                for kind in ("app", "page", "style") if name in OURS else ("app",):
                    for found in figures(browser, server, kind):
                        table.add(name, found)

        run_alone(name, names[name], use)

    def boot_once(name: str) -> None:
        options = {"example": True, "further": {"edited": APP}, "WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1"}
        for _ in range(BOOTS):
            run_alone(name, dyno, lambda _, took: table.add(name, {"boot s": took}), **options)

    one = Run(run.peers, 1, run.seconds)
    one.in_turns(table, [boot] if "dyno" in run.peers else [], boot_once)
    one.in_turns(table, names, once)
    for kind in ("app", "page", "style"):
        if samples := table.rows.get(example, {}).get(f"{kind} s"):
            table.targets.append(Target(f"{kind}, s, the example", samples, at_most=1.5))
            if boots := table.rows.get(boot):
                ratio = median(samples) / median(boots["boot s"])
                table.targets.append(Target(f"{kind}, of a bare boot", [ratio], at_most=1.2))
    yield table
