"""What the start script answers by itself, through RUN_DIR/status.sock: /healthz, which routers ask, and /metrics.

It is busy with nothing else, so it answers whatever the site's processes do, and it is the first to know of a stop.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bokeh_dyno.shared import health
from bokeh_dyno.shared.settings import Settings

KEPT_SECONDS = 1.0  # for which an answer of /healthz is given again
HEAD_BYTES, HEAD_SECONDS = 65536, 1.0  # of a request, which nginx sends at once
METRICS_AT_ONCE = 4


class Status:
    """The server, in a thread of its own."""

    def __init__(self, run_dir: Path, serving: Callable[[], Settings], resolve: health.Resolve) -> None:
        """run_dir is RUN_DIR; serving returns the settings of the generation that serves; resolve, see health.silent."""
        self._run_dir, self._serving, self._resolve = run_dir, serving, resolve
        self.is_stopping = False
        self._kept: dict[
            bool, tuple[float, bool, str]
        ] = {}  # until when, and the answer; by whether it is the strict one
        self._metrics = threading.Semaphore(METRICS_AT_ONCE)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen, and answer from now on; once more when the socket has been removed."""
        before, path = self._socket, self._run_dir / "status.sock"
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(64)
        threading.Thread(target=self._serve, args=(self._socket,), daemon=True).start()
        if before:
            before.shutdown(socket.SHUT_RDWR)  # which ends its thread
            before.close()

    def close(self) -> None:
        """Remove the socket: nobody answers any more."""
        (self._run_dir / "status.sock").unlink(missing_ok=True)

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                if listening is not self._socket:
                    return
                time.sleep(0.1)  # no more files
                continue
            try:
                client.settimeout(HEAD_SECONDS)
                self._answer(client)
            except OSError:  # the visitor has left
                client.close()

    def _answer(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES and (more := client.recv(HEAD_BYTES)):
            head += more
        line, *rest = head.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
        parts = line.split(" ")
        if len(parts) != 3:
            client.close()
            return
        path, _, query = parts[1].partition("?")
        headers = {name.lower(): text.strip() for name, _, text in (one.partition(":") for one in rest)}
        if path == "/healthz":
            well, text = self.health(strict=health.is_strict(query))
            _send(client, parts[0], 200 if well else 503, "text/plain", text.encode())
        elif path == "/metrics" and self._metrics.acquire(blocking=False):
            threading.Thread(target=self._answer_metrics, args=(client, parts[0], headers), daemon=True).start()
        else:
            _send(client, parts[0], 503 if path == "/metrics" else 404, "text/plain", b"")

    def health(self, *, strict: bool) -> tuple[bool, str]:
        """Return whether all is well, and what is said of it, at most KEPT_SECONDS old. See health.report."""
        if self.is_stopping:
            return False, "stopping\n"
        until, well, text = self._kept.get(strict, (0.0, False, ""))
        if time.monotonic() >= until:
            values = self._serving()
            well, text = health.report(values, health.probes(values), strict=strict, resolve=self._resolve)
            self._kept[strict] = (time.monotonic() + KEPT_SECONDS, well, text)
        return well, text

    def _answer_metrics(self, client: socket.socket, method: str, headers: dict[str, str]) -> None:
        try:
            from bokeh_dyno.start import metrics

            _send(client, method, *metrics.answer(headers, self._run_dir, self._serving()))
        except OSError:  # the visitor has left
            pass
        finally:
            client.close()
            self._metrics.release()


def _send(client: socket.socket, method: str, status: int, kind: str, body: bytes) -> None:
    """Send an answer and close the connection."""
    more = "WWW-Authenticate: Bearer\r\n" * (status == 401)
    head = (
        f"HTTP/1.1 {status} \r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    client.sendall(head.encode() + body * (method != "HEAD"))
    client.close()
