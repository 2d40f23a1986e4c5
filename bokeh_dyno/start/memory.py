"""Whether there is memory for another generation beside the one that serves."""

from __future__ import annotations

from pathlib import Path

import psutil

from bokeh_dyno.shared import container
from bokeh_dyno.start.generation import Generation


def lacks(serving: Generation) -> str:
    """Return in one line why another generation, as large as that one, would not fit; nothing when it would."""
    size, free = serving.tree.memory(), available()
    if size > free:
        return f"it would take {size / 1e6:.0f} MB as {serving.name} does, and {free / 1e6:.0f} MB are free here"
    # what a worker may grow to is also what was planned for all of them, by whoever has said it
    planned = serving.values.bokeh_max_memory * serving.values.bokeh_workers
    both = 2 * serving.tree.memory("bokeh") / 1e6
    if 0 < planned < both and not container.is_derived("BOKEH_MAX_MEMORY", serving.env):
        return f"the Bokeh workers of both would take {both:.0f} MB; BOKEH_MAX_MEMORY times BOKEH_WORKERS is {planned}"
    return ""


def available(cgroups: Path = container.CGROUPS, own: Path = container.OWN_CGROUPS) -> int:
    """Return the bytes that new processes may take here: of the machine, or of a container or unit when that has less."""
    free = psutil.virtual_memory().available
    for folder in container.folders(cgroups, own):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                allowed, used = (int((folder / name).read_text()) for name in (limit, usage))
                stat = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):  # another version, or no limit ("max")
                continue
            caches = [int(line.split()[1]) for line in stat if "inactive_file" in line]
            free = min(free, allowed - used + max(caches, default=0))  # files that are only kept may go
    return free
