"""Chromium on a slow line, and the moment at which a plot is alive."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator

import psutil
from browsing import DRAWN, VALUES

from bench.client import WrongAnswer
from bench.line import Direction, slow_line

IDLE = 0.05  # of a core
ALIVE = f"""new Promise((resolve) => {{
  const idle = () => window.Bokeh?.documents?.length > 0 && Bokeh.documents.every((document) => document.is_idle)
  const look = () => idle() && ({DRAWN})() > 0 ? resolve(performance.now()) : requestAnimationFrame(look)
  look()
}})"""


@contextlib.contextmanager
def chromium() -> Iterator[Callable[[str], Iterator[tuple[str, dict[str, float]]]]]:
    """Run a Chromium on a slow line; yield `visits`, which takes a URL."""
    with on_a_slow_line() as (browser, down):
        yield functools.partial(visits, browser, down)


@contextlib.contextmanager
def on_a_slow_line() -> Iterator[tuple[object, Direction]]:
    """Run a Chromium without a window on a slow line: the system's, or the one that playwright has installed.

    Yields it, and the line's way down.
    """
    from playwright.sync_api import sync_playwright

    names = ("chromium", "google-chrome", "google-chrome-stable")
    installed = (path for path in map(shutil.which, names) if path and not path.startswith("/snap/"))
    with slow_line() as (proxy, down), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(installed, None), args=["--no-sandbox"],
            proxy={"server": proxy, "bypass": "<-loopback>"},  # not even for this machine
        )  # fmt: skip
        try:
            yield browser, down
        finally:
            browser.close()


def wait_until_idle() -> None:
    """Wait until Chromium rests, for 10 s at most.

    For a new tab it loads parts of its own window (chrome://omnibox-popup.top-chrome): 0.65 s of CPU beside the page, which
    a visitor whose window is open does not wait for.
    """
    began, used = time.monotonic(), 1.0
    while used > IDLE and time.monotonic() < began + 10:
        before = _cpu_seconds()
        time.sleep(0.5)
        used = (_cpu_seconds() - before) / 0.5


def _cpu_seconds() -> float:
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "chrom" in process.name():
                total += sum(process.cpu_times()[:2])
    return total


def visits(browser, down: Direction, url: str) -> Iterator[tuple[str, dict[str, float]]]:
    """View url with an empty cache, then once more; yield the figures of each.

    Raises WrongAnswer when the plot is not drawn or does not follow its slider, or when the line has carried less than
    the browser has received.
    """
    from playwright.sync_api import Error

    context = browser.new_context(viewport={"width": 1000, "height": 900}, bypass_csp=True)
    try:
        for kind in ("cold", "warm"):
            page = context.new_page()
            wait_until_idle()
            network = context.new_cdp_session(page)
            network.send("Network.enable")
            files, before = [], down.bytes
            network.on("Network.loadingFinished", lambda event, to=files: to.append(event["encodedDataLength"]))
            page.goto(url, wait_until="commit")
            alive = page.evaluate(ALIVE) / 1000
            page.wait_for_load_state("networkidle")
            received, requests = down.bytes - before, sum(size > 0 for size in files)
            if received < sum(files):
                raise WrongAnswer(f"{url}: {sum(files)} bytes of files, but the line has carried {received}")
            values = page.evaluate(VALUES)
            page.locator(".noUi-handle").first.press("ArrowRight")
            page.wait_for_function(f"(before) => ({VALUES})() != before", arg=values, timeout=10_000)
            page.close()
            yield kind, {"s": alive, "kB": received / 1000, "requests": requests}
    except Error as error:
        raise WrongAnswer(f"{url} in Chromium: {error}") from error
    finally:
        context.close()
