"""Who answers and who does not: asked through their sockets, with a deadline, without making a session."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bokeh_dyno.shared.settings import Settings

DEATHS = 6  # within DEATHS_SECONDS: a worker that will not get better
DEATHS_SECONDS = 60
DEADLINE = 2.0  # seconds; /healthz has to be answered within 5 s, also when a worker hangs


Probe = tuple[str, str, str]  # name, where it listens, path to GET


def silent(probes: Iterable[Probe], deadline: float = DEADLINE) -> list[str]:
    """Ask all at once and return the names of those that do not answer within `deadline` seconds.

    A probe is (name, path of a unix socket or HOST:PORT, path to GET). Any answer below 500 counts, and a 503 of flask's
    /healthz: that says that others do not answer.
    """
    names = []
    with selectors.DefaultSelector() as waiting:
        for name, address, url in probes:
            names.append(name)
            try:
                client, host = _connect(address)
            except OSError:  # nobody listens there, or the queue of a hanging worker is full
                continue
            request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            waiting.register(client, selectors.EVENT_WRITE, (name, request, client))
        end = time.monotonic() + deadline
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, events in waiting.select(left):
                name, request, client = key.data
                try:
                    if events & selectors.EVENT_WRITE:  # connected, or refused
                        client.send(request)
                        waiting.modify(client, selectors.EVENT_READ, key.data)
                        continue
                    answer = client.recv(16)
                except OSError:
                    answer = b""
                status = answer[9:12] if answer.startswith(b"HTTP/1.") else b""
                if b"100" <= status < b"500" or (status == b"503" and name == "flask"):
                    names.remove(name)
                waiting.unregister(client)
                client.close()
        for key in list(waiting.get_map().values()):
            _, _, client = key.data
            client.close()
    return names


def _connect(address: str) -> tuple[socket.socket, str]:
    """Begin to connect to a unix socket or to HOST:PORT; return the socket and what its server is called."""
    host, colon, port = address.rpartition(":")
    family: int
    target: str | tuple[Any, ...]
    if colon and "/" not in address:
        family, kind, protocol, _, target = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    else:
        family, kind, protocol, target, address = socket.AF_UNIX, socket.SOCK_STREAM, 0, address, "localhost"
    client = socket.socket(family, kind, protocol)
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
    return client, address


def probes(settings: Settings, app: str) -> list[Probe]:
    """Return what to ask of all that nginx passes requests to: Flask, and the Bokeh workers or the dynos that have them."""
    flask = ("flask", os.path.join(settings.run_dir, "flask.sock"), "/healthz")
    return [*([flask] if settings.web_concurrency else []), *bokeh_probes(settings, app)]


def bokeh_probes(settings: Settings, app: str) -> list[Probe]:
    """Return what to ask the Bokeh workers: `/metadata` of an app answers without making a session."""
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


def report(settings: Settings, app: str) -> tuple[bool, str]:
    """Ask the Bokeh workers; return whether all is well, and what /healthz says: ok, and a line for each silent one
    and each app that could not run."""
    asked = bokeh_probes(settings, app)
    names = silent(asked)
    well = not missing(asked, names, settings)
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
