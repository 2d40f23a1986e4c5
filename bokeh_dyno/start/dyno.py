"""What bin/start-nginx does: render, test, start COMMAND, wait until it answers, open the port, stop all together.

The contract is that of the nginx buildpack's script of the same name (COMMAND, -f, config/nginx.conf.erb, the exit when
any part ends); waiting for the answer itself, the checks before, and the stop without loss are ours.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bokeh_dyno import __version__
from bokeh_dyno.shared import apps, container, health, run_dir, sentry, settings, sigterm
from bokeh_dyno.shared.signals import Inbox, Terminal, adopt_orphans
from bokeh_dyno.start import check, events, nginx, output, port
from bokeh_dyno.start.output import notify, say

if TYPE_CHECKING:
    from bokeh_dyno.start.status import Status

USAGE = "usage: bin/start-nginx [-f] COMMAND...   (-f: open the port at once, without waiting for COMMAND to answer)"
# The platform kills 30 s after SIGTERM. STOP_LINGER: its router may hand over requests for a moment more; then what is in
# flight, with it DRAIN together; STOP (bokeh_dyno/start/generations.py): the backends. The rest is to spare.
DRAIN_SECONDS, LEAST_DRAIN_SECONDS = 23.0, 5.0
UNSERVED_SECONDS = 4.0  # in the place of DRAIN, when something has failed
CLOSE_SECONDS = 1.0  # from the signal to nginx to its closed port


class StartError(RuntimeError):
    """The dyno cannot start or go on; the message says why in one line."""


class Dyno:
    """One run of the dyno: COMMAND and nginx, from the first line to the exit code."""

    def __init__(self, command: list[str], wait: bool) -> None:
        self._command = command
        self._wait = wait
        self._linger, self._drain = 0.0, UNSERVED_SECONDS
        self._status: Status | None = None
        self._later: set[int] = set()  # signals for when the site is served

    def run(self) -> int:
        """Run until something stops; return the exit code. Raises StartError and the like before anything is left."""
        self._began = time.monotonic()
        limited = container.apply(os.environ)
        self._settings = settings.read()
        settings.complete()
        events.use(self._settings.log_format)
        self._run_dir = self._settings.run_dir
        self._nginx = nginx.Nginx(self._run_dir)
        os.environ["NGINX_VERSION"] = self._nginx.version
        apps.check()
        sentry.check(self._settings)
        if missing := check.missing_packages():
            raise StartError(f"Python has no package {', '.join(missing)} ({sys.executable}): run bin/setup")
        if not shutil.which(self._command[0]):
            raise StartError(f"COMMAND {self._command[0]!r} is not to be found: run bin/setup, or check the Procfile")
        self._held = port.hold(self._settings.port)
        run_dir.make(self._settings)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # what begins now is new enough, and it would end this process
        self._locks = [run_dir.own(self._run_dir)]  # each is held until the end: there are processes that wait for it
        name = run_dir.new_name(self._run_dir)
        first = f"{name}:{self._settings.bokeh_workers}"
        erb = nginx.rendering(
            {**os.environ, "DYNO_GENERATIONS": first}
        )  # a tenth of a second, in which the next steps are done
        for line in check.misspelled():
            say(f"warning: {line}")
        if limited:
            say(limited)
        os.environ["DYNO_PID"] = str(os.getpid())
        # honcho would write the end of each line by itself; see bokeh_dyno/shared/log.py
        os.environ.pop("PYTHONUNBUFFERED", None)
        if not self._settings.bokeh_secret_key:
            os.environ["BOKEH_SECRET_KEY"] = os.urandom(32).hex()
            say("BOKEH_SECRET_KEY is not set: made one; open pages will not outlive a restart, several dynos need one")
        shield, reason = sigterm.shield()
        if not shield:
            say(f"no shield against SIGTERM ({reason}): a platform that sends it to all processes may cut requests off")
        from bokeh_dyno.shared import private  # its imports take as long as those before it, here beside erb
        from bokeh_dyno.start.generations import Generations  # psutil is one of the packages that are checked
        from bokeh_dyno.start.processes import Children
        from bokeh_dyno.start.status import Status
        from bokeh_dyno.start.upstreams import Upstreams

        try:
            private.check_version()
        except private.VersionError as error:
            raise StartError(f"{error} and run bin/setup") from error
        allow_open_files()
        adopt_orphans()
        self._nginx.take(erb)
        output.OUTPUT.start()
        self._terminal = Terminal()
        self._inbox = Inbox(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
        self._children = Children(self._inbox)
        self._generations = Generations(name, self._command, self._run_dir, self._nginx, self._children)
        self._upstreams = Upstreams(lambda: self._generations.serving.values.bokeh_upstream)
        self._upstreams.start()
        self._status = Status(self._run_dir, lambda: self._generations.serving.values, self._upstreams.resolve)
        self._status.start()
        try:
            say(f"bokeh-dyno {__version__}: starting {' '.join(self._command)} (generation {name})")
            self._generations.start()
            if self._wait and (code := self._until_ready()) is not None:
                return code
            if (code := self._start_nginx(shield)) is not None:
                return code
            return self._until_something_stops()
        finally:
            self._stop()

    def _until_ready(self) -> int | None:
        """Wait for every backend. Returns an exit code when COMMAND ended or a signal came, None when all answer."""
        from bokeh_dyno.start.generation import GenerationError

        first, pauses = self._generations.serving, health.Pauses()
        while True:
            signals = self._signals(0.02)
            first.excuse(pauses.seconds())
            if signals & {signal.SIGTERM, signal.SIGINT}:
                # nobody is served yet, and Python interrupted in an import prints a traceback
                first.kill()
                return 0
            try:
                if first.answers():
                    return None
            except GenerationError as error:
                if error.code is None:
                    first.kill()  # the platform's patience ends 5 s later
                    raise StartError(str(error)) from error
                return self._report(error.code, str(error))
            self._later |= signals & {signal.SIGUSR2}
            self._hear(signals - self._later)

    def _start_nginx(self, shield: Callable[[], None] | None) -> int | None:
        """Start nginx and wait until it listens. Returns an exit code when it, or COMMAND, ended before that."""
        for held in self._held:
            held.close()
        self._nginx.start(self._children, shield)
        number = self._settings.port
        end, signals = time.monotonic() + self._settings.boot_timeout, self._later
        while not port.listens(number):
            signals |= self._signals(0.01)
            if signals & {signal.SIGTERM, signal.SIGINT}:
                return 0
            self._children.reap()
            for name, code in self._children.ended.items():
                what = " ".join(self._command) if name == self._generations.serving.name else name
                return self._report(code, f"{what} ended with code {code}")
            if time.monotonic() > end:
                raise StartError(
                    f"nginx does not listen on PORT={number}: config/nginx.conf.erb has it listen elsewhere"
                )
        say(f"ready after {time.monotonic() - self._began:.1f} s: http://localhost:{number}")
        notify("READY=1")
        self._hear(signals)  # nginx hears it only now
        return None

    def _until_something_stops(self) -> int:
        from bokeh_dyno.start.generation import GenerationError

        told = None
        while True:
            signals = self._signals(0.02 if self._generations.is_busy() else 1.0)
            if signals & {signal.SIGTERM, signal.SIGINT}:  # first: without the shield, COMMAND ends at the same moment
                self._linger = self._settings.stop_linger if signal.SIGTERM in signals else 0.0
                self._drain = max(DRAIN_SECONDS - self._linger, LEAST_DRAIN_SECONDS)
                say(f"{'SIGTERM' if signal.SIGTERM in signals else 'SIGINT'} received: stopping")
                return 0
            self._children.reap()
            if (code := self._children.ended.get("nginx")) is not None:
                return self._report(code, f"nginx ended with code {code}")
            self._hear(signals)
            try:
                if moved := self._upstreams.moved():
                    self._nginx.reread()
                    self._upstreams.follow()
                    say(f"BOKEH_UPSTREAM: {moved}; nginx follows")
                if not (self._run_dir / "lock").exists():
                    self._make_anew()
                self._generations.step()
                told = None
            except GenerationError as error:
                return self._report(error.code or 0, str(error))
            except OSError as error:  # no more files, no more memory: that may pass, and the site still serves
                if told != (told := str(error)):
                    say(f"error: the processes cannot be watched: {error}")

    def _signals(self, seconds: float) -> set[int]:
        """Return the signals that came within so many seconds. The end of the terminal, or of honcho above, stops the dyno."""
        signals = self._inbox.wait(seconds)
        if signal.SIGHUP in signals and self._terminal.is_closed():
            signals -= {signal.SIGHUP}
            say("the terminal is closed")
            return signals | {signal.SIGINT}
        if self._terminal.is_left():
            say("what has started this is gone")
            return signals | {signal.SIGINT}
        return signals

    def _make_anew(self) -> None:
        """Make RUN_DIR, which has been removed, and another generation: nobody reaches the sockets of this one any more."""
        say(f"error: RUN_DIR={self._run_dir} has been removed: making it anew")
        time.sleep(CLOSE_SECONDS)  # until whoever does that is done
        run_dir.make(self._settings)
        self._locks.append(run_dir.own(self._run_dir))
        if self._status:
            self._status.start()
        self._generations.replace()

    def _hear(self, signals: set[int]) -> None:
        """Do what signals ask for that do not stop the dyno."""
        if signal.SIGHUP in signals:
            self._generations.reload_routing()
        if signal.SIGUSR2 in signals:
            self._generations.replace()

    def _report(self, code: int, what: str) -> int:
        say(f"{what}: stopping the dyno")
        return code

    def _stop(self) -> None:
        """End everything below this process: nginx when it has answered what is in flight, then the backends."""
        if self._status:
            self._status.is_stopping = True
        if nginx_pid := self._nginx.pid():
            self._nginx.keep_no_connections()
            self._children.wait_for("nginx", self._linger)
            with contextlib.suppress(ProcessLookupError):  # without the shield it heard SIGTERM too
                os.kill(nginx_pid, signal.SIGQUIT)
            began = time.monotonic()
            # not before the port is closed: a page that is told to come back would find this dyno once more
            while port.listens(self._settings.port) and time.monotonic() < began + CLOSE_SECONDS:
                self._inbox.wait(0.01)
            self._generations.close_websockets()
            if not self._children.wait_for("nginx", began + self._drain - time.monotonic()):
                say(f"nginx still had requests after {self._drain:.0f} s: ending them")
                os.kill(nginx_pid, signal.SIGKILL)
        if killed := [*self._generations.stop(), *self._children.kill()]:
            say(f"killed what had not stopped in time: {', '.join(killed)}")
        if self._status:
            self._status.close()


def allow_open_files() -> None:
    """Raise the soft limit on open files to the hard one: two for each connection that nginx holds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):
        pass  # nginx itself warns when it has too few


def main(arguments: list[str]) -> int:
    """Run the start script with its command line, without the name of the script; return the exit code."""
    wait = True
    while arguments and arguments[0].startswith("-"):
        if arguments[0] != "-f":
            print(f"error: {arguments[0]} is not an option. {USAGE}", file=sys.stderr)
            return 2
        wait, arguments = False, arguments[1:]
    if not arguments:
        print(USAGE, file=sys.stderr)
        return 2
    os.chdir(settings.ROOT)
    os.environ["DYNO_ROOT"] = str(settings.ROOT)  # for COMMAND, wherever it goes
    try:
        return Dyno(arguments, wait).run()
    except (StartError, settings.SettingsError, apps.AppsError, nginx.NginxError, OSError) as error:
        output.error(str(error))
        return 1
    finally:
        output.OUTPUT.close()
