"""How a worker reads what a visitor sent: within limits of memory and of time, and never a file of the server.

Bokeh makes of a message whatever it says: arrays of any size, models of any kind, sets of numbers that all have the same
hash, pictures from the server's own files. So it reads with a budget, which is laid aside while an app's callback runs.

From 3.10 on Bokeh reads messages and calls callbacks in threads, so that a slow callback stops its own visitor only. What
is short and simple, of a slider, say, is left to that. The rest is read in the main thread, as before: nothing else can be
interrupted there, not even a regular expression.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import inspect
import os
import re
import resource
import signal
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from bokeh.core.property import visual
from bokeh.core.serialization import DeserializationError, Deserializer
from bokeh.document.document import Document
from bokeh.document.events import MessageSentEvent
from bokeh.protocol.message import Message

from bokeh_dyno.bokeh.faults import Faults
from bokeh_dyno.shared import private

SIMPLE = 2000  # characters of a message that is left to Bokeh's threads


class CostlyError(Exception):
    """Reading a message takes longer than it may."""


class Memory:
    """How much memory this process has, and may have; from /proc, where there is one."""

    def __init__(self) -> None:
        self._page = resource.getpagesize()
        self._statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else None
        self._limits = resource.getrlimit(resource.RLIMIT_DATA)
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library

    def _read(self, field: int) -> int:
        return int(os.pread(self._statm, 200, 0).split()[field]) * self._page if self._statm is not None else 0

    def resident(self) -> int:
        """Return the bytes that are in memory; 0 where the system does not say."""
        return self._read(1)

    def data(self) -> int:
        """Return the bytes that have been allocated, as RLIMIT_DATA counts them."""
        return self._read(5)

    def limit(self, data: int | None) -> None:
        """Have what is allocated beyond `data` bytes fail with MemoryError; None: as the system has it."""
        soft, hard = self._limits
        if self._statm is not None:
            low = min((one for one in (data, soft, hard) if one not in (None, resource.RLIM_INFINITY)), default=soft)
            resource.setrlimit(resource.RLIMIT_DATA, (low, hard))

    def give_back(self) -> None:
        """Give what is free back to the system, which the C library may keep for later."""
        if self._trim:
            self._trim(0)


class Budget:
    """What reading one message may take."""

    def __init__(self, memory: Memory, size: int, more: int, seconds: float, faults: Faults) -> None:
        """Allow `size` bytes to be unpacked, `more` bytes of memory and `seconds` of CPU; 0: any."""
        self._memory, self._size, self._more, self._seconds = memory, size, more, seconds
        self._faults = faults
        self._armed = False
        self._mine = (
            threading.local()
        )  # .applies: whether this thread applies what a visitor sent, and no callback runs
        self._large: weakref.WeakSet[Document] = weakref.WeakSet()  # whose message may take memory
        self._failed: weakref.WeakSet[Document] = weakref.WeakSet()  # with an error of a callback
        self._told: weakref.WeakSet[Document] = weakref.WeakSet()  # whose page was told of another's
        # while armed: how many bytes may be allocated in all, and until when of this thread's CPU time
        self._data, self._end = 0, 0.0
        self.unpacked = 0  # bytes
        # bytes that applying its messages has added to this process, callbacks included unless others ran meanwhile
        self.added: weakref.WeakKeyDictionary[Document, int] = weakref.WeakKeyDictionary()
        signal.signal(signal.SIGVTALRM, self._expired)

    def _expired(self, *_: object) -> None:
        if self._armed and time.thread_time() >= self._end:  # the timer counts what other threads take, too
            raise CostlyError

    def end(self) -> None:
        """Let everything be as it was; also what the timer has kept from ending, which comes between any two steps."""
        while self._armed:
            try:
                self._disarm()
            except CostlyError:
                continue

    def expect(self, doc: Document, content: str) -> None:
        """Look at a message, whose content is this text, before it is applied to `doc`.

        Few may take memory: large ones, and arrays. The others do without the limit, for what a thread of an app starts
        meanwhile, a process, would inherit it.
        """
        if len(content) > 100_000 or '"dtype"' in content or "\\" in content:
            self._large.add(doc)
        else:
            self._large.discard(doc)

    def failed(self, doc: Document) -> bool:
        """Return whether it was a callback of the app that has failed; asked once for each message that did."""
        failed = doc in self._failed
        self._failed.discard(doc)
        return failed

    def _tell(self, doc: Document) -> None:
        """Tell the page, once, that a callback has failed that no message called, which no ERROR answers.

        In a callback of its own: what this one has changed is not sent (Bokeh 3.9).
        """
        if doc not in self._told:
            self._told.add(doc)
            message = MessageSentEvent(doc, "dyno-failed", None)
            with contextlib.suppress(RuntimeError, AttributeError):  # the session is about to end
                doc.add_next_tick_callback(lambda: doc.callbacks.trigger_on_change(message))

    def _arm(self, more: int, seconds: float) -> None:
        if self._seconds:
            if seconds <= 0:
                raise CostlyError
            self._end = time.thread_time() + seconds  # what the timer says is left grows by 4 ms each time
            # again and again, for there may be somebody who takes any error for an answer
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.1)
        if more:
            self._data = self._memory.data() + more
            self._memory.limit(self._data)
        self._armed = True

    def _disarm(self) -> tuple[int, float]:
        """Return what is left: bytes and seconds."""
        self._armed = False
        if self._seconds:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        more = 0
        if self._data:
            more = max(1, self._data - self._memory.data())
            self._memory.limit(None)
            self._data = 0
        return more, self._end - time.thread_time()

    def _is_reading(self) -> bool:
        """Return whether a message is being read here and now."""
        return self._armed and threading.current_thread() is threading.main_thread()

    @contextlib.contextmanager
    def spent(self, doc: Document | None = None) -> Iterator[None]:
        """Keep to the budget meanwhile, while a message is applied to `doc` or read. Raises CostlyError or MemoryError."""
        if self._armed or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.unpacked = 0
        self._arm(self._more if doc is None or doc in self._large else 0, self._seconds)
        try:
            yield
        finally:
            self.end()

    @contextlib.contextmanager
    def laid_aside(self) -> Iterator[None]:
        """While armed, let something else run, for as long and with as much memory as it takes."""
        left = self._disarm()
        try:
            yield
        finally:
            self._arm(*left)

    def decompress(self, data: bytes) -> bytes:
        """Do as gzip's. Raises DeserializationError when a message holds more than it may."""
        unpacked = self.unpacked if self._is_reading() else 0
        unpacker = zlib.decompressobj(wbits=31)
        result = unpacker.decompress(data, max(1, self._size - unpacked + 1))  # 0 would be no limit
        unpacked += len(result)
        if unpacked > self._size or not unpacker.eof:
            raise DeserializationError("what is packed in the message is too large, or is not whole")
        if self._is_reading():
            self.unpacked = unpacked
        return result

    compress = staticmethod(gzip.compress)

    def protect(self) -> None:
        """Have Bokeh keep to this budget in this process, from now on, where it is as expected."""
        if private.has("reading"):
            self._protect_reading()
        if private.has("applying"):
            self._protect_applying()

    def _protect_reading(self) -> None:
        def decode_within(deserializer: Deserializer, *arguments: Any, **keywords: Any) -> Any:
            with self.spent():
                return decode(deserializer, *arguments, **keywords)

        def transform_no_file(image: visual.Image, value: object) -> Any:
            # a text may be the name of a file; a browser has none to show us
            visitors = self._is_reading() or getattr(self._mine, "applies", False)
            return value if isinstance(value, str) and visitors else transform(image, value)

        def short(message: Message) -> str:  # one that is not understood is logged: not with all that is in it
            return f"{message.msgtype} with {len(message.buffers)} buffers"

        decode = private.replace("bokeh.core.serialization:Deserializer.decode", decode_within)
        transform = private.replace("bokeh.core.property.visual:Image.transform", transform_no_file)
        private.replace("bokeh.core.serialization:gzip", self)  # what is used of it are compress and decompress
        private.replace("bokeh.protocol.message:Message.__repr__", short)

    def _protect_applying(self) -> None:
        def invoke_aside(doc: Document, function: Callable[[], object]) -> Any:
            applies, self._mine.applies = getattr(self._mine, "applies", False), False
            try:
                with self.laid_aside() if self._is_reading() else contextlib.nullcontext():
                    result = invoke(doc, function)
                return told(doc, result) if inspect.iscoroutine(result) else result
            except Exception:
                self._failed.add(doc)
                if not applies:
                    self._tell(doc)
                raise
            finally:
                self._mine.applies = applies

        async def told(doc: Document, coroutine: Coroutine[Any, Any, Any]) -> Any:
            try:
                return await coroutine
            except Exception:
                self._tell(doc)
                raise

        def apply(doc: Document, function: Callable[[], object]) -> Any:
            before, then = self._memory.resident(), time.monotonic()
            self._mine.applies = True
            try:
                with self.spent(doc):
                    return invoke(doc, function)
            finally:
                self._mine.applies = False
                if self._faults.alone_since(then):  # or who knows whose it is
                    self.added[doc] = self.added.get(doc, 0) + self._memory.resident() - before

        # every callback of an app is called through it
        invoke = private.replace("bokeh.document.callbacks:invoke_with_curdoc", invoke_aside)
        private.replace("bokeh.protocol.messages.patch_doc:invoke_with_curdoc", apply)
        if private.IN_THREADS:

            async def run_here_or_there(function: Callable[..., object], *arguments: Any, **keywords: Any) -> Any:
                message = getattr(function, "__self__", None)
                if isinstance(message, Message) and not _is_simple(message):
                    return function(*arguments, **keywords)
                return await run(function, *arguments, **keywords)

            run = private.replace("bokeh.server.session:_run_in_executor", run_here_or_there)


def _is_simple(message: Message) -> bool:
    """Return whether reading a message takes no time and no memory: a few values, and no array or picture among them."""
    text = message.content_json
    return (
        message.msgtype == "PATCH-DOC"
        and len(text) <= SIMPLE
        and not re.search(r'\\|"(dtype|bytes|object|slice|data:)', text)
        and set(re.findall(r'"kind": *"(\w+)"', text)) <= {"ModelChanged", "MessageSent"}
    )
