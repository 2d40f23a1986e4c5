"""A visitor without a browser: a session's WebSocket, frame by frame and message by message."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator

from dyno_under_test import Dyno
from frames import CLOSE, Frames, frame

HEADER = {"msgid": "1", "msgtype": "PATCH-DOC"}


class Visitor:
    """A WebSocket of an app's session; `address` is where the visitor comes from, as a router says: each from another."""

    _addresses = itertools.count(1)

    def __init__(self, dyno: Dyno, app: str = "counter", address: str = "", token: str = "", **headers) -> None:
        self.token = token or dyno.token(f"/with/{app}")
        address = address or f"192.0.2.{next(self._addresses) % 250}"
        headers["X-Forwarded-For"] = address
        self.status, self.socket = dyno.handshake(f"/bkapp/{app}/ws", self.token, **headers)
        self._frames = Frames(self.socket)
        self.document_json: dict = {}
        self.received = b""  # everything, but for the frames' headers

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def send_message(self, content: object, header: dict | None = None, buffers: list[bytes] | None = None) -> None:
        """Send a message of Bokeh's protocol; content is what becomes JSON, or the text itself."""
        header = {**(header or HEADER), "num_buffers": 2 * len(buffers or []) // 2}
        text = content if isinstance(content, str) else json.dumps(content)
        parts = [json.dumps(header), "{}", text]
        for number, buffer in enumerate(buffers or []):
            parts += [json.dumps({"id": f"b{number}"}), buffer]
        self.send(b"".join(frame(p, 2) if isinstance(p, bytes) else frame(p.encode()) for p in parts))

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield (opcode, payload) of each frame until the connection ends. Raises TimeoutError."""
        for first, payload in self._frames:
            self.received += payload
            yield first & 15, payload

    def message(self, kind: str) -> dict:
        """Return the content of the next message of this kind, ACK or PULL-DOC-REPLY. Raises AssertionError at the end."""
        parts: list[bytes] = []
        for opcode, payload in self.frames():
            assert opcode != CLOSE, payload
            if opcode not in (1, 2):
                continue
            parts.append(payload)
            header = json.loads(parts[0])
            if len(parts) == 3 + 2 * header.get("num_buffers", 0):
                if header["msgtype"] == kind:
                    return json.loads(parts[2])
                parts = []
        raise AssertionError(f"the connection has ended before {kind}")

    def close_code(self) -> int:
        """Wait until the connection ends; return the code that it was closed with, 1006 for none."""
        for opcode, payload in self.frames():
            if opcode == CLOSE and len(payload) > 1:
                return int.from_bytes(payload[:2], "big")
        return 1006

    def document(self) -> dict:
        """Open the session and return its document, as JSON; it stays as `document_json`."""
        self.message("ACK")
        self.send_message({}, {"msgid": "d", "msgtype": "PULL-DOC-REQ"})
        self.document_json = self.message("PULL-DOC-REPLY")["doc"]
        return self.document_json


def find(document: object, name: str) -> str | None:
    """Return the id of the model called `name` in a document's JSON."""
    if isinstance(document, dict):
        if document.get("attributes", {}).get("name") == name:
            return document["id"]
        document = list(document.values())
    if isinstance(document, list):
        return next((found for part in document if (found := find(part, name))), None)
    return None


def change(model: str, attribute: str, value: object) -> dict:
    """Return the content of a PATCH-DOC that sets an attribute of a model."""
    event = {"kind": "ModelChanged", "model": {"id": model}, "attr": attribute, "new": value}
    return {"events": [event]}


def is_open(one: socket.socket) -> bool:
    """Return whether the other side has not closed the connection; what it sent is read and dropped."""
    one.settimeout(0.05)
    try:
        while one.recv(1 << 20):
            pass
        return False
    except TimeoutError:
        return True
    except ConnectionError:
        return False
