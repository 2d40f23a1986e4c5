"""What tests do with a page in the browser: wait for plots, look at their data, move a slider."""

from __future__ import annotations

import json
import re
import time

from playwright.sync_api import Error, Frame, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

# Every ColumnDataSource of every document: what the plots show, as it arrived from the server
VALUES = """() => JSON.stringify(Bokeh.documents.flatMap((doc) => [...doc._all_models.values()])
  .filter((model) => model.type == "ColumnDataSource")
  .map((model) => Object.entries(model.data).map(([name, values]) => [name, Array.from(values).slice(0, 2000)])))"""
# Canvases, in whatever shadow root, that have something drawn on them
DRAWN = """() => {
  const all = (root) => [...root.querySelectorAll("*")].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])])
  return all(document).filter((one) => one.tagName == "CANVAS" && one.width > 50 && one.height > 50).filter((canvas) => {
    const context = canvas.getContext("2d")
    if (context == null) return false
    const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)
    return new Set(pixels).size > 10
  }).length
}"""


def wait_for_function(self: Page | Frame, expression: str, *, arg: object = None, timeout: float = 30_000) -> None:
    """Do as playwright's, without its `new Function`, which the policy of the pages does not allow."""
    end = time.monotonic() + timeout / 1000
    while time.monotonic() < end:
        try:
            if self.evaluate(expression, arg):
                return
        except Error as error:
            if not any(word in str(error) for word in ("Execution context", "navigat")):
                raise
        self.wait_for_timeout(20)
    raise PlaywrightTimeout(f"{timeout} ms without {expression}")


Page.wait_for_function = Frame.wait_for_function = wait_for_function
# as `wait_for`: its own 5 s are too few for a machine that is busy with something else
expect.set_options(timeout=20_000)


def assert_plots_are_drawn(page: Page, count: int, seconds: float = 40) -> None:
    """Wait until at least `count` plots are drawn. Raises AssertionError, with what the page complained about."""
    try:
        page.wait_for_function(f"({DRAWN})() >= {count}", timeout=seconds * 1000)
    except PlaywrightTimeout:
        found = page.evaluate(DRAWN)
        raise AssertionError(f"{found} of {count} plots on {page.url}: {getattr(page, 'complaints', '')}") from None


def source_values(page: Page, different_from: object = None, seconds: float = 20) -> list:
    """Return the data of all sources of the page; once they differ from `different_from` when that is given."""
    if different_from is not None:
        page.wait_for_function(
            f"(before) => ({VALUES})() != before", arg=json.dumps(different_from, separators=(",", ":")),
            timeout=seconds * 1000,
        )  # fmt: skip
    return json.loads(page.evaluate(VALUES))


def turn_slider(page: Page, steps: int = 1, number: int = 0) -> None:
    """Press the right arrow key on slider `number` of the page, `steps` times (the left one when negative)."""
    handle = page.locator(".noUi-handle").nth(number)
    handle.focus()
    for _ in range(abs(steps)):
        handle.press("ArrowRight" if steps > 0 else "ArrowLeft")


def forget_a_missing_worker(page: Page) -> None:
    """Forget that a worker, Bokeh's or gunicorn's, was killed: a page may ask before it is back, and tries again."""
    of_it = re.compile(r"Unexpected response code: 50[23]$|^502: |^503: .*/bkapp/|a status of 50[23] ")
    page.complaints[:] = [one for one in page.complaints if not of_it.search(one)]
