"""A worker of the Bokeh server: `bokeh serve` on a unix socket, through the hooks that it has, and what those lack."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Mapping

from bokeh.application import Application
from bokeh.command.subcommands.serve import Serve
from bokeh.document import document as bokeh_document
from bokeh.document.modules import DocumentModuleManager
from bokeh.server.auth_provider import AuthProvider
from bokeh.server.server import Server
from bokeh.server.urls import per_app_patterns
from bokeh.server.views.ws import WSHandler
from tornado.ioloop import PeriodicCallback
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from dyno import apps, health, settings, tokens
from dyno.log import Discreet
from dyno.master import BokehError

COLLECT_SECONDS = 10.0  # between two collections of what ended sessions leave: 0.1 s of a worker's time, and more
OPENING_SECONDS = 1.0  # from the WebSocket to the document
# options of `bokeh serve` that are not the Procfile's: nginx relies on some, the others are for a server without it
OURS = ("unix_socket", "prefix", "port", "address", "ssl_certfile", "ssl_keyfile", "num_procs", "dev")


def options(values: Mapping[str, object]) -> list[str]:
    """Return the options of `bokeh serve`; each worker puts its number where {number} stands."""
    return [
        "--unix-socket", os.path.join(str(values["RUN_DIR"]), "bokeh.{number}.sock"),
        "--prefix", str(values["BOKEH_PREFIX"]),
        # it names all apps, also those behind a login, and asks other hosts for fonts
        "--disable-index",
        # only sessions with a token that we signed; see Gate
        "--session-ids", "external-signed",
        # the scheme and the address that nginx passes on
        "--use-xheaders",
        # a token is readable by whoever has it: the visitor's headers and cookies stay out of it
        "--include-headers", "Host", "--include-cookies", "none",
        # a visitor whose network was gone for two minutes finds everything as it was (Bokeh's default is 15 s)
        "--unused-session-lifetime", "180000",
        # Level 1: most of what there is to gain, for the least CPU (bench/RESULTS.md, WebSocket compression)
        "--websocket-compression-level", "1",
        "--log-format", "%(levelname)s [worker {number}] %(message)s",
    ]  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise BokehError(f"Procfile.dyno: what follows dyno.bokeh are options of `bokeh serve`: {message}")


class Worker(Serve):
    """`bokeh serve` for applications that exist already, through the hooks that it has for this."""

    def __init__(self, values: Mapping[str, object], applications: dict[str, Application], further: list[str]) -> None:
        """Serve applications, by their path; values are the settings, further is what to add to `options`.

        Raises BokehError when something in further is not an option of `bokeh serve`.
        """
        self._applications = applications
        parser = _Parser(prog="python -m dyno.bokeh")
        super().__init__(parser=parser)
        ours = parser.parse_args(options(values))
        self._args = parser.parse_args([*options(values), *further])
        for name in OURS:
            if getattr(self._args, name) != getattr(ours, name):
                parser.error(f"--{name.replace('_', '-')} is none that can be set here")
        if self._args.files:
            parser.error(f"{self._args.files[0]} is none; the apps are the folders of bokeh_app/")

    def run(self, number: int, beat: Callable[[], None]) -> None:
        """Serve as worker `number` until a signal comes; beat is called every second."""
        self._beat = beat
        if "numpy.random" in sys.modules:  # or all workers would draw the same numbers
            sys.modules["numpy.random"].seed()
        for name in ("unix_socket", "log_format"):
            setattr(self._args, name, getattr(self._args, name).replace("{number}", str(number)))
        self.invoke(self._args)

    def customize_applications(self, args, applications):
        # each request is in nginx's log already
        logging.getLogger("tornado.access").setLevel(logging.ERROR)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(Discreet(args.log_format))
        return self._applications

    def customize_kwargs(self, args, server_kwargs):
        self._gate = Gate(server_kwargs["auth_provider"])
        return {
            **server_kwargs,
            "auth_provider": self._gate,
            "extra_patterns": [("/healthz", _Healthz)],
            # as much as nginx lets pass; Tornado's own limit of 64 kB would be a 502
            "http_server_kwargs": {"max_header_size": 160 * 1024},
        }

    def customize_server(self, server: Server) -> Server:
        loop = asyncio.get_event_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._gate.close_websockets)
        loop.add_signal_handler(signal.SIGINT, loop.stop)
        faulthandler.register(signal.SIGUSR2)  # for the master, when this worker hangs
        master = os.getppid()

        def every_second() -> None:
            self._beat()
            COLLECTOR.every_second()
            if os.getppid() != master:  # it was killed: nobody would stop or restart this worker any more
                loop.stop()

        every_second()
        PeriodicCallback(every_second, 1000).start()
        return server


class Gate(AuthProvider):
    """Lets only sessions with a valid token in, before anything is done for them; then asks the site's auth module.

    Bokeh itself answers a token that is none with 500, and checks that of a WebSocket only after it was accepted.
    """

    def __init__(self, inner: AuthProvider) -> None:
        self._inner = inner
        self._websockets: weakref.WeakKeyDictionary[WebSocketHandler, float] = weakref.WeakKeyDictionary()
        self._closing = False
        super().__init__()

    login_url = property(lambda self: self._inner.login_url or (None if self._inner.get_login_url else "/"))
    get_login_url = property(lambda self: self._inner.get_login_url)
    login_handler = property(lambda self: self._inner.login_handler)
    logout_url = property(lambda self: self._inner.logout_url)
    logout_handler = property(lambda self: self._inner.logout_handler)
    get_user = None

    async def get_user_async(self, handler):
        """Return the user, as Bokeh's auth hooks do. Raises HTTPError 403 for a token that we did not sign for this app."""
        context = getattr(handler, "application_context", None)  # of the app that is asked for
        app = context.url.strip("/") if context else ""
        if isinstance(handler, WebSocketHandler):
            protocols = handler.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
            if len(protocols) != 2 or protocols[0].strip() != "bokeh" or not tokens.is_valid(protocols[1].strip(), app):
                raise HTTPError(403, "no valid session token")
            if self._closing:
                raise HTTPError(503, "stopping")
            self._websockets[handler] = asyncio.get_running_loop().time()
        elif (token := handler.get_argument("bokeh-token", None)) is not None and not tokens.is_valid(token, app):
            raise HTTPError(403, "no valid session token")
        if self._inner.get_user_async:
            return await self._inner.get_user_async(handler)
        return self._inner.get_user(handler) if self._inner.get_user else "visitor"

    def close_websockets(self) -> None:
        """Tell every open page that the service restarts (1012, RFC 6455's registry), and take no new ones."""
        self._closing = True
        loop = asyncio.get_running_loop()
        for handler, opened in list(self._websockets.items()):
            # a page that has just opened gets its document first: it has nothing to show yet
            loop.call_at(opened + OPENING_SECONDS, handler.close, 1012, "service restart")


class _WebSocket(WSHandler):
    """Bokeh's WebSocket; with `?document=1` the document follows the ACK, without being asked for a round trip later.

    dyno/page.js has the other half. The ACK says which request is answered, in its metadata, which Bokeh leaves to others
    (bokeh/protocol/receiver.py).
    """

    async def send_message(self, message):
        if message.msgtype != "ACK" or "document" not in self.request.query_arguments:
            await super().send_message(message)
            return
        request = self.connection.protocol.create("PULL-DOC-REQ")
        message.metadata = {"document": request.header["msgid"]}
        await super().send_message(message)
        if self.ws_connection is None:  # the visitor has left already
            return
        await super().send_message(await self.handler.handle(request, self.connection))


class _Healthz(RequestHandler):
    """Answers for every worker on a dyno without Flask."""

    async def get(self):
        # in a thread, while this worker answers itself
        well, body = await asyncio.to_thread(health.report, settings.read(), apps.names()[0])
        self.set_status(200 if well else 503)
        self.set_header("Content-Type", "text/plain")
        self.set_header("Cache-Control", "no-store")
        self.finish(body)


class _Collector:
    """Stands in for `gc` where Bokeh collects at the end of every session: collects once for all of some seconds."""

    def __init__(self) -> None:
        self._wanted, self._last = False, 0.0

    def collect(self) -> None:
        self._wanted = True

    def every_second(self) -> None:
        if self._wanted and time.monotonic() - self._last > COLLECT_SECONDS:
            gc.collect()
            self._wanted, self._last = False, time.monotonic()


def _forget_modules(manager: DocumentModuleManager) -> None:
    """Do what its `destroy` does, without a search of all objects for somebody who refers to a module."""
    for module in manager._modules:
        sys.modules.pop(module.__name__, None)
        module.__dict__.clear()
    manager._modules = []


# Bokeh 3.9 goes through all objects of the process twice whenever a session ends: 300 that nobody was connected to any
# more ended together in 41 s, in which the worker did nothing else; and at boot it would take as long as running the apps.
bokeh_document.gc = COLLECTOR = _Collector()
DocumentModuleManager.destroy = _forget_modules

per_app_patterns[:] = [(path, _WebSocket if handler is WSHandler else handler) for path, handler in per_app_patterns]
