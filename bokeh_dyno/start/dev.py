"""What bin/dev does: the dyno, and each edit that is saved on the open page, with as little done for it as it needs."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Any

from bokeh_dyno.shared import run_dir, settings
from bokeh_dyno.shared.settings import ROOT, SettingsError
from bokeh_dyno.start import check, edits, mistakes, nginx, port, start_script
from bokeh_dyno.start.output import say
from bokeh_dyno.start.stream import Event, Server, Stream

USAGE = "usage: bin/dev [--open]   (--open: open the site in a browser)"
# ms for saves that belong together, at most, and without another one; and between two looks at how the dyno does
TOGETHER, QUIET, LOOK = 1000, 50, 50
RELOAD_SECONDS = 2.0  # for nginx's old workers to take no more requests
PATIENCE = 30.0  # s beyond BOOT_TIMEOUT until the start script has said what has come of a generation


class Dev:
    """One run of bin/dev, which is the parent of the start script."""

    def __init__(self, browser: bool) -> None:
        """Read what there is to be read; `browser`: open one. Raises SettingsError when something is wrong."""
        environ = start_script.environment()
        self._values = settings.read(environ)
        self._browser = browser
        self._notices = mistakes.notices(self._values, environ)
        self._untold: list[Event] = [{"type": "notice", "text": line} for line in self._notices]
        environ["BOKEH_SECRET_KEY"] = environ.get("BOKEH_SECRET_KEY") or secrets.token_hex(32)
        self._dyno = start_script.StartScript(self._values, environ)
        self._stops, self._code = False, 0
        self._serving: str | None = None  # the generation that pages have been told of ...
        self._since = 0.0  # ... and when there was another
        self._wanted = False  # another generation, and no one has been asked for it yet
        self._asked = self._reloads = 0.0  # when, for one, and for nginx to be told: nothing has come of it yet
        self._routing: list[dict[str, Any]] = []  # what is wrong with it
        self._errors: list[dict[str, Any]] = []  # that pages show
        self._stream = Stream(self._hello)
        self._instead: Server | None = None  # answers on the port while there is no dyno

    def run(self) -> int:
        """Run until Ctrl-C; return the exit code. Raises SettingsError and OSError before anything is left."""
        run_dir.make(self._values)
        start_script.check_is_free(self._values.run_dir / "lock")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._hear)
        for line in self._notices:
            say(f"in production: {line}", "dev")
        path = self._values.run_dir / "dev.sock"
        server = Server(str(path), self._stream)
        try:
            self._start()
            self._until_it_stops()
        finally:
            for one in filter(None, [self._instead, server]):
                one.close()
            self._stream.end()  # nginx would wait for those who listen
            self._dyno.stop()
            path.unlink(missing_ok=True)
        return self._code

    def _hear(self, *_: object) -> None:
        self._stops = True

    def _until_it_stops(self) -> None:
        import watchfiles

        project = edits.Edits(self._values.run_dir)
        while not self._stops:
            watched = list(project.folders)
            is_new = True
            # each folder by itself: below others, such as .venv, there may be more than the system watches
            for changes in watchfiles.watch(
                *watched, watch_filter=None, debounce=TOGETHER, step=QUIET, rust_timeout=LOOK, yield_on_timeout=True,
                raise_interrupt=False, recursive=False, ignore_permission_denied=True,
            ):  # fmt: skip
                if changes or is_new:
                    self._see_to(project.take())
                is_new = False
                self._look()
                if self._stops or project.folders != watched:
                    break

    # --- edits ---

    def _see_to(self, names: list[str]) -> None:
        """Do what edits of these files need."""
        needs = edits.needs(names, self._dyno.site(self._serving))
        if not any(needs):
            return
        edits.forget_compiled(names)
        say(f"saved: {', '.join(names[:5])}{', …' * (len(names) > 5)}", "dev")
        if self._instead:
            self._start()
            return
        if needs.routing:
            self._reloads = time.time()
            self._dyno.signal(signal.SIGHUP)
        if needs.styles:
            self._stream.send({"type": "styles", "files": needs.styles})
        if needs.generation:
            self._wanted = True
        elif needs.page:
            self._send_page(needs.page)

    def _start(self) -> None:
        if self._instead:
            self._stream.send({"type": "building"})
            self._instead.close()
            self._instead = None
            self._stream.end()
        self._routing = []
        self._dyno.start()

    def _send_page(self, files: list[str]) -> None:
        """Have pages fetched anew; what was wrong with one will be told again if it is still."""
        self._dyno.forget_noted(self._serving)
        self._tell_errors()
        self._stream.send({"type": "page", "files": files})

    # --- how the dyno does ---

    def _look(self) -> None:
        """See how the dyno does, tell pages what is new, and ask for another generation when that is wanted."""
        if self._instead:
            return
        code = self._dyno.ended()
        if self._dyno.look():
            line = self._dyno.state.get("routing")
            self._routing = [mistakes.of_routing(line)] if line else []
        state = self._dyno.state
        name, failed = state.get("serving"), state.get("failed")
        self._dyno.read_noted(name)
        if code is not None:
            self._give_up(code)
            return
        if self._serving is None:
            if name and port.listens(self._values.port):
                self._serve(name)
        elif name and name != self._serving:
            self._since = self._since or time.monotonic()
            if self._is_led() or time.monotonic() > self._since + RELOAD_SECONDS:
                self._serve(name)
        elif self._asked and (
            (failed and failed["at"] >= self._asked) or time.time() > self._asked + self._values.boot_timeout + PATIENCE
        ):
            self._asked = 0.0
            self._tell_errors(again=True)
        if self._reloads and state.get("routed", 0.0) >= self._reloads and self._is_led():
            self._reloads = 0.0
            if not state.get("routing"):
                self._send_page([mistakes.ROUTING])
        if self._wanted and self._serving and not self._asked and not state.get("starting"):
            self._wanted, self._asked = False, time.time()
            self._stream.send({"type": "building"})
            self._dyno.signal(signal.SIGUSR2)
        if name == self._serving:
            self._tell_errors()

    def _is_led(self) -> bool:
        """Return whether all that nginx is asked reaches the new generation: its workers of before are shutting down."""
        import psutil

        try:
            master = psutil.Process(int((ROOT / self._values.run_dir / "nginx.pid").read_text()))
            titles = [" ".join(worker.cmdline()).strip() for worker in master.children()]
        except (OSError, ValueError, psutil.Error):
            return False
        return titles.count("nginx: worker process") <= self._values.nginx_workers

    def _serve(self, name: str) -> None:
        """Tell pages that this generation serves."""
        self._serving, self._since, self._asked = name, 0.0, 0.0
        self._tell_errors()
        self._stream.send({"type": "serving", "generation": name})
        self._open()

    def _open(self) -> None:
        """Open a browser, if one is wanted, once."""
        if self._browser:
            self._browser = False
            url = f"http://localhost:{self._values.port}/"
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    def _give_up(self, code: int) -> None:
        """Answer in the place of the dyno, which has ended, until an edit lets it be started again."""
        self._serving, self._wanted, self._asked = None, False, 0.0
        if self._stops:
            return
        try:
            self._instead = Server(self._values.port, self._stream, lambda: self._errors)
        except OSError:  # that is what it has ended of, and said
            self._stops, self._code = True, code
            return
        self._tell_errors(again=True)
        self._stream.end()  # of the nginx that was there
        for one in self._errors:
            place = f"{one['file']}, line {one['line']}" if one["file"] else one["where"]
            say(f"error: {place}: {one['message']}", "dev")
        say(f"http://localhost:{self._values.port} says it, too; waiting for the next edit", "dev")
        self._open()

    # --- what pages are told ---

    def _hello(self) -> list[Event]:
        untold, self._untold = self._untold, []
        building: list[Event] = [{"type": "building"}] if self._asked else []
        return [{"type": "hello", "generation": self._serving, "errors": self._errors}, *building, *untold]

    def _tell_errors(self, again: bool = False) -> None:
        found = list(self._routing)
        if failed := self._dyno.state.get("failed"):
            found += failed["errors"] or [mistakes.of_line(failed["why"])]
        noted = [one for one in self._dyno.noted if one not in found]
        # what goes wrong in the one that serves is said below the page, not over it
        found += [{**one, "running": True} for one in noted] if self._serving else noted
        if self._instead and not found:
            found = [mistakes.of_line("; ".join(self._dyno.said) or "the dyno has ended: the terminal says why")]
        if again or found != self._errors:
            self._errors = found
            self._stream.send({"type": "errors", "errors": found})


def main(arguments: list[str]) -> int:
    """Run bin/dev with its command line; return the exit code."""
    if arguments not in ([], ["--open"]):
        print(USAGE, file=sys.stderr)
        return 2
    os.chdir(ROOT)
    wrong = [f"Python has no package {name}: run bin/setup" for name in check.missing_packages()]
    if importlib.util.find_spec("watchfiles") is None:
        wrong.append("Python has no package watchfiles: run bin/setup --dev, or pip install watchfiles")
    wrong = wrong or check.wrong_lines(Path(".env")) + check.wrong_procfile(Path("Procfile"))
    try:
        if not wrong:
            nginx.find()
            return Dev("--open" in arguments).run()
    except (SettingsError, nginx.NginxError, OSError, RuntimeError) as error:  # of watchfiles
        wrong = str(error).splitlines()
    print("".join(f"error: {line}\n" for line in wrong), end="", file=sys.stderr)
    return 1
