"""The limits of the container that this process is in, and the config vars that follow from them.

The start script asks once (`apply`); the processes below it get what follows as part of their environment.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MIB = 1 << 20
# What the example takes of a container's memory, measured in containers of 256 and 512 MiB until the kernel ended a worker:
# without visitors, 165 to 190 MB, 30 more of files that are kept, and as much to spare for what is under way; a worker with 350
# sessions, 150; a session, with its part of nginx's and the kernel's buffers, 0.45
IDLE, WORKER, SESSION = 220e6, 150e6, 0.45e6
# ... all but one Bokeh worker: 114 MB, and 20 more for each other pair of workers; with what a leak may add until it is seen
OTHERS, OTHERS_EACH = 110e6, 30e6
# a dyno whose Bokeh workers are elsewhere (127 MB with two of gunicorn's), and each of those with what it answers
FLASK, FLASK_WORKER = 110e6, 30e6
SUITS = 512 * MIB  # which the settings' own defaults are for
LARGE = 4 << 30  # from here on a worker's size is nobody's concern unless somebody says so
MOST_WORKERS = 64
DERIVED = "DYNO_DERIVED"  # NAME=value, separated by spaces: what `apply` has set


class Limits(NamedTuple):
    """What this process may use: bytes of memory and CPUs, None where that is all that the machine has."""

    memory: int | None
    cpus: float | None


def limits(environ: Mapping[str, str], cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Limits:
    """Return the limits, of cgroups (both versions), of Heroku's DYNO_RAM and of the CPUs that this process may run on.

    What cannot be read, or understood, limits nothing. Nor does what is not below the machine's own: a laptop, and a virtual
    machine however small, have no limits. CPUs of an affinity are counted, for Kubernetes and --cpuset-cpus limit by it.
    """
    memory, cpus = [], []
    for folder in folders(cgroups, own):
        # memory.high: from there on the kernel slows a process down until it has given back
        memory += [_whole(_read(folder / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
        for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            quota, _, period = " ".join(_read(folder / name) for name in names).partition(" ")
            cpus.append(_whole(quota) / (_whole(period) or math.inf))
    memory.append(_whole(environ.get("DYNO_RAM", "")) * MIB)  # Heroku's cgroups are those of the host
    machine = os.cpu_count() or 1
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        cpus.append(len(os.sched_getaffinity(0)))
    return Limits(
        min((one for one in memory if 0 < one < _machines_memory()), default=None),
        min((one for one in cpus if 0 < one < machine), default=None),
    )


def defaults(
    environ: Mapping[str, str], cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS, found: Limits | None = None
) -> dict[str, str]:
    """Return those config vars, not set in environ, that are not to have their own default here; none without limits.

    - BOKEH_WORKERS: one for each CPU, as views take the CPU; two at least, for one may be busy with an app. But no more than
      there is memory for, each with its sessions: from 496 MiB on two, below one.
    - WEB_CONCURRENCY: half as many, for a page costs gunicorn less than its plot costs Bokeh; two at least, within the same.
    - BOKEH_MESSAGE_MEMORY and BOKEH_UNFINISHED_MEMORY: the defaults suit 512 MiB; what has less gets so much less of them.
    - BOKEH_MAX_SESSIONS: what fits into the memory that a dyno without visitors leaves, divided among the workers.
    - BOKEH_MAX_MEMORY: what the others leave while they are idle, three quarters at most. It is the whole of a worker, with
      pages that others have too (an idle one counts 64 MB, 105 with pandas), and a full one stays below it; were it to grow
      further, the kernel would end it, or all. In 4 GiB and more a large worker may be meant: it may grow, as without limits.
    """
    memory, cpus = found or limits(environ, cgroups, own)
    busy = max(2, math.ceil(cpus or 0))
    alone = bool(environ.get("BOKEH_UPSTREAM"))  # no Bokeh worker is here
    idle, worker = (FLASK, FLASK_WORKER) if alone else (IDLE, WORKER)
    fit = int(max(1, (memory - idle) // worker)) if memory else MOST_WORKERS
    workers = min(busy, fit, MOST_WORKERS)
    follows: dict[str, int] = {}
    if workers != 2:
        follows["BOKEH_WORKERS"] = workers
    if (web := min(max(2, math.ceil(busy / 2)), workers)) != 2:
        follows["WEB_CONCURRENCY"] = web
    if memory and memory < SUITS:
        follows["BOKEH_MESSAGE_MEMORY"] = max(1, 200 * memory // SUITS)  # 0 would be any amount
        follows["BOKEH_UNFINISHED_MEMORY"] = max(1, 64 * memory // SUITS)
    if memory:
        running = _whole(environ.get("BOKEH_WORKERS", "")) or workers
        each = (memory - IDLE) / SESSION / running
        if each < 400:
            follows["BOKEH_MAX_SESSIONS"] = max(10, int(each))
        if memory < LARGE:
            left = memory - OTHERS - running * OTHERS_EACH
            follows["BOKEH_MAX_MEMORY"] = max(1, int(min(0.75 * memory, left) / 1e6))
    if alone:
        follows = {name: value for name, value in follows.items() if name == "WEB_CONCURRENCY"}
    return {name: str(value) for name, value in follows.items() if not environ.get(name)}


def apply(environ: MutableMapping[str, str], cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> str:
    """Set what follows from the limits; return a line that says what and why, nothing when nothing does.

    What an earlier call has set follows anew: other config vars may have been set since.
    """
    before = environ.pop(DERIVED, "").split()
    for name in SETS & {entry.partition("=")[0] for entry in before}:
        if f"{name}={environ.get(name)}" in before:
            del environ[name]
    found = limits(environ, cgroups, own)
    if not (follows := defaults(environ, found=found)):
        return ""
    environ.update(follows)
    environ[DERIVED] = " ".join(f"{name}={text}" for name, text in follows.items())
    parts = [f"{found.memory / MIB:.0f} MiB of memory"] if found.memory else []
    parts += [f"{found.cpus:.3g} CPU{'s' * (found.cpus != 1)}"] if found.cpus else []
    return f"limited to {' and '.join(parts)}: {environ[DERIVED]}, unless you set them"


def is_derived(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a config var has the value that followed from the limits: nobody has set it."""
    return f"{name}={environ.get(name)}" in environ.get(DERIVED, "").split()


SETS = {
    "BOKEH_WORKERS", "WEB_CONCURRENCY", "BOKEH_MESSAGE_MEMORY", "BOKEH_UNFINISHED_MEMORY", "BOKEH_MAX_SESSIONS",
    "BOKEH_MAX_MEMORY",
}  # fmt: skip


def folders(cgroups: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of the cgroups that this process is in, from its own up to the root: each of them limits it.

    In a container the root is what is mounted there; a path that is not below it is one of the host's.
    """
    for line in _read(own).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and not {"cpu", "memory"} & set(controllers.split(",")):
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        mounts = [cgroups / controllers] if controllers else [cgroups, cgroups / "unified"]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[:100_000].decode("ascii", "replace").strip()
    except OSError:
        return ""


def _whole(text: str) -> int:
    """Return a whole number, 0 when it is something else, such as `max`."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else 0


def _machines_memory() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return math.inf
