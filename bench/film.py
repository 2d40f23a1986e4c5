"""Make docs/deploy.webp, the moving picture of README: an open page while the site is replaced by another version.

    PYTHONPATH=.:tests .venv/bin/python -m bench.film

The real thing: a dyno in a copy of the project, its sliders app in Chromium, moved by keys; SIGTERM, the app edited, started
again. What is shortened is the waiting.
"""

from __future__ import annotations

import io
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from browsing import assert_plots_are_drawn, turn_slider
from dyno_under_test import ROOT, Dyno, copy_project, temporary_folder
from PIL import Image

from bench.examples import chromium

FILM = ROOT / "docs" / "deploy.webp"
LARGEST = 250_000  # bytes
TIMES = 3  # what moves on and on keeps people from reading
WIDTH, SHOWN = 960, 900  # of the window, and of the picture, which README shows in 600
# (steps, slider): offset, amplitude, phase, frequency
MOVES = [(2, 3)] * 5 + [(3, 1)] * 3
ANOTHER_VERSION = ("line_width=3)", 'line_width=3, line_color="#c2410c")')
# what the second version draws, and the values that it has to have
WHOLE = """() => Bokeh.documents.some((document) => [...document._all_models.values()].some((model) =>
  model.type == "Line" && model.line_color.value == "#c2410c")) && document.querySelectorAll(".bokeh-status").length == 0"""
STRIP = """<body style="margin: 0; background: #10161d; color: #dfe6ee; font: 22px/56px ui-monospace, monospace">
<div style="padding: 0 20px; white-space: pre"><span style="color: {colour}">●</span> {text}</div>"""
GOOD, GONE = "#46c36f", "#e5645c"
TYPED = "$ git push heroku main"


class Film:
    """Frames of a page, with a line of a terminal below each."""

    def __init__(self, page, terminal) -> None:
        self._page, self._terminal = page, terminal
        self._strip = Image.new("RGB", (1, 1))
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []

    def say(self, text: str, colour: str) -> None:
        """Have the terminal's line from now on say this."""
        self._terminal.set_content(STRIP.format(colour=colour, text=escape(text)))
        self._strip = picture(self._terminal)

    def take(self, milliseconds: int) -> None:
        """Add what the page shows now, for so long."""
        shown = picture(self._page)
        frame = Image.new("RGB", (WIDTH, shown.height + self._strip.height))
        frame.paste(shown, (0, 0))
        frame.paste(self._strip, (0, shown.height))
        frame = frame.resize((SHOWN, round(frame.height * SHOWN / WIDTH)), Image.Resampling.LANCZOS)
        self.frames.append(frame)
        self.milliseconds.append(milliseconds)

    def save(self, path: Path) -> int:
        """Write it as WebP, which stands still after TIMES; return the bytes. Raises ValueError when these are too many."""
        first, *others = self.frames
        first.save(
            path, save_all=True, append_images=others, duration=self.milliseconds, loop=TIMES, quality=60, method=6,
            allow_mixed=True, minimize_size=True,
        )  # fmt: skip
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{path.name} has {size:,} bytes: {LARGEST:,} are the most")
        return size


def picture(page) -> Image.Image:
    """Return what a page of the browser shows."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def shoot(film: Film, page, site: Iterator[Dyno]) -> None:
    """Play the story once; the dynos are the first version, and the second."""
    film.say("version 1", GOOD)
    film.take(700)
    for steps, slider in MOVES:
        turn_slider(page, steps, slider)
        page.wait_for_timeout(150)
        film.take(120)
    for end in range(5, len(TYPED) + 1, 6):
        film.say(TYPED[:end], GOOD)
        film.take(100)
    film.say(TYPED, GOOD)
    film.take(500)
    next(site).process.send_signal(signal.SIGTERM)
    page.locator(".bokeh-status").wait_for()
    film.say("version 1 stops", GONE)
    film.take(900)
    film.say("version 2 starts", GONE)
    film.take(900)
    next(site)
    page.wait_for_function(WHOLE)
    page.wait_for_timeout(500)
    film.say("version 2: its line is red, the values are the visitor's", GOOD)
    film.take(2200)


def versions(folder: Path) -> Iterator[Dyno]:
    """Yield a dyno of this version, then, when it has been told to stop, one of another at the same port."""
    env = {"BOKEH_SECRET_KEY": secrets.token_hex(32), "BOKEH_WORKERS": "1", "WEB_CONCURRENCY": "1"}
    first = Dyno(folder, env).start()
    second = Dyno(folder, {**env, "PORT": str(first.port)})
    try:
        yield first
        yield first
        first.wait()
        main = folder / "bokeh_app" / "sliders" / "main.py"
        before, after = ANOTHER_VERSION
        text = main.read_text()
        if before not in text:
            raise ValueError(f"{main} has no {before}")
        main.write_text(text.replace(before, after))
        yield second.start()
        second.stop()
    finally:
        first.clean_up()
        second.clean_up()


def main() -> int:
    """Make the film, and say how large it is."""
    folder = temporary_folder()
    try:
        with chromium() as browser:
            site = versions(copy_project(folder / "app"))
            context = browser.new_context(
                viewport={"width": WIDTH, "height": 900}, bypass_csp=True, reduced_motion="reduce"
            )
            page, terminal = context.new_page(), context.new_page()
            terminal.set_viewport_size({"width": WIDTH, "height": 56})
            page.bring_to_front()
            page.goto(f"http://127.0.0.1:{next(site).port}/apps/sliders")
            assert_plots_are_drawn(page, 1)
            bottom = page.evaluate("document.querySelector('[class*=sheet]').getBoundingClientRect().bottom + 12")
            page.set_viewport_size({"width": WIDTH, "height": min(1000, int(bottom))})
            page.wait_for_timeout(300)
            film = Film(page, terminal)
            shoot(film, page, site)
            next(site, None)
            size = film.save(FILM)
    finally:
        shutil.rmtree(folder)
    seconds = sum(film.milliseconds) / 1000
    print(f"{FILM.relative_to(ROOT)}: {size / 1000:.0f} kB, {len(film.frames)} frames, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
