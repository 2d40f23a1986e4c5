"""Views of a page with an app, all but the drawing: the page, its WebSocket, the document."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence

from dyno_under_test import Dyno


def pull_document(client: socket.socket) -> dict:
    """Pull the document of a session that was just opened, as a page does. Raises ConnectionError when it is cut off."""
    client.settimeout(20)
    with client.makefile("rb") as stream:
        assert json.loads(_message(stream))["msgtype"] == "ACK"
        _message(stream)
        _message(stream)
        for part in ({"msgid": "1", "msgtype": "PULL-DOC-REQ"}, {}, {}):
            text = json.dumps(part).encode()
            client.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        assert json.loads(_message(stream))["msgtype"] == "PULL-DOC-REPLY"
        _message(stream)
        return json.loads(_message(stream))["doc"]


def _message(stream) -> bytes:
    head = stream.read(2)
    if len(head) < 2:
        raise ConnectionError("cut off")
    length = head[1]
    if length > 125:
        length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
    body = stream.read(length)
    if head[0] & 15 == 8:
        raise ConnectionError(f"closed: {int.from_bytes(body[:2], 'big')}")
    return body


class Views:
    """Clients that view one page after another, through `site`; each is a new visitor."""

    def __init__(self, site: Dyno, pages: Sequence[str], clients: int) -> None:
        self._site = site
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._view, args=(pages, number)) for number in range(clients)]
        self.outcomes: Counter[str] = Counter()

    def start(self) -> Views:
        """Start the clients; they stop by themselves after a minute."""
        for thread in self._threads:
            thread.start()
        return self

    def count(self) -> int:
        """Return how many views there were."""
        return self.outcomes.total()

    def stop(self) -> dict[str, int]:
        """Wait until every client has its last view; return how often what became of one: "seen", or what went wrong."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return dict(self.outcomes)

    def _view(self, pages: Sequence[str], number: int) -> None:
        end = time.monotonic() + 60
        while not self._over.is_set() and time.monotonic() < end:
            page = pages[number % len(pages)]
            try:
                outcome = self._view_once(page)
            except (OSError, AssertionError) as error:
                outcome = f"{page}: {error!r}"[:300]
            self.outcomes[outcome] += 1
            number += 1

    def _view_once(self, page: str) -> str:
        token = self._site.token(page)
        status, client = self._site.handshake("/bkapp/counter/ws", token)
        with client:
            assert status == 101, status
            assert pull_document(client)["roots"]
        return "seen"
