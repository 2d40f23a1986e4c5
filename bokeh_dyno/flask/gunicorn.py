"""gunicorn's configuration for the `flask` process; GUNICORN_CMD_ARGS and the Procfile's line take precedence over it.

The names are gunicorn's own: https://docs.gunicorn.org/en/stable/settings.html
"""

# ruff: noqa: E402 (one thing has to come before the imports)

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an interrupted import; gunicorn's handler comes later

import contextlib
import functools
import gc
import mmap
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import flask
import flask.logging
import gunicorn.app.base
import gunicorn.errors
import gunicorn.glogging
import gunicorn.sock
import jinja2
from gunicorn.workers.base import Worker

from bokeh_dyno.flask import dev, headers
from bokeh_dyno.page import policy
from bokeh_dyno.shared import buildpack, errors, fork, health, numbers, sentry, settings, sigterm, spare
from bokeh_dyno.shared.log import Discreet, begin, guard, one_line, print_whole_lines
from bokeh_dyno.shared.signals import start_script_is_gone

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config
    from gunicorn.http.message import Request

buildpack.prepare()
policy.mark_templates()  # before the site is imported, which may compile some at once
_settings = settings.read()
print_whole_lines()
guard()
# Flask's own handler, which a site that has others takes away, or gives another format
flask.logging.default_handler.setFormatter(Discreet("[%(asctime)s] %(levelname)s in %(module)s: %(message)s"))
sigterm.disregard()
# not by gunicorn's pidfile, which it writes when the site is imported: a site that cannot be is noticed at once
(_settings.run_dir / "flask.pid").write_text(str(os.getpid()))


def _cannot_run(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    text = "".join(traceback.format_exception(kind, error, trace))
    print(f"error: {(line := f'the site cannot run: {one_line(text)}')}", file=sys.stderr)
    health.note_broken(_settings.run_dir, "", line)
    errors.note("site", text)


sys.excepthook = _cannot_run  # until the site is imported
_load = gunicorn.app.base.BaseApplication.wsgi


def _load_or_say_why(app: gunicorn.app.base.BaseApplication) -> WSGIApplication:
    try:
        return _load(app)
    except Exception as error:
        if isinstance(error, RuntimeError) or not app.cfg.preload_app:  # what gunicorn catches
            _cannot_run(type(error), error, error.__traceback__)
        raise


gunicorn.app.base.BaseApplication.wsgi = _load_or_say_why
_close_sockets = gunicorn.sock.close_sockets


def _close(listeners: list[Any], unlink: bool = True) -> None:
    with contextlib.suppress(FileNotFoundError):  # RUN_DIR has been removed
        _close_sockets(listeners, unlink)


gunicorn.sock.close_sockets = _close

# as in bokeh_dyno/bokeh/__main__.py: numpy's threads would fight for the cores, and keep the site from being shared by fork
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

gc.disable()  # until the site is imported (when_ready): collecting during the import of Bokeh costs a sixth of it

bind = f"unix:{os.path.join(_settings.run_dir, 'flask.sock')}"
umask = 0o077  # of the socket, and of what the site writes; gunicorn's default lets everybody write to both
workers = _settings.web_concurrency
GRACEFUL = signal.SIGUSR2  # between gunicorn's master and its workers, for SIGTERM is the platform's
# threads, so that a slow page does not keep its worker from answering others
worker_class = "gthread"
threads = 16
# seconds; above the 60 for which nginx keeps a connection that it does not use
keepalive = 75
# imported once, then forked: the workers share what the import made, and a site that cannot be imported ends the boot.
# Unless it leaves something that must not be shared by fork (on_starting)
NOT_SHARED = "DYNO_SITE_NOT_SHARED"
preload_app = workers > 0 and fork.CAN_SEE and not os.environ.pop(NOT_SHARED, "")
# nginx lets lines of 32 kB pass, for a browser's cookies can come to that; gunicorn's own limits are 4094 and 8190
limit_request_line = 0
limit_request_field_size = 32768
# the workers' heartbeat files: in memory, never on a slow disk (gunicorn's FAQ on containers)
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
control_socket_disable = True

spare.wait("flask")
(_numbers,) = numbers.make(_settings.run_dir / "metrics" / "flask", numbers.FLASK, 1)
_before, _began = fork.Before(), time.monotonic()
_deaths = health.Deaths()
# shared with the workers: by age, those that end because of max_requests, and the requests that each is answering
_retired, _answering = mmap.mmap(-1, 4096), mmap.mmap(-1, 4096)
_counting = threading.Lock()


class logger_class(gunicorn.glogging.Logger):
    """gunicorn's log without the time, which honcho puts before each line, and without what is private."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            if getattr(handler, "_gunicorn", False):  # and not of a --log-config
                handler.setFormatter(Discreet("%(levelname)s [%(process)d] %(message)s"))


def on_starting(server: Arbiter) -> None:
    """See whether the site may be shared by fork, and have gunicorn stop its workers in a way that the platform does not."""
    if server.cfg.preload_app and (left := _before.left()):
        print(
            f"the site leaves {left} behind, which a fork must not share: each worker of gunicorn makes it by itself, "
            f"{_before.grown():.0f} MB and {time.monotonic() - _began:.1f} s for each", flush=True,
        )  # fmt: skip
        os.environ[NOT_SHARED] = "1"
        fork.execute_again()
    # Heroku's Python buildpack turns the access log on, with GUNICORN_CMD_ARGS="--access-logfile -": that costs a fifth of
    # the requests per second, and nginx logs them already
    if os.environ.get("GUNICORN_CMD_ARGS", "").strip() == "--access-logfile -":
        server.cfg.set("accesslog", None)
        server.log.setup(server.cfg)
    server.murder_workers = _unless_paused(server.murder_workers)
    if "DYNO_PID" in os.environ:
        kill = server.kill_worker
        server.kill_worker = lambda pid, number: kill(pid, GRACEFUL if number == signal.SIGTERM else number)


def _unless_paused(murder: Callable[[], None]) -> Callable[[], None]:
    """Return what ends the workers that are silent; but when all were stopped, they first need a moment to say that they live."""
    pauses = health.Pauses()

    def look() -> None:
        if not pauses.seconds():
            murder()

    return look


def when_ready(server: Arbiter) -> None:
    """Prepare the site, which the workers share."""
    sigterm.disregard()  # gunicorn has just set its own handler
    if server.cfg.preload_app or not workers:
        _prepare(server.app.wsgi())
    sys.excepthook = sys.__excepthook__
    gc.unfreeze()  # bokeh_dyno/shared/fork.py
    # the garbage collector would write to every page of memory that was made before the fork
    gc.collect()
    gc.freeze()
    gc.enable()
    if not workers:
        _stop_with_the_start_script(os.getpid())


def _prepare(site: WSGIApplication) -> None:
    """Compile the site's templates and make a token, for the first visitor would wait for both."""
    spare.note("flask")
    if isinstance(site, flask.Flask):
        bokeh_apps = site.extensions.get("bokeh_apps")
        if not bokeh_apps and "DYNO_PID" in os.environ:  # gunicorn alone may run any site
            errors.note("site", lacking := "the site has no Bokeh apps: give it BokehApps(app), from bokeh_dyno.flask")
            sys.exit(f"error: {lacking}")
        for name in site.jinja_env.list_templates():
            try:
                site.jinja_env.get_template(name)
            except (jinja2.TemplateError, UnicodeDecodeError) as error:  # told to whoever asks for the page
                place = f"{name}, line {error.lineno}," if isinstance(error, jinja2.TemplateSyntaxError) else name
                line = f"the site's template {place} cannot be compiled: {error}"
                health.note_broken(_settings.run_dir, name, line)
                errors.note("site", error)
        dev.publish(site)
        if bokeh_apps:
            bokeh_apps.warm()
            headers.tell_refused(site, _settings)


def post_worker_init(worker: Worker) -> None:
    """Have the worker stop gracefully at another signal, and watch the start script; a thread here, for the master forks."""
    # its own handler shuts the pool of threads, and would wait for ever for a lock that this thread holds while it hands over a
    # request; what Python does at its exit shuts it as well
    signal.signal(signal.SIGQUIT, functools.partial(Worker.handle_quit, worker))
    if "DYNO_PID" in os.environ:
        signal.signal(GRACEFUL, worker.handle_exit)
        signal.siginterrupt(GRACEFUL, False)
        sigterm.disregard()
    fork.reseed()
    sentry.start(_settings)
    if not worker.cfg.preload_app:
        _prepare(worker.wsgi)
    _stop_with_the_start_script(worker.ppid)


def _stop_with_the_start_script(pid: int) -> None:
    """Stop gunicorn, whose master is `pid`, when the start script was killed; its own parent may live on."""

    def watch() -> None:
        if start_script_is_gone(wait=True):
            os.kill(pid, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Note, in the worker, that it ends because gunicorn's max_requests says so: that is no death."""
    if worker.nr >= worker.max_requests:
        _retired[worker.age % 4096] = 1


def pre_request(worker: Worker, request: Request) -> None:
    """Count, in the worker, a request that begins, and note its id for what this thread logs until the next one."""
    begin(next((text for name, text in request.headers if name == "X-REQUEST-ID"), None))
    with _counting:
        _answering[worker.age % 4096] += 1


def post_request(worker: Worker, _request: object, _environ: object, _response: object) -> None:
    """Count, in the worker, a request that has ended."""
    with _counting:
        _answering[worker.age % 4096] -= 1


def child_exit(server: Arbiter, worker: Worker) -> None:
    """End the dyno when workers die again and again; gunicorn would go on for ever.

    One that dies of a request is replaced, however often: that page is what cannot work, and no other.
    """
    if not server.LISTENERS:  # it is stopping
        return
    _numbers.add("restarts")
    age = worker.age % 4096
    retired, answering = _retired[age], _answering[age]
    _retired[age] = _answering[age] = 0
    if answering:
        server.log.error("a worker died while it answered %d requests", answering)
    elif not retired and _deaths.too_many():
        server.kill_workers(signal.SIGKILL)  # gunicorn would wait 30 s for them, its port closed
        raise gunicorn.errors.HaltServer(f"{health.DEATHS} workers died within {health.DEATHS_SECONDS} s", 1)
