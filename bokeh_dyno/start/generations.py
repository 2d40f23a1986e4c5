"""The generations of a dyno: the one that serves, one that is to replace it (SIGUSR2), and those that still have pages.

nginx is led from one to the next by a reload. Its workers from before send what they have to the old generation, however long
that takes; so a generation has nothing more to do when those workers and its sessions are gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import bokeh_dyno
from bokeh_dyno.shared import run_dir
from bokeh_dyno.shared.settings import ROOT, SettingsError
from bokeh_dyno.start import memory
from bokeh_dyno.start.generation import Generation, GenerationError
from bokeh_dyno.start.nginx import Nginx, NginxError
from bokeh_dyno.start.output import say
from bokeh_dyno.start.processes import Children

# s for what a generation still answers once its pages have been told to leave, and for its processes to end. The platform
# kills 30 s after SIGTERM
DRAIN_SECONDS, STOP_SECONDS = 21.0, 4.0
SPARE_SECONDS = 2.0  # from the beginning of one that serves to the spare one, while pages come over to it


class Generations:
    """All of one run of the start script."""

    def __init__(self, name: str, command: list[str], path: Path, server: Nginx, children: Children) -> None:
        """Begin with the generation of this name; path is RUN_DIR. Nothing is started yet."""
        self._command, self._path, self._nginx, self._children = command, path, server, children
        self._environ = dict(os.environ)
        # which honcho or systemd has read for us; whether it was that file, `_environment` sees
        self._dotenv = _dotenv() or ("" if "HONCHO_PROCESS_NAME" in os.environ else None)
        self.serving = Generation(name, command, self._environ, children)
        self._starting: Generation | None = None
        self._leaving: list[Generation] = []
        self._spare: Generation | None = None  # in development
        self._again = False
        self._names = [name]
        self._failed: dict[str, object] | None = None
        self._routing: str | None = None
        self._routed = 0.0  # when it was last read anew

    def start(self) -> None:
        """Start the first one."""
        self.write()
        self.serving.start()
        self.write()

    def replace(self) -> None:
        """Start the next one, from what there is now; or do so once more when one is starting already."""
        if self._starting:
            self._again = True
            say(f"generation {self._starting.name} is starting: another one will follow it")
            return
        name = ""
        try:
            self._starting = fresh = self._take_spare() or self._new()
            name = fresh.name
            if (fresh.values.port, fresh.folder.parent) != (self.serving.values.port, self._path):
                raise GenerationError("PORT or RUN_DIR has changed, which takes a restart")
            if line := memory.lacks(self.serving):
                raise GenerationError(line)
            self.write()
            fresh.start()
        except (SettingsError, GenerationError, ValueError, OSError) as error:
            self._give_up(name or "another", str(error))
            return
        say(f"generation {name} begins; {self.serving.name} serves until it answers")
        self.write()

    def _new(self) -> Generation:
        name = run_dir.new_name(self._path, self._names)
        self._names.append(name)
        return Generation(name, self._command, self._environment(), self._children)

    def _make_spare(self) -> None:
        """Have another one there, as far as that is possible before anything is edited."""
        try:
            self._spare_made_of, self._spare = (_stamp(), self._environment()), self._new()
        except SettingsError:  # told when an edit asks for another one
            return
        self.write()
        self._spare.start_spare(self.serving)

    def _take_spare(self) -> Generation | None:
        """Return the one that is there, unless something has changed that it was started with."""
        spare, self._spare = self._spare, None
        if not spare:
            return None
        with contextlib.suppress(GenerationError, SettingsError):  # the latter is told by whoever makes another one
            spare.check(is_served=True)
            if self._spare_made_of == (_stamp(), self._environment()):
                return spare
        spare.kill()
        spare.clear()
        return None

    def _environment(self) -> dict[str, str]:
        """Return what a start of now would be given."""
        before = _parsed(self._dotenv)
        if self._dotenv is None or any(
            self._environ.get(name) != text for name, text in before.items() if name != "PORT"
        ):
            return self._environ  # honcho was told to read another file, or there is no honcho
        kept = {name: text for name, text in self._environ.items() if name == "PORT" or before.get(name) != text}
        return {**kept, **_parsed(_dotenv())}

    def step(self) -> None:
        """Do what is to be done now. Raises GenerationError when the one that serves cannot go on."""
        self.serving.check(is_served=True)
        if self._starting:
            self._look_at(self._starting)
        for old in list(self._leaving):
            self._see_off(old)
        served = time.time() - self.serving.began
        if "DYNO_DEV" in os.environ and not self._spare and not self._starting and served > SPARE_SECONDS:
            self._make_spare()

    def is_busy(self) -> bool:
        """Return whether `step` is to be called again soon."""
        return self._starting is not None or any(old.phase != "left" for old in self._leaving)

    def _look_at(self, fresh: Generation) -> None:
        try:
            if not fresh.answers():
                return
            if line := self._new_failure(fresh):
                raise GenerationError(line)
            self._take_over(fresh)
        except (GenerationError, NginxError, OSError) as error:
            self._give_up(fresh.name, self._new_failure(fresh) or str(error))
            return
        self._starting = None
        self.write()
        self._once_more()

    def _new_failure(self, fresh: Generation) -> str:
        """Return what cannot run in it and can in the one that serves, in one line; nothing when all can."""
        known = self.serving.failures()
        return next((line for name, line in fresh.failures().items() if name not in known), "")

    def _take_over(self, fresh: Generation) -> None:
        old, before = self.serving, self._nginx.workers()
        old.is_listed = fresh.values.generation_lifetime > 0
        self._nginx.reload(fresh.env, [fresh, *([old] if old.is_listed else []), *self._listed()])
        self.serving, self._failed = fresh, None
        fresh.nginx_workers_before = before
        old.leave(before, fresh.values.generation_lifetime)
        self._leaving.append(old)
        took = time.time() - fresh.began
        say(
            f"generation {fresh.name} takes over from {old.name} after {took:.1f} s, which has {old.sessions()} sessions"
        )

    def _listed(self) -> list[Generation]:
        """Return those left ones to which nginx leads what is of their sessions."""
        return [old for old in self._leaving if old.is_listed]

    def _give_up(self, name: str, why: str) -> None:
        """End the one that was to take over; everything stays as it was."""
        errors = []
        if fresh := self._starting:
            errors = fresh.errors()
            fresh.kill()
            fresh.clear()
        self._starting = None
        line = why.replace("\n", "; ")
        say(f"error: generation {name} cannot take over: {line}; {self.serving.name} goes on")
        self._failed = {"at": time.time(), "why": line, "errors": errors}
        self.write()
        self._once_more()

    def _once_more(self) -> None:
        if self._again:
            self._again = False
            self.replace()

    def _see_off(self, old: Generation) -> None:
        """Lead a generation that was left through its phases: left, closing, ending, gone."""
        if old.phase == "left":
            try:
                old.check(is_served=True)
            except GenerationError as error:
                say(f"generation {old.name}: {error}")
                old.kill()
                old.until = 0.0
        now = time.monotonic()
        if old.phase == "left" and (not old.is_used() or now >= old.until):
            if sessions := old.sessions():
                say(f"generation {old.name} is left: {sessions} sessions come over (GENERATION_LIFETIME)")
            old.phase, old.until = "closing", now + DRAIN_SECONDS
            if old.is_listed:
                old.is_listed = False
                try:
                    self._nginx.forget(old.name)
                except (NginxError, OSError) as error:  # its sessions are not found until the next reload
                    say(f"error: {error}")
            old.close_websockets()
        elif old.phase == "closing" and (not old.is_used() or now >= old.until):
            old.phase, old.until = "ending", now + STOP_SECONDS
            old.interrupt()
        elif old.phase == "ending" and (old.has_ended() or now >= old.until):
            if killed := old.kill():
                say(f"killed what had not stopped within {STOP_SECONDS:.0f} s: {', '.join(killed)}")
            old.clear()
            self._leaving.remove(old)
            say(f"generation {old.name} ends")
            self.write()

    def reload_routing(self) -> None:
        """Have nginx read config/nginx.conf.erb anew; what is wrong with it leaves everything as it is."""
        try:
            self._nginx.reload(self.serving.env, [self.serving, *self._listed()])
            self._routing = None
        except (NginxError, OSError) as error:
            say(f"error: {error}; nginx goes on with the configuration it has")
            self._routing = str(error)
        else:
            running = self._nginx.pid()
            say("nginx reloads its configuration" if running else "nginx will start with the new configuration")
        self._routed = time.time()
        self.write()

    def close_websockets(self) -> None:
        """Tell all pages to come back later: nginx, which is told to finish, would wait for every one otherwise."""
        for generation in self._all():
            generation.close_websockets()

    def stop(self) -> list[str]:
        """End all of them, in order; return the name and pid of each process that had to be killed."""
        for fresh in filter(None, (self._starting, self._spare)):
            fresh.kill()  # nobody has been sent there yet, and Python interrupted in an import prints a traceback
        for generation in self._all():
            generation.interrupt()
        end = time.monotonic() + STOP_SECONDS
        rest = self._all()
        while (rest := [generation for generation in rest if not generation.has_ended()]) and time.monotonic() < end:
            self._children.inbox.wait(0.05)
        killed = [name for generation in self._all() for name in generation.kill()]
        if errors := self.serving.errors():  # for bin/dev, which outlives it
            self._failed = {"at": time.time(), "why": "it has ended", "errors": errors}
            self.write()
        for generation in self._all():
            generation.clear()
        return killed

    def _all(self) -> list[Generation]:
        return [one for one in (self.serving, self._starting, *self._leaving, self._spare) if one]

    def write(self) -> None:
        """Write down for others how things stand, in RUN_DIR/generations.json."""
        alive = self._all()
        state = {
            "serving": self.serving.name,
            "starting": self._starting.name if self._starting else None,
            "leaving": [old.name for old in self._leaving],
            "began": {one.name: one.began for one in alive},
            "failed": self._failed,
            "routing": self._routing,
            "routed": self._routed,
            "ended": [name for name in self._names if name not in [one.name for one in alive]],
        }
        run_dir.write_generations(self._path, state)


def _stamp() -> tuple[float, ...]:
    """Return by what it is seen that the machinery, the installed packages or the Procfile have changed."""
    packages = [Path(path) for path in sys.path if path.endswith("-packages")]
    files = [*packages, *Path(bokeh_dyno.__file__).parent.rglob("*.py"), ROOT / "Procfile.dyno"]
    return tuple(file.stat().st_mtime for file in files if file.exists())


def _dotenv() -> str:
    """Return what is in .env now; nothing when there is none, for honcho goes on then."""
    with contextlib.suppress(OSError):
        return (ROOT / ".env").read_text()
    return ""


def _parsed(dotenv: str | None) -> dict[str, str]:
    """Return what honcho makes of it. Raises SettingsError when that fails."""
    from honcho import environ

    try:
        return environ.parse(dotenv or "")
    except ValueError as error:
        raise SettingsError(f".env cannot be read: {error}") from error
