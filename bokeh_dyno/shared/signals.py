"""Signals as something to wait for, so that none is lost, and what ends with whom."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
import time


class Inbox:
    """Takes the signals named and hands them out, one set at a time, in the main thread."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # those that came before are waiting

    def wait(self, seconds: float) -> set[int]:
        """Return the signals that came, after `seconds` at most; an empty set when none did."""
        if not select.select([self._receiver], [], [], max(0.0, seconds))[0]:
            return set()
        return set(self._receiver.recv(4096))

    @staticmethod
    def forget() -> None:
        """Give the signals back, in a child just forked."""
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)) and number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """What this was started from: a terminal, and perhaps an honcho that has read .env.

    Either may be gone without a signal that says so: SIGHUP asks for another routing, too, and honcho's children have
    sessions of their own.
    """

    def __init__(self) -> None:
        self._has_one = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()  # else it was nohup
        self._honcho = _parent_of_session() if "HONCHO_PROCESS_NAME" in os.environ else 0

    def is_closed(self) -> bool:
        """Return whether there was a terminal and is none any more."""
        return self._has_one and not _has_terminal()

    def is_left(self) -> bool:
        """Return whether the honcho above has ended, however that was."""
        return bool(self._honcho) and _parent_of_session() != self._honcho


def _parent_of_session() -> int:
    """Return the pid of what has started this session's leader: this process, or a shell between it and honcho."""
    import psutil

    try:
        return psutil.Process(os.getsid(0)).ppid()
    except psutil.Error:  # the leader itself has ended
        return 1


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    except OSError:
        return False


def start_script_is_gone(wait: bool = False) -> bool:
    """Return whether the start script is gone, whose lock on RUN_DIR/lock (DYNO_LOCK) lives as long as it does.

    With wait, return only then. Without a start script of ours (DYNO_PID is not set) it is never gone.
    """
    if "DYNO_PID" not in os.environ:
        return False
    try:
        lock = open(os.environ["DYNO_LOCK"])  # noqa: SIM115
    except OSError:  # RUN_DIR has been removed, or there are too many open files
        return _is_gone(int(os.environ["DYNO_PID"]), wait)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return lock.read() != os.environ["DYNO_PID"]  # its successor in the same folder has the lock already
    return True


def _is_gone(pid: int, wait: bool) -> bool:
    while True:
        try:
            os.kill(pid, 0)
        except OSError:
            return True
        if not wait:
            return False
        time.sleep(1.0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every process below whose own parent was killed, so that the stop finds it (Linux)."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def die_with_parent(number: signal.Signals = signal.SIGINT) -> None:
    """In a child: ask the kernel for a signal when the start script is killed, so that nothing is left behind (Linux)."""
    _prctl(1, number)  # PR_SET_PDEATHSIG
