"""The load generators: HTTP and Bokeh's WebSocket protocol on plain sockets, and every answer is checked.

Plain, because the clients share two cores with what they measure: a page costs this client some 50 µs of CPU, where an
HTTP library takes as long as the servers. The column `client` says how busy it was, of one core.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import selectors
import socket
import time
import zlib
from urllib.parse import urljoin, urlsplit

TOKEN = re.compile(rb"eyJ[\w-]{60,}(?:\.[\w-]+)*")  # Bokeh's session token: base64 of {"…, signed or not
AUTOLOAD = re.compile(rb"http://[^\"']+/autoload\.js[^\"']*")
EMBEDDED = re.compile(rb'data-bokeh-app="([^"]+)"')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
VERSION = re.compile(r'"version":"([\d.]+)"')
SLIDER = re.compile(r'"type":"object","name":"Slider","id":"(\w+)"')
TIMEOUT = 30.0  # seconds
CLIENTS = 8
HEAD = 2048  # bytes; more than a head has
VISITORS = itertools.count()


class WrongAnswer(Exception):
    """A server did not answer, or not with what it should."""


class Connection:
    """A kept HTTP connection to the host of a URL, from an address that is this machine's, or to a unix socket."""

    def __init__(self, url: str, unix: str = "", visitor: str = "127.0.0.1") -> None:
        if unix:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(TIMEOUT)
            self.socket.connect(unix)
        else:
            address = urlsplit(url)
            self.socket = socket.create_connection((address.hostname, address.port), TIMEOUT, (visitor, 0))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as browsers do
        self._buffer = bytearray(1 << 20)
        self._filled = self._skipping = 0
        self._head = b""
        self.began = 0.0  # when it was asked, for whoever wants to know

    def receive(self, whole: bool = True) -> tuple[bytes, bytes] | None:
        """Receive once; return head and body when the answer is complete, None before that.

        Unless whole, the body may be empty: what is left of it after the head is thrown away in the kernel, uncopied
        (tcp(7), MSG_TRUNC). Raises WrongAnswer for any status but 200.
        """
        if self._skipping:
            size = min(self._skipping, len(self._buffer))
            self._skipping -= self._received(self.socket.recv_into(self._buffer, size, socket.MSG_TRUNC))
            return None if self._skipping else (self._head, b"")
        limit = len(self._buffer) if whole else self._filled + HEAD
        self._filled += self._received(self.socket.recv_into(memoryview(self._buffer)[self._filled : limit]))
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        if (start := self._buffer.find(b"\r\n\r\n", 0, self._filled) + 4) < 4:
            return None
        head = bytes(self._buffer[:start]).lower()
        if head[9:12] != b"200":
            raise WrongAnswer(f"{bytes(self._buffer[: self._filled])[:300]!r}")
        if length := LENGTH.search(head):
            end = start + int(length[1])
        else:
            chunked = self._buffer.endswith(b"\r\n0\r\n\r\n", start, self._filled)
            end = self._filled if chunked else self._filled + 1
        if self._filled < end:
            if length and not whole:
                self._skipping, self._head, self._filled = end - self._filled, head, 0
            return None
        self._filled = 0
        return head, bytes(self._buffer[start:end])

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    @staticmethod
    def _received(count: int) -> int:
        if not count:
            raise WrongAnswer("the server closed the connection")
        return count


def request(url: str, headers: str = "Accept-Encoding: gzip\r\n") -> bytes:
    """Return the bytes of a GET; headers are whole lines."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n".encode()


def get(url: str, visitor: str = "127.0.0.1") -> bytes:
    """GET a URL on a connection of its own and return the body. Raises WrongAnswer for any status but 200."""
    connection = Connection(url, visitor=visitor)
    try:
        connection.socket.sendall(request(url))
        while not (answer := connection.receive()):
            pass
    finally:
        connection.close()
    head, body = answer
    if not LENGTH.search(head):  # in chunks
        chunks, body = body, b""
        while size := int(chunks[: chunks.index(b"\r\n")], 16):
            start = chunks.index(b"\r\n") + 2
            body, chunks = body + chunks[start : start + size], chunks[start + size + 2 :]
    return zlib.decompress(body, 31) if b"\r\ncontent-encoding: gzip" in head else body


def http_load(url: str, duration: float, whole: int = 1, unix: str = "") -> tuple[list[float], int]:
    """Ask for url, the next request as soon as the last one is answered, for so many seconds; CLIENTS at a time.

    Returns the seconds of each answer, and the bytes of a body. Connections are kept where the server keeps them.
    Raises WrongAnswer when an answer has another length than the first one, or (one in `whole`) another body.
    """
    message, times, expected, length = request(url), [], b"", None
    with selectors.DefaultSelector() as waiting:

        def connect() -> None:
            connection = Connection(url, unix)
            connection.socket.setblocking(False)  # it is read when it is ready: a timeout costs one more system call
            waiting.register(connection.socket, selectors.EVENT_READ, connection)
            ask(connection)

        def ask(connection: Connection) -> None:
            connection.began = time.perf_counter()
            connection.socket.sendall(message)

        stop = time.perf_counter() + duration
        for _ in range(CLIENTS):
            connect()
        while waiting.get_map():
            if not (ready := waiting.select(TIMEOUT)):
                raise WrongAnswer(f"{url}: no answer within {TIMEOUT} s")
            for key, _ in ready:
                connection = key.data
                if not (answer := connection.receive(not expected or len(times) % whole == 0)):
                    continue
                now = time.perf_counter()
                times.append(now - connection.began)
                head, body = answer
                if not expected and body:
                    expected, length = body, LENGTH.findall(head)
                if LENGTH.findall(head) != length or (body and body != expected):
                    raise WrongAnswer(f"{url}: not the answer that it was before: {head!r} {body[:100]!r}")
                if now < stop and b"\r\nconnection: close" not in head:
                    ask(connection)
                    continue
                waiting.unregister(connection.socket)
                connection.close()
                if now < stop:
                    connect()
    return times, len(expected)


class Session:
    """A Bokeh session as a browser has it: the WebSocket of a token."""

    def __init__(self, app_url: str, token: str, deflate: bool, visitor: str) -> None:
        """Open the WebSocket of the app at app_url and wait for Bokeh's ACK. Raises WrongAnswer when it is refused.

        deflate: offer compression, as browsers do.
        """
        self.socket = Connection(app_url, visitor=visitor).socket
        self.bytes = 0  # received
        self.bokeh = ""  # the version that made the document
        self._buffer = bytearray()
        self._inflate = None
        self._number = 0
        self._slider = ""
        extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
        self.socket.sendall(
            request(
                f"{app_url}/ws",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: bokeh, {token}\r\n{extension}",
            )
        )
        while (end := self._buffer.find(b"\r\n\r\n") + 4) < 4:
            self._receive()
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        if head[9:12] != b"101":
            raise WrongAnswer(f"{app_url}/ws: {head[:60]!r}")
        if b"permessage-deflate" in head:
            self._inflate = zlib.decompressobj(-15)
        self._expect("ACK")

    def pull(self, contains: str) -> str:
        """Pull the document, as a page does first; return its JSON. Raises WrongAnswer when it is not that of the app."""
        content, buffers = self._ask("PULL-DOC-REQ", {}, "PULL-DOC-REPLY")
        if contains not in content or not buffers or not (slider := SLIDER.search(content)):
            raise WrongAnswer(f"not the document of the app: {content[:100]}")
        self._slider = slider[1]
        self.bokeh = version[1] if (version := VERSION.search(content)) else "of no version"
        return content

    def move(self, value: float, contains: str = "") -> tuple[str, list[bytes]]:
        """Move the slider; return the patch that comes back, once the server has also said that it is done.

        Raises WrongAnswer when the patch does not contain that text.
        """
        event = {"kind": "ModelChanged", "model": {"id": self._slider}, "attr": "value", "new": value}
        patch = self._ask("PATCH-DOC", {"events": [event]}, "PATCH-DOC")
        self._expect("OK")
        if contains not in patch[0]:
            raise WrongAnswer(f"not the patch that was asked for: {patch[0][:200]}")
        return patch

    def move_curve(self) -> float:
        """Move the slider of the app `curve` to its next value; return the seconds until the new curve was there."""
        value, began = self._number % 2000 / 2, time.perf_counter()
        _, buffers = self.move(value)
        if len(buffers) != 2 or memoryview(buffers[1]).cast("d")[0] != value:
            raise WrongAnswer(f"not the curve that was asked for: {len(buffers)} arrays")
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the connection; the server drops the session some time later."""
        self.socket.close()

    def _ask(self, kind: str, content: dict, answer: str) -> tuple[str, list[bytes]]:
        self._number += 1
        header = {"msgid": f"{os.getpid()}.{self._number}", "msgtype": kind}
        for part in (header, {}, content):  # three frames, each sent by itself, as BokehJS does
            self.socket.sendall(frame(json.dumps(part).encode()))
        return self._expect(answer)

    def _expect(self, kind: str) -> tuple[str, list[bytes]]:
        """Return content and buffers of the next message. Raises WrongAnswer when it is of another kind."""
        header = json.loads(self._frame())
        self._frame()  # metadata
        content = self._frame().decode()
        buffers = []
        for _ in range(header.get("num_buffers", 0)):
            self._frame()  # its id
            buffers.append(self._frame())
        if header["msgtype"] != kind:
            raise WrongAnswer(f"{header['msgtype']} instead of {kind}: {content[:200]}")
        return content, buffers

    def _frame(self) -> bytes:
        """Return the next message of the WebSocket; pings are answered."""
        while True:
            while len(self._buffer) < 2:
                self._receive()
            opcode, length, start = self._buffer[0], self._buffer[1], 2
            if length > 125:
                start = 4 if length == 126 else 10
                while len(self._buffer) < start:
                    self._receive()
                length = int.from_bytes(self._buffer[2:start], "big")
            while len(self._buffer) < start + length:
                self._receive()
            payload = bytes(self._buffer[start : start + length])
            del self._buffer[: start + length]
            if opcode & 0x0F in (1, 2) and opcode & 0x80:
                return self._inflate.decompress(payload + b"\0\0\xff\xff") if opcode & 0x40 else payload
            if opcode & 0x0F != 9:
                raise WrongAnswer(f"the WebSocket was closed: {payload!r}")
            self.socket.sendall(frame(payload, 10))

    def _receive(self) -> None:
        try:
            more = self.socket.recv(1 << 18)
        except TimeoutError:
            raise WrongAnswer(f"no message within {TIMEOUT} s") from None
        if not more:
            raise WrongAnswer("the server closed the connection")
        self.bytes += len(more)
        self._buffer += more


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a frame of a client. Its mask is zero, which is allowed and leaves the payload as it is."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else bytes([0xFE]) + length.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + b"\0\0\0\0" + payload


def view(url: str, contains: str = "ColumnDataSource", deflate: bool = True) -> Session:
    """View a page with an app, all but the drawing: page, autoload.js where the page asks for it, WebSocket, document."""
    # each is a visitor with an address of its own, whose first three numbers tell nginx's ip_hash the process
    visitor = f"127.{(number := next(VISITORS)) // 250 % 250 + 1}.{number % 250}.1"
    page, app = get(url, visitor), url
    if script := AUTOLOAD.search(page):  # server_document's
        app = script[0].partition(b"bokeh-absolute-url=")[2].decode()
        page = get(script[0].decode(), visitor)
    elif div := EMBEDDED.search(page):  # ours; otherwise it is the app's own page
        app = urljoin(url, div[1].decode())
    if not (token := TOKEN.search(page)):
        raise WrongAnswer(f"{url} has no session: {page[:200]!r}")
    session = Session(app, token[0].decode(), deflate, visitor)
    session.pull(contains)
    return session
