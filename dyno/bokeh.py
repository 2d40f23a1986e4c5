"""The `bokeh` process: imports everything once, tries every app, then forks the workers and keeps them alive.

Each worker is `bokeh serve` on a unix socket of its own, run/bokeh.N.sock; what follows `python -m dyno.bokeh` in the
Procfile is passed to `bokeh serve`. Sessions live in one process, so nginx sends a session to the worker that has it.
"""
# ruff: noqa: E402 (two things have to come before the imports)

from __future__ import annotations

import gc

gc.disable()  # until everything is imported: collecting after every few hundred of Bokeh's classes costs a sixth of it

import argparse
import asyncio
import faulthandler
import json
import logging
import mmap
import os
import signal
import struct
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

if __name__ == "__main__":
    from dyno import buildpack, idle

    buildpack.stand_in()
    if os.environ.get("BOKEH_UPSTREAM"):
        sys.exit(idle.main())

# A worker is one of several processes and serves many visitors: threads of numpy's linear algebra would fight for the
# cores, and they do not survive the fork. Set the variable yourself to have them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import bokeh.embed.bundle
import numpy.ma  # noqa: F401 (Bokeh imports it for the first array, which makes cycles that hold on to the app's module)
import psutil
from bokeh.application import Application
from bokeh.application.handlers.directory import DirectoryHandler
from bokeh.application.handlers.handler import Handler
from bokeh.command.subcommands.serve import Serve
from bokeh.document import document as bokeh_document
from bokeh.document.modules import DocumentModuleManager
from bokeh.server.auth_provider import AuthProvider
from bokeh.server.contexts import ApplicationContext
from bokeh.server.server import Server
from bokeh.server.views.static_handler import StaticHandler
from bokeh.util.token import get_session_id
from jinja2 import Template
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from dyno import apps, buildpack, health, settings, static, tokens
from dyno.log import Discreet, print_whole_lines
from dyno.signals import Inbox, outlived

# The scripts of an app's own page. Bokeh hands the hashes of its CDN's files to its template, which leaves them out (3.9).
SCRIPTS = Template("""
{%- for file in js_files %}
<script src="{{ file }}"
  {%- if file | string in hashes %} integrity="sha384-{{ hashes[file | string] }}" crossorigin="anonymous"{% endif %}></script>
{%- endfor %}
{%- for js in js_raw %}
<script>{{ js }}</script>
{%- endfor %}
""")
COLLECT_SECONDS = 10.0  # between two collections of what ended sessions leave: 0.1 s of a worker's time, and more
STOP_SECONDS = 3.0  # from the signal to the worker that stops, until it is killed
OPENING_SECONDS = 1.0  # from the WebSocket to the document


class BokehError(RuntimeError):
    """The Bokeh server cannot start or go on; the message says why in one line."""


class _Worker(Serve):
    """`bokeh serve` for applications that exist already, through the hooks that it has for this."""

    def __init__(self, applications: dict[str, Application]) -> None:
        self._applications = applications
        self._parser = argparse.ArgumentParser(prog="python -m dyno.bokeh")
        super().__init__(parser=self._parser)

    def run(self, options: list[str], beat: Callable[[], None]) -> None:
        """Serve until a signal comes; options are those of `bokeh serve`, beat is called every second."""
        self._beat = beat
        self.invoke(self._parser.parse_args(options))

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
        # Bokeh 3.9 goes through all objects of the process twice whenever a session ends: 300 that nobody is connected
        # to any more ended together in 41 s, in which the worker did nothing else
        bokeh_document.gc = collector = _Collector()
        DocumentModuleManager.destroy = _forget_modules

        def every_second() -> None:
            self._beat()
            collector.every_second()
            if os.getppid() != master:  # it was killed: nobody would stop or restart this worker any more
                loop.stop()

        every_second()
        PeriodicCallback(every_second, 1000).start()
        return server


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
        """Return the user, as Bokeh's auth hooks do. Raises HTTPError 403 for a token that we did not sign."""
        if isinstance(handler, WebSocketHandler):
            protocols = handler.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
            if len(protocols) != 2 or protocols[0].strip() != "bokeh" or not tokens.is_valid(protocols[1].strip()):
                raise HTTPError(403, "no valid session token")
            if self._closing:
                raise HTTPError(503, "stopping")
            self._websockets[handler] = asyncio.get_running_loop().time()
        elif (token := handler.get_argument("bokeh-token", None)) is not None and not tokens.is_valid(token):
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


class _Healthz(RequestHandler):
    """Answers for every worker on a dyno without Flask."""

    async def get(self):
        # in a thread, while this worker answers itself
        well, body = await asyncio.to_thread(health.report, settings.read(), apps.names()[0])
        self.set_status(200 if well else 503)
        self.set_header("Content-Type", "text/plain")
        self.set_header("Cache-Control", "no-store")
        self.finish(body)


class _PageScript(Handler):
    """Adds dyno/page.js to an app's own page, whatever its template, if that has Bokeh's block `postamble`."""

    TEMPLATE = Template(
        "{% extends app_page %}{% block postamble %}{{ super() }}"
        '<script defer src="{{ page_script }}" data-bokeh-app="{{ app_path }}" data-bokeh-token="{{ doc.token }}">'
        "</script>{% endblock %}"
    )

    def __init__(self, path: str, script: str) -> None:
        super().__init__()
        self._variables = {"app_path": path, "page_script": script}

    def modify_document(self, doc) -> None:
        doc.template_variables.update(self._variables, app_page=doc.template)
        doc.template = self.TEMPLATE


def load(values: Mapping[str, object]) -> tuple[dict[str, Application], dict[str, list[dict[str, str]]]]:
    """Make every app and run it once: the workers share its imports, and the first visitor waits for none.

    Returns the applications by their path, and by app name the scripts that its document needs (by "": all of BokehJS).
    Raises BokehError, naming the file and the line, when an app cannot run. Meanwhile RUN_DIR/trying holds the app's
    name, for the start script to tell which one never ends, or ends the process. With BOKEH_WARM=0 none is run.
    """
    if values["BOKEH_RESOURCES"] == "cdn":
        bokeh.embed.bundle.JS_RESOURCES = SCRIPTS
    applications, scripts = {}, {"": static.scripts(values)}
    for path in (static.source() / "js").glob("*.min.js"):
        StaticHandler.append_version(f"js/{path.name}")  # Bokeh hashes each once; before the fork, it is done for all
    prefix, trying = values["BOKEH_PREFIX"], Path(str(values["RUN_DIR"]), "trying")
    for name, folder in zip(apps.names(), apps.folders(), strict=True):
        trying.write_text(name)
        try:
            script = _PageScript(f"{prefix}/{name}", f"{prefix}/static/{static.versioned(static.PAGE_SCRIPT_NAME)}")
            applications[f"/{name}"] = application = Application(DirectoryHandler(filename=str(folder)), script)
            # with hooks, on_server_loaded would come first, and what it starts (threads) does not survive the fork
            has_hooks = any((folder / hooks).exists() for hooks in ("app_hooks.py", "server_lifecycle.py"))
            if values["BOKEH_WARM"] and not has_hooks:
                scripts[name] = asyncio.run(_try(application, name, values))
        except (Exception, SystemExit) as error:  # a file in another encoding, say
            raise BokehError(f"bokeh_app/{name} cannot run: {_one_line(None, traceback.format_exc())}") from error
        finally:
            trying.unlink()
        for handler in application.handlers:
            if handler.failed:
                raise BokehError(f"bokeh_app/{name} cannot run: {_one_line(handler.error, handler.error_detail)}")
    return applications, scripts


async def _try(application: Application, name: str, values: Mapping[str, object]) -> list[dict[str, str]]:
    context = ApplicationContext(application, io_loop=IOLoop.current(), url=f"/{name}")
    application.on_server_loaded(context.server_context)
    token = tokens.mint(60)
    start_line = RequestStartLine("GET", f"/{name}", "HTTP/1.1")
    headers = HTTPHeaders({"Host": "localhost"})
    request = HTTPServerRequest(start_line=start_line, headers=headers, connection=_NoConnection())
    session = await context.create_session_if_needed(get_session_id(token), request, token)
    scripts = static.scripts(values, session.document)
    session.document.to_json()
    session.destroy()
    return scripts


class _NoConnection:
    context = None


def _one_line(error: str | None, detail: str | None) -> str:
    lines = [line.strip() for line in (detail or error or "unknown error").strip().splitlines()]
    places = [line for line in lines if line.startswith('File "') and "bokeh_app" in line]
    place = places[-1].replace(f'"{settings.ROOT}{os.sep}', '"').rsplit(", in ", 1)[0] + ": " if places else ""
    return place + lines[-1]


def options(values: dict[str, object], number: int) -> list[str]:
    """Return the options of `bokeh serve` for worker `number`."""
    return [
        "--unix-socket", os.path.join(str(values["RUN_DIR"]), f"bokeh.{number}.sock"),
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
        # Of a document of 1,076 kB that leaves 590 kB, for 10 ms more CPU (77, now 87); of 1,000 small patches 56 kB of
        # 275, in the same CPU. Level 6 saves 2 % more, for twice that. A session takes 0.17 MB more memory.
        "--websocket-compression-level", "1",
        "--log-format", f"%(levelname)s [worker {number}] %(message)s",
    ]  # fmt: skip


class Master:
    """Keeps the workers alive and well, as long as there is a start script."""

    def __init__(self, values: dict[str, object], work: Callable[[int, Callable[[], None]], None]) -> None:
        self._values = values
        self._work = work
        self._hang_timeout = float(values["BOKEH_HANG_TIMEOUT"])
        self._max_memory = float(values["BOKEH_MAX_MEMORY"]) * 1e6
        self._deaths = {number: health.Deaths() for number in range(1, int(values["BOKEH_WORKERS"]) + 1)}
        self._pids: dict[int, int] = {}  # number of each worker, by its pid
        self._ending: tuple[int, str, float] | None = None  # pid, why, and when to kill it
        self._heartbeats = mmap.mmap(-1, 8 * (len(self._deaths) + 1))  # shared with the workers
        self._started: dict[int, float] = {}
        self._run_dir = str(values["RUN_DIR"])
        self._inbox = Inbox(signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def run(self) -> None:
        """Fork the workers and replace those that end, hang or outgrow their limit; return when told to stop.

        SIGUSR1 has them close their WebSockets. Raises BokehError when a worker ends again and again.
        """
        for number in self._deaths:
            self._start(number)
        announced = False
        try:
            while True:
                announced = announced or buildpack.announce(self._values)
                signals = self._inbox.wait(1.0)
                if {signal.SIGINT, signal.SIGTERM} & signals or outlived(self._run_dir):
                    return
                if signal.SIGUSR1 in signals:
                    self._signal_all(signal.SIGUSR1)
                self._restart_dead()
                self._end_ill()
        finally:
            self._stop()

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, number)

    def _start(self, number: int) -> None:
        self._started[number] = time.monotonic()
        self._beat(number, 0.0)
        pid = os.fork()
        if pid:
            self._pids[pid] = number
            return
        status = 1
        try:
            Inbox.forget()
            self._work(number, lambda: self._beat(number, time.monotonic()))
            status = 0
        except KeyboardInterrupt:
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _restart_dead(self) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._pids.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            if self._ending and self._ending[0] == pid:
                _, how, _ = self._ending
                self._ending = None
            if self._deaths[number].too_many():
                raise BokehError(f"worker {number} {how}; {health.DEATHS} times within {health.DEATHS_SECONDS} s")
            print(f"worker {number} (pid {pid}) {how}: starting it again", flush=True)
            self._start(number)

    def _beat(self, number: int, now: float) -> None:
        struct.pack_into("d", self._heartbeats, 8 * number, now)

    def _last_beat(self, number: int) -> float:
        return struct.unpack_from("d", self._heartbeats, 8 * number)[0]

    def _end_ill(self) -> None:
        """End a worker that hangs or is too large: one at a time, and none while another is still starting."""
        now = time.monotonic()
        if self._ending:
            pid, _, deadline = self._ending
            if now > deadline:
                os.kill(pid, signal.SIGKILL)
            return
        for pid, number in self._pids.items():
            age = now - (self._last_beat(number) or self._started[number])
            if self._hang_timeout and age > self._hang_timeout:
                self._ending = pid, f"hung for {age:.0f} s (BOKEH_HANG_TIMEOUT)", now + 0.5
                os.kill(pid, signal.SIGUSR2)  # it prints where it hangs
                return
        if not self._max_memory or not all(map(self._last_beat, self._pids.values())):
            return
        for pid in self._pids:
            if (size := psutil.Process(pid).memory_info().rss) > self._max_memory:
                self._ending = pid, f"grew to {size / 1e6:.0f} MB (BOKEH_MAX_MEMORY)", now + STOP_SECONDS
                os.kill(pid, signal.SIGINT)
                return

    def _stop(self) -> None:
        self._signal_all(signal.SIGINT)
        end = time.monotonic() + STOP_SECONDS
        while self._pids:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._pids.pop(pid, None)
            elif time.monotonic() > end:
                self._signal_all(signal.SIGKILL)
                end = float("inf")
            else:
                self._inbox.wait(0.1)


def main(arguments: list[str]) -> int:
    """Run the Bokeh server until it is told to stop; arguments are further options of `bokeh serve`."""
    print_whole_lines()
    try:
        values = settings.read()
        apps.check()
        run_dir = Path(str(values["RUN_DIR"]))
        run_dir.mkdir(parents=True, exist_ok=True)
        static.link(run_dir)
        (run_dir / "bokeh.pid").write_text(str(os.getpid()))
        applications, scripts = load(values)
        if values["BOKEH_WARM"]:
            # Bokeh's checks of each document, which only log, have had their say: they are a tenth of a view's CPU
            os.environ.setdefault("BOKEH_VALIDATE_DOC", "0")
        (run_dir / "scripts.json").write_text(json.dumps(scripts))
        gc.collect()
        gc.freeze()  # what the workers share stays shared: the collector would write to every page
        gc.enable()
        size, limit = psutil.Process().memory_info().rss / 1e6, int(values["BOKEH_MAX_MEMORY"])
        if 0 < limit < size:
            raise BokehError(f"BOKEH_MAX_MEMORY={limit} is below what the apps take without a visitor: {size:.0f} MB")
        worker = _Worker(applications)
        Master(values, lambda number, beat: worker.run([*options(values, number), *arguments], beat)).run()
    except (settings.SettingsError, apps.AppsError, BokehError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
