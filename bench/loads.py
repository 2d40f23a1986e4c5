"""What the parts have in common: a load on a server, and what it took."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles

from bench.client import Session, WrongAnswer
from bench.server import Server


class Cpu:
    """How long a block took, and how busy it kept the server and this process, the load generator."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> Cpu:
        self._servers, self._client = self._server.cpu_seconds(), time.process_time()
        self._began, self.elapsed = time.perf_counter(), 0.0
        return self

    def elapse(self) -> None:
        """End the time of the block here; the server's CPU counts until its end."""
        self.elapsed = time.perf_counter() - self._began
        self._client = (time.process_time() - self._client) / self.elapsed

    def __exit__(self, *_: object) -> None:
        if not self.elapsed:
            self.elapse()
        before, self._servers = self._servers, self._server.cpu_seconds()
        self._servers = {who: self._servers[who] - before[who] for who in before}

    def of_nginx(self, count: int) -> dict[str, float]:
        """Return the column of nginx's CPU for each of `count`, where there is an nginx."""
        return {"nginx CPU ms": self._servers["nginx"] * 1e3 / count} if self._servers["nginx"] else {}

    def per(self, count: int, what: str = "") -> dict[str, float]:
        """Return two columns: the server's CPU for each of `count`; the share of a core that the client was busy."""
        return {f"{what}CPU ms": self._servers[""] * 1e3 / count, **({} if what else {"client": self._client})}


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(times: list[float], high: int) -> dict[str, float]:
    """Return two columns: median and a high percentile of these seconds, in ms."""
    cuts = quantiles(times, n=100)
    return {"p50 ms": cuts[49] * 1e3, f"p{high} ms": cuts[high - 1] * 1e3}


def four_visitors(server: Server, duration: float) -> dict[str, float]:
    """View the app `curve` four at a time for so many seconds; return the columns."""
    times, runs, stop = [], server.app_runs(), time.perf_counter() + duration

    def visit(_: int) -> None:
        while time.perf_counter() < stop:
            times.append(seconds(lambda: server.view().close()))

    with Cpu(server) as cpu:
        at_once(4, visit, range(4))
        cpu.elapse()
        server.settle()
    runs = (server.app_runs() - runs) / len(times)
    return {"view/s": len(times) / cpu.elapsed, **spread(times, 95), "runs": runs, **cpu.per(len(times))}


def one_session(server: Server, duration: float) -> dict[str, float]:
    """Move the slider of a session for so many seconds; return the columns."""
    times, stop = [], time.perf_counter() + duration
    with open_sessions(server, 1) as (session,), Cpu(server) as cpu:
        while time.perf_counter() < stop:
            times.append(session.move_curve())
    return {**spread(times, 95), **cpu.per(len(times))}


def cold_and_warm(visits: Callable, server: Server, app: str) -> dict[str, float]:
    """View a page in Chromium with a cold, then with a warm cache; return the columns."""
    seen = visits(server.view_url(app))
    return {f"{kind} {what}": value for kind, figures in seen for what, value in figures.items()}


def at_once(threads: int, work: Callable, *arguments: Iterable) -> None:
    """Call work for all the arguments in that many threads. Raises the first error."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, *arguments))


@contextlib.contextmanager
def open_sessions(server: Server, count: int) -> Iterator[list[Session]]:
    """Open sessions of the app `curve`, eight at a time, and close them in the end; those that fail are not there."""
    opened: list[Session] = []
    errors: list[Exception] = []

    def work(_: int) -> None:
        if len(errors) > 10:
            return
        try:
            opened.append(server.view())
        except (WrongAnswer, OSError) as error:
            errors.append(error)

    try:
        at_once(8, work, range(count))
        if errors:
            print(
                f"bench: {server.name}: {count - len(opened)} of {count} sessions failed: {errors[0]!r}",
                file=sys.stderr,
            )
        yield opened
    finally:
        for session in opened:
            session.close()


def moves(sessions: list[Session], per_second: float, duration: float) -> tuple[list[float], int]:
    """Move the slider of each session so many times a second, all at moments of their own.

    Returns the seconds of each round trip, and how many sessions did not get their answer.
    """
    times: list[float] = []
    errors: list[Exception] = []
    began = time.perf_counter()

    def work(session: Session, moment: float) -> None:
        try:
            while moment < duration:
                time.sleep(max(0.0, began + moment - time.perf_counter()))
                times.append(session.move_curve())
                moment += 1 / per_second
        except (WrongAnswer, OSError) as error:
            errors.append(error)

    at_once(len(sessions), work, sessions, [number / len(sessions) / per_second for number in range(len(sessions))])
    if not times:
        raise WrongAnswer(f"no session got an answer: {errors[:1]}")
    return times, len(errors)
