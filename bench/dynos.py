"""More workers and more dynos: views per second, open pages, what each costs, and the plan that follows from it."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from dyno_under_test import ROOT, free_port, procfile_line

from bench.loads import Cpu, four_visitors, moves, open_sessions, spread
from bench.peers import UNLIMITED, VERSIONS, dyno
from bench.server import SOON, Server, Urls
from bench.tables import Run, Table, part

PAGES = 200  # open at the same time, of each row
MOVES = 0.2  # of its slider by each page, per second
# on paper: how long a page stays open, how long its session is kept afterwards (this dyno's own default), how busy a
# core may be, and the dyno of the plan
STAYS, KEPT, BUSY = 600.0, 180.0, 0.6
CORES, MEMORY, WORKERS = 2, 2000.0, 3
PLAN = (100, 1_000, 10_000, 100_000)


class Size(NamedTuple):
    """So many dynos, each with so many Flask workers and so many Bokeh workers."""

    dynos: int
    workers: int

    def __str__(self) -> str:
        def words(count: int, what: str) -> str:
            return f"{count} {what}{'s' * (count != 1)}"

        return f"{words(self.dynos, 'dyno')} of {self.workers} + {words(self.workers, 'worker')}"


SIZES = [Size(1, 1), Size(1, 2), Size(1, 4), Size(2, 1), Size(3, 1)]


def several(server: Server, size: Size, unused: int) -> Urls:
    """Start so many dynos in one folder, and haproxy, which is none of what is measured, in front of them."""
    env = {
        "BOKEH_SECRET_KEY": secrets.token_hex(32),
        "WEB_CONCURRENCY": str(size.workers),
        "BOKEH_WORKERS": str(size.workers),
    }
    dynos = [dyno(server, unused=unused, **env)]
    line = f"/bin/sh -c 'exec {procfile_line(server.folder)}'"
    while len(dynos) < size.dynos:
        port = free_port()
        server.run(line, PORT=str(port), RUN_DIR=f"run/{len(dynos)}", **UNLIMITED, **env)
        dynos.append(Urls(f"http://127.0.0.1:{port}", [f"http://127.0.0.1:{port}/healthz"]))
    port, text = free_port(), (ROOT / "config" / "haproxy.cfg").read_text()
    text = re.sub(r"^ +server .*\n", "", text.replace("bind :8080", f"bind 127.0.0.1:{port}"), flags=re.MULTILINE)
    for number, one in enumerate(dynos, 1):
        text += f"    server web.{number} {one.site.removeprefix('http://')}\n"
    (server.folder.parent / "haproxy.cfg").write_text(text)
    server.run(f"/bin/sh -c {shlex.quote('cd .. && exec haproxy -db -f haproxy.cfg')}")
    site = f"http://127.0.0.1:{port}"
    ready = [url for one in dynos for url in one.ready]
    return Urls(site, [*ready, f"{site}/healthz"], f"{site}/bkapp")


def started(stack: ExitStack, adapter: Callable[..., Urls] = several, **options: object) -> Server:
    """Start a server, and wait until it answers; it is stopped when the stack unwinds."""
    server = Server("dyno", adapter, VERSIONS["dyno"])
    stack.callback(server.stop)
    server.start(**options)
    server.wait()
    return server


@part
def dynos(run: Run) -> Iterator[Table]:
    """1, 2 and 4 workers, 1, 2 and 3 dynos behind haproxy: views per second, open pages, the plan for more of them"""
    views = Table(
        "More workers, more dynos: views",
        "Views of a page with the app `curve` as above, through haproxy (config/haproxy.cfg); it, the dynos and the visitors "
        "compete for the cores of this machine. CPU ms: of the dynos.",
    )
    pages = Table(
        "More workers, more dynos: open pages",
        f"{PAGES} open pages, each of which moves its slider every {1 / MOVES:.0f} s. kB per page: memory (PSS); "
        "CPU ms per page: in each second. Two tiers: Flask on one dyno, Bokeh on another.",
    )
    samples: list[tuple[Size, int, float]] = []

    def once(name: str) -> None:
        size = next(size for size in SIZES if str(size) == name)
        with ExitStack() as stack:
            server = started(stack, size=size, unused=SOON)
            four_visitors(server, 0.5)  # every worker has answered once
            views.add(name, four_visitors(server, run.seconds))
            (filled,) = fill(server, [server], run.seconds)
        pages.add(name, filled)
        samples.append((size, 0, filled["idle MB"]))
        samples.append((size, PAGES, filled["idle MB"] + filled["kB per page"] * PAGES / 1e3))

    def tiers(_: str) -> None:
        key = {"BOKEH_SECRET_KEY": secrets.token_hex(32)}
        with ExitStack() as stack:
            bokeh = started(stack, dyno, unused=SOON, WEB_CONCURRENCY="0", **key)
            upstream = bokeh.urls.site.removeprefix("http://")
            flask = started(stack, dyno, BOKEH_UPSTREAM=upstream, **key)
            names = "two tiers: the Flask dyno", "two tiers: the Bokeh dyno"
            for name, figures in zip(names, fill(flask, [flask, bokeh], run.seconds), strict=True):
                pages.add(name, figures)

    if "dyno" in run.peers:
        run.in_turns(views, [str(size) for size in SIZES], once)
        run.in_turns(pages, ["two tiers"], tiers)
    yield views
    yield pages
    if samples:
        yield plan(samples, views, pages)


def fill(site: Server, servers: list[Server], duration: float) -> list[dict[str, float]]:
    """Open pages of a site, have them move their sliders for a while; return what that takes of each of these servers."""
    with open_sessions(site, 8):  # so that what is imported late is there
        pass
    for server in servers:
        server.settle()
    idle = [server.pss() for server in servers]
    with open_sessions(site, PAGES) as sessions, ExitStack() as stack:
        cpus = [stack.enter_context(Cpu(server)) for server in servers]
        times, errors = moves(sessions, MOVES, max(duration, 1 / MOVES))
        for cpu in cpus:
            cpu.elapse()
        stack.close()
        full = [server.pss() for server in servers]
    return [
        {
            "idle MB": before,
            "kB per page": (after - before) * 1e3 / PAGES,
            "CPU ms per page": cpu.per(PAGES)["CPU ms"] / cpu.elapsed,
            **spread(times, 95),
            "errors": PAGES - len(sessions) + errors,
        }
        for before, after, cpu in zip(idle, full, cpus, strict=True)
    ]


def plan(samples: list[tuple[Size, int, float]], views: Table, pages: Table) -> Table:
    """Fit what a dyno, a worker, a page and a view cost; return what follows from it for more pages than fit here."""
    counts = np.array([[size.dynos, size.dynos * size.workers, open_pages] for size, open_pages, _ in samples], float)
    measured = np.array([megabytes for *_, megabytes in samples])
    (per_dyno, per_worker, per_page), *_ = np.linalg.lstsq(counts, measured, rcond=None)
    off = np.abs(counts @ (per_dyno, per_worker, per_page) - measured) / measured
    rows = [str(size) for size in SIZES if str(size) in views.rows]
    per_view = float(np.median([views.rows[row]["CPU ms"] for row in rows])) / 1e3
    per_second = float(np.median([pages.rows[row]["CPU ms per page"] for row in rows])) / 1e3
    table = Table(
        "More workers, more dynos: on paper",
        f"What fits the two tables above: a dyno takes {per_dyno:.0f} MB, each pair of its workers {per_worker:.0f} MB, an "
        f"open page {per_page:.2f} MB (off by {off.max():.0%} at most, {np.median(off):.0%} as a rule); a view takes "
        f"{per_view * 1e3:.0f} ms of CPU, an open page {per_second * 1e3:.2f} ms in each second. The rest is arithmetic: a "
        f"page stays open for {STAYS / 60:.0f} minutes, its session {KEPT / 60:.0f} longer; cores are busy for {BUSY:.0%}; "
        f"dynos of {CORES} CPUs, {MEMORY / 1e3:.0f} GB and {WORKERS} + {WORKERS} workers.",
    )
    for count in PLAN:
        rate = count / STAYS
        sessions = count * (1 + KEPT / STAYS)
        cores = (rate * per_view + count * per_second) / BUSY
        room = MEMORY - per_dyno - WORKERS * per_worker
        by_cores, by_memory = cores / CORES, sessions * per_page / room
        dynos = max(1, int(np.ceil(max(by_cores, by_memory))))
        table.add(f"{count:,} open pages", {
            "views/s": rate, "cores": cores, "GB of pages": sessions * per_page / 1e3,
            "dynos by CPU": by_cores, "dynos by memory": by_memory, "dynos": dynos,
        })  # fmt: skip
    return table
