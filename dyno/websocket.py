"""Bokeh's WebSocket, with what one visitor may cost the others of a worker, and the document without a round trip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections import Counter
from collections.abc import Mapping

from bokeh.protocol.message import Message
from bokeh.server.session import ServerSession
from bokeh.server.views.ws import WSHandler
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketProtocol13

from dyno import needs
from dyno.faults import Faults
from dyno.gate import OFF, FullError
from dyno.reading import Budget, Memory

CHUNK = 65536  # bytes of a message that are read at a time
INCOMPRESSIBLE = 200  # bytes of a frame
FRAGMENT = 500  # bytes that a part of a message takes beside its content
PATIENCE = 20.0  # seconds for a message to arrive, and ...
SLOWEST = 50_000  # ... a further one for each of these bytes
NOTABLE = 50_000  # bytes that a message may add to this process without being counted
LIKELY = 10  # times its size is what a message may have added to this process, beside what others have meanwhile
GOODBYE = 0.5  # seconds for a close frame to arrive
UNREAD_SECONDS = 30.0  # that a visitor may leave what was sent unread
DOCUMENTS = 10  # that may be asked for at once on a connection, and then one a second
MISUNDERSTOOD = 10  # messages of a connection
# Close codes: 1013 is "try again later" of RFC 6455's registry; from 4000 on they are private, and dyno/page.js shows
# the reason, a sentence, and does not try again
TRY_AGAIN, FINAL, POLICY, TOO_BIG = 1013, 4000, 1008, 1009
log = logging.getLogger(__name__)


class Limits:
    """What the WebSockets of a worker share."""

    def __init__(self, values: Mapping[str, object], max_message_size: int, faults: Faults) -> None:
        """Take what is allowed from the settings; max_message_size is in bytes."""
        self.values = values
        self.memory = Memory()
        self._at_first = self.memory.resident()
        self._message_memory = int(values["BOKEH_MESSAGE_MEMORY"]) * 1_000_000
        seconds = float(values["BOKEH_MESSAGE_SECONDS"])
        self.budget = Budget(self.memory, max_message_size, self._message_memory, seconds, faults)
        self.budget.protect()
        # bytes that the messages of a session have added to this process, and the visitor's address
        self._grown: weakref.WeakKeyDictionary[ServerSession, tuple[int, str]] = weakref.WeakKeyDictionary()
        self._most = int(values["BOKEH_UNFINISHED_MEMORY"]) * 1_000_000
        self._held: Counter[str] = Counter()  # bytes of unfinished messages, by address, and ...
        self._held_of_all = 0
        self._open: weakref.WeakSet[WebSocket] = weakref.WeakSet()
        self._freed = 0  # bytes, since memory was given back

    def add(self, websocket: WebSocket) -> None:
        """Look after a WebSocket from now on."""
        self._open.add(websocket)

    def remove(self, websocket: WebSocket) -> None:
        """Look after a WebSocket no more."""
        self._open.discard(websocket)

    def hold(self, address: str, more: int) -> bool:
        """Count `more` bytes of a visitor's unfinished messages (or less); return whether that is still allowed."""
        self._held[address] += more
        self._held_of_all += more
        self._freed -= min(more, 0)
        allowed = self._held_of_all <= self._most and self._held[address] <= self._most // 2
        if not self._held[address]:
            del self._held[address]
        return allowed

    def grow(self, session: ServerSession, address: str, more: int) -> bool:
        """Count what a message has added to this process; return whether all of its visitor's may be that much."""
        before, _ = self._grown.get(session, (0, ""))
        self._grown[session] = max(0, before + more), address
        total = sum(
            grown
            for one, (grown, other) in self._grown.items()
            if other == address and not (one.destroyed or one.expiration_requested)
        )
        if not 0 < self._message_memory < total:
            return True
        self.memory.give_back()  # it may be free again, which nobody has counted
        return self.memory.resident() < self._at_first + self._message_memory

    def of_session(self, session: ServerSession) -> list[WebSocket]:
        """Return the WebSockets that a session has."""
        return [one for one in self._open if one.session is session]

    def every_second(self) -> None:
        """Close the WebSockets whose visitor is too slow; give back the memory that is free."""
        self.budget.end()  # nothing is being read now
        for websocket in list(self._open):
            websocket.check_time()
        if self._freed > 4_000_000:
            self._freed = 0
            self.memory.give_back()


class _Protocol(WebSocketProtocol13):
    """Counts what arrives, for a message may have 20 MB and never end; small frames only when they are parts of one.

    What it sends in one turn of the loop goes out as one packet: the three frames of a message, and two for each array.
    """

    handler: WebSocket
    _ending: object = None

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self._gathered = bytearray()
        self._taken: asyncio.Future[None] = asyncio.Future()
        self._taken.set_result(None)

    def write_message(self, message: str | bytes, binary: bool = False) -> asyncio.Future[None]:
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
        stream, self.stream = self.stream, self  # what makes the frame gives it to `write`
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
        data = bytearray()
        while len(data) < n:
            part = await self.stream.read_bytes(min(n - len(data), CHUNK), partial=True)
            self.handler.hold(len(part))
            data += part
        self._wire_bytes_in += n
        return bytes(data)

    async def _receive_frame(self) -> None:
        before = self._wire_bytes_in
        await super()._receive_frame()
        if self._fragmented_message_buffer is None:
            self.handler.settle()
            self.handler.account()
        elif (size := self._wire_bytes_in - before) <= CHUNK:
            self.handler.hold(size)


class WebSocket(WSHandler):
    """Bokeh's WebSocket; with `?document=1` the document follows the ACK, without being asked for a round trip later.

    dyno/page.js has the other half. The ACK says which request is answered, in its metadata, which Bokeh leaves to others
    (bokeh/protocol/receiver.py), and the most bytes that a message may have: the page sends none that are larger.
    """

    limits: Limits  # the worker's

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self._left = False
        self._address = self.request.remote_ip
        self._began: float | None = None  # when the message that is arriving did
        self._held = 0  # bytes of it, as they are now
        self._size = 0  # bytes of its parts that are whole
        self._large: tuple[int, int] | None = (
            None  # of one that has been read: its bytes, and those of this process before
        )
        self._sending: float | None = None  # when what is being sent began
        self._documents, self._last_document = float(DOCUMENTS), time.monotonic()
        self._misunderstood = 0
        self.limits.add(self)

    def get_websocket_protocol(self):
        protocol = super().get_websocket_protocol()
        return protocol and _Protocol(self, False, protocol.params)

    async def _async_open(self, token: str) -> None:
        gate = self.application.auth_provider
        try:
            await gate.enter(self, token, of_page=True)
        except FullError as error:
            self.close(FINAL if str(error) == OFF else TRY_AGAIN, str(error))
            return
        if self.ws_connection is None:  # the visitor has left already
            return
        await super()._async_open(token)
        if self.session:
            gate.room.opened(self.session)

    @property
    def session(self) -> ServerSession | None:
        """The session that is shown; None before it is there and after the visitor has left."""
        return self.connection.session if self.connection and not self._left else None

    def on_close(self) -> None:
        self._left = True
        self._count(-self._held)
        self.limits.remove(self)
        super().on_close()

    def end(self, code: int, reason: str) -> None:
        """Close the connection at once, whatever is still to be sent or read."""
        log.warning("WebSocket closed: %s", reason)
        connection = self.ws_connection
        self.close(code, reason)
        if connection:
            connection._abort()

    def end_session(self, reason: str) -> None:
        """Let the session go, with all that it holds; the pages that show it say why, a sentence."""
        if session := self.session:
            session.request_expiration()
            for websocket in self.limits.of_session(session):
                websocket.end(FINAL, reason)

    # --- a message that arrives ---

    def _count(self, more: int) -> bool:
        self._held += more
        return self.limits.hold(self._address, more)

    def began(self) -> None:
        """Note that a message has begun to arrive, if none had."""
        if self._began is None:
            self._began = time.monotonic()

    def hold(self, more: int) -> None:
        """Count bytes that have arrived. Raises StreamClosedError when that is more than may be unfinished."""
        self.began()
        if not self._count(more):
            self.end(TRY_AGAIN, "Too much is on its way here at the moment.")
            raise StreamClosedError()

    def settle(self) -> None:
        """Forget what was held, unless parts of a message are missing."""
        if self._size == 0:
            self._began = None
            if self._held:
                self._count(-self._held)

    def check_time(self) -> None:
        """End the connection when a message takes too long, to arrive or to be read."""
        now = time.monotonic()
        if self._began and now - self._began > PATIENCE + self._held / SLOWEST:
            self.end(POLICY, "a message has not ended")
        elif self._sending and now - self._sending > UNREAD_SECONDS:
            self.end(POLICY, "what was sent is not read")

    async def _receive(self, fragment: str | bytes):
        self._size += len(fragment) + FRAGMENT
        if self.receiver is None:
            self.end(POLICY, "a message before the session is there")
        elif self._size > self.max_message_size:
            self.end(TOO_BIG, "the parts of a message are too large together")
        elif not self._count(self._size - self._held):
            self.end(TRY_AGAIN, "Too much is on its way here at the moment.")
        else:
            if len(fragment) <= CHUNK:
                message = await super()._receive(fragment)
            else:
                # without the fragment itself, as text and as bytes, which goes when it has been read
                before = self.limits.memory.resident() - 2 * len(fragment)
                self._large = self._size, min(before, self._large[1]) if self._large else before
                with self.limits.budget.spent():
                    message = await super()._receive(fragment)
            if message:
                self._size = 0
                self.settle()
            return message
        return None

    def account(self) -> None:
        """Count what the message that has been read, if one has, added to this process."""
        if self._size or not (session := self.session):
            return
        more = self.limits.budget.added.pop(session.document, 0)
        if self._large:
            size, before = self._large
            self._large = None
            more = max(more, min(self.limits.memory.resident() - before, LIKELY * size))
        if abs(more) > NOTABLE and not self.limits.grow(session, self._address, more):
            self._too_much("memory (BOKEH_MESSAGE_MEMORY)")

    async def _handle(self, message: Message):
        if message.msgtype in ("PULL-DOC-REQ", "PUSH-DOC"):
            now = time.monotonic()
            self._documents = min(DOCUMENTS, self._documents + now - self._last_document) - 1
            self._last_document = now
            if self._documents < 0:
                self.end(POLICY, "too many documents")
                return None
        if session := self.session:
            self.limits.budget.expect(session.document, message.content_json)
        return await super()._handle(message)

    async def _needs(self) -> dict[str, object]:
        """Return what the page has to load for this document, when some of its models are not Bokeh's own."""
        document = self.session.document if self.session else None
        if document is None or not needs.has_own(document):
            return {}
        try:
            found = await asyncio.to_thread(
                needs.of, self.limits.values, document
            )  # it may compile, which takes seconds
        except Exception:
            log.exception("what a document needs cannot be told")
            self.end_session(OFF)
            return {}
        return found._asdict()

    def _too_much(self, what: str) -> None:
        log.error("A message has taken too much %s: its session ends", what)
        self.application.auth_provider.room.offended(self._address)
        self.end_session("This plot has ended: it took more memory or time than it may.")

    def _internal_error(self, message: str) -> None:
        self.end(1011, message)

    def _protocol_error(self, message: str) -> None:
        self.end(1002, "not understood")

    # --- what is sent ---

    async def write_message(self, message, binary: bool = False, locked: bool = True) -> None:
        self._sending = self._sending or time.monotonic()
        try:
            await super().write_message(message, binary, locked)
        finally:
            self._sending = None

    async def send_message(self, message: Message) -> None:
        if message.msgtype == "ERROR":
            what = message.content["text"]
            of_app = self.session is not None and self.limits.budget.failed(self.session.document)
            # the log has more, which is not the visitor's
            message.content = {"text": "the app has failed" if of_app else "not understood", "traceback": None}
            self._misunderstood += not of_app
            if "MemoryError(" in what[:30]:
                self._too_much("memory (BOKEH_MESSAGE_MEMORY)")
            elif "CostlyError(" in what[:30]:
                self._too_much("time (BOKEH_MESSAGE_SECONDS)")
            elif self._misunderstood > MISUNDERSTOOD:
                self.end(POLICY, "not understood")
            if self.ws_connection is None:
                return
        if message.msgtype != "ACK" or "document" not in self.request.query_arguments:
            await super().send_message(message)
            return
        request = self.connection.protocol.create("PULL-DOC-REQ")
        told = {"document": request.header["msgid"], "most": self.max_message_size}
        message.metadata = {**told, **await self._needs()}
        if self.ws_connection is None:
            return
        await super().send_message(message)
        if self.ws_connection is None:  # the visitor has left already
            return
        if reply := await self.handler.handle(request, self.connection):  # from 3.10 on Bokeh sends it itself
            await super().send_message(reply)
