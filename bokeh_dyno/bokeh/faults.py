"""Whose fault it is: no code of an app ends a worker if that can be prevented, and what does is held against that app.

`sys.exit()` and KeyboardInterrupt in an app's code are errors of the app like any other. `os._exit()`, or a crash in native
code, does end the worker; the master sees here which app's code it was running. An app that has ended OFF_AFTER workers
within a minute is off for a while: nobody starts it, and the other apps keep their workers. When it then ends another, it
is off for twice as long.
"""

from __future__ import annotations

import inspect
import itertools
import mmap
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from bokeh.document.document import Document

from bokeh_dyno.bokeh import metrics
from bokeh_dyno.shared import balance, errors, log, private
from bokeh_dyno.shared.balance import THREADS

OFF_AFTER = 3  # workers ended within WITHIN_SECONDS
WITHIN_SECONDS = 60.0
OFF_SECONDS, LONGEST_OFF = 60.0, 3600.0


class AppError(RuntimeError):
    """An app's code has called sys.exit() or the like."""


class Faults:
    """Which app's code runs in each worker, and which apps are off; in memory that master and workers share.

    Apps and workers are numbered from 1; 0 is no app, and the master.
    """

    def __init__(self, names: list[str], workers: int, path: Path | None = None) -> None:
        """Take the names of all apps; path is the file of the part that Flask reads, too (bokeh_dyno/shared/balance.py)."""
        self._names = names
        self._running = balance.shared(workers, path)
        self._sessions = 2 * THREADS * (workers + 1)  # where their numbers begin in it
        self._off_until = memoryview(mmap.mmap(-1, 8 * (len(names) + 1))).cast("d")
        self._ended: dict[int, list[float]] = {}  # when, by app
        self._off_for: dict[int, float] = {}  # seconds, by app that has been off
        self._in_worker = 0
        self._threads = itertools.count()
        self._mine = threading.local()  # .place: of this thread

    def in_worker(self, number: int) -> None:
        """Note that this process is worker `number`."""
        self._in_worker = number
        self._mine = threading.local()

    def count(self, sessions: int) -> None:
        """Note how many sessions this worker has."""
        self._running[self._sessions + self._in_worker] = sessions

    def _place(self) -> int:
        try:
            return self._mine.place
        except AttributeError:
            self._mine.place = 2 * (THREADS * self._in_worker + next(self._threads) % THREADS)
            return self._mine.place

    def call(self, app: int, function: Callable[..., object], *arguments: object) -> Any:
        """Call a function of app's code and return what it does; in a coroutine, each of its steps counts as the app's.

        Raises AppError in the place of SystemExit and KeyboardInterrupt.
        """
        result = self._call(app, function, *arguments)
        return self._step_by_step(app, result) if inspect.iscoroutine(result) else result

    def call_back(self, app: int, function: Callable[..., object], *arguments: object) -> Any:
        """Do as `call`, and count for how long the app's code has run, unless that is a part of what is counted already."""
        if self._running[self._place()]:
            return self.call(app, function, *arguments)
        result, began = None, time.monotonic()
        try:
            result = self._call(app, function, *arguments)
        finally:
            if not inspect.iscoroutine(result):
                metrics.callback(time.monotonic() - began)
        return self._step_by_step(app, result, counts=True) if inspect.iscoroutine(result) else result

    def _call(self, app: int, function: Callable[..., object], *arguments: object) -> Any:
        place = self._place()
        before = self._running[place]
        self._running[place + 1] = time.monotonic()
        self._running[place] = app
        try:
            return function(*arguments)
        except (SystemExit, KeyboardInterrupt) as stop:
            errors.note(f"bokeh_app/{self.name(app)}", stop)
            raise AppError(f"bokeh_app/{self.name(app)}: {stop!r}") from stop
        except StopIteration:  # the end of a coroutine
            raise
        except Exception as error:
            errors.note(f"bokeh_app/{self.name(app)}", error)
            raise
        finally:
            self._running[place] = before

    async def _step_by_step(self, app: int, coroutine: Coroutine[Any, Any, Any], counts: bool = False) -> Any:
        steps = _Steps(self, app, coroutine)
        try:
            return await steps
        finally:
            if counts:
                metrics.callback(steps.seconds)

    def alone_since(self, then: float) -> bool:
        """Return whether only this thread of this worker has run code of apps since `then`, in time.monotonic()."""
        first, mine = 2 * THREADS * self._in_worker, self._place()
        others = (place for place in range(first, first + 2 * THREADS, 2) if place != mine)
        return not any(self._running[place] or self._running[place + 1] > then for place in others)

    def name(self, app: int) -> str:
        """Return the name of an app, nothing for 0."""
        return self._names[app - 1] if app else ""

    def blame(self, worker: int) -> str:
        """Return the name of the app whose code `worker`, which has just ended, was running; nothing when it ran none.

        Of several at the same time, the one that began last. For the master: this counts against the app, and may turn it
        off.
        """
        places = range(2 * THREADS * worker, 2 * THREADS * (worker + 1), 2)
        running = [(self._running[place + 1], int(self._running[place])) for place in places if self._running[place]]
        _, app = max(running, default=(0.0, 0))
        for place in places:
            self._running[place] = 0
        if app:
            now = time.monotonic()
            recent = [past for past in self._ended.get(app, []) if now - past < WITHIN_SECONDS]
            self._ended[app] = [*recent, now]
            if now > self._off_until[app] + LONGEST_OFF:
                self._off_for.pop(app, None)
            if app in self._off_for or len(self._ended[app]) >= OFF_AFTER:
                self._off_for[app] = seconds = min(LONGEST_OFF, 2 * self._off_for.get(app, OFF_SECONDS / 2))
                self._off_until[app] = now + seconds
                print(f"bokeh_app/{self.name(app)} is off for {seconds:.0f} s: it has ended workers", flush=True)
        return self.name(app)

    def note_app(self, doc: Document, app: int) -> None:
        """Note that the callbacks of a document are code of that app."""
        _apps[doc] = self, app, log.REQUEST_ID.get(), log.SESSION.get()

    def suspect(self, name: str) -> None:
        """Note that an app has not come to an end before anybody opened it: the next worker that it ends turns it off."""
        self._off_for[self._names.index(name) + 1] = OFF_SECONDS / 2

    def is_off(self, name: str) -> bool:
        """Return whether the app of this name is off."""
        return time.monotonic() < self._off_until[self._names.index(name) + 1]


class _Steps:
    """Awaits a coroutine of an app's code, each step as `Faults.call` does."""

    def __init__(self, faults: Faults, app: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._faults, self._app, self._coroutine = faults, app, coroutine
        self.seconds = 0.0  # for which it has run, without those in which it waited

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], object] = self._coroutine.send
        value: Any = None
        while True:
            began = time.monotonic()
            try:
                future = self._faults.call(self._app, step, value)
            except StopIteration as end:
                return end.value
            finally:
                self.seconds += time.monotonic() - began
            try:
                step, value = self._coroutine.send, (yield future)
            except BaseException as error:
                step, value = self._coroutine.throw, error


# with the request and the session that its document was made in, as the log calls them
_apps: weakref.WeakKeyDictionary[Document, tuple[Faults | None, int, str, str]] = weakref.WeakKeyDictionary()


def invoke_with_curdoc(doc: Document, f: Callable[[], object]) -> Any:
    """Do as Bokeh's, through which every callback of an app is called; count it, and hold what comes of it against that app."""
    faults, number, request_id, session = _apps.get(doc, (None, 0, "", ""))
    if not faults:
        return _invoke_with_curdoc(doc, f)
    with log.about(log.REQUEST_ID.get() or request_id, session):  # it may come from a thread of the app's own
        return faults.call_back(number, _invoke_with_curdoc, doc, f)


if private.has("faults"):
    _invoke_with_curdoc = private.replace("bokeh.document.callbacks:invoke_with_curdoc", invoke_with_curdoc)
