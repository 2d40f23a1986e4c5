"""Bokeh's WebSocket, with what one visitor may cost the others of a worker, and the document without a round trip."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from bokeh.protocol.message import Message
from bokeh.server.session import ServerSession
from bokeh.server.views.ws import WSHandler
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketProtocol, WebSocketProtocol13

from bokeh_dyno.bokeh import metrics
from bokeh_dyno.bokeh.frames import CHUNK, Frames
from bokeh_dyno.bokeh.gate import OFF, FullError, Gate
from bokeh_dyno.bokeh.limits import Limits
from bokeh_dyno.page import needs
from bokeh_dyno.shared.log import REQUEST_ID, SESSION, about
from bokeh_dyno.shared.visitor import network

FRAGMENT = 500  # bytes that a part of a message takes beside its content
PATIENCE = 20.0  # seconds for a message to arrive, and ...
SLOWEST = 50_000  # ... a further one for each of these bytes
NOTABLE = 50_000  # bytes that a message may add to this process without being counted
LIKELY = 10  # times its size is what a message may have added to this process, beside what others have meanwhile
UNREAD_SECONDS = 30.0  # that a visitor may leave what was sent unread
DOCUMENTS = 10  # that may be asked for at once on a connection, and then one a second
MISUNDERSTOOD = 10  # messages of a connection
# Close codes: 1013 is "try again later" of RFC 6455's registry; from 4000 on they are private, and bokeh_dyno/page/page.js shows
# the reason, a sentence, and does not try again
TRY_AGAIN, FINAL, POLICY, TOO_BIG = 1013, 4000, 1008, 1009
log = logging.getLogger(__name__)


class WebSocket(WSHandler):
    """Bokeh's WebSocket; with `?document=1` the document follows the ACK, without being asked for a round trip later.

    bokeh_dyno/page/connection.js has the other half. The ACK says which request is answered, in its metadata, which Bokeh leaves
    to others (bokeh/protocol/receiver.py), and the most bytes that a message may have: the page sends none that are larger.
    """

    # the worker's
    gate: Gate
    limits: Limits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._left = False
        self._is_counted = False  # as one that is open
        self._about = "", ""  # the request and the session, as the log calls them
        self._opened, self._messages = time.monotonic(), 0
        self._closed_with: int | None = None  # by us, and not by the visitor
        self._address = network(self.request.remote_ip or "")
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

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        protocol = super().get_websocket_protocol()
        return Frames(self, False, protocol.params) if isinstance(protocol, WebSocketProtocol13) else protocol

    def open(self) -> None:
        self._about = REQUEST_ID.get(), SESSION.get()
        super().open()

    async def _async_open(self, token: str) -> None:
        if not self._is_closed():
            self._is_counted = True
            metrics.websocket_opened()
        try:
            await self.gate.enter(self, token, of_page=True)
        except FullError as error:
            self.close(FINAL if str(error) == OFF else TRY_AGAIN, str(error))
            return
        if self._is_closed():
            return
        await super()._async_open(token)
        if self.session:
            self.gate.room.opened(self.session)

    def _is_closed(self) -> bool:
        return self.ws_connection is None  # the visitor may leave at any time

    @property
    def session(self) -> ServerSession | None:
        """The session that is shown; None before it is there and after the visitor has left."""
        return self.connection.session if self.connection and not self._left else None

    def on_close(self) -> None:
        self._left = True
        if self._is_counted:
            self._is_counted = False
            metrics.websocket_closed(self._closed_with or self.close_code)
        self._count(-self._held)
        self.limits.remove(self)
        # who has sent the first close frame; 1006 is RFC 6455's for none, a connection that has just ended
        who = "dyno" if self._closed_with else "visitor"
        with about(*self._about):
            log.info(
                "WebSocket closed: code=%s by=%s seconds=%.3f messages=%d",
                self._closed_with or self.close_code or 1006, who, time.monotonic() - self._opened, self._messages,
            )  # fmt: skip
            super().on_close()

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if self.close_code is None:
            self._closed_with = self._closed_with or code or 1000
        super().close(code, reason)

    def end(self, code: int, reason: str) -> None:
        """Close the connection at once, whatever is still to be sent or read."""
        with about(*self._about):
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

    async def _receive(self, fragment: str | bytes) -> Message | None:
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
                self._messages += 1
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

    async def _handle(self, message: Message) -> Any:
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
        self.gate.room.offended(self._address)
        self.end_session("This plot has ended: it took more memory or time than it may.")

    def _internal_error(self, message: str) -> None:
        self.end(1011, message)

    def _protocol_error(self, message: str) -> None:
        self.end(1002, "not understood")

    # --- what is sent ---

    async def write_message(  # type: ignore[override] # as Bokeh's is another than Tornado's
        self, message: bytes | str | dict[str, Any], binary: bool = False, locked: bool = True
    ) -> None:
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
            if self._is_closed():
                return
        if message.msgtype != "ACK" or "document" not in self.request.query_arguments:
            await super().send_message(message)
            return
        if self.connection is None:
            return
        request = self.connection.protocol.create("PULL-DOC-REQ")
        told = {"document": request.header["msgid"], "most": self.max_message_size}
        message.metadata = {**told, **await self._needs()}
        if self._is_closed():
            return
        await super().send_message(message)
        if self._is_closed() or self.handler is None:
            return
        if reply := await self.handler.handle(request, self.connection):  # from 3.10 on Bokeh sends it itself
            await super().send_message(reply)
