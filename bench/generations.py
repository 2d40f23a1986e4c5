"""Ten new generations under load, one after the other, beside gunicorn's own way (HUP): what was lost, and who stayed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import psutil
from dyno_under_test import free_port
from load import Load

from bench.client import Session, WrongAnswer
from bench.loads import open_sessions
from bench.peers import VERSIONS, dyno
from bench.server import LATER, Server, Urls
from bench.tables import Run, Table, part

GENERATIONS = 10
PAGES = 10
BETWEEN = 500  # requests answered, from one generation's takeover to the next signal
DEADLINE = 120.0  # s for a generation
LONGEST = 900.0  # s of load
# s that requests take, as in tests/test_drain.py
FAST, SLOW = [0.01, 0.01, 0.05, 0.01, 0.02], [0.2, 9.0, 1.0, 3.0, 6.0]
GUNICORN = "gunicorn alone, HUP"


def gunicorn(server: Server) -> Urls:
    """Run gunicorn alone with the site, as many threads as ours has, and its own default of 30 s for what is in flight."""
    port = free_port()
    server.prepare()
    server.run(
        f"gunicorn --workers 2 --threads 16 --keep-alive 75 --bind 127.0.0.1:{port} flask_app:create_app()",
        BENCH_BOKEH_URL="http://127.0.0.1/bkapp",
    )
    return Urls(f"http://127.0.0.1:{port}", [f"http://127.0.0.1:{port}"])


def new_generation(server: Server) -> None:
    """Have this dyno start a new generation, and wait until it serves. Raises WrongAnswer when it does not."""
    before = state(server)["serving"]
    os.kill(server.main, signal.SIGUSR2)
    wait(server, lambda: state(server)["serving"] != before or state(server)["failed"])
    if failed := state(server)["failed"]:
        raise WrongAnswer(failed["why"])


def state(server: Server) -> dict:
    """Return how the dyno's generations stand."""
    return json.loads((server.folder / "run" / "generations.json").read_text())


def hang_up(server: Server) -> None:
    """Have gunicorn start new workers, and wait until they are there. Raises WrongAnswer when they are not."""
    workers = lambda: {child.pid for child in psutil.Process(server.main).children()}  # noqa: E731
    before = workers()
    os.kill(server.main, signal.SIGHUP)
    wait(server, lambda: len(workers() - before) >= 2)


def wait(server: Server, check: Callable[[], object]) -> None:
    """Wait until something is so. Raises WrongAnswer when that takes too long."""
    end = time.monotonic() + DEADLINE
    while not check():
        if time.monotonic() > end:
            raise WrongAnswer(f"no new generation within {DEADLINE} s: {server.log()[-1000:]}")
        time.sleep(0.02)


def is_alive(session: Session) -> bool:
    """Return whether a page's WebSocket still answers."""
    try:
        session.move_curve()
    except (WrongAnswer, OSError):
        return False
    return True


def ten(server: Server, renew: Callable[[Server], None], pages: list[Session]) -> dict[str, float]:
    """Renew a server ten times under load; return the figures."""
    port = int(server.urls.site.rpartition(":")[2])
    loads = [
        Load(SimpleNamespace(port=port), seconds, clients, LONGEST).start()
        for seconds, clients in ((FAST, 8), (SLOW, 10))
    ]
    took = []
    try:
        for _ in range(GENERATIONS):
            enough = sum(len(load.requests) for load in loads) + BETWEEN
            wait(server, lambda: sum(len(load.requests) for load in loads) >= enough)  # noqa: B023
            began = time.monotonic()
            renew(server)
            took.append(time.monotonic() - began)
        enough = sum(len(load.requests) for load in loads) + BETWEEN
        wait(server, lambda: sum(len(load.requests) for load in loads) >= enough)
    finally:
        requests = [request for load in loads for request in load.stop()]
    outcomes = [request.outcome for request in requests]
    lost = [request for request in requests if isinstance(request.outcome, str)]
    refused = sum(load.refused for load in loads)
    alive = {"pages": len(pages), "WebSockets kept": sum(map(is_alive, pages))} if pages else {}
    return {
        "requests": len(requests) + refused,
        "lost": len(lost) + refused,
        "of them on a kept connection": sum(request.kept for request in lost),
        "failed": len(requests) - len(lost) - outcomes.count(200),
        **alive,
        "s each": sum(took) / len(took),
    }


@part
def generations(run: Run) -> Iterator[Table]:
    """ten new generations under load: requests lost, WebSockets kept; beside gunicorn's HUP"""
    table = Table(
        "Ten generations under load",
        f"18 clients, half of them on kept connections, whose requests take 0.01 to 9 s; after {BETWEEN} answers the next "
        "generation: `kill -USR2` to this dyno, HUP to gunicorn alone with the same site (2 workers, 16 threads, without "
        "--preload, or HUP would not read the code anew). lost: without an answer (nginx before 1.27.4 may close a kept "
        "connection as it is about to be used again); failed: another status than 200. Pages opened before the first one, "
        "whose WebSocket has to answer after the last. s each: from the signal until the new generation serves, in "
        "competition with the load.",
    )

    def once(name: str) -> None:
        ours = name == "dyno"
        server = Server(name, dyno if ours else gunicorn, VERSIONS["dyno"])
        try:
            server.start(**({"unused": LATER} if ours else {}))
            server.wait()
            if not ours:
                table.add(name, ten(server, hang_up, []))
                return
            with open_sessions(server, PAGES) as pages:
                table.add(name, ten(server, new_generation, pages))
        finally:
            server.stop()

    names = [*(["dyno"] if "dyno" in run.peers else []), GUNICORN]
    Run(run.peers, 1, run.seconds).in_turns(table, names, once)
    table.promise("requests lost", "lost", at_most=0)
    table.promise("requests failed", "failed", at_most=0)
    table.promise(f"WebSockets kept, of {PAGES}", "WebSockets kept", at_least=PAGES)
    yield table
