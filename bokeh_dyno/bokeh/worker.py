"""A worker of the Bokeh server: `bokeh serve` on a unix socket, through the hooks that it has, and what those lack."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import functools
import gc
import json
import logging
import os
import signal
import sys
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

from bokeh.application import Application
from bokeh.application.application import SessionContext
from bokeh.application.handlers.handler import Handler
from bokeh.command.subcommands.serve import Serve
from bokeh.document import Document
from bokeh.document.modules import DocumentModuleManager
from bokeh.model import Model
from bokeh.server.contexts import BokehSessionContext
from bokeh.server.server import Server
from bokeh.server.urls import per_app_patterns, toplevel_patterns
from bokeh.server.views.ws import WSHandler
from tornado.ioloop import PeriodicCallback
from tornado.web import RequestHandler

from bokeh_dyno.bokeh import metrics, warm
from bokeh_dyno.bokeh.faults import Faults
from bokeh_dyno.bokeh.gate import Gate, Room
from bokeh_dyno.bokeh.limits import Limits
from bokeh_dyno.bokeh.reading import CostlyError
from bokeh_dyno.bokeh.websocket import WebSocket
from bokeh_dyno.shared import errors, fork, health, private, sentry, settings, sigterm
from bokeh_dyno.shared.log import Discreet, one_line
from bokeh_dyno.shared.settings import Settings

TOLD = ("WebSocket connection closed:", "ServerConnection created")
THREADS = 32  # at most, of a worker, for callbacks; what computes shares one core, what waits does not
COLLECT_SECONDS = 10.0  # between two collections of what ended sessions leave: 0.1 s of a worker's time, and more


class Worker(Serve):
    """`bokeh serve` for applications that exist already, through the hooks that it has for this."""

    def __init__(
        self,
        values: Settings,
        applications: dict[str, Application],
        untried: list[str],
        faults: Faults,
        options: argparse.Namespace,
    ) -> None:
        """Serve applications, by their path; values are the settings, options those that bokeh_dyno/bokeh/options.py has parsed.

        untried: names of the apps that this worker has to run by itself before anybody opens them.
        """
        self._values = values
        self._applications = applications
        self._untried = untried
        self._faults = faults
        self._args = options
        super().__init__(parser=argparse.ArgumentParser())

    def run(self, number: int, beat: Callable[[], None]) -> None:
        """Serve as worker `number` until a signal comes; beat is called every second."""
        os.setpgid(0, 0)  # what its apps start is in this group, and goes with it
        sigterm.disregard()
        self._beat = beat
        self._faults.in_worker(number)
        metrics.in_worker(number)
        per_app_patterns[:], toplevel_patterns[:] = PATTERNS  # Panel, imported by any app, puts its own there
        fork.reseed()
        sentry.start(self._values)
        self._number = number
        self._handlers = list(logging.getLogger().handlers)  # of an app's
        for name in ("unix_socket", "log_format"):
            setattr(self._args, name, getattr(self._args, name).replace("{number}", str(number)))
        self.invoke(self._args)

    def customize_applications(self, args: argparse.Namespace, applications: dict[str, Any]) -> dict[str, Any]:
        # each request is in nginx's log already, and why it has failed in a line of its own
        logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
        # of each WebSocket, our own line says more
        logging.getLogger("bokeh_dyno").setLevel(logging.getLogger("bokeh").level)
        logging.getLogger("bokeh.server.views.ws").addFilter(lambda record: not str(record.msg).startswith(TOLD))
        for handler in logging.getLogger().handlers:
            if handler not in self._handlers:  # it is Bokeh's
                handler.setFormatter(Discreet(args.log_format, self._number))
        logging.getLogger("asyncio").addHandler(errors.Handler())
        return self._applications

    def customize_kwargs(self, args: argparse.Namespace, server_kwargs: dict[str, Any]) -> dict[str, Any]:
        self._gate = Gate(
            server_kwargs["auth_provider"], Room(self._values, args.unused_session_lifetime), self._faults
        )
        self._limits = Limits(self._values, args.websocket_max_message_size, self._faults)
        WebSocket.gate, WebSocket.limits = self._gate, self._limits
        self._publish_auth_urls()
        return {
            **server_kwargs,
            "auth_provider": self._gate,
            "extra_patterns": [("/healthz", _Healthz)],
            # as much as nginx lets pass; Tornado's own limit of 64 kB would be a 502
            "http_server_kwargs": {"max_header_size": 160 * 1024},
        }

    def _publish_auth_urls(self) -> None:
        """Tell Flask the addresses of the auth module's own pages, which it passes on: bokeh_dyno/flask/embed.py."""
        fresh = self._values.run_dir / f"auth.{os.getpid()}"
        fresh.write_text(json.dumps([url for url, _ in self._gate.endpoints]))
        os.replace(fresh, fresh.with_name("auth.json"))

    def customize_server(self, server: Server) -> Server:
        loop = asyncio.get_event_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._gate.close_websockets)
        loop.add_signal_handler(signal.SIGINT, loop.stop)
        faulthandler.register(signal.SIGUSR2)  # for the master, when this worker hangs
        master = os.getppid()

        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="callback"))
        # From 3.10 on callbacks run in those threads: when all of them hang, the worker does
        beat = functools.partial(loop.run_in_executor, None, self._beat) if private.IN_THREADS else self._beat

        def every_second() -> None:
            beat()
            sessions = server.get_sessions()
            self._faults.count(len(sessions))
            metrics.sessions(len(sessions))
            self._gate.room.clear(sessions)
            self._limits.every_second()
            if COLLECTOR.every_second():
                self._limits.memory.give_back()
            if os.getppid() != master:  # it was killed: nobody would stop or restart this worker any more
                loop.stop()

        every_second()
        metrics.watch(loop)
        PeriodicCallback(every_second, 1000).start()
        server.io_loop.start = _endless(server.io_loop.start)  # type: ignore[method-assign] # no hook is there for it
        self._trying = loop.create_task(self._try())
        return server

    async def _try(self) -> None:
        """Run the apps that could not be run before the fork. Who is sent here meanwhile waits, as for the app itself."""
        for name in self._untried:
            try:
                await warm.run(self._applications[f"/{name}"], name, self._values, is_loaded=True)
            except (Exception, SystemExit):
                print(f"error: bokeh_app/{name} cannot run: {one_line(traceback.format_exc())}", file=sys.stderr)
                errors.note(f"bokeh_app/{name}", traceback.format_exc())
        self._gate.is_ready = True


def _endless(start: Callable[[], None]) -> Callable[[], None]:
    """Return what runs an event loop until it is stopped, though a task of an app's own calls sys.exit()."""

    def run() -> None:
        loop = asyncio.get_event_loop()
        if signal.SIGTERM not in sigterm.stops():
            loop.remove_signal_handler(signal.SIGTERM)  # Bokeh would stop at it
            sigterm.disregard()
        while True:
            try:
                start()
                # Bokeh 3.10 runs the loop once more to stop in it, which nothing may stop; the master sees to its end
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                loop.remove_signal_handler(signal.SIGTERM)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                return
            except (SystemExit, KeyboardInterrupt, CostlyError) as stop:
                logging.getLogger(__name__).error("a task of an app: %r", stop, exc_info=stop)

    return run


class _Healthz(RequestHandler):
    """Answers for every worker on a dyno without Flask, and without a start script of ours."""

    async def get(self) -> None:
        # in a thread, while this worker answers itself
        values = settings.read()
        strict = health.is_strict(self.request.query)
        well, body = await asyncio.to_thread(health.report, values, health.bokeh_probes(values), strict=strict)
        self.set_status(200 if well else 503)
        self.set_header("Content-Type", "text/plain")
        self.set_header("Cache-Control", "no-store")
        self.finish(body)


class _Collector:
    """Takes the place of `gc` where Bokeh collects at the end of every session: collects once for all of some seconds."""

    def __init__(self) -> None:
        self._wanted, self._last = False, 0.0

    def collect(self) -> None:
        self._wanted = True

    def every_second(self) -> bool:
        """Collect when it is time to; return whether that was done."""
        if not self._wanted or time.monotonic() - self._last < COLLECT_SECONDS:
            return False
        gc.collect()
        self._wanted, self._last = False, time.monotonic()
        return True


class Forget(Handler):
    """Clears an app's module when its session has ended and has been told so: what is called then is of that module."""

    def modify_document(self, doc: Document) -> None:
        """Do nothing."""

    async def on_session_destroyed(self, session_context: SessionContext) -> None:
        """Forget what the session's document was made by."""
        if not isinstance(session_context, BokehSessionContext):
            return
        if not (modules := _ended.pop(session_context._document, [])):
            return
        from bokeh.core.has_props import _default_resolver as resolver

        names = {module.__name__ for module in modules}
        # the classes that they have defined; Bokeh would keep them, and look for their modules
        for cls in [cls for cls in Model.model_class_reverse_map.values() if cls.__module__ in names]:
            resolver.remove(cls)  # type: ignore[attr-defined] # Bokeh's own .pyi leaves it out
        for module in modules:
            sys.modules.pop(module.__name__, None)
            module.__dict__.clear()


def _end_modules(manager: DocumentModuleManager) -> None:
    """Do as Bokeh's `destroy`, without a search of all objects for somebody who refers to a module."""
    if (document := manager._document()) is not None:
        _ended[document] = manager._modules
    manager._modules = []


_ended: weakref.WeakKeyDictionary[Document, list[ModuleType]] = weakref.WeakKeyDictionary()
# Bokeh goes through all objects of the process twice whenever a session ends: 300 that nobody was connected to any more
# ended together in 41 s, in which the worker did nothing else; and at boot it would take as long as running the apps.
COLLECTOR = _Collector()
if private.has("ends"):
    private.replace("bokeh.document.document:gc", COLLECTOR)
    private.replace("bokeh.document.modules:DocumentModuleManager.destroy", _end_modules)

if private.has("websocket"):
    per_app_patterns[:] = [(one[0], WebSocket) if one[1] is WSHandler else one for one in per_app_patterns]
PATTERNS = list(per_app_patterns), list(toplevel_patterns)
