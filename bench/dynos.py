"""Views per second with 1, 2 and 3 dynos behind haproxy, and the memory of each kind of dyno, idle and per session.

PYTHONPATH=.:tests .venv/bin/python bench/dynos.py [--rounds N] [--seconds S]
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from dyno_under_test import Dyno, copy_project, temporary_folder
from router import Views, router, view

from bench.peers import UNLIMITED

APP = "sliders"
SESSIONS = 60


def main() -> int:
    """Print both tables, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, for each number of dynos and round")
    arguments = parser.parse_args()
    scratch = temporary_folder()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch)
        with ExitStack() as dynos:
            views_per_second(dynos, scratch, arguments.rounds, arguments.seconds)
        memory(scratch)
    return 0


def views_per_second(stack: ExitStack, scratch: Path, rounds: int, seconds: float) -> None:
    """Measure three routers in turns, before one, two and three of the same dynos."""
    env = {"BOKEH_SECRET_KEY": secrets.token_hex(32), "WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1"}
    dynos = [start(stack, scratch / f"web.{number}", env) for number in (1, 2, 3)]
    sites = {count: router(scratch / f"router.{count}", dynos[:count]) for count in (1, 2, 3)}
    figures: dict[int, list[float]] = {count: [] for count in sites}
    for site in sites.values():
        stack.callback(site.clean_up)
        site.start()
        measure(site, 1.0)  # every worker has answered once
    for _ in range(rounds):
        for count, site in sites.items():
            figures[count].append(measure(site, seconds))
    print(f"\nViews per second of /apps/{APP}, 6 visitors at a time; dynos of 1 + 1 workers, haproxy and")
    print(
        f"the visitors on the same {os.cpu_count()} cores; median (lowest to highest) of {rounds} rounds of {seconds:.0f} s\n"
    )
    print("| dynos | views/s | of one dyno's |\n|---|---|---|")
    for count, values in figures.items():
        ratio = median(a / b for a, b in zip(values, figures[1], strict=True))
        print(f"| {count} | {median(values):.1f} ({min(values):.1f} to {max(values):.1f}) | {ratio:.2f} |")


def measure(site: Dyno, seconds: float) -> float:
    """Return the views per second. Raises AssertionError when one was not answered as it should be."""
    began = time.monotonic()
    views = Views(site, [f"/apps/{APP}"], 6, APP).start()
    time.sleep(seconds)
    outcomes = views.stop()
    assert set(outcomes) == {"seen"}, outcomes
    return outcomes["seen"] / (time.monotonic() - began)


def memory(scratch: Path) -> None:
    """Measure a dyno of both, then one of each tier: idle and alone on the machine, then what sessions add."""
    key = {"BOKEH_SECRET_KEY": secrets.token_hex(32)}
    rows: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        both = start(stack, scratch / "both", key)
        idle, (added,) = warm(both, both), per_session(both, both)
        rows["Flask and Bokeh"] = idle, added
    with ExitStack() as stack:
        bokeh = start(stack, scratch / "bokeh", {**key, "WEB_CONCURRENCY": "0"})
        env = {**key, "BOKEH_UPSTREAM": f"127.0.0.1:{bokeh.port}"}
        with ExitStack() as first:
            warm(start(first, scratch / "flask.1", env), bokeh)
        idle_bokeh = pss(bokeh)
        flask = start(stack, scratch / "flask.2", env)
        warm(flask, bokeh)
        added_flask, added_bokeh = per_session(flask, flask, bokeh)
        bokeh.clean_up()
        rows["Flask, Bokeh elsewhere"] = pss(flask) - SESSIONS * added_flask, added_flask
        rows["Bokeh alone"] = idle_bokeh, added_bokeh
    print("\nMemory (PSS) of a dyno of 2 + 2 workers, and what each open session of the app adds\n")
    print("| dyno | idle MB | MB per session |\n|---|---|---|")
    for kind, (idle, added) in rows.items():
        print(f"| {kind} | {idle:.0f} | {added:.2f} |")


def warm(site: Dyno, measured: Dyno) -> float:
    """View the page a few times, so that what is imported late is there; return the memory of a dyno then."""
    for _ in range(8):
        view(site, f"/apps/{APP}", APP).close()
    return pss(measured)


def per_session(site: Dyno, *dynos: Dyno) -> list[float]:
    """Open sessions and close them again; return what each added to the memory of these dynos, in MB."""
    before = [pss(one) for one in dynos]
    clients = [view(site, f"/apps/{APP}", APP) for _ in range(SESSIONS)]
    after = [pss(one) for one in dynos]
    for client in clients:
        client.close()
    return [(now - then) / SESSIONS for now, then in zip(after, before, strict=True)]


def pss(one: Dyno) -> float:
    """Return the memory of all processes of a dyno in MB; what n of them share counts 1/n for each."""
    return sum(process.memory_full_info().pss for process in one.processes()) / 1e6


def start(stack: ExitStack, folder: Path, env: dict[str, str]) -> Dyno:
    """Start the example in a folder of its own; it is stopped when the stack unwinds."""
    one = Dyno(copy_project(folder), {**UNLIMITED, **env})
    stack.callback(one.clean_up)
    return one.start()


if __name__ == "__main__":
    sys.exit(main())
