"""The master of the Bokeh workers: forks them, and replaces those that end, hang or grow too large."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable

import psutil

from bokeh_dyno.bokeh import BokehError, metrics
from bokeh_dyno.bokeh.faults import Faults
from bokeh_dyno.shared import buildpack, errors, health, sigterm
from bokeh_dyno.shared.settings import Settings
from bokeh_dyno.shared.signals import Inbox, start_script_is_gone

STOP_SECONDS = 3.0  # from the signal to the worker that stops, until it is killed


class Master:
    """Keeps the workers alive and well, as long as there is a start script."""

    def __init__(self, values: Settings, work: Callable[[int, Callable[[], None]], None], faults: Faults) -> None:
        self._values = values
        self._work = work
        self._faults = faults
        self._hang_timeout = values.bokeh_hang_timeout
        self._max_memory = values.bokeh_max_memory * 1e6
        self._deaths = {number: health.Deaths() for number in range(1, values.bokeh_workers + 1)}
        self._pids: dict[int, int] = {}  # number of each worker, by its pid
        self._ending: tuple[int, str, float] | None = None  # pid, why, and when to kill it
        self._heartbeats = mmap.mmap(-1, 8 * (len(self._deaths) + 1))  # shared with the workers
        self._started: dict[int, float] = {}
        self._pauses, self._resumed = health.Pauses(), time.monotonic()
        self._stops = sigterm.stops()
        self._inbox = Inbox(signal.SIGCHLD, signal.SIGUSR1, *self._stops)

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
                if self._stops & signals or start_script_is_gone():
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
            if (number := self._pids.pop(pid, None)) is None:  # not a worker: an app started it when it was run at boot
                continue
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            if self._ending and self._ending[0] == pid:
                _, how, _ = self._ending
                self._ending = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what its apps have started, a pool of processes, say
            metrics.restarted(number)
            app = self._faults.blame(number)
            if not app and self._deaths[number].too_many():
                raise BokehError(f"worker {number} {how}; {health.DEATHS} times within {health.DEATHS_SECONDS} s")
            of_app = f"; it ran bokeh_app/{app}" if app else ""
            if app:
                errors.note(f"bokeh_app/{app}", f"it has ended its worker, which {how}")
            print(f"worker {number} (pid {pid}) {how}: starting it again{of_app}", flush=True)
            self._start(number)

    def _beat(self, number: int, now: float) -> None:
        struct.pack_into("d", self._heartbeats, 8 * number, now)

    def _last_beat(self, number: int) -> float:
        return struct.unpack_from("d", self._heartbeats, 8 * number)[0]

    def _end_ill(self) -> None:
        """End a worker that hangs or is too large: one at a time, and none while another is still starting."""
        now = time.monotonic()
        if self._pauses.seconds():  # the workers first need a moment to say that they live
            self._resumed = now
        if self._ending:
            pid, _, deadline = self._ending
            if now > deadline:
                os.kill(pid, signal.SIGKILL)
            return
        for pid, number in self._pids.items():
            age = now - max(self._last_beat(number) or self._started[number], self._resumed)
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
