"""How long others wait while an app works for some seconds: in a callback, a coroutine, a thread and a process of its own.

PYTHONPATH=.:tests .venv/bin/python bench/long_work.py [--rounds N]

`.venv-bokeh-3.9.2/bin/python`, which `bin/test --bokeh 3.9.2` makes, measures that Bokeh.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bokeh
from dyno_under_test import Dyno, copy_project, temporary_folder, wait_for

from bench.peers import UNLIMITED

WHERES = ("nowhere", "callback", "loop", "thread", "process")
NAMES = dict(zip(WHERES, ("not done", "in a callback", "in a coroutine", "in a thread", "in a process"), strict=True))
WORK = 7.0  # seconds of CPU, in plain Python
DEADLINE = 300.0  # seconds
MAIN = """
import asyncio, sys
from pathlib import Path
from bokeh.io import curdoc
from .work import work

async def nowhere():
    await asyncio.sleep(SECONDS)
    Path(__file__).with_name("done").touch()

async def loop():
    work()

async def thread():
    await asyncio.to_thread(work)

async def process():
    process = await asyncio.create_subprocess_exec(sys.executable, Path(__file__).with_name("work.py"))
    await process.wait()

where = curdoc().session_context.request.arguments.get("where", [b""])[0].decode()
if where:
    curdoc().add_next_tick_callback({"callback": work}.get(where) or globals()[where])
"""
MODULE = """
import os, time
from pathlib import Path

def work():
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        sum(number * number for number in range(10_000))
    Path(__file__).with_name("done").touch()

if __name__ == "__main__":
    os.nice(5)
    work()
"""


def main() -> int:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    scratch = temporary_folder()
    one = None
    try:
        folder = copy_project(scratch / "site")
        app = folder / "bokeh_app" / "long_work"
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "main.py").write_text(MAIN.replace("SECONDS", str(WORK)))
        (app / "work.py").write_text(MODULE.replace("SECONDS", str(WORK)))
        one = Dyno(folder, {**UNLIMITED, "BOKEH_WORKERS": "1"}).start()
        figures = {where: [measure(one, where, app / "done") for _ in range(rounds)] for where in WHERES}
    finally:
        if one:
            one.clean_up()
        shutil.rmtree(scratch)
    print(f"\nBokeh {bokeh.__version__}, Python {platform.python_version()}, one Bokeh worker, {os.cpu_count()} cores:")
    print(f"another visitor's longest wait for a page of another app, and /healthz, in {rounds} rounds\n")
    print("| the work is | it takes, s | longest wait, s | /healthz |\n|---|---|---|---|")
    for where, rows in figures.items():
        took, waits, statuses = zip(*rows, strict=True)
        said = ", ".join(map(str, sorted(set().union(*statuses))))
        print(f"| {NAMES[where]} | {spread(took)} | {spread(waits)} | {said} |")
    return 0


def measure(one: Dyno, where: str, done: Path) -> tuple[float, float, set[int]]:
    """Begin the work; return what it took, the longest wait of another visitor, and what /healthz said meanwhile."""
    done.unlink(missing_ok=True)
    assert one.get("/bkapp/sliders").status == 200

    def others(path: str) -> tuple[float, set[int]]:
        longest, statuses = 0.0, set()
        while not done.exists() and time.monotonic() < began + DEADLINE:
            asked = time.monotonic()
            statuses.add(one.get(path).status)
            longest = max(longest, time.monotonic() - asked)
            time.sleep(0.1)
        return longest, statuses

    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(one.get, f"/bkapp/long_work?where={where}")
        page, health = pool.submit(others, "/bkapp/sliders"), pool.submit(others, "/healthz")
        wait_for("the end of the work", done.exists, DEADLINE)
        took = time.monotonic() - began
    assert page.result()[1] == {200}, page.result()
    return took, page.result()[0], health.result()[1]


def spread(values: tuple[float, ...]) -> str:
    """Return the lowest and the highest."""
    return f"{min(values):.1f} to {max(values):.1f}"


if __name__ == "__main__":
    sys.exit(main())
