"""What /metrics says, collected when it is asked for: from nginx's lines, the processes' own numbers, and the system.

No process is asked, so one that hangs delays nothing. It is the only module that needs prometheus_client.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

import bokeh_dyno
from bokeh_dyno.shared import numbers, run_dir
from bokeh_dyno.shared.numbers import BUCKETS
from bokeh_dyno.start import metrics

PREFIX = "bokeh_dyno_"
STATES = ("serving", "starting", "leaving")
WORKER = ("generation", "worker")
PROCESS = ("generation", "process")


def exposition(path: Path) -> tuple[str, bytes]:
    """Return content type and body of what there is to say; path is RUN_DIR."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(path))
    return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)


class _Collector:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = run_dir.generations(path)
        self._names = [name for name in self._state.get("began", {}) if (path / name).is_dir()]

    def collect(self) -> Iterator[Metric]:
        """Yield all of it."""
        yield from self._requests()
        yield from self._generations()
        yield from self._workers()
        yield from self._processes()
        yield self._build()

    def _requests(self) -> Iterator[Metric]:
        total = _counter(
            "requests", "Requests that nginx has answered, WebSockets (status 101) once they end.", "backend", "status"
        )
        by_status, by_seconds = metrics.requests()
        for labels, number in sorted(by_status.items()):
            total.add_metric(labels, number)
        yield total
        seconds = _histogram(
            "request_seconds",
            "Seconds of a request from its first byte to the last of its answer; without WebSockets.",
            "backend",
        )
        for backend, counts in by_seconds.items():
            _add(seconds, [backend], counts)
        yield seconds

    def _generations(self) -> Iterator[Metric]:
        state = _gauge("generation_state", "1 for the state that a generation is in.", "generation", "state")
        began = _gauge("generation_start_time_seconds", "When a generation began, in seconds since 1970.", "generation")
        for name in self._names:
            current = self._state_of(name)
            for one in (*STATES, *([current] if current not in STATES else [])):
                state.add_metric([name, one], one == current)
            began.add_metric([name], self._state["began"][name])
        yield from (state, began)

    def _state_of(self, name: str) -> str:
        if name == self._state.get("serving"):
            return "serving"
        if name == self._state.get("starting"):
            return "starting"
        return "leaving" if name in self._state.get("leaving", ()) else "spare"  # below bin/dev

    def _workers(self) -> Iterator[Metric]:
        sessions = _gauge("sessions", "Sessions that there are, those without a page at the moment included.", *WORKER)
        opened = _counter("sessions_opened", "Sessions that have begun.", *WORKER)
        recovered = _counter(
            "sessions_recovered",
            "Sessions that have begun for pages that came back, which then enter their values.",
            *WORKER,
        )
        refused = _counter("sessions_refused", "Sessions that were not opened, by reason.", *WORKER, "reason")
        websockets = _gauge("websockets", "WebSockets that are open.", *WORKER)
        connected = _counter("websockets_opened", "WebSockets that were opened.", *WORKER)
        closed = _counter(
            "websockets_closed",
            "WebSockets that have ended, by close code; 1006: the connection was lost.",
            *WORKER,
            "code",
        )
        callback = _histogram(
            "callback_seconds",
            "Seconds for which an app's code has run in one callback: for a message of a page, or for a timer.",
            *WORKER,
        )
        lag = _histogram(
            "event_loop_lag_seconds", "How late a worker's event loop was, looked at four times a second.", *WORKER
        )
        longest = _gauge(
            "event_loop_max_lag_seconds",
            "The longest lag of the last half to whole minute, that of now included.",
            *WORKER,
        )
        now = time.monotonic()
        for labels, row in self._rows():
            sessions.add_metric(labels, row["sessions"])
            opened.add_metric(labels, row["opened"])
            recovered.add_metric(labels, row["recovered"])
            websockets.add_metric(labels, row["websockets"])
            connected.add_metric(labels, row["websockets_opened"])
            for reason in numbers.REFUSED:
                refused.add_metric([*labels, reason], row[f"refused:{reason}"])
            for code in numbers.CODES:
                closed.add_metric([*labels, code], row[f"closed:{code}"])
            _add(callback, labels, _counts(row, "callback"))
            _add(lag, labels, _counts(row, "lag"))
            silent = now - row["alive"] - 1.0 if row["alive"] else 0.0  # it looks more often than that
            longest.add_metric(labels, max(row["longest_lag"], silent))
        yield from (sessions, opened, recovered, refused, websockets, connected, closed, callback, lag, longest)

    def _rows(self) -> Iterator[tuple[list[str], dict[str, float]]]:
        for name in self._names:
            for number, row in enumerate(numbers.read(self._path / name / "metrics" / "bokeh", numbers.BOKEH), 1):
                yield [name, str(number)], row

    def _processes(self) -> Iterator[Metric]:
        resident = _gauge(
            "process_resident_memory_bytes", "Memory of a process, with all that it shares with others.", *PROCESS
        )
        own = _gauge(
            "process_proportional_memory_bytes",
            "Memory of a process, with its part of what it shares: these add up.",
            *PROCESS,
        )
        cpu = _counter("process_cpu_seconds", "Seconds of CPU that a process has taken.", *PROCESS)
        began = _gauge("process_start_time_seconds", "When a process began, in seconds since 1970.", *PROCESS)
        for labels, process in self._found():
            try:
                with process.oneshot():
                    memory, times, since = process.memory_info(), process.cpu_times(), process.create_time()
                proportional = _proportional(process.pid)
            except (psutil.Error, OSError):  # it ended meanwhile
                continue
            resident.add_metric(labels, memory.rss)
            if proportional is not None:
                own.add_metric(labels, proportional)
            cpu.add_metric(labels, times.user + times.system)
            began.add_metric(labels, since)
        yield from (resident, own, cpu, began)
        restarts = _counter("process_restarts", "Processes that ended and were started again.", *PROCESS)
        for (generation, worker), row in self._rows():
            restarts.add_metric([generation, f"bokeh.{worker}"], row["restarts"])
        for name in self._names:
            for row in numbers.read(self._path / name / "metrics" / "flask", numbers.FLASK):
                restarts.add_metric([name, "flask.workers"], row["restarts"])
        yield restarts

    def _found(self) -> Iterator[tuple[list[str], psutil.Process]]:
        """Yield the processes of the dyno with generation and name: dyno, nginx, nginx.1, flask, flask.1, bokeh, bokeh.1 …

        A number is that of a place: whoever comes after a process that has ended takes its place.
        """
        known: dict[int, tuple[str, str]] = {os.getpid(): ("", "dyno")}
        files = {self._path / "nginx.pid": ("", "nginx")}
        files |= {
            self._path / name / f"{kind}.pid": (name, kind) for name in self._names for kind in ("flask", "bokeh")
        }
        masters = {pid: called for file, called in files.items() if (pid := run_dir.pid_in(file))}
        known |= masters
        known |= {int(row["pid"]): (name, f"bokeh.{number}") for (name, number), row in self._rows() if row["pid"]}
        rest: dict[tuple[str, str], list[psutil.Process]] = {}
        this = psutil.Process()
        for process in [this, *this.children(recursive=True)]:
            try:
                if process.pid in known:
                    yield list(known[process.pid]), process
                    continue
                generation, kind = masters.get(process.ppid(), ("", ""))
                if kind in ("", "bokeh"):  # honcho, what an app has started, and whatever else there is in the Procfile
                    environ = process.environ()
                    generation, kind = environ.get("DYNO_GENERATION", ""), _kind(environ.get("HONCHO_PROCESS_NAME", ""))
                rest.setdefault((generation, kind), []).append(process)
            except (psutil.Error, OSError):  # it has ended meanwhile
                continue
        _places_of(rest)
        for (generation, kind), places in _places.items():
            for number, placed in enumerate(places, 1):
                if placed:
                    yield [generation, f"{kind}.{number}"], placed

    def _build(self) -> Metric:
        info = InfoMetricFamily(PREFIX + "build", "Versions of what runs here.")
        packages = {name: _version(name) for name in ("bokeh", "flask", "gunicorn")}
        versions = {
            "version": bokeh_dyno.__version__,
            "python": platform.python_version(),
            "nginx": os.environ.get("NGINX_VERSION", ""),
        }
        info.add_metric([], {**versions, **packages})
        return info


# By generation and kind, the process in each place
_places: dict[tuple[str, str], list[psutil.Process | None]] = {}


def _places_of(found: dict[tuple[str, str], list[psutil.Process]]) -> None:
    """Give each process that has none the first free place of its kind."""
    for key in [key for key in _places if key not in found]:
        del _places[key]
    for key, processes in found.items():
        places = [one if one in processes else None for one in _places.get(key, [])]
        for process in processes:
            if process in places:
                continue
            if None in places:
                places[places.index(None)] = process
            else:
                places.append(process)
        _places[key] = places


def _kind(honcho_name: str) -> str:
    name = honcho_name.removesuffix(".1")
    return "other" if name in ("", "web", "flask", "bokeh") else name


def _proportional(pid: int) -> int | None:
    """Return the bytes of a process, each page divided by the number of processes that share it; None where nobody tells."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith(b"Pss:")), None)
    except OSError:
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, about, labels=labels)


def _counter(name: str, about: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, about, labels=labels)


def _histogram(name: str, about: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(PREFIX + name, about, labels=labels)


def _counts(row: dict[str, float], name: str) -> list[float]:
    return [row[f"{name}:{one}"] for one in (*BUCKETS, "more", "sum")]


def _add(histogram: HistogramMetricFamily, labels: list[str], counts: Sequence[float]) -> None:
    """Add what took how long: counts are those of BUCKETS, of what took longer, and the sum of the seconds."""
    total, buckets = 0.0, []
    for bucket, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=False):
        total += count
        buckets.append((bucket, total))
    histogram.add_metric(labels, buckets, counts[-1])
