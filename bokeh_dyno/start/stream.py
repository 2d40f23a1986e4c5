"""What open pages hear from bin/dev, on /dyno-dev/: a stream of events, their script, and a page while there is no dyno."""

from __future__ import annotations

import contextlib
import html
import json
import os
import queue
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bokeh_dyno.page

SCRIPT = Path(bokeh_dyno.page.__file__).with_name("dev.js")
SILENCE = 15.0  # s until a line that says nothing: whoever is gone is noticed
EVENTS = "/dyno-dev/events"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>The site cannot start</title>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 10vh auto; padding: 0 16px">
<h1>The site cannot start</h1>
{}<p>Mend it and save: this page comes back by itself.</p>
<script src="/dyno-dev/page.js"></script>
</body></html>
"""
Event = dict[str, object]
Listener = queue.SimpleQueue[Event | None]


class Stream:
    """The events, and who listens to them."""

    def __init__(self, hello: Callable[[], list[Event]]) -> None:
        """`hello` returns what somebody who begins to listen is told first."""
        self._hello = hello
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        # of what pages have to be told to be as they should: who was away for a moment sees by it that something was missed
        self._name, self._number = secrets.token_hex(4), 0

    def send(self, event: Event) -> None:
        """Tell everybody; after an event of another generation they come again, for nginx waits for those it has."""
        with self._lock:
            self._number += event["type"] in ("styles", "page")
            for listener in self._listeners:
                listener.put(self._with_state(event))
                if event["type"] == "serving":
                    listener.put(None)

    def _with_state(self, event: Event) -> Event:
        return {**event, "state": f"{self._name}.{self._number}"}

    def end(self) -> None:
        """Have everybody go."""
        with self._lock:
            for listener in self._listeners:
                listener.put(None)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Listener]:
        """Yield a queue of events, None at the end."""
        listener: Listener = queue.SimpleQueue()
        with self._lock:
            for event in self._hello():
                listener.put(self._with_state(event))
            self._listeners.append(listener)
        try:
            yield listener
        finally:
            with self._lock:
                self._listeners.remove(listener)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == EVENTS:
            self._stream()
        elif path == "/dyno-dev/page.js":
            self._answer(200, "text/javascript; charset=utf-8", SCRIPT.read_bytes())
        elif self.server.errors:
            self._answer(503, "text/html; charset=utf-8", _page(self.server.errors()).encode())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"There is no such thing here.\n")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.close_connection = True
        self._answer(503 if self.server.errors else 405, "text/plain; charset=utf-8", b"The site cannot start.\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        for name, value in (("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.end_headers()
        with self.server.stream.listening() as listener:
            self._write("retry: 200\n\n")
            while True:
                try:
                    event = listener.get(timeout=SILENCE)
                except queue.Empty:
                    self._write(":\n\n")
                    continue
                if event is None:
                    return
                self._write(f"data: {json.dumps(event)}\n\n")

    def _write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing: nginx has its own log, and these are not the site's requests."""

    def address_string(self) -> str:
        return ""


class Server(ThreadingHTTPServer):
    """Answers /dyno-dev/ on a unix socket, for nginx; or all there is on the port, while there is no dyno."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False

    def __init__(
        self, address: str | int, stream: Stream, errors: Callable[[], list[dict[str, Any]]] | None = None
    ) -> None:
        """Listen on the path of a unix socket, or on a port; errors returns what is wrong. Raises OSError."""
        self.stream, self.errors = stream, errors
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if isinstance(address, str):
            with contextlib.suppress(FileNotFoundError):  # of one that was killed
                os.unlink(address)
        super().__init__(address if isinstance(address, str) else ("", address), _Handler)  # type: ignore[arg-type]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # http.server's asks the DNS for the machine's name

    def get_request(self) -> tuple[socket.socket, Any]:
        client, address = super().get_request()
        return client, address or ("", 0)  # a unix socket's client has none

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: somebody has closed the page."""

    def close(self) -> None:
        """Listen no longer; streams are ended by whoever has them."""
        self.shutdown()
        self.server_close()


def _page(errors: list[dict[str, Any]]) -> str:
    parts = []
    for one in errors:
        place = f"{one['file']}, line {one['line']}" if one.get("file") and one.get("line") else one["where"]
        parts.append(
            f"<p><strong>{html.escape(str(place))}</strong>: {html.escape(one['message'])}</p>\n"
            f'<pre style="overflow-x: auto">{html.escape(one.get("traceback") or "")}</pre>\n'
        )
    return PAGE.format("".join(parts))
