"""What is measured: each part is a function that yields tables; a new measure is one more function with @part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from bench import browser
from bench.client import http_load
from bench.loads import Cpu, at_once, cold_and_warm, four_visitors, moves, one_session, open_sessions, seconds, spread
from bench.peers import BOTH, TITLES, VERSIONS, peer, running
from bench.server import LATER, SOON
from bench.tables import PARTS as PARTS
from bench.tables import Run, Table, part


@part
def flask(run: Run) -> Iterator[Table]:
    """a page of the site without a plot: pages per second through the port, p50, p99"""
    table = Table(
        "Flask page",
        "A page of 1.8 kB from a template; 8 clients that accept gzip, on kept connections where the server keeps them. "
        "Without nginx: the same running gunicorn, asked on its socket. nginx CPU ms: of nginx's processes alone.",
    )
    inside = "this dyno, without nginx"
    names = [name for peer in run.peers for name in ([peer, inside] if peer == "dyno" else [peer])]
    with running(run.peers) as servers:

        def once(name: str, duration: float = run.seconds) -> None:
            server = servers["dyno" if name == inside else name]
            unix = str(next((server.folder / "run").glob("*/flask.sock"))) if name == inside else ""
            with Cpu(server) as cpu:
                times, _ = http_load(server.urls.site, duration, unix=unix)
            alone = {} if unix else cpu.of_nginx(len(times))
            table.add(name, {"page/s": len(times) / cpu.elapsed, **spread(times, 99), **cpu.per(len(times)), **alone})

        run.in_turns(table, names, lambda name: once(name, 0.3), rounds=1)  # every worker has answered once
        table.rows.clear()
        run.in_turns(table, names, once)
    table.promise("CPU of nginx per page, ms", "nginx CPU ms", at_most=0.1)
    yield table


@part
def views(run: Run) -> Iterator[Table]:
    """full views of a page with a plot (page, autoload.js if any, WebSocket, document) per second, app runs per view"""
    table = Table(
        "Full page views",
        "Page, autoload.js where the page asks for it, WebSocket, document; four visitors at a time. "
        "runs: how often the app's code ran per view. A session is dropped a second after its visitor has left, so that "
        "its end is part of the figures (CPU ms: all of it). Each visitor has an address of its own, by which nginx's "
        "ip_hash chooses the process, for a session lives in one. Without such an affinity (--workers 2) the page works, "
        "but the app runs once more where the WebSocket comes to the other process.",
    )
    names = [*run.peers, *(["asgi_workers"] if "asgi_nginx" in run.peers else [])]
    with running(names, unused=SOON) as servers:

        def once(name: str) -> None:
            table.add(name, four_visitors(servers[name], run.seconds))

        def warm(name: str) -> None:
            at_once(4, lambda _: servers[name].view().close(), range(8))
            servers[name].settle()  # or the end of these sessions would fall into the first peer's turn

        run.in_turns(table, names, warm, rounds=1)
        run.in_turns(table, names, once)
    table.promise("views/s, of nginx and server_document as documented", "view/s", of="nginx", at_least=1.2)
    table.promise("views/s, of BokehASGI on as many processes", "view/s", of="asgi_nginx", at_least=2)
    table.promise("app runs per view", "runs", at_most=1)
    yield table


@part
def roundtrip(run: Run) -> Iterator[Table]:
    """a slider's way to the server and back over the WebSocket, with 1 session and with 50"""
    one = Table("Slider round trip, one session", "From the slider's new value to the new curve, move after move.")
    fifty = Table("Slider round trip, 50 sessions", "Each of the sessions moves its slider twice a second.")
    with running(run.peers, unused=LATER) as servers:

        def alone(name: str) -> None:
            one.add(name, one_session(servers[name], run.seconds))

        def together(name: str) -> None:
            with open_sessions(servers[name], 50) as sessions, Cpu(servers[name]) as cpu:
                times, errors = moves(sessions, 2, run.seconds)
            fifty.add(name, {**spread(times, 95), "errors": 50 - len(sessions) + errors, **cpu.per(len(times))})

        run.in_turns(one, run.peers, alone)
        run.in_turns(fifty, run.peers, together)
    one.promise("of `bokeh serve` over TCP", "p50 ms", of="direct", at_most=0.1)
    quickest = [name for name in run.peers if name != "dyno"]
    one.promise("of the quickest peer", "p50 ms", of=quickest, at_most=1.3)
    yield one
    yield fifty


@part
def static(run: Run) -> Iterator[Table]:
    """bokeh.min.js: transfers per second, and bytes"""
    table = Table(
        "bokeh.min.js",
        "8 clients that accept gzip. Every transfer is checked for its status and length, one in 20 to the byte; the "
        "others stay in the kernel, where copying them would cost as much as sending them.",
    )
    names = [name for name in run.chosen(*run.peers, "bokeh_serve") if name != "embedded"]  # embedded: no port to name
    with running(names) as servers:

        def once(name: str) -> None:
            with Cpu(servers[name]) as cpu:
                times, size = http_load(f"{servers[name].urls.bokeh}/static/js/bokeh.min.js", run.seconds, whole=20)
            rate = len(times) / cpu.elapsed
            table.add(name, {"transfer/s": rate, "kB": size / 1e3, "MB/s": rate * size / 1e6, **cpu.per(len(times))})

        run.in_turns(table, names, once)
    yield table


@part
def alive(run: Run) -> Iterator[Table]:
    """Chromium at 10 Mbit/s and 80 ms: from navigation to a live plot, with a cold and with a warm cache"""
    table = Table(
        "Time to a live plot",
        "Chromium, 10 Mbit/s, 80 ms: from the navigation until BokehJS is idle and the plot drawn; then a key on the "
        "slider has to change the curve. Warm: the same page again. The line is a proxy that delays connections and "
        "WebSockets too (bench/line.py), which the browser's own emulation does not. kB: all that it carried to the "
        "browser until nothing was on its way, WebSockets included.",
    )
    names = run.chosen(*run.peers, "bokeh_serve")
    with running(names, unused=LATER) as servers, browser.chromium() as visits:

        def once(name: str) -> None:
            table.add(name, cold_and_warm(visits, servers[name], "curve"))

        run.in_turns(table, names, lambda name: servers[name].view().close(), rounds=1)
        run.in_turns(table, names, once)
    table.promise("warm cache, of `bokeh serve`", "warm s", of="bokeh_serve", at_most=0.6)
    yield table


@part
def sliders(run: Run) -> Iterator[Table]:
    """the example's page of the app `sliders` in Chromium, as above, beside `bokeh serve` with the same app"""
    table = Table(
        "The sliders page",
        "The example as it is here, /apps/sliders, and the app's own page of `bokeh serve`; otherwise as above.",
    )
    names = [*BOTH, "bokeh_serve"] if "dyno" in run.peers else []
    with running(names, example=True, unused=LATER) as servers, browser.chromium() as visits:
        run.in_turns(table, names, lambda name: cold_and_warm(visits, servers[name], "sliders"), rounds=1)
        run.in_turns(table, names, lambda name: table.add(name, cold_and_warm(visits, servers[name], "sliders")))
    table.promise("cold cache, kB in all", "cold kB", at_most=430)
    table.promise("cold cache, s, of `bokeh serve`", "cold s", of="bokeh_serve", at_most=0.22)
    yield table


@part
def versions(run: Run) -> Iterator[Table]:
    """this dyno on both versions of Bokeh: views, slider, idle memory, bytes of a page"""
    table = Table(
        "Two versions of Bokeh",
        "Each started anew in each round, alone: memory (PSS) a second after the boot, then views, slider and page of the "
        "app `curve` as above.",
    )

    def once(name: str) -> None:
        with running([name], unused=SOON) as servers:
            server = servers[name]
            time.sleep(1)
            idle = server.pss()
            at_once(4, lambda _: server.view().close(), range(8))
            server.settle()
            viewed, moved = four_visitors(server, run.seconds), one_session(server, run.seconds)
            with browser.chromium() as visits:
                seen = cold_and_warm(visits, server, "curve")
        table.add(name, {
            "view/s": viewed["view/s"], "runs": viewed["runs"], "CPU ms per view": viewed["CPU ms"],
            "slider p50 ms": moved["p50 ms"], "idle MB": idle, "cold kB": seen["cold kB"], "cold s": seen["cold s"],
        })  # fmt: skip

    names = BOTH if "dyno" in run.peers else []
    run.in_turns(table, names, once)
    for name in names:
        table.promise(f"CPU of a view on {VERSIONS[name]}, ms", "CPU ms per view", row=name, at_most=15)
    yield table


@part
def first(run: Run) -> Iterator[Table]:
    """the first view after the boot beside the tenth"""
    table = Table("The first visitor", "Views one after the other since the boot. tenth: the median of views 8 to 12.")

    def once(name: str) -> None:
        with running([name]) as servers:
            times = [seconds(lambda: servers[name].view().close()) for _ in range(12)]
        tenth = median(times[7:])
        table.add(name, {"first ms": times[0] * 1e3, "tenth ms": tenth * 1e3, "first / tenth": times[0] / tenth})

    run.in_turns(table, run.chosen("dyno", "nginx", "bokeh_serve"), once)
    table.promise("first view, of the tenth", "first / tenth", at_most=1.3)
    yield table


@part
def boot(run: Run) -> Iterator[Table]:
    """from the command to the open port, from SIGTERM to the last process gone, beside `bokeh serve` alone"""
    table = Table("Boot and stop", "Until /healthz answers, elsewhere until every process does; stopped while idle.")

    def once(name: str) -> None:
        server = peer(name)
        try:
            server.start()
            started = server.wait()
        finally:
            stopped = server.stop()
        table.add(name, {"boot s": started, "stop s": stopped})

    run.in_turns(table, run.chosen("dyno", "nginx", "bokeh_serve"), once)
    table.promise("boot, of nginx and server_document as documented", "boot s", of="nginx", at_most=0.9)
    yield table


@part
def memory(run: Run) -> Iterator[Table]:
    """MB (PSS) of each peer, idle; 10, 100 and 500 sessions: errors, round trip, MB"""
    idle = Table(
        "Memory, idle",
        "PSS of all processes, each peer alone, a second after its boot. The example: this dyno as it is here.",
    )

    example = f"the example ({VERSIONS['dyno']})"

    def weigh(name: str) -> None:
        options = {"example": True} if name == example else {}
        with running([who := "dyno" if options else name], **options) as servers:
            time.sleep(1)
            idle.add(name, {"MB": servers[who].pss(), "processes": len(servers[who].processes())})

    run.in_turns(idle, [*run.peers, *([example] if "dyno" in run.peers else [])], weigh)
    idle.promise("MB, idle, 2 + 2 workers, the example's apps", "MB", row=example, at_most=190)
    yield idle

    growth = Table(
        "Cost as sessions grow",
        "Open sessions, each of which moves its slider every 5 s. Then all are closed at once; to end s: until the peer "
        "is idle again.",
    )

    def grow(name: str) -> None:
        with running([name], unused=SOON) as servers:
            server = servers[name]
            with open_sessions(server, 8):
                empty = server.pss()
            for count in (10, 100, 500):
                server.settle()
                began = time.perf_counter()
                with open_sessions(server, count) as sessions:
                    opened = time.perf_counter() - began
                    times, errors = moves(sessions, 0.2, 5)
                    full = server.pss()
                growth.add(f"{TITLES[name]}: {count}", {
                    "opened/s": len(sessions) / opened, "errors": count - len(sessions) + errors,
                    **spread(times, 95), "MB": full, "kB per session": (full - empty) * 1e3 / count,
                    "to end s": server.settle(),
                })  # fmt: skip

    Run(run.peers, 1, run.seconds).in_turns(growth, run.chosen("dyno", "nginx"), grow)
    row = f"{TITLES['dyno']}: 500"
    growth.promise("errors of 500 sessions", "errors", row=row, at_most=0)
    growth.promise("median round trip of 500 sessions, ms", "p50 ms", row=row, at_most=20)
    yield growth


@part
def compression(run: Run) -> Iterator[Table]:
    """the WebSocket with and without --websocket-compression-level: a document of 1 MB, 1,000 small patches"""
    table = Table(
        "WebSocket compression",
        "This dyno with one Bokeh worker and --websocket-compression-level; off: the client does not offer it. The "
        "document has 1 MB of numbers, a patch one sentence. CPU: of all the dyno's processes.",
    )

    def once(level: str) -> None:
        deflate, option = level != "off", f"--websocket-compression-level {level}" if level != "off" else ""
        with running(["dyno"], bokeh=option, BOKEH_WORKERS="1") as servers:
            server = servers["dyno"]
            server.view("large", deflate).close()
            with Cpu(server) as documents:
                for _ in range(5):
                    server.view("large", deflate).close()
            session = server.view("large", deflate)
            document = session.bytes
            with Cpu(server) as patches:
                for number in range(1000):
                    session.move(number / 2, contains=f"says {number / 2}.")
            session.close()
        table.add(level, {
            "document kB": document / 1e3, "document ms": documents.elapsed * 1e3 / 5, **documents.per(5, "document "),
            "1,000 patches kB": (session.bytes - document) / 1e3, "patch ms": patches.elapsed,
            **patches.per(1000, "patch "),
        })  # fmt: skip

    run.in_turns(table, ["off", "1", "6", "9"], once)
    yield table
