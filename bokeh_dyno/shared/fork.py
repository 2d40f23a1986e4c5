"""What code of others leaves in a process that must not be shared by fork: threads, processes, connections, randomness.

Workers are forked from a process that has everything imported, which spares each the time and the memory. But a fork has
none of the threads (what they should do is never done: the first use of a pool of theirs hangs), both halves of a connection
(workers read each other's answers), and the same random numbers. So nothing is shared that was not seen to leave none of it.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from bokeh_dyno.shared import sigterm

SELF = Path("/proc/self")
CAN_SEE = (SELF / "task").is_dir() and (SELF / "fd").is_dir()  # else nothing can be seen to be safe
# seconds for a thread that has been joined to be gone from /proc
GONE = 0.2
SEMAPHORES = "multiprocessing.synchronize:SemLock._rand"  # their names
HARMLESS = ("/dev/null", "/dev/urandom", "/dev/random")
KINDS = {"socket:": "a connection", "pipe:": "a pipe", "anon_inode:": "an event loop"}  # of /proc/self/fd's links


class Before:
    """What this process has now, to tell later what has been left in it since."""

    def __init__(self) -> None:
        self._tasks, self._files, self._has_children = _tasks(), _files(), _has_children()
        self._size = psutil.Process().memory_info().rss
        gc.freeze()  # what is there now is not looked through again; `gc.unfreeze` makes it as it was

    def left(self) -> str:
        """Return in words what has been left since that does not survive a fork; nothing when that is nothing."""
        if not CAN_SEE:
            return "what cannot be seen on this system"
        if self._look():
            gc.collect()  # what nobody refers to any more is not left
        return self._look()

    def grown(self) -> float:
        """Return by how many MB this process has grown since."""
        return (psutil.Process().memory_info().rss - self._size) / 1e6

    def _look(self) -> str:
        end = time.monotonic() + GONE
        while (tasks := _tasks().keys() - self._tasks.keys()) and time.monotonic() < end:
            time.sleep(0.01)
        files = [_kind(target) for target in (_files().items() - self._files.items())]
        left = [_threads(tasks)] if tasks else []
        left += ["a process"] if _has_children() and not self._has_children else []
        left += sorted({kind for kind in files if kind})
        left += _random_numbers()
        return ", ".join(left)


def reseed() -> None:
    """In a worker: have numpy draw other random numbers than in the others; Python itself sees to its own."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def execute_again() -> None:
    """Replace this process by a fresh one that runs the same command, without whatever was left in it."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    sigterm.block()  # until the fresh one disregards it
    os.closerange(3, max(map(int, os.listdir(SELF / "fd"))) + 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _tasks() -> dict[str, None]:
    return dict.fromkeys(os.listdir(SELF / "task")) if CAN_SEE else {}


def _threads(tasks: set[str]) -> str:
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    known = sorted(names[task] for task in tasks if task in names)
    return f"{len(tasks)} thread{'s' if len(tasks) > 1 else ''} ({', '.join(known) or 'of native code'})"


def _files() -> dict[str, str]:
    """Return what each open file is, by its number."""
    files = {}
    for number in os.listdir(SELF / "fd") if CAN_SEE else ():
        try:
            files[number] = os.readlink(SELF / "fd" / number)
        except FileNotFoundError:  # that of listdir itself
            continue
    return files


def _kind(file: tuple[str, str]) -> str:
    """Return what an open file is, in words; nothing for one that may be shared: a log, which is only added to."""
    number, target = file
    for begin, kind in KINDS.items():
        if target.startswith(begin):
            return kind
    try:
        flags = int((SELF / "fdinfo" / number).read_text().split("flags:")[1].split()[0], 8)
    except (OSError, IndexError, ValueError):
        flags = 0
    return "" if target in HARMLESS or flags & os.O_APPEND else f"an open file ({target})"


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _random_numbers() -> list[str]:
    """Return what has been made since the last `gc.freeze` that draws random numbers nobody has chosen."""
    numpy = sys.modules.get("numpy.random")
    kinds = (random.Random, *((numpy.Generator, numpy.RandomState) if numpy else ()))
    # seeded anew in each worker: numpy's own by us (reseed), those of temporary names by themselves
    safe = [getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)]
    objects, of_names = gc.get_objects(), _attribute("tempfile:_RandomNameSequence")
    names = [one for one in objects if of_names and isinstance(one, of_names)]  # joblib has one of its own
    names += [_attribute("tempfile:_name_sequence"), _attribute(SEMAPHORES)]  # which may have been there before
    safe_ids = set(map(id, [*safe, *(getattr(one, "_rng", None) for one in names)]))
    for one in objects:
        is_source = isinstance(one, kinds) and not isinstance(one, random.SystemRandom)
        if is_source and id(one) not in safe_ids and not _is_chosen(one):
            return ["a source of random numbers"]
    return []


def _attribute(path: str) -> Any:
    """Return what has this name in a module that is loaded, else None."""
    module, _, names = path.partition(":")
    thing = sys.modules.get(module)
    for name in names.split("."):
        thing = getattr(thing, name, None)
    return thing


def _is_chosen(source: object) -> bool:
    """Return whether a source of random numbers was given a seed, by somebody who wants the same numbers each time."""
    sequence = getattr(getattr(source, "bit_generator", None), "seed_seq", None)
    entropy = getattr(sequence, "entropy", None)  # 128 bits when the system has chosen them
    return entropy is not None and not (isinstance(entropy, int) and entropy >= 1 << 64)
