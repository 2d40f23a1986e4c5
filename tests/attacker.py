"""What an attacker needs: a sender of raw HTTP, a WebSocket that keeps to no rule, and a watch over the dyno meanwhile."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator

from dyno_under_test import Dyno, token_in
from frames import BINARY, CLOSE, TEXT, Frames, frame

ATTACKER = "198.51.100."  # the addresses that attacks come from; each attack has one of them
NEIGHBOUR = "203.0.113.9"
STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)
# nginx says that a version or a transfer encoding is none that it knows, as RFC 9110 has it: no error of the site
NOT_IMPLEMENTED = {501, 505}


def private(dyno: Dyno) -> list[bytes]:
    """Return what no visitor may ever see."""
    return [b"Traceback", b"site-packages", str(dyno.folder).encode()]


class Answers:
    """What came of the attacks: how many of each kind were answered, and how; every byte of it is looked through."""

    def __init__(self, dyno: Dyno) -> None:
        self.dyno = dyno
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []
        self._private = private(dyno)
        self._lock = threading.Lock()

    def note(self, sent: object, received: bytes, http: bool = True) -> None:
        """Count an answer; it is a fault when it is an error of ours, or says what is private."""
        statuses = [int(status) for status in STATUS.findall(received)] if http else []
        wrong: list[object] = [status for status in statuses if status >= 500 and status not in NOT_IMPLEMENTED]
        wrong += [received[place - 100 :][:300] for one in self._private if (place := received.find(one)) >= 0]
        with self._lock:
            self.count["sent"] += 1
            self.count["answered"] += bool(received)
            self.count.update(map(str, statuses))
            if wrong:
                self.faults.append(f"{wrong} for {repr(sent)[:2000]}")

    def add(self, name: str, more: int = 1) -> None:
        """Count what the answers do not show by themselves."""
        with self._lock:
            self.count[name] += more

    def figures(self) -> str:
        """Return the counts in one line."""
        return ", ".join(f"{name} {self.count[name]}" for name in sorted(self.count))


# --- HTTP -------------------------------------------------------------------------------------------------------------


def send_raw(dyno: Dyno, request: bytes, seconds: float = 0.4) -> bytes:
    """Send bytes to the port; return what comes back until the connection ends or is silent for `seconds`."""
    received = b""
    with socket.create_connection(("127.0.0.1", dyno.port), timeout=10) as client:
        try:
            client.sendall(request)
            client.settimeout(seconds)
            while more := client.recv(1 << 20):
                received += more
        except (TimeoutError, ConnectionError):
            pass
    return received


# --- WebSockets -------------------------------------------------------------------------------------------------------


def deflated(data: bytes, level: int = 9) -> bytes:
    """Compress a message as permessage-deflate does (RFC 7692, 7.2.1), without context from one to the next."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class WebSocket:
    """A WebSocket of a session of the app `counter`, compressed; `received` is all that came, decompressed."""

    def __init__(
        self, dyno: Dyno, address: str = f"{ATTACKER}1", path: str = "/bkapp/counter/ws", **headers: str
    ) -> None:
        page = dyno.request("GET", "/with/counter", {"X-Forwarded-For": address})
        headers = {"X-Forwarded-For": address, "Sec-WebSocket-Extensions": "permessage-deflate", **headers}
        self.status, self.socket = dyno.handshake(path, token_in(page.text), **headers)
        self.socket.settimeout(30)
        self.received = b""
        self._frames = Frames(self.socket)
        self._inflate = zlib.decompressobj(-15)
        self.wire = 0  # bytes sent

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are; that the other side has closed the connection is no error."""
        self.wire += len(data)
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def send_fragment(self, data: str | bytes) -> None:
        """Send a WebSocket message, compressed when it is long."""
        opcode = BINARY if isinstance(data, bytes) else TEXT
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        long = len(data) > 1000
        self.send(frame(deflated(data) if long else data, opcode, reserved=4 * long))

    def send_message(self, content: object, kind: str = "PATCH-DOC", buffers: tuple[bytes, ...] = ()) -> None:
        """Send a message of Bokeh's protocol; content is what becomes JSON, or the text itself."""
        header = {"msgid": kind, "msgtype": kind, **({"num_buffers": len(buffers)} if buffers else {})}
        self.send_fragment(json.dumps(header))
        self.send_fragment("{}")
        self.send_fragment(content if isinstance(content, str) else json.dumps(content))
        for number, buffer in enumerate(buffers):
            self.send_fragment(json.dumps({"id": f"b{number}"}))
            self.send_fragment(buffer)

    def fragments(self) -> Iterator[bytes]:
        """Yield each message that comes until the connection ends. Raises TimeoutError."""
        for first, payload in self._frames:
            if first & 0x40:
                payload = self._inflate.decompress(payload + b"\0\0\xff\xff")
            self.received += payload
            if first & 15 == CLOSE:
                return
            if first & 15 in (TEXT, BINARY):
                yield payload

    def reply(self, *kinds: str) -> str:
        """Wait for a message of one of these kinds and return its content; "" when the connection ends before that."""
        parts: list[bytes] = []
        for part in self.fragments():
            parts.append(part)
            header = json.loads(parts[0])
            if len(parts) == 3 + 2 * header.get("num_buffers", 0):
                if header["msgtype"] in kinds:
                    return parts[2].decode()
                parts = []
        return ""

    def is_acknowledged(self) -> bool:
        """Wait for the session; return whether it is there."""
        return self.status == 101 and self.reply("ACK") != ""

    def document(self) -> str:
        """Return the session's document, as JSON."""
        self.send_message({}, "PULL-DOC-REQ")
        return self.reply("PULL-DOC-REPLY")

    def is_alive(self) -> bool:
        """Wait until all that was sent has been read; return whether the connection is still open then."""
        self.send_message({}, "SERVER-INFO-REQ")
        return self.reply("SERVER-INFO-REPLY") != ""


# --- meanwhile --------------------------------------------------------------------------------------------------------


class Neighbour:
    """Another visitor, who behaves well: asks for a page of the site and of Bokeh, again and again."""

    def __init__(self, dyno: Dyno) -> None:
        self._dyno = dyno
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self.answers: list[tuple[int | str, float]] = []  # status or error, and the seconds until it was there

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _visit(self) -> None:
        while True:  # once at least, however short the attack is
            for path in ("/echo", "/bkapp/counter/metadata"):
                began = time.monotonic()
                try:
                    outcome: int | str = self._dyno.request(
                        "GET", path, {"X-Forwarded-For": NEIGHBOUR}, seconds=90
                    ).status
                except OSError as error:
                    outcome = repr(error)
                self.answers.append((outcome, time.monotonic() - began))
            if self._over.wait(0.05):
                return

    def failed(self) -> list[int | str]:
        """Return what was answered but 200."""
        return [outcome for outcome, _ in self.answers if outcome != 200]

    def figures(self) -> str:
        """Return how long it had to wait, in one line."""
        waited = sorted(1000 * seconds for _, seconds in self.answers)
        p99 = waited[int(0.99 * (len(waited) - 1))]
        return f"neighbour: {len(waited)} answers, p50 {statistics.median(waited):.1f} ms, p99 {p99:.0f}, max {waited[-1]:.0f}"


def processes(dyno: Dyno) -> dict[int, str]:
    """Return the command line of every process of the dyno by its pid; nginx's workers end it with what they do."""
    return {process.pid: " ".join(process.cmdline())[:60] for process in dyno.processes()}


def megabytes(dyno: Dyno) -> float:
    """Return the resident memory of all Bokeh workers, in MB."""
    return sum(worker.memory_info().rss for worker in dyno.bokeh_workers()) / 1e6


def cpu_seconds(dyno: Dyno) -> float:
    """Return the CPU seconds of all Bokeh workers."""
    return sum(sum(worker.cpu_times()[:2]) for worker in dyno.bokeh_workers())
