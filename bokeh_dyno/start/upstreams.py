"""The addresses of the dynos that BOKEH_UPSTREAM names: nginx asks for them when it reads its configuration, and never again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from bokeh_dyno.shared import health

LOOK_SECONDS = 5.0  # between two questions
RELOAD_SECONDS = 30.0  # between two reloads, at least: some names have other addresses each time


class Upstreams:
    """Asks in a thread of its own, for an answer may take long, and says when nginx has to read them anew."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        """names returns BOKEH_UPSTREAM, as it is now."""
        self._names = names
        self._known: dict[str, Sequence[health.Target]] = {}  # as nginx has them
        self._fresh: dict[str, Sequence[health.Target]] = {}
        self._loaded = -RELOAD_SECONDS

    def start(self) -> None:
        """Note what nginx finds now, and ask from now on."""
        self._known = {name: found for name in self._names() if (found := _ask(name))}
        if self._known:
            threading.Thread(target=self._look, daemon=True).start()

    def resolve(self, name: str) -> Sequence[health.Target]:
        """Return the addresses of HOST:PORT that nginx has. Raises OSError when it has none."""
        return self._known.get(name) or health.resolve(name)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self._fresh = {name: found for name in self._names() if (found := _ask(name))}

    def moved(self) -> str:
        """Return in words which names have other addresses now than nginx has, once it is time to have it read them anew."""
        fresh = self._fresh
        moved = [name for name, found in fresh.items() if found != self._known.get(name)]
        if not moved or time.monotonic() < self._loaded + RELOAD_SECONDS:
            return ""
        return ", ".join(f"{name} is now {' '.join(str(target[0]) for _, target in fresh[name])}" for name in moved)

    def follow(self) -> None:
        """Note that nginx has read them anew."""
        self._known, self._loaded = {**self._known, **self._fresh}, time.monotonic()


def _ask(name: str) -> Sequence[health.Target]:
    """Return the addresses of HOST:PORT, sorted; none when it is not known at the moment."""
    try:
        return sorted(health.resolve(name))
    except OSError:
        return []
