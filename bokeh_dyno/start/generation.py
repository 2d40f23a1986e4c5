"""A generation: one run of COMMAND, from code, settings and packages as they are when it begins, in a folder of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from typing import IO

import psutil

from bokeh_dyno.shared import balance, container, health, settings, sigterm
from bokeh_dyno.start import events
from bokeh_dyno.start.output import OUTPUT, say
from bokeh_dyno.start.processes import Children, Tree

# the part of BOOT_TIMEOUT that one app may take, until the others are served without it
LONGEST_TRY = 0.5
# s for one round of asking the backends, in which no signal is heard
ASK_SECONDS = 0.5


class GenerationError(RuntimeError):
    """A generation cannot serve, or go on; the message says why in one line.

    `code` is what the dyno ends with when a process has ended, None when that is not the reason.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Generation:
    """COMMAND and what belongs to it, from its start to its end. Its folder is RUN_DIR/NAME."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str], children: Children) -> None:
        """Take the config vars for it. Raises settings.SettingsError when one is wrong."""
        self.name = name
        self._root = settings.ROOT.resolve()  # where a link leads to now
        self.env = {**environ, "DYNO_GENERATION": name, "DYNO_ROOT": str(self._root)}
        self.env["DYNO_PORT"] = self.env.get("PORT", "")
        self.env["LOG_FORMAT"] = os.environ["LOG_FORMAT"]  # as all of this dyno's lines are, whatever .env says now
        container.apply(self.env)
        self.values = settings.read(self.env)
        settings.complete(self.env)
        self.folder = self.values.run_dir
        self._command = command
        self._children = children
        self._suspects: list[str] = []
        self._lock: IO[str] | None = None
        self.tree = Tree(name, self.folder, children)
        self.began = time.time()
        # when it has been replaced: left, closing (its pages are told to leave), ending; and until when, by the monotonic clock
        self.phase, self.until = "", 0.0
        self.is_listed = False  # whether nginx still leads what is of its sessions there
        self.nginx_workers_before: set[psutil.Process] = set()  # when it took over
        self._nginx_workers: set[psutil.Process] = set()  # that may have requests for it, when it has been replaced

    def start(self) -> None:
        """Start COMMAND; or have it go on, when it is a spare one."""
        if not self._lock:
            self.folder.mkdir(0o700)
            self._run()
        else:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        self.began, self._began = time.time(), time.monotonic()

    def start_spare(self, serving: Generation) -> None:
        """Start COMMAND, whose processes wait with the project's code until `start`: bokeh_dyno/shared/spare.py."""
        self.folder.mkdir(0o700)
        self._lock = open(self.folder / "spare", "w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        paths = {"DYNO_SPARE": os.path.abspath(self._lock.name), "DYNO_BEFORE": os.path.abspath(serving.folder)}
        self._run(paths)

    def _run(self, more: Mapping[str, str] | None = None) -> None:
        env = {**self.env, "DYNO_SUSPECT": ",".join(self._suspects), **(more or {})}
        reads, writes = os.pipe()
        # honcho keeps the end that is read open, too: when this process is killed, what it then prints is no error, and it
        # ends the others
        self._children.start(
            self.name, self._command, sigterm.block, env=env, cwd=self._root,
            stdout=writes, stderr=writes, pass_fds=(reads,),
        )  # fmt: skip
        os.close(writes)
        OUTPUT.follow(reads, events.of_command)
        self._silent = health.probes(self.values)

    def answers(self) -> bool:
        """Return whether every backend has answered; ask those that have not.

        Raises GenerationError when that will not be: COMMAND or a part of it has ended, or BOOT_TIMEOUT is over.
        """
        left = self._began + self.values.boot_timeout - time.monotonic()
        if left <= 0:
            names = ", ".join(name for name, _, _ in self._silent)
            error = f"no answer from {names} within {self.values.boot_timeout} s (BOOT_TIMEOUT)"
            error += f": bokeh_app/{self._tried()}/main.py still runs" if self._tried() else ""
            raise GenerationError(error)
        self._check_command()
        if gone := self.tree.gone(is_served=False):
            if gone != "bokeh" or not (app := self._tried()):
                raise GenerationError(f"{gone} or its parent is gone", 1)
            self._run_without(app, "ends the whole process")
        elif app := self._tried(LONGEST_TRY * self.values.boot_timeout):
            self._run_without(app, f"still runs after {LONGEST_TRY:.0%} of BOOT_TIMEOUT")
        silent = health.silent(self._silent, min(left, ASK_SECONDS))
        self._silent = health.missing(self._silent, silent, self.values)
        return not self._silent

    def excuse(self, seconds: float) -> None:
        """Give it so much more time to answer: nothing could run meanwhile."""
        self._began += seconds

    def check(self, is_served: bool) -> None:
        """Raise GenerationError when it cannot go on, for COMMAND or a process of the Procfile is gone."""
        self._check_command()
        if gone := self.tree.gone(is_served):
            raise GenerationError(f"{gone} or its parent is gone", 1)

    def _check_command(self) -> None:
        self._children.reap()
        if (code := self._children.ended.get(self.name)) is not None:
            raise GenerationError(f"{' '.join(self._command)} ended with code {code}", code)

    def _tried(self, seconds: float = 0.0) -> str:
        """Return the name of the app that the `bokeh` process is trying, or was when it ended, for so long; else nothing."""
        with contextlib.suppress(OSError):
            trying = self.folder / "trying"
            return trying.read_text() if time.time() - trying.stat().st_mtime >= seconds else ""
        return ""

    def _run_without(self, app: str, why: str) -> None:
        """Start COMMAND again, with an app not tried before it is opened that has kept the others from being served."""
        say(f"error: bokeh_app/{app} cannot run: it {why}; starting again without trying it")
        self.tree.kill()
        shutil.rmtree(self.folder)
        self.folder.mkdir(0o700)
        self._suspects.append(app)
        self.tree = Tree(self.name, self.folder, self._children)
        self._run()

    def failures(self) -> dict[str, str]:
        """Return what cannot run in it, a line for each app, and each template of the site that cannot be compiled."""
        failed, broken = sorted((self.folder / "failed").glob("*")), sorted((self.folder / "broken").glob("*"))
        lines = {file.name: f"bokeh_app/{file.name} cannot run: {file.read_text()}" for file in failed}
        return lines | {f"broken/{file.name}": file.read_text() for file in broken}

    def errors(self) -> list[dict[str, object]]:
        """Return what bokeh_dyno/shared/errors.py has noted, in development."""
        found = []
        for file in sorted((self.folder / "errors").glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(file.read_text()))
        return found

    def sessions(self) -> int:
        """Return the number of its sessions, those included that have just lost their connection."""
        return balance.sessions(self.folder / "workers", self.values.bokeh_workers)

    def leave(self, nginx_workers: set[psutil.Process], lifetime: float) -> None:
        """Note that another one has replaced it; with lifetime, in s, its sessions may stay for so long."""
        self._nginx_workers = nginx_workers - self.nginx_workers_before
        self.phase, self.until = "left", time.monotonic() + lifetime

    def is_used(self) -> bool:
        """Return whether a page has a session there, or nginx something to send or to wait for."""
        self._nginx_workers = {worker for worker in self._nginx_workers if worker.is_running()}
        return bool(self._nginx_workers) or self.sessions() > 0

    def close_websockets(self) -> None:
        """Tell its pages to come back, which they do with their values: 1012, service restart."""
        if bokeh := self.tree.masters().get("bokeh"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(bokeh, signal.SIGUSR1)

    def interrupt(self) -> None:
        """Have all of it end in order; `has_ended` says when it has."""
        self.tree.interrupt()

    def has_ended(self) -> bool:
        """Return whether nothing of it is left."""
        return not self.tree.rest()

    def kill(self) -> list[str]:
        """Kill what there is of it, and return the name and pid of each; its sessions are gone with that."""
        killed = self.tree.kill()
        with contextlib.suppress(OSError):
            (self.folder / "workers").unlink()
        return killed

    def clear(self) -> None:
        """Remove its folder."""
        if self._lock:
            self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)
