"""The run of an app before anybody opens it: no visitor waits for its imports, and what it needs of BokehJS is known."""

from __future__ import annotations

import asyncio
from typing import Any

from bokeh.application import Application
from bokeh.embed.server import server_html_page_for_session
from bokeh.resources import Resources
from bokeh.server.contexts import ApplicationContext
from bokeh.server.session import ServerSession
from bokeh.util.token import get_session_id
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.ioloop import IOLoop

from bokeh_dyno.bokeh import height
from bokeh_dyno.page import needs
from bokeh_dyno.shared import tokens
from bokeh_dyno.shared.settings import Settings

TRIES = 10  # to end a session whose callbacks add others


async def run(application: Application, name: str, values: Settings, *, is_loaded: bool = False) -> None:
    """Make a session of app `name`, its page, what its pages need, and let the session go. Raises whatever goes wrong.

    is_loaded: the application knows already that a server has loaded it.
    """
    loop: Any = IOLoop.current()  # Bokeh 3.10 says that it takes asyncio's, and takes Tornado's, too
    context = ApplicationContext(application, io_loop=loop, url=f"/{name}")
    if not is_loaded:
        application.on_server_loaded(context.server_context)
    token = tokens.mint(60)
    start_line = RequestStartLine("GET", f"/{name}", "HTTP/1.1")
    headers = HTTPHeaders({"Host": "localhost"})
    request = HTTPServerRequest(start_line=start_line, headers=headers, connection=_NoConnection())
    session = await context.create_session_if_needed(get_session_id(token), request, token)
    try:
        document = session.document
        found = await asyncio.to_thread(needs.of, values, document)  # it may compile, which takes seconds
        document.to_json()
        # its own page, whose template may fail
        server_html_page_for_session(session, Resources("server"), name, document.template, document.template_variables)
        if not any(handler.failed for handler in application.handlers):
            needs.save(values.run_dir, name, found._replace(height=height.of(document)))
    finally:
        await _let_go(context, session)


async def _let_go(context: ApplicationContext, session: ServerSession) -> None:
    """End a session. Bokeh keeps one in which a callback is waiting, and in a worker that would be called for ever."""
    for _ in range(TRIES):
        for callback in session.document.session_callbacks:
            session.document.callbacks.remove_session_callback(callback)
        if not session.expiration_blocked:
            break
        await session.with_document_locked(_nothing)  # after those that were called before
    await context._discard_session(session, lambda _: True)


async def _nothing() -> None:
    """Do nothing."""


class _NoConnection(HTTPConnection):
    context = None
