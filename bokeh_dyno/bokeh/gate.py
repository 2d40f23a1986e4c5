"""Who is let in to a worker's sessions: whoever has a valid token, as long as there is room."""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from bokeh.server.auth_provider import AuthProvider
from bokeh.server.contexts import ApplicationContext, BokehSessionContext
from bokeh.server.session import ServerSession
from bokeh.server.views.metadata_handler import MetadataHandler
from bokeh.server.views.session_handler import SessionHandler
from bokeh.server.views.ws import WSHandler
from bokeh.util.token import get_session_id
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from bokeh_dyno.bokeh import metrics
from bokeh_dyno.bokeh.faults import Faults
from bokeh_dyno.shared import log, tokens
from bokeh_dyno.shared.settings import Settings
from bokeh_dyno.shared.visitor import network

OPENING_SECONDS = 1.0  # from the WebSocket to the document
UNOPENED_SECONDS = 20.0  # from an app's own page to its WebSocket
OFFENCES, OFFENCE_SECONDS = 3, 60.0  # messages that cost too much, for which a visitor has to wait
OFF = "This plot cannot be shown at the moment: its app has failed."
FULL = "There are too many open plots here at the moment."


# what is being answered, for the template of an app's own page (own_page.py)
answering: ContextVar[RequestHandler | None] = ContextVar("answering", default=None)


class FullError(Exception):
    """No further session is started now; the message is a sentence for the visitor, the reason one of numbers.REFUSED."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Room:
    """How many sessions a worker has, and starts: those of BOKEH_MAX_SESSIONS and the like.

    Starting one takes a worker all of its time. So they are started one after the other, with a turn for everything else
    between two of them, and those of a page of the site before those of the apps' own pages.
    """

    def __init__(self, values: Settings, lifetime: int) -> None:
        """Take the settings, and the milliseconds for which Bokeh keeps a session that nobody is connected to."""
        self._lifetime = lifetime
        self._max_sessions = values.bokeh_max_sessions
        self._max_of_visitor = values.visitor_sessions
        self._max_starts = values.bokeh_max_starts
        self._waiting: dict[bool, deque[tuple[str, asyncio.Future]]] = {True: deque(), False: deque()}  # by of_page
        self._busy = False
        self._offences: dict[str, deque[float]] = {}  # when, by address
        self._addresses: weakref.WeakKeyDictionary[ServerSession, str] = weakref.WeakKeyDictionary()
        self._opened: weakref.WeakSet[ServerSession] = weakref.WeakSet()

    async def enter(self, contexts: Mapping[str, ApplicationContext], address: str, of_page: bool) -> None:
        """Return when a session may be started for the visitor of a `network`. Raises FullError when there are too many.

        Before that, those go that only wait for a page that was lost, the oldest first.
        """
        now = time.monotonic()
        if sum(now - past < OFFENCE_SECONDS for past in self._offences.get(address, ())) >= OFFENCES:
            raise FullError(FULL, "offences")
        sessions = [
            session for context in contexts.values() for session in context.sessions if not session.expiration_requested
        ]
        self._make_room(
            [session for session in sessions if self._address(session) == address], self._max_of_visitor, "visitor"
        )
        self._make_room(sessions, self._max_sessions, "full")
        waiting = self._waiting[of_page]
        same = sum(other == address for other, _ in waiting)
        if len(waiting) >= self._max_starts or same >= max(1, self._max_starts // 4):
            raise FullError(FULL, "starts")
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        waiting.append((address, turn))
        if not self._busy:
            self._next()
        await turn

    def offended(self, address: str) -> None:
        """Note that a message of a visitor has cost too much: after some of them, nothing is started for that address."""
        self._offences.setdefault(address, deque(maxlen=OFFENCES)).append(time.monotonic())

    def _make_room(self, sessions: list[ServerSession], most: int, reason: str) -> None:
        if len(sessions) < most:
            return
        left = [session for session in sessions if session in self._opened and session.connection_count == 0]
        if not left:
            raise FullError(FULL, reason)
        max(left, key=lambda session: session.milliseconds_since_last_unsubscribe).request_expiration()

    def _next(self) -> None:
        waiting = self._waiting[True] or self._waiting[False]
        self._busy = bool(waiting)
        if waiting:
            _, turn = waiting.popleft()
            if not turn.done():  # the visitor may have left
                turn.set_result(None)
            asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(self._next))

    def opened(self, session: ServerSession) -> None:
        """Note that a WebSocket has opened the session, which from now on is kept for a visitor who is gone."""
        self._opened.add(session)

    def clear(self, sessions: Iterable[ServerSession]) -> None:
        """Let those sessions go that no WebSocket has opened in time; Bokeh does it when it looks for unused ones.

        But never while a callback of theirs is waiting, as one that is called more often than it can run always is: of a
        session that nobody is coming back to, those are called no more.
        """
        for session in sessions:
            if session.connection_count:
                continue
            age = session.milliseconds_since_last_unsubscribe
            if session not in self._opened and age > 1000 * UNOPENED_SECONDS:
                session.request_expiration()
            if session.expiration_blocked and (session.expiration_requested or age > self._lifetime):
                for callback in session.document.session_callbacks:
                    session.document.callbacks.remove_session_callback(callback)
        past = time.monotonic() - OFFENCE_SECONDS
        self._offences = {address: times for address, times in self._offences.items() if times[-1] > past}

    def _address(self, session: ServerSession) -> str:
        if session not in self._addresses:
            context = session.document.session_context
            request = context.request if isinstance(context, BokehSessionContext) else None
            self._addresses[session] = network(request.remote_ip or "") if request else ""
        return self._addresses[session]


def _refused(reason: str, error: HTTPError) -> HTTPError:
    """Return `error` for whoever is refused for a reason of numbers.REFUSED, which is counted."""
    metrics.refused(reason)
    return error


class Gate(AuthProvider):
    """Lets only sessions with a valid token in, before anything is done for them; then asks the site's auth module.

    Bokeh itself answers a token that is none with 500, and checks that of a WebSocket only after it was accepted.
    """

    def __init__(self, inner: AuthProvider, room: Room, faults: Faults) -> None:
        self._inner: Any = inner  # its functions take a handler, where Bokeh's annotations say a request
        self.room = room
        self._faults = faults
        self.websockets: weakref.WeakKeyDictionary[WebSocketHandler, float] = weakref.WeakKeyDictionary()
        self._closing = False
        self.is_ready = False  # for /healthz and the start script, which ask for metadata; who comes before that waits
        super().__init__()

    login_url = property(lambda self: self._inner.login_url or (None if self._inner.get_login_url else "/"))
    get_login_url = property(lambda self: self._inner.get_login_url)
    login_handler = property(lambda self: self._inner.login_handler)
    logout_url = property(lambda self: self._inner.logout_url)
    logout_handler = property(lambda self: self._inner.logout_handler)
    get_user = None

    async def get_user_async(self, handler: RequestHandler) -> Any:  # type: ignore[override] # see _inner
        """Return the user, as Bokeh's auth hooks do.

        Raises HTTPError: 403 for a token that we did not sign for this app, 429 when a page would be one session too many,
        503 when its app is off. A WebSocket is told that once it is open: a browser does not say why one was refused.
        """
        log.begin(handler.request.headers.get("X-Request-Id"))
        answering.set(handler)
        if isinstance(handler, MetadataHandler) and not self.is_ready:
            raise HTTPError(503)  # without a message, which would be logged: the start script asks again and again
        context = getattr(handler, "application_context", None)  # of the app that is asked for
        app = context.url.strip("/") if context else ""
        if isinstance(handler, WebSocketHandler):
            protocols = handler.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
            if len(protocols) != 2 or protocols[0].strip() != "bokeh" or not tokens.is_valid(protocols[1].strip(), app):
                raise _refused("token", HTTPError(403, "no valid session token"))
            log.SESSION.set(log.short(get_session_id(protocols[1].strip())))
            user = await self._user(handler)
            if not user:  # Bokeh would redirect, once it is open
                raise _refused("user", HTTPError(403, "a WebSocket of somebody who is not logged in"))
            self.websockets[handler] = asyncio.get_running_loop().time()
            if self._closing:  # nginx had it already when it closed the port
                self._close(handler)
            return user
        token = handler.get_argument("bokeh-token", None)
        if token is not None and not tokens.is_valid(token, app):
            raise _refused("token", HTTPError(403, "no valid session token"))
        log.SESSION.set(log.short(get_session_id(token)) if token else "")
        opens = handler if isinstance(handler, SessionHandler) and not isinstance(handler, MetadataHandler) else None
        if opens:
            self._only_token(opens, token)
        user = await self._user(handler)
        if user and token is not None and opens and opens.request.method == "GET":
            try:
                await self.enter(opens, token, of_page=False)
            except FullError as error:
                raise HTTPError(503 if str(error) == OFF else 429, str(error)) from error
        return user

    async def _user(self, handler: RequestHandler) -> Any:
        """Ask the site's auth module, when there is one."""
        if self._inner.get_user_async:
            return await self._inner.get_user_async(handler)
        return self._inner.get_user(handler) if self._inner.get_user else "visitor"

    @staticmethod
    def _only_token(handler: RequestHandler, token: str | None) -> None:
        """Leave of a request what its token says: Flask has made that of the session id, if there was one.

        The token itself is not in the address any more, which Bokeh, or the auth module, gives to the login page.
        """
        request = handler.request
        by_id = request.headers.pop("Bokeh-Session-Id", None) or request.arguments.pop("bokeh-session-id", None)
        if by_id and token is None:
            raise _refused("token", HTTPError(403, "a session id without a token"))
        request.uri = re.sub(r"(?<=[?&])bokeh-token=[^&]*&?", "", request.uri).rstrip("?&")

    async def enter(self, handler: SessionHandler | WSHandler, token: str, of_page: bool) -> None:
        """Return when the session of `token` is there or may be started. Raises FullError when it may not."""
        context = handler.application_context
        session_id = get_session_id(token)
        try:
            if self._faults.is_off((context.url or "").strip("/")):
                raise FullError(OFF, "off")
            if any(session.id == session_id for session in context.sessions):
                return
            server: Any = handler.application  # a BokehTornado, which Bokeh 3.9 does not say
            await self.room.enter(server.applications, network(handler.request.remote_ip or ""), of_page)
        except FullError as error:
            metrics.refused(error.reason)
            raise
        metrics.session_opened(again="again" in handler.request.query_arguments)

    def close_websockets(self) -> None:
        """Tell every open page that the service restarts (1012, RFC 6455's registry), and those that still come."""
        self._closing = True
        for handler in list(self.websockets):
            self._close(handler)

    def _close(self, handler: WebSocketHandler) -> None:
        # a page that has just opened gets its document first: it has nothing to show yet
        when = self.websockets[handler] + OPENING_SECONDS
        asyncio.get_running_loop().call_at(when, handler.close, 1012, "service restart")
