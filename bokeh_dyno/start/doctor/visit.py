"""A site asked as a visitor's browser asks: a page, the WebSocket of a session."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import IO, NamedTuple
from urllib.parse import urlsplit

SECONDS = 10.0  # for each part of an answer
MAX_BYTES = 4_000_000  # of an answer, that are looked at
TEXT, BINARY, CLOSE, PONG = 1, 2, 8, 10  # WebSocket frames
PING_FRAME, CLOSE_FRAME = b"\x89\x80\0\0\0\0", b"\x88\x82\0\0\0\0\x03\xe8"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
FULL = (
    "wait, or raise BOKEH_MAX_SESSIONS, BOKEH_MAX_STARTS or VISITOR_SESSIONS; for everybody at once, name the router in "
    "FORWARDED_ALLOW_IPS"
)


class Answer(NamedTuple):
    """An HTTP response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    text: str


class Opened(NamedTuple):
    """What became of a WebSocket: the status of the answer, its text, and in 101's case why it is no good, "" when it is."""

    status: int
    text: str
    fault: str = ""


class Site:
    """An address that is asked. Whatever goes wrong is an OSError."""

    def __init__(self, url: str, at: tuple[str, int] | None = None) -> None:
        """Take an address, with a path that may be that of a page, and where it listens if the name does not say that.

        A name and a password in it are used, and not shown. Raises ValueError when it is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or re.search(r"\s", url):
            raise ValueError
        self.is_https = parts.scheme == "https"
        self.host = parts.netloc.rpartition("@")[2]
        self.name = f"{parts.scheme}://{self.host}"
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.is_local = at is not None
        # what is to pass on what is sent
        self.between = "config/nginx.conf.erb" if at else "the router"
        self.headers = {"Host": self.host, "User-Agent": "bokeh-dyno doctor", "Accept": "*/*"}
        if at:
            self.headers["X-Forwarded-Proto"] = "https"  # as a router says it, or FORCE_HTTPS would redirect
        if parts.username is not None:
            login = f"{parts.username}:{parts.password or ''}".encode()
            self.headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._hostname = parts.hostname
        self._at = at or (parts.hostname, parts.port or (443 if self.is_https else 80))

    @contextlib.contextmanager
    def request(self, path: str, **more: str) -> Iterator[tuple[http.client.HTTPResponse, socket.socket]]:
        """GET a path; the names of further headers are given with `_` for `-`."""
        headers = {**self.headers, **{name.replace("_", "-"): text for name, text in more.items()}}
        headers.setdefault("Connection", "close")
        head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        with socket.create_connection(self._at, SECONDS) as plain, self._secure(plain) as client:
            client.sendall(f"{head}\r\n".encode())
            try:
                with contextlib.closing(http.client.HTTPResponse(client, method="GET")) as response:
                    response.begin()
                    yield response, client
            except http.client.HTTPException as error:
                raise ConnectionResetError("the connection has ended before an answer") from error

    def _secure(self, plain: socket.socket) -> socket.socket:
        if not self.is_https:
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=self._hostname)

    def get(self, path: str) -> Answer:
        """GET a path."""
        with self.request(path) as (response, _):
            headers = {name.lower(): text for name, text in response.getheaders()}
            return Answer(response.status, headers, response.read(MAX_BYTES).decode(errors="replace"))

    def open(self, path: str, token: str, *, origin: bool = True) -> Opened:
        """Open the WebSocket of a session as its page does, have a ping answered, and close it."""
        key = base64.b64encode(os.urandom(16)).decode()
        more = {"Origin": self.name} if origin else {}
        if self.is_https:
            more["Sec_Fetch_Mode"] = "websocket"
        with self.request(
            f"{path}/ws",
            Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="13", Sec_WebSocket_Key=key,
            Sec_WebSocket_Protocol=f"bokeh, {token}", **more,
        ) as (response, client):  # fmt: skip
            if response.status != 101:
                return Opened(response.status, response.read(MAX_BYTES).decode(errors="replace"))
            if response.getheader("Sec-WebSocket-Accept") != accept(key):
                return Opened(101, "", "what is answered is not an answer to this request: is there a cache?")
            fault = _fault(client, response.fp, self.between)
            with contextlib.suppress(OSError):  # it has ended
                client.sendall(CLOSE_FRAME)
            return Opened(101, "", fault)


def accept(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(f"{key}{GUID}".encode()).digest()).decode()


def _fault(client: socket.socket, stream: IO[bytes], between: str) -> str:
    """Send a ping, wait for the session's first message and for the answer; return what is wrong, "" when nothing is."""
    wanted = {TEXT, PONG}
    try:
        client.sendall(PING_FRAME)
        while wanted:
            opcode, payload = _frame(stream)
            if opcode == CLOSE:
                code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")
                what = f"it was closed with {code or 'no code'}" + f" ({reason})" * bool(reason)
                return f"{what}: {FULL}" if code == 1013 else f"{what}: the dyno's log says why"
            wanted.discard(opcode)
    except TimeoutError:
        return f"nothing arrives in {SECONDS:.0f} s: does {between} hold answers back (buffering), or is the app busy?"
    except OSError:
        return (
            f"it was cut off: does {between} end connections that it does not understand, or has a worker ended (log)?"
        )
    return ""


def _frame(stream: IO[bytes]) -> tuple[int, bytes]:
    """Return opcode and payload of the next frame. Raises OSError at the end of the connection."""
    head = stream.read(2)
    if len(head) < 2:
        raise ConnectionResetError
    length = head[1] & 127
    if length > 125:
        length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
    if length > MAX_BYTES:
        raise ConnectionResetError
    payload = stream.read(length)
    if len(payload) < length:
        raise ConnectionResetError
    return head[0] & 15, payload


def why(error: OSError) -> str:
    """Return what an error says of the way to the site, in words, and what to do."""
    if isinstance(error, socket.gaierror):
        return "its name is not known in the DNS: is it right, is the DNS entry there?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good ({error.verify_message}): renew it, or ask for the host that it is for"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS there: does the router have a certificate? Or is it http://?"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there: does the dyno, or its router, run, and on that port?"
    if isinstance(error, TimeoutError):
        return f"nothing within {SECONDS:.0f} s: a firewall, or a router that has no dyno to ask?"
    if isinstance(error, ConnectionError):
        return "the connection was cut off: what listens there is no site, or has just ended"
    return error.strerror or type(error).__name__
