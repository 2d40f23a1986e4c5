"""A load of many clients at once, on fresh and on kept connections, that knows what became of every request."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dyno_under_test import Dyno


@dataclass
class Request:
    """One request: when it began and ended (time.monotonic), what became of it: a status, or the name of an error."""

    path: str
    began: float
    ended: float
    outcome: int | str
    kept: bool  # whether its connection had been used before


@dataclass
class Load:
    """Clients that ask for /slow/SECONDS one request after the other, every second client on one connection."""

    dyno: Dyno
    seconds: Sequence[float]
    clients: int
    longest: float = 150.0
    refused: int = 0  # clients that have found the port closed, and asked no more
    requests: list[Request] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Load:
        """Start the clients; they stop by themselves after `longest` seconds."""
        for number in range(self.clients):
            self._threads.append(threading.Thread(target=self._ask, args=(number,)))
            self._threads[-1].start()
        return self

    def stop(self) -> list[Request]:
        """Wait until every client has its last answer; return all requests."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.requests

    def failed(self, since: float = 0.0, until: float = float("inf")) -> list[Request]:
        """Return the requests begun within that time that were not answered with 200."""
        return [request for request in self.requests if request.outcome != 200 and since <= request.began < until]

    def _ask(self, number: int) -> None:
        end = time.monotonic() + self.longest
        connection = None
        for seconds in itertools.cycle(
            self.seconds[number % len(self.seconds) :] + self.seconds[: number % len(self.seconds)]
        ):
            if self._over.is_set() or time.monotonic() > end:
                break
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.dyno.port, timeout=40)
            path, began, kept = f"/slow/{seconds}", time.monotonic(), bool(connection.sock)
            try:
                connection.request("GET", path, headers={} if number % 2 else {"Connection": "close"})
                response = connection.getresponse()
                response.read()
                outcome: int | str = response.status
            except ConnectionRefusedError:
                connection.close()
                self.refused += 1
                break  # the port is closed: nobody was there to accept it
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
                connection = None
            self.requests.append(Request(path, began, time.monotonic(), outcome, kept))
        if connection:
            connection.close()
