"""Several dynos behind haproxy, and views through it: page, WebSocket, document, all but the drawing."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from dyno_under_test import ROOT, Dyno, free_port, installed

HAPROXY = installed("haproxy")


def router(folder: Path, dynos: Sequence[Dyno], new: Callable[..., Dyno] = Dyno) -> Dyno:
    """Make haproxy, not yet started, with config/haproxy.cfg: on a port of its own, before these dynos."""
    port = free_port()
    text = (ROOT / "config" / "haproxy.cfg").read_text().replace("bind :8080", f"bind 127.0.0.1:{port}")
    text = re.sub(r"^ +server .*\n", "", text, flags=re.MULTILINE)
    servers = "".join(f"    server web.{number} 127.0.0.1:{one.port}\n" for number, one in enumerate(dynos, 1))
    folder.mkdir()
    (folder / "haproxy.cfg").write_text(text + servers)
    return new(folder, {"PORT": str(port)}, [HAPROXY, "-db", "-f", "haproxy.cfg"])


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
    while True:
        head = stream.read(2)
        if len(head) < 2:
            raise ConnectionError("cut off")
        length = head[1]
        if length > 125:
            length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
        body = stream.read(length)
        if head[0] & 15 == 8:
            raise ConnectionError(f"closed: {int.from_bytes(body[:2], 'big')}")
        if head[0] & 15 != 9:  # a ping, of which one comes every 37 s
            return body


def view(site: Dyno, page: str, app: str = "counter") -> socket.socket:
    """View a page with an app as a new visitor; return its WebSocket, which the caller closes."""
    status, client = site.handshake(f"/bkapp/{app}/ws", site.token(page))
    try:
        assert status == 101, status
        assert pull_document(client)["roots"]
    except BaseException:
        client.close()
        raise
    return client


class Views:
    """Clients that view pages with an app, one after another."""

    def __init__(self, site: Dyno, pages: Sequence[str], clients: int, app: str = "counter") -> None:
        self._site, self._pages, self._app = site, pages, app
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._view, args=(number,)) for number in range(clients)]
        self.outcomes: Counter[str] = Counter()

    def start(self) -> Views:
        """Start the clients; they stop by themselves after three minutes."""
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

    def _view(self, number: int) -> None:
        end = time.monotonic() + 180
        while not self._over.is_set() and time.monotonic() < end:
            page = self._pages[number % len(self._pages)]
            try:
                view(self._site, page, self._app).close()
                outcome = "seen"
            except Exception as error:  # whatever it is, it counts
                outcome = f"{page}: {error!r}"[:300]
            self.outcomes[outcome] += 1
            number += 1
