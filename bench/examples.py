"""Show other people's Bokeh apps, Bokeh's own examples say, with plain `bokeh serve` and with this dyno, count beside count.

    git clone --depth 1 https://github.com/bokeh/bokeh
    PYTHONPATH=.:tests .venv/bin/python -m bench.examples bokeh/examples/server/app [FOLDER...]

Run by hand, for what the apps import has to be installed first. An app is what `bokeh serve` takes: a folder with a main.py,
or a file that names curdoc. Each is shown by a `bokeh serve` of its own; then all of them, unchanged, by one dyno with the
site of the tests: on the app's own page, and in a page of the site; those that fail there, by a dyno that has no other app.

Shown means, in a Chromium without internet and within 15 s: each document is idle, as many roots as with `bokeh serve` have a
size, as many plots are drawn, no script has failed, and there is no sentence on the page that says otherwise. --memory instead
prints what an app costs that is not shared by fork.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from browsing import DRAWN
from dyno_under_test import OTHER_SITE, Dyno, copy_project, temporary_folder

from bench.peers import UNLIMITED, dyno
from bench.server import Server

SECONDS = 15.0  # for an app to be shown, and for its server to start
STILL = 1.0  # s after that, in which scripts may fail and the rest is drawn
BOOT = 300  # s for the dyno, which runs every app before it answers
ROOTS = """() => (window.Bokeh?.documents ?? []).every((document) => document.is_idle)
  && (window.Bokeh?.documents ?? []).flatMap((document) => [...document.views_manager?.roots ?? []]).filter((view) => {
    const {width, height} = view.el?.getBoundingClientRect() ?? {width: 0, height: 0}
    return width > 0 && height > 0
  }).length"""
SENTENCES = "() => [...document.querySelectorAll('.bokeh-status')].map((one) => one.textContent).join(' ')"
KMEANS = """
import numpy
import pandas
from bokeh.io import curdoc
from bokeh.models import Div
from sklearn.cluster import KMeans

frame = pandas.DataFrame(numpy.random.default_rng(0).normal(size=(3000, 2)))
curdoc().add_root(Div(text=f"clusters {len(set(KMeans(4, n_init=2).fit(frame).labels_))}"))
"""


class View(NamedTuple):
    """What was seen of an app: roots that have a size, plots that are drawn, and what went wrong."""

    roots: int = 0
    drawn: int = 0
    wrong: str = ""

    def says(self, plain: View | None = None) -> str:
        """Return it in words: `shown`, or what is missing; plain is what `bokeh serve` shows."""
        plain = plain or View()
        if self.wrong:
            return self.wrong
        if self.roots < max(1, plain.roots):
            return f"{self.roots} roots of {max(1, plain.roots)}"
        return "shown" if self.drawn >= plain.drawn else f"{self.drawn} canvases drawn of {plain.drawn}"


def called(app: Path) -> str:
    """Return the name of an app, as `bokeh serve` takes it from its file or folder."""
    return app.name if app.is_dir() else app.stem


def find(folder: Path) -> list[Path]:
    """Return the apps in a folder."""
    return [path for path in sorted(folder.iterdir()) if path.name[0] not in "._" and (
        (path / "main.py").is_file() if path.is_dir()
        else path.suffix in (".py", ".ipynb") and re.search(rb"\bcurdoc\b", path.read_bytes())
    )]  # fmt: skip


@contextlib.contextmanager
def chromium() -> Iterator:
    """Run a Chromium that reaches this machine and nothing else."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "google-chrome", "google-chrome-stable")
    installed = (path for path in map(shutil.which, names) if path and not path.startswith("/snap/"))
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=next(installed, None), args=arguments)
        yield browser
        browser.close()


def look(browser, url: str) -> View:
    """Show a page, and return what there is to see."""
    from playwright.sync_api import Error

    context = browser.new_context(viewport={"width": 1000, "height": 900}, bypass_csp=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error).partition("\n")[0]))
    try:
        page.goto(url, wait_until="commit", timeout=SECONDS * 1000)
        with contextlib.suppress(Error):
            page.wait_for_function(f"({ROOTS})() > 0", timeout=SECONDS * 1000)
        page.wait_for_timeout(STILL * 1000)
        with contextlib.suppress(Error):  # on a busy machine: that it works, or takes longer than usual
            page.wait_for_function(f"({SENTENCES})() == ''", timeout=SECONDS * 1000)
        said = page.evaluate(SENTENCES)
        if page.get_by_text("This plot could not be made.").count():
            said = "This plot could not be made."
        wrong = said or (f"a script failed: {errors[0]}" if errors else "")
        return View(int(page.evaluate(ROOTS)), page.evaluate(DRAWN), wrong)
    except Error as error:
        return View(wrong=str(error).partition("\n")[0])
    finally:
        context.close()


@contextlib.contextmanager
def plain(app: Path) -> Iterator[Dyno]:
    """Run `bokeh serve` with a copy of one app."""
    folder = temporary_folder()
    copy(app, folder)
    server = Dyno(folder, command=["/bin/sh", "-c", f"exec bokeh serve {app.name} --port $PORT"])
    try:
        server.launch()
        end = time.monotonic() + SECONDS
        while not server.port_is_open() and server.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        yield server
    finally:
        server.clean_up()
        shutil.rmtree(folder)


@contextlib.contextmanager
def moved(apps: list[Path]) -> Iterator[Dyno]:
    """Run this dyno with copies of apps and the site of the tests."""
    folder = temporary_folder()
    project = copy_project(folder / "app", OTHER_SITE)
    shutil.rmtree(project / "bokeh_app")
    for app in apps:
        copy(app, project / "bokeh_app")
    one = Dyno(project, {**UNLIMITED, "BOOT_TIMEOUT": str(BOOT)})
    try:
        began = time.monotonic()
        one.launch().wait_until_it_answers(BOOT)
        print(f"{len(apps)} apps: up in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        yield one
    finally:
        print(one.log(), file=sys.stderr, flush=True)
        one.clean_up()
        shutil.rmtree(folder)


def copy(app: Path, folder: Path) -> None:
    """Put an app into a folder."""
    folder.mkdir(exist_ok=True)
    if app.is_dir():
        shutil.copytree(app, folder / app.name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(app, folder)


def look_at_both(browser, apps: list[Path]) -> dict[str, list[View]]:
    """Return what one dyno with these apps shows of each: on its own page, and in a page of the site."""
    views = {}
    try:
        with moved(apps) as one:
            for name in map(called, apps):
                views[name] = [
                    look(browser, f"http://127.0.0.1:{one.port}/{kind}/{name}") for kind in ("bkapp", "with")
                ]
                print(f"{name}: {views[name]}", file=sys.stderr, flush=True)
    except AssertionError:  # stderr says why
        pass
    return {called(app): views.get(called(app), [View(wrong="the dyno does not start")] * 2) for app in apps}


def look_at_plain(browser, app: Path) -> View:
    """Return what `bokeh serve` shows of an app."""
    with plain(app) as server:
        view = look(browser, f"http://127.0.0.1:{server.port}/{called(app)}")
        errors = re.findall(r"^\S*(?:Error|Exception)\b.*", server.log(), re.MULTILINE)
    print(f"bokeh serve {called(app)}: {view} {''.join(errors[-1:])}", file=sys.stderr, flush=True)
    return view


def compare(apps: list[Path]) -> None:
    """Print what is shown of each app, and the counts."""
    cells = {}
    with chromium() as browser:
        together = look_at_both(browser, apps)
        for app in apps:
            view = look_at_plain(browser, app)
            row = [one.says(view) for one in together[called(app)]]
            if view.says() == "shown" and row != ["shown", "shown"] and len(apps) > 1:
                alone = [one.says(view) for one in look_at_both(browser, [app])[called(app)]]
                row = [
                    cell if cell == other else f"{cell} (alone: {other})"
                    for cell, other in zip(row, alone, strict=True)
                ]
            cells[called(app)] = [view.says(), *row]
    print(f"\nBokeh {version('bokeh')}:\n")
    print("| app | `bokeh serve` | own page | page of the site |\n|---|---|---|---|")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |")
    counts = [sum(cell == "shown" for cell in column) for column in zip(*cells.values(), strict=True)]
    print(f"| {len(cells)} | {' | '.join(map(str, counts))} |")


def weigh() -> None:
    """Print memory, idle, and boot of the example, and of the example with an app that leaves threads behind."""
    print("| | MB, idle | boot s |\n|---|---|---|")
    with_kmeans = "with an app that calls KMeans"
    for title, main, env in (
        ("the example", "", {}),
        (with_kmeans, KMEANS, {}),
        (f"{with_kmeans}, OMP_NUM_THREADS=1", KMEANS, {"OMP_NUM_THREADS": "1"}),
    ):
        server = Server(title, dyno, version("bokeh"))
        try:
            server.start(example=True, further={"kmeans": main} if main else {}, **env)
            started = server.wait()
            server.settle()  # each worker has run what is not shared
            print(f"| {title} | {server.pss():.0f} | {started:.1f} |", flush=True)
        finally:
            server.stop()


def main() -> int:
    """Read the command line, and print what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="with apps in it")
    parser.add_argument("--memory", action="store_true", help="print what an app costs that is not shared by fork")
    arguments = parser.parse_args()
    apps = sorted((app for folder in arguments.folders for app in find(folder)), key=called)
    if twice := [called(app) for app, other in itertools.pairwise(apps) if called(app) == called(other)]:
        parser.error(f"two apps are called {twice[0]}, which no site can have: name one of them otherwise")
    if arguments.memory:
        weigh()
    elif apps:
        compare(apps)
    else:
        parser.error("there is no app")
    return 0


if __name__ == "__main__":
    sys.exit(main())
