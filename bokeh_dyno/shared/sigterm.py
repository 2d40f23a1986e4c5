"""The shield against SIGTERM, which Heroku sends to every process of a dyno: only the start script heeds it.

nginx drops its requests at that, and honcho kills its children 5 s after the first has stopped. So the start script stops all
in order, and what it has started does not hear the signal. There are three ways not to:

nginx unblocks and handles the signal itself: a seccomp filter that answers rt_sigaction(SIGTERM, …) with success and does
nothing, loaded while SIGTERM is ignored and before exec, leaves it ignored for good. All that is started behind it would be
as deaf.

COMMAND, that is honcho, is started with the signal blocked, and leaves it so.

gunicorn's and Bokeh's processes, which honcho starts, handle it by doing nothing (`disregard`). What they themselves start,
and what the code of a page or an app does, hears SIGTERM as it does anywhere else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable


def block() -> None:
    """Have this process, and what it executes, not hear SIGTERM until that is unblocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def disregard() -> None:
    """Have this process do nothing at SIGTERM, as long as our start script is there to stop it in another way.

    Its children hear the signal: those that are executed, for no handler outlives that, and those that are forked.
    """
    if "DYNO_PID" in os.environ:
        signal.signal(signal.SIGTERM, _nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def stops() -> set[signal.Signals]:
    """Return the signals that stop a process of ours: SIGTERM is one when no start script of ours would stop it."""
    return {signal.SIGINT} if "DYNO_PID" in os.environ else {signal.SIGINT, signal.SIGTERM}


def _nothing(*_: object) -> None:
    pass


def _hold() -> None:
    """Before a fork: keep SIGTERM waiting, or the child would do nothing at one that comes before `_hear`.

    A pool of processes that ends as soon as it has begun would wait for such a child for ever.
    """
    if signal.getsignal(signal.SIGTERM) is _nothing:
        _before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_go() -> None:
    mask = _before.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _hear() -> None:
    if signal.getsignal(signal.SIGTERM) is _nothing:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_go()


_before = threading.local()
os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_hear)


def shield() -> tuple[Callable[[], None] | None, str]:
    """Return (what a child has to call before exec, ""), or (None, why there is no shield on this system)."""
    if sys.platform != "linux":
        return None, "it needs Linux"
    try:
        import pyseccomp

        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        rules.add_rule(pyseccomp.ERRNO(0), "rt_sigaction", pyseccomp.Arg(0, pyseccomp.EQ, signal.SIGTERM))
    except Exception as error:  # the package, the system's libseccomp, or something of this kernel's is missing
        return None, f"{type(error).__name__}: {error}"

    def enter() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rules.load()

    pid = os.fork()  # a filter cannot be taken back: a child tries it
    if pid == 0:
        try:
            enter()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        return None, "the system forbids seccomp filters"
    return enter, ""
