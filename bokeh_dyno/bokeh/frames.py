"""The frames of a WebSocket: counted as they arrive, and sent as few packets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketProtocol13

if TYPE_CHECKING:
    from bokeh_dyno.bokeh.websocket import WebSocket

CHUNK = 65536  # bytes of a message that are read at a time
INCOMPRESSIBLE = 200  # bytes of a frame
GOODBYE = 0.5  # seconds for a close frame to arrive


class Frames(WebSocketProtocol13):
    """Counts what arrives, for a message may have 20 MB and never end; small frames only when they are parts of one.

    What it sends in one turn of the loop goes out as one packet: the three frames of a message, and two for each array.
    """

    handler: WebSocket
    _ending: object = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._gathered = bytearray()
        self._taken: asyncio.Future[None] = asyncio.Future()
        self._taken.set_result(None)

    def write_message(self, message: str | bytes | dict[str, Any], binary: bool = False) -> asyncio.Future[None]:
        """Send a frame, compressed if that is worth its CPU."""
        compressor = self._compressor
        if len(message) < INCOMPRESSIBLE:
            self._compressor = None
        try:
            return super().write_message(message, binary)
        finally:
            self._compressor = compressor

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> asyncio.Future[None]:
        if self.stream.writing() or len(data) > CHUNK:  # who does not read is waited for
            self._send_gathered()
            return super()._write_frame(fin, opcode, data, flags)
        stream = self.stream
        self.stream = self  # type: ignore[assignment] # what makes the frame gives it to `write`
        try:
            return super()._write_frame(fin, opcode, data, flags)
        finally:
            self.stream = stream

    def write(self, frame: bytes) -> asyncio.Future[None]:
        """Gather a frame, and send what is gathered once the loop has nothing else to do in this turn."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send_gathered)
        self._gathered += frame
        return self._taken

    def _send_gathered(self) -> None:
        frames, self._gathered = bytes(self._gathered), bytearray()
        if frames:
            with contextlib.suppress(StreamClosedError):
                self.stream.write(frames)

    def _abort(self) -> None:
        """End the connection; when a close frame has just been sent, once that has had the time to arrive."""
        self._send_gathered()
        if self._ending is None and self.server_terminated and not self.stream.closed():
            self.client_terminated = True  # nothing more is read
            self._ending = self.stream.io_loop.call_later(GOODBYE, super()._abort)
        elif self._ending is None:
            super()._abort()

    async def _read_bytes(self, n: int) -> bytes:
        if n <= CHUNK:
            data = await super()._read_bytes(n)
            self.handler.began()
            return data
        whole = bytearray()
        while len(whole) < n:
            part = await self.stream.read_bytes(min(n - len(whole), CHUNK), partial=True)
            self.handler.hold(len(part))
            whole += part
        self._wire_bytes_in += n
        return bytes(whole)

    async def _receive_frame(self) -> None:
        before = self._wire_bytes_in
        await super()._receive_frame()
        if self._fragmented_message_buffer is None:
            self.handler.settle()
            self.handler.account()
        elif (size := self._wire_bytes_in - before) <= CHUNK:
            self.handler.hold(size)
