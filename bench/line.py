"""A slow line to whatever the browser asks for: a SOCKS proxy (RFC 1928) that delays and paces what it carries.

The browser's own emulation of a slow network delays neither connections nor what a WebSocket carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

ROUND_TRIP = 0.08  # seconds
BYTES_PER_SECOND = 10e6 / 8  # each way
CHUNK = 4096  # bytes; the line's connections take turns after so many


class Direction:
    """One of the two ways of the line, which all connections share."""

    def __init__(self) -> None:
        self._free = 0.0  # when what is on it already has been sent
        self.bytes = 0  # carried so far from or to this machine: of what is measured, not of what the browser asks for

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, counted: bool) -> None:
        """Hand on what comes from source, at the pace of the line and half a round trip later, until its end."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await source.read(CHUNK):
                self._free = max(self._free, loop.time()) + len(data) / BYTES_PER_SECOND
                await asyncio.sleep(self._free - loop.time())
                self.bytes += counted * len(data)
                loop.call_later(ROUND_TRIP / 2, target.write, data)
        loop.call_later(ROUND_TRIP / 2, target.close)


@contextlib.contextmanager
def slow_line() -> Iterator[tuple[str, Direction]]:
    """Run the proxy in a thread; yield its URL and the way down, to the browser."""
    loop, up, down = asyncio.new_event_loop(), Direction(), Direction()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")  # no password
        *_, length = await reader.readexactly(5)  # Chromium sends even an address as a name
        host, port = (await reader.readexactly(length)).decode(), int.from_bytes(await reader.readexactly(2), "big")
        await asyncio.sleep(ROUND_TRIP)  # TCP's own before anything is sent
        try:
            server_reader, server_writer = await asyncio.open_connection(host, port)
        except OSError:  # the browser asks its maker, too
            writer.close()
            return
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        counted = host == "127.0.0.1"
        await asyncio.gather(up.carry(reader, server_writer, counted), down.carry(server_reader, writer, counted))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}", down
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
