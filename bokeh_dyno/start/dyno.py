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
import subprocess
import sys
import threading
import time

from bokeh_dyno import __version__
from bokeh_dyno.shared import apps, health, run_dir, settings, sigterm
from bokeh_dyno.shared.signals import Inbox, adopt_orphans
from bokeh_dyno.start import check, nginx, port
from bokeh_dyno.start.output import copy_log, say

USAGE = "usage: bin/start-nginx [-f] COMMAND...   (-f: open the port at once, without waiting for COMMAND to answer)"
# The platform kills 30 s after SIGTERM. LINGER: its router may hand over requests for a moment more; DRAIN: what is in
# flight; STOP: the backends. The rest is to spare.
LINGER_SECONDS = 1.0
DRAIN_SECONDS = 21.0
STOP_SECONDS = 4.0
# the part of BOOT_TIMEOUT that one app may take, until the others are served without it
LONGEST_TRY = 0.5


class StartError(RuntimeError):
    """The dyno cannot start or go on; the message says why in one line."""


class Dyno:
    """One run of the dyno: COMMAND and nginx, from the first line to the exit code."""

    def __init__(self, command: list[str], wait: bool) -> None:
        self._command = command
        self._wait = wait
        self._linger, self._drain = 0.0, STOP_SECONDS

    def run(self) -> int:
        """Run until something stops; return the exit code. Raises StartError and the like before anything is left."""
        self._began = time.monotonic()
        self._settings = settings.read()
        settings.complete()
        self._nginx = nginx.find()
        os.environ["NGINX_VERSION"] = nginx.version(self._nginx)
        apps.check()
        if missing := check.missing_packages():
            raise StartError(f"Python has no package {', '.join(missing)} ({sys.executable}): run bin/setup")
        if not shutil.which(self._command[0]):
            raise StartError(f"COMMAND {self._command[0]!r} is not to be found: run bin/setup, or check the Procfile")
        self._held_port = port.hold(self._settings.port)
        run_dir.make(self._settings)
        self._run_dir = self._settings.run_dir
        self._conf = self._run_dir / "nginx.conf"
        self._lock = run_dir.own(self._run_dir)
        erb = nginx.rendering()  # takes a tenth of a second, in which the next steps are done
        for line in settings.misspelled():
            say(f"warning: {line}")
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
        from bokeh_dyno.start.processes import Processes  # it needs psutil, one of the packages that are checked

        try:
            private.check_version()
        except private.VersionError as error:
            raise StartError(f"{error} and run bin/setup") from error
        allow_open_files()
        adopt_orphans()
        self._take(erb)
        self._inbox = Inbox(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        self._processes = Processes(self._run_dir, self._inbox, shield)
        try:
            self._start_command()
            if self._wait and (code := self._until_ready()) is not None:
                return code
            if (code := self._start_nginx()) is not None:
                return code
            return self._until_something_stops()
        finally:
            self._stop()

    def _start_command(self) -> None:
        say(f"bokeh-dyno {__version__}: starting {' '.join(self._command)}")
        self._processes.start("COMMAND", self._command)

    def _start_without(self, app: str, why: str) -> None:
        """Start COMMAND again, with an app not tried before it is opened that has kept the others from being served."""
        say(f"error: bokeh_app/{app} cannot run: it {why}; starting again without trying it")
        self._processes.kill()
        self._processes.wait_for(None, STOP_SECONDS)
        self._processes.forget()
        run_dir.clean_up(self._run_dir)
        os.environ["DYNO_SUSPECT"] = ",".join(filter(None, [os.environ.get("DYNO_SUSPECT"), app]))
        self._start_command()

    def _take(self, erb: subprocess.Popen) -> None:
        """Make what erb renders nginx's configuration, once nginx has tested it; what fails leaves that as it is."""
        fresh = self._conf.with_suffix(".new")
        nginx.rendered(erb, fresh)
        if line := nginx.warning(fresh):
            say(f"warning: {line}")
        nginx.test(self._nginx, fresh)
        os.replace(fresh, self._conf)

    def _start_nginx(self) -> int | None:
        """Start nginx and wait until it listens. Returns an exit code when it, or COMMAND, ended before that."""
        command = nginx.command(self._nginx, self._conf)
        self._held_port.close()
        process = self._processes.start(
            "nginx", command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=copy_log, args=(process.stdout,), daemon=True).start()
        number = self._settings.port
        end, signals = time.monotonic() + self._settings.boot_timeout, set()
        while not port.listens(number):
            signals |= self._inbox.wait(0.01)
            if signals & {signal.SIGTERM, signal.SIGINT}:
                return 0
            if ended := self._processes.reap():
                return self._report(*ended)
            if time.monotonic() > end:
                raise StartError(
                    f"nginx does not listen on PORT={number}: config/nginx.conf.erb has it listen elsewhere"
                )
        if signal.SIGHUP in signals:  # nginx hears it only now
            self._reload()
        say(f"ready after {time.monotonic() - self._began:.1f} s: http://localhost:{number}")
        return None

    def _until_ready(self) -> int | None:
        """Wait for every backend. Returns an exit code when COMMAND ended or a signal came, None when all answer."""
        end = time.monotonic() + self._settings.boot_timeout
        probes = health.probes(self._settings, apps.names()[0])
        while probes:
            left = end - time.monotonic()
            if left <= 0:
                names = ", ".join(name for name, _, _ in probes)
                error = f"no answer from {names} within {self._settings.boot_timeout} s (BOOT_TIMEOUT)"
                error += f": bokeh_app/{self._tried()}/main.py still runs" if self._tried() else ""
                self._processes.kill()  # the platform's patience ends 5 s later
                raise StartError(error)
            signals = self._inbox.wait(0.02)
            if signals & {signal.SIGTERM, signal.SIGINT}:
                # nobody is served yet, and Python interrupted in an import prints a traceback
                self._processes.kill()
                return 0
            if ended := self._processes.reap():
                return self._report(*ended)
            if signal.SIGHUP in signals:
                self._reload()
            if gone := self._processes.gone():
                if gone == "bokeh" and (app := self._tried()):
                    self._start_without(app, "ends the whole process")
                    continue
                return self._report_gone(gone)
            if self._tried(LONGEST_TRY * self._settings.boot_timeout):
                self._start_without(self._tried(), f"still runs after {LONGEST_TRY:.0%} of BOOT_TIMEOUT")
            probes = health.missing(probes, health.silent(probes, min(left, health.DEADLINE)), self._settings)
        return None

    def _until_something_stops(self) -> int:
        told = None
        while True:
            try:
                if gone := self._processes.gone():
                    return self._report_gone(gone)
                told = None
            except OSError as error:  # no more files, no more memory: that may pass, and the site still serves
                if told != (told := str(error)):
                    say(f"error: the processes cannot be watched: {error}")
            signals = self._inbox.wait(1.0)
            if signals & {signal.SIGTERM, signal.SIGINT}:  # first: without the shield, COMMAND ends at the same moment
                self._linger = LINGER_SECONDS if signal.SIGTERM in signals else 0.0
                self._drain = DRAIN_SECONDS
                say(f"{'SIGTERM' if signal.SIGTERM in signals else 'SIGINT'} received: stopping")
                return 0
            if ended := self._processes.reap():
                return self._report(*ended)
            if signal.SIGHUP in signals:
                self._reload()

    def _report_gone(self, name: str) -> int:
        say(f"{name} or its parent is gone: stopping the dyno")
        return 1

    def _tried(self, seconds: float = 0.0) -> str:
        """Return the name of the app that the `bokeh` process is trying, or was when it ended, for so long; else nothing."""
        with contextlib.suppress(OSError):
            trying = self._run_dir / "trying"
            return trying.read_text() if time.time() - trying.stat().st_mtime >= seconds else ""
        return ""

    def _report(self, name: str, code: int) -> int:
        what = " ".join(self._command) if name == "COMMAND" else name
        say(f"{what} ended with code {code}: stopping the dyno")
        return code

    def _reload(self) -> None:
        try:
            self._take(nginx.rendering())
        except (nginx.NginxError, OSError) as error:
            say(f"error: {error}; nginx goes on with the configuration it has")
            return
        if pid := self._processes.pid("nginx"):
            os.kill(pid, signal.SIGHUP)
        say("nginx reloads its configuration" if pid else "nginx will start with the new configuration")

    def _stop(self) -> None:
        """End everything below this process: nginx when it has answered what is in flight, then the backends."""
        if nginx_pid := self._processes.pid("nginx"):
            self._processes.wait_for("nginx", self._linger)
            with contextlib.suppress(ProcessLookupError):  # without the shield it heard SIGTERM too
                os.kill(nginx_pid, signal.SIGQUIT)
            began = time.monotonic()
            # not before the port is closed: a page that is told to come back would find this dyno once more
            while port.listens(self._settings.port) and time.monotonic() < began + LINGER_SECONDS:
                self._inbox.wait(0.01)
            self._close_websockets()
            if not self._processes.wait_for("nginx", began + self._drain - time.monotonic()):
                say(f"nginx still had requests after {self._drain:.0f} s: ending them")
                os.kill(nginx_pid, signal.SIGKILL)
        self._processes.interrupt()
        if not self._processes.wait_for(None, STOP_SECONDS):
            killed = self._processes.kill()
            say(f"killed what had not stopped within {STOP_SECONDS:.0f} s: {', '.join(killed)}")
            self._processes.wait_for(None, STOP_SECONDS)

    def _close_websockets(self) -> None:
        """Tell the Bokeh workers; nginx, which is told to finish, would wait for every open page otherwise."""
        if bokeh := self._processes.masters().get("bokeh"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(bokeh, signal.SIGUSR1)


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
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr, flush=True)
        return 1
