"""Who answers and who does not: asked through their sockets, with a deadline, without making a session."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bokeh_dyno.shared import apps
from bokeh_dyno.shared.settings import Settings

DEATHS = 6  # within DEATHS_SECONDS: a worker that will not get better
DEATHS_SECONDS = 60
PAUSE_SECONDS = 5.0  # between two turns of a loop that makes one a second
DEADLINE = 0.8  # seconds; /healthz is answered within 1 s, also when a worker hangs


FLASK = "/healthz?flask"  # what Flask answers for itself alone (bokeh_dyno/flask/embed.py)
Probe = tuple[str, str, str]  # name, where it listens, path to GET
Target = tuple[int, Any]  # a socket's family and address
Resolve = Callable[[str], Sequence[Target]]


def resolve(address: str) -> Sequence[Target]:
    """Return all addresses of HOST:PORT, in the order of the system. Raises OSError when there is none."""
    host, _, port = address.rpartition(":")
    return [(found[0], found[4]) for found in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)]


def silent(probes: Iterable[Probe], deadline: float = DEADLINE, resolve: Resolve = resolve) -> list[str]:
    """Ask all at once and return the names of those that do not answer within `deadline` seconds.

    A probe is (name, path of a unix socket or HOST:PORT, path to GET). Of a host with several addresses one has to answer.
    Any answer below 500 counts. resolve returns the addresses of HOST:PORT; the default asks the system, which may take longer
    than `deadline`.
    """
    names = []
    with selectors.DefaultSelector() as waiting:
        for name, address, url in probes:
            names.append(name)
            is_tcp = ":" in address and "/" not in address
            host = address if is_tcp else "localhost"
            request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            try:
                targets = resolve(address) if is_tcp else [(socket.AF_UNIX, address)]
            except OSError:
                continue
            for target in targets:
                with contextlib.suppress(OSError):  # nobody listens there, or the queue of a hanging worker is full
                    client = _connect(*target)
                    waiting.register(client, selectors.EVENT_WRITE, (name, request, client))
        end = time.monotonic() + deadline
        # what has come by then counts, also when this process had no time to look at it sooner
        while waiting.get_map() and (ready := waiting.select(max(0.0, end - time.monotonic()))):
            for key, events in ready:
                name, request, client = key.data
                try:
                    if events & selectors.EVENT_WRITE:  # connected, or refused
                        client.send(request)
                        waiting.modify(client, selectors.EVENT_READ, key.data)
                        continue
                    answer = client.recv(16)
                except OSError:
                    answer = b""
                if name in names and answer.startswith(b"HTTP/1.") and b"100" <= answer[9:12] < b"500":
                    names.remove(name)
                waiting.unregister(client)
                client.close()
        for key in list(waiting.get_map().values()):
            _, _, client = key.data
            client.close()
    return names


def _connect(family: int, target: Any) -> socket.socket:
    """Begin to connect, and return the socket."""
    client = socket.socket(family, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        client.connect(target)
    except BlockingIOError as error:
        if error.errno != errno.EINPROGRESS:  # the queue of a unix socket is full
            client.close()
            raise
    except OSError:
        client.close()
        raise
    return client


def probes(settings: Settings) -> list[Probe]:
    """Return what to ask of all that nginx passes requests to: Flask, and the Bokeh workers or the dynos that have them."""
    flask = ("flask", os.path.join(settings.run_dir, "flask.sock"), FLASK)
    return [*([flask] if settings.web_concurrency else []), *bokeh_probes(settings)]


def bokeh_probes(settings: Settings) -> list[Probe]:
    """Return what to ask the Bokeh workers: `/metadata` of an app answers without making a session."""
    app = next(iter(apps.names()), "")  # all may have been removed since the start
    metadata = f"{settings.bokeh_prefix}/{app}/metadata"
    if settings.bokeh_upstream:
        return [(f"bokeh at {address}", address, metadata) for address in settings.bokeh_upstream]
    return [
        (f"bokeh.{number}", os.path.join(settings.run_dir, f"bokeh.{number}.sock"), metadata)
        for number in range(1, settings.bokeh_workers + 1)
    ]


def missing(asked: list[Probe], names: list[str], settings: Settings) -> list[Probe]:
    """Return those of the probes `asked` that the site cannot do without, given the `names` of the silent ones.

    Of the dynos of BOKEH_UPSTREAM one that answers is enough: nginx passes by the others.
    """
    elsewhere = [probe for probe in asked if probe[1] in settings.bokeh_upstream]
    enough = any(name not in names for name, _, _ in elsewhere)
    return [probe for probe in asked if probe[0] in names and not (enough and probe in elsewhere)]


def note_failure(run_dir: Path, app: str, problem: str) -> None:
    """Note that an app could not run before the port opened, for /healthz, until it can."""
    (run_dir / "failed").mkdir(exist_ok=True)
    (run_dir / "failed" / app).write_text(problem)


def note_broken(run_dir: Path, template: str, line: str) -> None:
    """Note in a line that the site, or a template of it, cannot run: no generation takes over that has more of these."""
    (run_dir / "broken").mkdir(exist_ok=True)
    (run_dir / "broken" / (quote(template, safe="") or "site")).write_text(line)


def forget_failure(run_dir: Path, app: str) -> None:
    """Note that an app can run after all."""
    (run_dir / "failed" / app).unlink(missing_ok=True)


def is_strict(query: str) -> bool:
    """Return whether /healthz is asked whether every part answers, not only whether the site can serve."""
    return "all=1" in query.split("&")


def report(settings: Settings, asked: list[Probe], *, strict: bool, resolve: Resolve = resolve) -> tuple[bool, str]:
    """Ask; return whether the site can serve, and what /healthz says: ok, and a line for each part that is silent and each
    app that could not run.

    It can when Flask and one Bokeh worker answer: a router that is told otherwise sends nobody here, also to what is well. One
    that is busy is silent, too. strict: all have to answer.
    """
    names = silent(asked, resolve=resolve)
    of_bokeh = [name for name, _, _ in asked if name != "flask"]
    well = not names if strict else "flask" not in names and any(name not in names for name in of_bokeh)
    failed = sorted((settings.run_dir / "failed").glob("*"))
    lines = [f"{name} does not answer\n" for name in names]
    lines += [f"bokeh_app/{file.name} could not run at the start\n" for file in failed]
    return well, "ok\n" * well + "".join(lines)


class Deaths:
    """Counts the deaths of a worker: one is bad luck, many in a short time are a fault that a restart does not mend."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def too_many(self) -> bool:
        """Note a death; return whether it was one too many."""
        now = time.monotonic()
        self._times = [*(past for past in self._times if now - past < DEATHS_SECONDS), now]
        return len(self._times) >= DEATHS


class Pauses:
    """Notices in a loop that turns at least once a second that all processes were stopped, or had no time at all."""

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def seconds(self) -> float:
        """Return for how long nothing could run since the last turn; 0 when that is nothing unusual."""
        before, self._looked = self._looked, time.monotonic()
        return passed if (passed := self._looked - before) > PAUSE_SECONDS else 0.0
