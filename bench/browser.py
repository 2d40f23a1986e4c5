"""Chromium on a slow line, and the moment at which a plot is alive."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from bench.client import WrongAnswer

LATENCY_MS = 80
BYTES_PER_SECOND = 10e6 / 8
# The plot is drawn: BokehJS says that the document is idle, a canvas has colours on it, and two more frames have passed
ALIVE = """new Promise((resolve) => {
  const all = (root) => [...root.querySelectorAll("*")].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])])
  const drawn = () => all(document).some((one) => {
    if (one.tagName != "CANVAS" || one.width < 50) return false
    const context = one.getContext("2d")
    if (context == null) return false
    const pixels = new Uint32Array(context.getImageData(0, 0, one.width, one.height).data.buffer)
    return new Set(pixels).size > 10
  })
  const idle = () => window.Bokeh?.documents?.length > 0 && Bokeh.documents.every((document) => document.is_idle)
  const look = () => idle() && drawn()
    ? requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())))
    : requestAnimationFrame(look)
  look()
})"""
CURVE = """() => JSON.stringify(Bokeh.documents.flatMap((document) => [...document._all_models.values()])
  .filter((model) => model.type == "ColumnDataSource").map((model) => Array.from(model.data.y)))"""


class Visit(NamedTuple):
    """A page view: seconds to a live plot, kB over the network (WebSocket included), HTTP requests."""

    seconds: float
    kilobytes: float
    requests: int


@contextlib.contextmanager
def chromium() -> Iterator:
    """Run a Chromium without a window: the system's, or the one that playwright has installed."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "google-chrome", "google-chrome-stable")
    installed = (path for path in map(shutil.which, names) if path and not path.startswith("/snap/"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=next(installed, None), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def visits(browser, url: str) -> Iterator[tuple[str, Visit]]:
    """View url with an empty cache and then once more. Raises WrongAnswer when the plot does not follow its slider."""
    from playwright.sync_api import Error

    context = browser.new_context(viewport={"width": 1000, "height": 900})
    try:
        for kind in ("cold", "warm"):
            page = context.new_page()
            network = context.new_cdp_session(page)
            network.send("Network.enable")
            network.send("Network.emulateNetworkConditions", {
                "offline": False, "latency": LATENCY_MS,
                "downloadThroughput": BYTES_PER_SECOND, "uploadThroughput": BYTES_PER_SECOND,
            })  # fmt: skip
            sizes, frames = [], []
            network.on("Network.loadingFinished", lambda event, sizes=sizes: sizes.append(event["encodedDataLength"]))
            network.on(
                "Network.webSocketFrameReceived",
                lambda event, frames=frames: frames.append(len(event["response"]["payloadData"])),
            )
            page.goto(url, wait_until="commit")
            seconds = page.evaluate(ALIVE) / 1000
            visit = Visit(seconds, (sum(sizes) + sum(frames)) / 1000, sum(size > 0 for size in sizes))
            before = page.evaluate(CURVE)
            page.locator(".noUi-handle").first.press("ArrowRight")
            page.wait_for_function(f"(before) => ({CURVE})() != before", arg=before, timeout=10_000)
            page.close()
            yield kind, visit
    except Error as error:
        raise WrongAnswer(f"{url} in Chromium: {error}") from error
    finally:
        context.close()
