"""The frames of a WebSocket (RFC 6455, 5.2), made and read by hand: as a browser would make them, or never would."""

from __future__ import annotations

import socket
import struct

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(
    payload: bytes,
    opcode: int = TEXT,
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    announced: int | None = None,
) -> bytes:
    """Return a frame: reserved is its three reserved bits, announced the length that it claims to have."""
    size = len(payload) if announced is None else announced
    if size < 126:
        length = struct.pack("!B", size | 0x80 * masked)
    elif size < 1 << 16:
        length = struct.pack("!BH", 126 | 0x80 * masked, size)
    else:
        length = struct.pack("!BQ", 127 | 0x80 * masked, size)
    return bytes([0x80 * final | reserved << 4 | opcode]) + length + bytes(4 * masked) + payload  # a mask of zeros


class Frames:
    """What comes from a WebSocket: iterate over (first byte, payload) of each frame until the connection ends."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._unread = b""

    def __iter__(self) -> Frames:
        return self

    def __next__(self) -> tuple[int, bytes]:
        """Return the next frame. Raises TimeoutError, after which one may go on."""
        try:
            size, start = self._peek(2)[1] & 127, 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(self._peek(start)[2:], "big")
            whole = self._peek(start + size)
        except (EOFError, ConnectionError):
            raise StopIteration from None
        self._unread = self._unread[len(whole) :]
        return whole[0], whole[start:]

    def _peek(self, count: int) -> bytes:
        while len(self._unread) < count:
            if not (more := self._client.recv(1 << 20)):
                raise EOFError
            self._unread += more
        return self._unread[:count]


def close_code(frames: Frames) -> int:
    """Wait until a WebSocket ends; return the code that it was closed with, 1006 for none."""
    for first, payload in frames:
        if first & 15 == CLOSE and len(payload) > 1:
            return int.from_bytes(payload[:2], "big")
    return 1006
