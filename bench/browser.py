"""Chromium on a slow line, and the moment at which a plot is alive."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from browsing import DRAWN, VALUES

from bench.client import WrongAnswer
from bench.line import slow_line

ALIVE = f"""new Promise((resolve) => {{
  const idle = () => window.Bokeh?.documents?.length > 0 && Bokeh.documents.every((document) => document.is_idle)
  const look = () => idle() && ({DRAWN})() > 0 ? resolve(performance.now()) : requestAnimationFrame(look)
  look()
}})"""


@contextlib.contextmanager
def chromium() -> Iterator:
    """Run a Chromium without a window on a slow line: the system's, or the one that playwright has installed."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "google-chrome", "google-chrome-stable")
    installed = (path for path in map(shutil.which, names) if path and not path.startswith("/snap/"))
    with slow_line() as proxy, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(installed, None), args=["--no-sandbox"],
            proxy={"server": proxy, "bypass": "<-loopback>"},  # not even for this machine
        )  # fmt: skip
        try:
            yield browser
        finally:
            browser.close()


def visits(browser, url: str) -> Iterator[tuple[str, dict[str, float]]]:
    """View url with an empty cache, then once more; yield the figures of each.

    Raises WrongAnswer when the plot is not drawn or does not follow its slider.
    """
    from playwright.sync_api import Error

    context = browser.new_context(viewport={"width": 1000, "height": 900})
    try:
        for kind in ("cold", "warm"):
            page = context.new_page()
            network = context.new_cdp_session(page)
            network.send("Network.enable")
            files, frames = [], []
            network.on("Network.loadingFinished", lambda event, to=files: to.append(event["encodedDataLength"]))
            network.on(
                "Network.webSocketFrameReceived",
                lambda event, to=frames: to.append(len(event["response"]["payloadData"])),
            )
            page.goto(url, wait_until="commit")
            alive = page.evaluate(ALIVE) / 1000
            kilobytes, requests = (sum(files) + sum(frames)) / 1000, sum(size > 0 for size in files)
            before = page.evaluate(VALUES)
            page.locator(".noUi-handle").first.press("ArrowRight")
            page.wait_for_function(f"(before) => ({VALUES})() != before", arg=before, timeout=10_000)
            page.close()
            yield kind, {"s": alive, "kB": kilobytes, "requests": requests}
    except Error as error:
        raise WrongAnswer(f"{url} in Chromium: {error}") from error
    finally:
        context.close()
