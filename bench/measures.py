"""What is measured: each part is a function that returns tables; a new measure is one more function with @part."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench import browser
from bench.client import Session, WrongAnswer, get, http_load, view
from bench.peers import TITLES, Server, dyno, running

Samples = list[float]


@dataclass
class Target:
    """A promise: the median of the samples is at least, or at most, the limit."""

    text: str
    samples: Samples
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Return whether the promise is kept."""
        value = median(self.samples)
        return value >= self.at_least if self.at_most is None else value <= self.at_most


@dataclass
class Table:
    """Figures of one part: for each row (a peer's name, or words) and column the samples of all rounds."""

    title: str
    how: str
    columns: list[str]
    rows: dict[str, dict[str, Samples]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, **figures: float) -> None:
        """Add a sample to columns of a row; their names have `_` for a space."""
        cells = self.rows.setdefault(row, {})
        for name, value in figures.items():
            cells.setdefault(name.replace("_", " "), []).append(value)

    def promise(self, text: str, one: tuple[str, str], other: tuple[str, str] | None = None, **limit: float) -> None:
        """Hold (row, column), or the ratio of two of them round by round, against a limit; see Target."""
        first, second = [self.rows.get(row, {}).get(column) for row, column in (one, other or one)]
        if first and second:
            samples = [a / b for a, b in zip(first, second, strict=False)] if other else first
            self.targets.append(Target(text, samples, **limit))


@dataclass
class Run:
    """What a part is given: the names of the peers, how many rounds, and how long a round of load is, in seconds."""

    peers: list[str]
    rounds: int
    seconds: float

    def with_bokeh_serve(self) -> list[str]:
        """Return the peers, and `bokeh serve` alone."""
        return [*self.peers, "bokeh_serve"]


PARTS: dict[str, Callable[[Run], Iterable[Table]]] = {}


def part(measure: Callable[[Run], Iterable[Table]]) -> Callable[[Run], Iterable[Table]]:
    """Make a function a part of the benchmark; the first line of its docstring is what --help says."""
    PARTS[measure.__name__] = measure
    return measure


def in_turns(table: Table, names: Iterable[str], rounds: int, once: Callable[[str], None]) -> None:
    """Call once(name) for each name, round after round; a peer that gives a wrong answer is out from then on."""
    for _ in range(rounds):
        for name in names:
            if name not in table.failures:
                try:
                    once(name)
                except (WrongAnswer, OSError) as error:
                    table.failures[name] = str(error)


@contextlib.contextmanager
def counting_cpu(servers: Iterable[Server] = ()) -> Iterator[dict[str, float]]:
    """Say afterwards how busy this process, the load generator, and the servers were: 1.0 is one core."""
    used: dict[str, float] = {}
    before, began, own = sum(server.cpu_seconds() for server in servers), time.perf_counter(), time.process_time()
    yield used
    elapsed = time.perf_counter() - began
    used["client"] = (time.process_time() - own) / elapsed
    used["servers"] = (sum(server.cpu_seconds() for server in servers) - before) / elapsed


def ms(seconds: float) -> float:
    """Return milliseconds."""
    return seconds * 1000


# --- the parts -------------------------------------------------------------------------------------------------------


@part
def flask(run: Run) -> Iterator[Table]:
    """a page of the site, without a plot: pages per second through the port, p50 and p99"""
    table = Table(
        "Flask page",
        "A page of 1.9 kB from a template, 8 clients at once, on kept connections where the server keeps them, with "
        "Accept-Encoding: gzip. client: CPU of the load generator, 1.0 is one core.",
        ["page/s", "p50 ms", "p99 ms", "client"],
    )
    with running(*run.peers) as servers:

        def once(name: str) -> None:
            with counting_cpu() as used:
                times = http_load(f"{servers[name].urls.site}/", run.seconds, 8)
            cuts = quantiles(times, n=100)
            table.add(name, client=used["client"], **{
                "page/s": len(times) / run.seconds, "p50 ms": ms(cuts[49]), "p99 ms": ms(cuts[98])
            })  # fmt: skip

        for name in run.peers:  # workers that have answered once
            http_load(f"{servers[name].urls.site}/", 0.3, 8)
        in_turns(table, run.peers, run.rounds, once)
    table.promise("page/s, of the same gunicorn without nginx", ("dyno", "page/s"), ("direct", "page/s"), at_least=0.9)
    table.promise("p99, of the same gunicorn without nginx", ("dyno", "p99 ms"), ("direct", "p99 ms"), at_most=1.3)
    yield table


@part
def views(run: Run) -> Iterator[Table]:
    """full views of a page with a plot per second: page, autoload.js if any, WebSocket, document; app runs per view"""
    table = Table(
        "Full page views",
        "Page, autoload.js where the page asks for it, WebSocket, document; four visitors at a time. "
        "runs: how often the app's code ran per view. CPU ms: of all the peer's processes, per view.",
        ["view/s", "median ms", "runs", "CPU ms", "client"],
    )
    with running(*run.peers) as servers:

        def once(name: str) -> None:
            server, runs, times = servers[name], servers[name].app_runs(), []
            url, stop = server.view_url("curve"), time.perf_counter() + run.seconds

            def visit() -> None:
                while (began := time.perf_counter()) < stop:
                    view(url).close()
                    times.append(time.perf_counter() - began)

            with counting_cpu([server]) as used:
                began = time.perf_counter()
                at_once(4, visit)
                elapsed = time.perf_counter() - began
            table.add(name, runs=(server.app_runs() - runs) / len(times), client=used["client"], **{
                "view/s": len(times) / elapsed, "median ms": ms(median(times)),
                "CPU ms": ms(used["servers"] * elapsed / len(times)),
            })  # fmt: skip

        for name in run.peers:
            at_once(4, lambda url=servers[name].view_url("curve"): view(url).close())
        in_turns(table, run.peers, run.rounds, once)
    table.promise("views/s, of nginx as documented", ("dyno", "view/s"), ("nginx", "view/s"), at_least=1.2)
    table.promise("app runs per view", ("dyno", "runs"), at_most=1.0)
    yield table


@part
def roundtrip(run: Run) -> Iterator[Table]:
    """a slider's way to the server and back, with 1 session and with 50"""
    table = Table(
        "Slider round trip",
        "From the slider's new value to the new curve, over the WebSocket. One session: one move after the other. "
        "50 sessions: each moves its slider twice a second.",
        ["1: median ms", "1: p95 ms", "50: median ms", "50: p95 ms", "client"],
    )
    with running(*run.peers) as servers, contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(open_sessions(servers[name], 50)) for name in run.peers}

        def once(name: str) -> None:
            alone, stop = [], time.perf_counter() + run.seconds / 2
            while time.perf_counter() < stop:
                alone.append(sessions[name][0].move_curve(random.randrange(2000) / 2))
            with counting_cpu() as used:
                together = moves(sessions[name], per_second=2, seconds=run.seconds)
            table.add(name, client=used["client"], **{
                "1: median ms": ms(median(alone)), "1: p95 ms": ms(quantiles(alone, n=20)[18]),
                "50: median ms": ms(median(together)), "50: p95 ms": ms(quantiles(together, n=20)[18]),
            })  # fmt: skip

        in_turns(table, run.peers, run.rounds, once)
    for sessions_, column in (("one session", "1: median ms"), ("50 sessions", "50: median ms")):
        table.promise(f"{sessions_}, of `bokeh serve` over TCP", ("dyno", column), ("direct", column), at_most=0.1)
        table.promise(f"{sessions_}, of bokeh-fastapi on uvicorn", ("dyno", column), ("fastapi", column), at_most=1.5)
    yield table


@part
def static(run: Run) -> Iterator[Table]:
    """bokeh.min.js: transfers per second and bytes"""
    table = Table(
        "bokeh.min.js",
        "8 clients at once that accept gzip; each transfer is compared with the first, to the byte.",
        ["transfer/s", "kB", "MB/s", "client"],
    )
    names = [name for name in run.with_bokeh_serve() if name != "embedded"]  # its port is nobody's business
    with running(*names) as servers:

        def once(name: str) -> None:
            url = f"{servers[name].urls.bokeh}/static/js/bokeh.min.js"
            size = transferred(url)
            with counting_cpu() as used:
                times = http_load(url, run.seconds, 8)
            rate = len(times) / run.seconds
            table.add(name, kB=size / 1e3, client=used["client"], **{"transfer/s": rate, "MB/s": rate * size / 1e6})

        in_turns(table, names, run.rounds, once)
    table.promise("transfers/s, of `bokeh serve`", ("dyno", "transfer/s"), ("bokeh_serve", "transfer/s"), at_least=20)
    yield table


@part
def alive(run: Run) -> Iterator[Table]:
    """Chromium at 10 Mbit/s and 80 ms: from navigation to a live plot, with a cold and a warm cache"""
    table = Table(
        "Time to a live plot",
        "Chromium, 10 Mbit/s, 80 ms: from the navigation until the document has come, the plot is drawn and two frames "
        "are shown; then a key on the slider has to change the curve. Warm: the same page once more.",
        ["cold s", "cold kB", "cold requests", "warm s", "warm kB", "warm requests"],
    )
    names = run.with_bokeh_serve()
    with running(*names) as servers, browser.chromium() as chromium:

        def once(name: str) -> None:
            for kind, visit in browser.visits(chromium, servers[name].view_url("curve")):
                table.add(name, **{
                    f"{kind} s": visit.seconds, f"{kind} kB": visit.kilobytes, f"{kind} requests": visit.requests
                })  # fmt: skip

        for name in names:
            view(servers[name].view_url("curve")).close()
        in_turns(table, names, run.rounds, once)
    for kind, limit in (("cold", 0.35), ("warm", 0.6)):
        column = f"{kind} s"
        table.promise(f"{kind} cache, of `bokeh serve`", ("dyno", column), ("bokeh_serve", column), at_most=limit)
    yield table


@part
def first(run: Run) -> Iterator[Table]:
    """the first view after boot beside the tenth"""
    table = Table(
        "The first visitor",
        "A view at a time (page to document), the first ten since the port opened.",
        ["first ms", "tenth ms", "first / tenth"],
    )

    def once(name: str) -> None:
        with running(name) as servers:
            times = []
            for _ in range(10):
                began = time.perf_counter()
                view(servers[name].view_url("curve")).close()
                times.append(time.perf_counter() - began)
            table.add(name, **{
                "first ms": ms(times[0]), "tenth ms": ms(times[9]), "first / tenth": times[0] / times[9]
            })  # fmt: skip

    in_turns(table, chosen(run, "dyno", "nginx", "bokeh_serve"), run.rounds, once)
    table.promise("first view, of the tenth", ("dyno", "first / tenth"), at_most=1.3)
    yield table


@part
def boot(run: Run) -> Iterator[Table]:
    """from the command to the open port, and from SIGINT to the last process gone, beside `bokeh serve` alone"""
    table = Table(
        "Boot and stop",
        "Until the page with the plot is answered (this dyno: the port opens only then); stopped while idle.",
        ["boot s", "stop s"],
    )

    def once(name: str) -> None:
        server = Server(name)
        try:
            server.start()
            seconds = server.wait()
        finally:
            stopped = server.stop()
        table.add(name, **{"boot s": seconds, "stop s": stopped})

    in_turns(table, chosen(run, "dyno", "nginx", "bokeh_serve"), run.rounds, once)
    table.promise("boot, of `bokeh serve` alone", ("dyno", "boot s"), ("bokeh_serve", "boot s"), at_most=1.2)
    yield table


@part
def memory(run: Run) -> Iterator[Table]:
    """MB of an idle dyno and per session; 10, 100 and 500 sessions: errors, round trip, MB"""
    idle = Table(
        "Memory, idle",
        "PSS of all processes, each peer alone, its apps run once where it does that at boot; the same two apps for "
        "all, and this dyno with the apps of the example.",
        ["MB", "processes"],
    )

    def weigh(name: str, server: Server) -> None:
        idle.add(name, MB=server.pss(), processes=len(server.processes()))

    def once(name: str) -> None:
        with running(name) as servers:
            weigh(name, servers[name])

    def example() -> None:
        server = Server("dyno")
        try:
            server.start(lambda server: dyno(server, example=True))
            server.wait(f"{server.urls.site}/healthz")
            weigh("this dyno, the example", server)
        finally:
            server.stop()

    in_turns(idle, run.peers, min(run.rounds, 2), once)
    for _ in range(min(run.rounds, 2)):
        example()
    idle.promise("idle, 2 + 2 workers, the example's apps", ("this dyno, the example", "MB"), at_most=190)
    yield idle

    sessions = Table(
        "Cost as sessions grow",
        "Sessions open at the same time, each moving its slider every 5 s. kB: memory per session beyond the idle peer.",
        ["opened/s", "errors", "median ms", "p95 ms", "MB", "kB per session", "client"],
    )

    def grow(name: str) -> None:
        with running(name) as servers:
            server = servers[name]
            with open_sessions(server, 4):
                empty = server.pss()
            for count in (10, 100, 500):
                began = time.perf_counter()
                with open_sessions(server, count) as opened:
                    taken, errors = time.perf_counter() - began, count - len(opened)
                    with counting_cpu() as used:
                        times = moves(opened, per_second=0.2, seconds=max(run.seconds, 5.0))
                    full = server.pss()
                sessions.add(f"{TITLES[name]}: {count}", errors=errors, MB=full, client=used["client"], **{
                    "opened/s": len(opened) / taken, "median ms": ms(median(times)),
                    "p95 ms": ms(quantiles(times, n=20)[18]), "kB per session": (full - empty) * 1e3 / count,
                })  # fmt: skip

    in_turns(sessions, chosen(run, "dyno", "nginx"), 1, grow)
    row = f"{TITLES['dyno']}: 500"
    sessions.promise("500 sessions: errors", (row, "errors"), at_most=0)
    sessions.promise("500 sessions: median round trip, ms", (row, "median ms"), at_most=20)
    yield sessions


@part
def compression(run: Run) -> Iterator[Table]:
    """the WebSocket with and without --websocket-compression-level: a document of 1 MB, 1,000 small patches"""
    table = Table(
        "WebSocket compression",
        "This dyno with Bokeh's --websocket-compression-level, one client that offers permessage-deflate. The document "
        "has 1 MB of numbers, the patch one sentence. CPU: of all the dyno's processes.",
        ["document kB", "document ms", "document CPU ms", "patches kB", "patch ms", "patch CPU ms"],
    )
    levels = {"off": "", "level 1": "1", "level 6": "6", "level 9": "9"}
    servers = {name: Server("dyno") for name in levels}
    try:
        for name, level in levels.items():
            option = f"--websocket-compression-level {level}" if level else ""
            servers[name].start(lambda server, option=option: dyno(server, bokeh_options=option, BOKEH_WORKERS="1"))

        def once(name: str) -> None:
            server, url = servers[name], servers[name].view_url("large")
            server.wait()
            view(url, deflate=True).close()
            documents, cpu = [], server.cpu_seconds()
            for _ in range(5):
                began = time.perf_counter()
                session = view(url, deflate=True)
                documents.append(time.perf_counter() - began)
                kilobytes = session.bytes / 1e3
                session.close()
            document_cpu = (server.cpu_seconds() - cpu) / 5
            session = view(url, deflate=True)
            received, cpu, began = session.bytes, server.cpu_seconds(), time.perf_counter()
            for number in range(1000):
                content, _ = session.move(number / 2)
                if f"says {number / 2}." not in content:
                    raise WrongAnswer(f"not the text that was asked for: {content[:200]}")
            elapsed = time.perf_counter() - began
            table.add(name, **{
                "document kB": kilobytes, "document ms": ms(median(documents)), "document CPU ms": ms(document_cpu),
                "patches kB": (session.bytes - received) / 1e3, "patch ms": elapsed,
                "patch CPU ms": server.cpu_seconds() - cpu,
            })  # fmt: skip
            session.close()

        in_turns(table, levels, run.rounds, once)
    finally:
        for server in servers.values():
            server.stop()
    yield table


# --- what they have in common ----------------------------------------------------------------------------------------


def chosen(run: Run, *names: str) -> list[str]:
    """Return those of the names that this run compares; `bokeh serve` alone always is."""
    return [name for name in names if name in run.with_bokeh_serve()]


def at_once(threads: int, work: Callable[[], None]) -> None:
    """Call work in that many threads and raise the error of the first that has one."""
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()


@contextlib.contextmanager
def open_sessions(server: Server, count: int) -> Iterator[list[Session]]:
    """Open sessions of the app `curve`, eight at a time, and close them in the end; those that fail are not there."""
    opened: list[Session] = []
    numbers = iter(range(count))

    def work() -> None:
        for _ in numbers:
            with contextlib.suppress(WrongAnswer, OSError):
                opened.append(view(server.view_url("curve")))

    try:
        at_once(8, work)
        yield opened
    finally:
        for session in opened:
            session.close()


def moves(sessions: list[Session], per_second: float, seconds: float) -> Samples:
    """Move the slider of every session so many times a second, each at its own moments; return the round trips."""
    times: Samples = []
    failed = threading.Event()
    began = time.perf_counter()

    def work(session: Session, moment: float) -> None:
        while moment < seconds and not failed.is_set():
            time.sleep(max(0.0, began + moment - time.perf_counter()))
            try:
                times.append(session.move_curve(random.randrange(2000) / 2))
            except (WrongAnswer, OSError):
                failed.set()
                raise
            moment += 1 / per_second

    with ThreadPoolExecutor(len(sessions)) as pool:
        futures = [
            pool.submit(work, session, number / len(sessions) / per_second) for number, session in enumerate(sessions)
        ]
    for future in futures:
        future.result()
    return times
