"""Make the pictures of the gallery from the site as it runs, light and dark: bin/pictures [NAME...]

NAME-light.webp and NAME-dark.webp in flask_app/static/apps/ for each app, and for those pages that show more than one;
without names also preview.webp, which others show beside a link to the site, and favicon.ico. An app of its own needs nothing
here: it is shown as it begins, or as `BEFORE` leaves it.
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Callable
from pathlib import Path

from browsing import turn_slider
from dyno_under_test import ROOT, Dyno, copy_project, temporary_folder
from PIL import Image, ImageOps
from playwright.sync_api import Page

from bench.examples import chromium
from bokeh_dyno.shared import apps

STATIC = ROOT / "flask_app" / "static"
SIZE = (640, 400)
PREVIEW = (1200, 630)  # what links are shown with elsewhere
MAX_BYTES = 25_000
PASSWORD = "pictures"
MARGIN = 16  # pixels of ground around a plot
# CSS pixels of the window: two apps beside each other, or one plot that is as wide as it needs
WIDE, NARROW = 1100, 680
FIGURES = '[...Bokeh.index.query((view) => view.model.type == "Figure")]'
# Plots without a toolbar; in a narrow window as high as the picture is for its width, which those below each other share
FIT = f"""(ratio) => {{
  const views = {FIGURES}
  for (const {{model}} of views) {{
    model.toolbar.visible = false
    const {{offsetWidth: width}} = views[0].el
    if (innerWidth < 1000 && width > 400) model.height = Math.round(width / ratio / views.length)
  }}
}}"""
BOX = f"""() => {{
  const [plots, all] = [{FIGURES}, Bokeh.index.roots].map((views) => views.map((view) => view.el))
  const shown = [document.querySelectorAll(".pair > *"), plots, all].find((some) => some.length)
  const boxes = [...shown].map((one) => one.getBoundingClientRect())
  const [left, top] = [Math.min(...boxes.map((one) => one.left)), Math.min(...boxes.map((one) => one.top))]
  const [right, bottom] = [Math.max(...boxes.map((one) => one.right)), Math.max(...boxes.map((one) => one.bottom))]
  return [left, top + scrollY, right - left, bottom - top]
}}"""
IDLE = "() => Bokeh.documents.every((document) => document.is_idle)"
# each place of an app, or a static plot
DRAWN = f"""() => {{
  const count = Math.max(1, document.querySelectorAll("[data-bokeh-app]").length)
  return window.Bokeh?.documents.length >= count && ({IDLE})()
}}"""


def sliders(page: Page) -> None:
    """Make more of the curve."""
    turn_slider(page, 8, 1)
    turn_slider(page, 10, 3)


def shared(page: Page) -> None:
    """Put some dots on the board, three of them with a word, unless they are there."""
    if "No dot" not in page.locator("body").inner_text():
        return
    box = page.locator(".bk-Canvas").first.bounding_box()
    dots = (
        (0.14, 0.3, "hello"),
        (0.3, 0.66, ""),
        (0.42, 0.36, ""),
        (0.55, 0.72, "here"),
        (0.7, 0.4, ""),
        (0.84, 0.62, "tap!"),
    )
    for number, (x, y, word) in enumerate(dots):
        page.locator(".bk-btn").nth(number % 5).click()
        page.locator("input[type=text]").fill(word)
        page.locator("input[type=text]").press("Enter")
        page.wait_for_timeout(250)  # what comes sooner than that after another is left out
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.get_by_text(f"{number + 1} of ").wait_for()


def dyno(page: Page) -> None:
    """Wait until its curves have a dozen points."""
    points = "Math.max(...[...doc._all_models.values()].map((one) => one.data?.time?.length ?? 0))"
    page.wait_for_function(f"() => Bokeh.documents.every((doc) => {points} > 12)", timeout=120_000)


def log_in(page: Page) -> None:
    """Log in as the one user there is."""
    page.get_by_label("Name").fill("demo")
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main button").click()


BEFORE: dict[str, Callable[[Page], None]] = {"sliders": sliders, "shared": shared, "pair": shared, "dyno": dyno}


def places() -> dict[str, str]:
    """Return {name: path} of what is to have a picture."""
    others = {"greeter": "/members", "pair": "/pair", "plot": "/plot"}
    return {**{name: f"/apps/{name}" for name in apps.names()}, **others}


def take(page: Page, url: str, name: str) -> None:
    """Take the pictures of one page, light and dark."""
    page.set_viewport_size({"width": WIDE if name == "pair" else NARROW, "height": 1000})
    page.emulate_media(color_scheme="light")
    page.goto(url)
    if "/login" in page.url:
        log_in(page)
    page.wait_for_function(DRAWN, timeout=30_000)
    BEFORE.get(name, lambda page: None)(page)
    ratio = SIZE[0] / SIZE[1]
    page.evaluate(FIT, ratio)
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(500)  # what has no end to wait for: the layout, and the new colours
        page.wait_for_function(IDLE)
        left, top, width, height = page.evaluate(BOX)
        clip = {"x": left, "y": top, "width": width, "height": height}
        picture = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True))).convert("RGB")
        room, ground = (SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN), picture.getpixel((0, 0))
        picture = ImageOps.pad(picture, room, Image.Resampling.LANCZOS, ground, (0.5, 0))
        save(ImageOps.expand(picture, MARGIN, ground), STATIC / "apps" / f"{name}-{scheme}.webp")


def save(picture: Image.Image, path: Path, most: int = MAX_BYTES) -> None:
    """Save a picture as well as it can be in so many bytes."""
    for quality in range(90, 20, -5):
        held = io.BytesIO()
        picture.save(held, "webp", quality=quality, method=6)
        if held.tell() <= most:
            path.write_bytes(held.getvalue())
            print(f"{path.relative_to(ROOT)}: {held.tell():,} bytes, quality {quality}")
            return
    raise ValueError(f"{path} is too large")


def take_preview(page: Page, site: str) -> None:
    """Take the picture of the gallery, as a visitor of elsewhere sees it, and that of the icon."""
    page.emulate_media(color_scheme="light")
    page.context.clear_cookies()
    page.set_extra_http_headers({"X-Forwarded-For": "192.0.2.1"})
    page.set_viewport_size({"width": PREVIEW[0], "height": PREVIEW[1]})
    page.goto(site)
    page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    save(picture.resize(PREVIEW, Image.Resampling.LANCZOS), STATIC / "preview.webp", 60_000)
    page.set_viewport_size({"width": 32, "height": 32})
    page.goto(f"{site}/static/favicon.svg")
    icon = Image.open(io.BytesIO(page.screenshot(omit_background=True)))
    icon.save(STATIC / "favicon.ico", sizes=[(16, 16), (32, 32), (48, 48)])


def run(names: list[str]) -> None:
    """Run the site, and take the pictures of these apps and pages, or of all."""
    folder = temporary_folder()
    one = Dyno(copy_project(folder / "site"), {"DEMO_PASSWORD": PASSWORD, "BOKEH_WORKERS": "1"})
    (STATIC / "apps").mkdir(exist_ok=True)
    try:
        site = f"http://127.0.0.1:{one.start().port}"
        with chromium() as browser:
            page = browser.new_context(device_scale_factor=2).new_page()
            for name, path in places().items():
                if not names or name in names:
                    take(page, site + path, name)
            if not names:
                for file in (STATIC / "apps").iterdir():
                    shutil.copy(file, one.folder / file.relative_to(ROOT))
                take_preview(page, site)
        one.stop()
    finally:
        one.clean_up()
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("bin/pictures", description=__doc__)
    parser.add_argument("NAME", nargs="*", choices=[[], *places()], help="those of this app or page alone")
    run(parser.parse_args().NAME)
