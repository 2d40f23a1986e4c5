"""What the WebSockets of a worker share: memory that may be held, and the budget of reading."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING

from bokeh.server.session import ServerSession

from bokeh_dyno.bokeh.faults import Faults
from bokeh_dyno.bokeh.reading import Budget, Memory
from bokeh_dyno.shared.settings import Settings

if TYPE_CHECKING:
    from bokeh_dyno.bokeh.websocket import WebSocket


class Limits:
    """What the WebSockets of a worker share."""

    def __init__(self, values: Settings, max_message_size: int, faults: Faults) -> None:
        """Take what is allowed from the settings; max_message_size is in bytes."""
        self.values = values
        self.memory = Memory()
        self._at_first = self.memory.resident()
        self._message_memory = values.bokeh_message_memory * 1_000_000
        seconds = values.bokeh_message_seconds
        self.budget = Budget(self.memory, max_message_size, self._message_memory, seconds, faults)
        self.budget.protect()
        # bytes that the messages of a session have added to this process, and the visitor's address
        self._grown: weakref.WeakKeyDictionary[ServerSession, tuple[int, str]] = weakref.WeakKeyDictionary()
        # half of it for one address, which has room for one message at least
        self._most = max(values.bokeh_unfinished_memory * 1_000_000, 2 * max_message_size + 1_000_000)
        self._held: Counter[str] = Counter()  # bytes of unfinished messages, by address, and ...
        self._held_of_all = 0
        self._open: weakref.WeakSet[WebSocket] = weakref.WeakSet()
        self._freed = 0  # bytes, since memory was given back

    def add(self, websocket: WebSocket) -> None:
        """Look after a WebSocket from now on."""
        self._open.add(websocket)

    def remove(self, websocket: WebSocket) -> None:
        """Look after a WebSocket no more."""
        self._open.discard(websocket)

    def hold(self, address: str, more: int) -> bool:
        """Count `more` bytes of a visitor's unfinished messages (or less); return whether that is still allowed."""
        self._held[address] += more
        self._held_of_all += more
        self._freed -= min(more, 0)
        allowed = self._held_of_all <= self._most and self._held[address] <= self._most // 2
        if not self._held[address]:
            del self._held[address]
        return allowed

    def grow(self, session: ServerSession, address: str, more: int) -> bool:
        """Count what a message has added to this process; return whether all of its visitor's may be that much."""
        before, _ = self._grown.get(session, (0, ""))
        self._grown[session] = max(0, before + more), address
        total = sum(
            grown
            for one, (grown, other) in self._grown.items()
            if other == address and not (one.destroyed or one.expiration_requested)
        )
        if not 0 < self._message_memory < total:
            return True
        self.memory.give_back()  # it may be free again, which nobody has counted
        return self.memory.resident() < self._at_first + self._message_memory

    def of_session(self, session: ServerSession) -> list[WebSocket]:
        """Return the WebSockets that a session has."""
        return [one for one in self._open if one.session is session]

    def every_second(self) -> None:
        """Close the WebSockets whose visitor is too slow; give back the memory that is free."""
        self.budget.end()  # nothing is being read now
        for websocket in list(self._open):
            websocket.check_time()
        if self._freed > 4_000_000:
            self._freed = 0
            self.memory.give_back()
