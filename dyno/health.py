"""Who answers and who does not: asked through the unix sockets, with a deadline, without making a session."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Iterable

DEATHS = 6  # within DEATHS_SECONDS: a worker that will not get better
DEATHS_SECONDS = 60
DEADLINE = 2.0  # seconds; /healthz has to be answered within 5 s, also when a worker hangs


def silent(probes: Iterable[tuple[str, str, str]], deadline: float = DEADLINE) -> list[str]:
    """Ask all at once and return the names of those that do not answer within `deadline` seconds.

    probes: (name, path of the unix socket, path to GET). Any answer below 500 counts.
    """
    names = []
    with selectors.DefaultSelector() as waiting:
        for name, path, url in probes:
            names.append(name)
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            try:
                client.connect(path)
                client.send(f"GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            except OSError:  # nobody listens there, or the queue of a hanging worker is full
                client.close()
            else:
                waiting.register(client, selectors.EVENT_READ, name)
        end = time.monotonic() + deadline
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                try:
                    answer = key.fileobj.recv(16)
                except OSError:
                    answer = b""
                if answer.startswith(b"HTTP/1.") and answer[9:10] in b"1234" and len(answer) > 9:
                    names.remove(key.data)
                waiting.unregister(key.fileobj)
                key.fileobj.close()
        for key in list(waiting.get_map().values()):
            key.fileobj.close()
    return names


def bokeh_probes(settings: dict[str, object], app: str) -> list[tuple[str, str, str]]:
    """Return what to ask the Bokeh workers: `/metadata` of an app answers without making a session."""
    return [
        (f"bokeh.{number}", os.path.join(str(settings["RUN_DIR"]), f"bokeh.{number}.sock"), _metadata(settings, app))
        for number in range(1, int(settings["BOKEH_WORKERS"]) + 1)
    ]


def _metadata(settings: dict[str, object], app: str) -> str:
    return f"{settings['BOKEH_PREFIX']}/{app}/metadata"


class Deaths:
    """Counts the deaths of a worker: one is bad luck, many in a short time are a fault that a restart does not mend."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def too_many(self) -> bool:
        """Note a death; return whether it was one too many."""
        now = time.monotonic()
        self._times = [*(past for past in self._times if now - past < DEATHS_SECONDS), now]
        return len(self._times) >= DEATHS
