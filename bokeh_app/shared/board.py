"""The board that all visitors see: in Redis where REDIS_URL is set, else in the memory of this worker.

Bokeh runs main.py for each visitor, but this module once: all visitors of a worker share BOARD. In Redis the board is one
list of texts, each a dot. A change adds or removes one text and publishes an empty message; whoever hears it reads the list,
so it matters neither how many messages arrive, nor in which order, nor what is in them.

Nothing connects when this is imported: the workers are forked after that. The first visitor of a worker begins it, and the
last one ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

try:
    from redis import RedisError
    from redis import asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError:
    redis = None

WIDTH, HEIGHT = 100, 60
COLORS = {"red": "#d1495b", "orange": "#edae49", "green": "#66a182", "blue": "#2e86ab", "violet": "#8e6c9e"}
MAX_DOTS = 60  # the oldest go
MAX_WORD = 20  # characters
MAX_TEXT = 300  # characters of a dot in Redis
KEY = "bokeh_app.shared"  # of the list, and the name of the channel
TIMEOUT = 2.0  # seconds for each command, and for each connection
LOOK = 5.0  # seconds without a message, after which the list is read all the same: Redis may hang, or be another one
TOGETHER = 0.1  # seconds: changes that come closer together are shown together
WAITS = (0.5, 10.0)  # seconds until the next try when Redis is lost: at first, at most
READING = "The board is being read …"
LOST = "Redis does not answer. This is the board as it was; what is changed now is not kept."

log = logging.getLogger("bokeh_app.shared")


class Dot(NamedTuple):
    """A dot on the board; x is from 0 to WIDTH, y from 0 to HEIGHT, the color a key of COLORS."""

    x: float
    y: float
    color: str
    word: str = ""

    @classmethod
    def of(cls, x: object, y: object, color: object, word: object = "") -> Dot:
        """Return a dot of what a visitor has sent, or Redis. Raises ValueError when it cannot be on the board."""
        for value, end in ((x, WIDTH), (y, HEIGHT)):
            # bool is an int
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= end:
                raise ValueError("it is not on the board")
        if not isinstance(color, str) or color not in COLORS:
            raise ValueError("it has no color of the board")
        if not isinstance(word, str) or len(word) > MAX_WORD or not word.isprintable():
            raise ValueError("its word is none")
        return cls(round(x, 1), round(y, 1), color, word.strip())

    @classmethod
    def read(cls, text: str) -> Dot:
        """Return the dot that a text in Redis is. Raises ValueError when it is none."""
        if len(text) > MAX_TEXT:
            raise ValueError("it is too long")
        try:
            return cls.of(*json.loads(text))
        except (TypeError, RecursionError) as error:
            raise ValueError("it is no dot") from error


class Board:
    """A board in the memory of this worker. Its methods are called in the worker's event loop."""

    def __init__(self, about: str) -> None:
        self.about = about  # a sentence for the page, always
        self.problem = ""  # another one, while something is wrong
        self.dots: tuple[Dot, ...] = ()  # the oldest first
        self._listeners: set[Callable[[], object]] = set()

    def join(self, listener: Callable[[], object]) -> None:
        """Have `listener` called at once and after every change, until it leaves."""
        self._listeners.add(listener)
        listener()

    def leave(self, listener: Callable[[], object]) -> None:
        """Call `listener` no more."""
        self._listeners.discard(listener)

    async def add(self, dot: Dot) -> None:
        """Put a dot on the board; the oldest goes when there are too many."""
        self._show((*self.dots, dot)[-MAX_DOTS:])

    async def remove(self, dot: Dot) -> None:
        """Take a dot from the board, if it is there."""
        self._show(tuple(one for one in self.dots if one != dot))

    def _show(self, dots: tuple[Dot, ...], problem: str = "") -> None:
        if (dots, problem) != (self.dots, self.problem):
            self.dots, self.problem = dots, problem
            for listener in tuple(self._listeners):
                listener()


class RedisBoard(Board):
    """A board in Redis, which the workers of all dynos share."""

    def __init__(self, url: str) -> None:
        """Prepare it. Raises ValueError when `url` is none of a Redis."""
        super().__init__("")
        self.problem = READING
        # it connects when it is first used; no retries, for a dot must not be added twice
        options = (
            {"ssl_cert_reqs": os.environ.get("REDIS_SSL_CERT_REQS", "required")} if url.startswith("rediss") else {}
        )
        self._redis = redis.Redis.from_url(
            url, decode_responses=True, encoding_errors="replace", retry=Retry(NoBackoff(), 0),
            socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, **options,
        )  # fmt: skip
        self._following: asyncio.Task | None = None
        self._texts: dict[Dot, str] = {}  # as they stand in Redis

    def join(self, listener: Callable[[], object]) -> None:
        """Follow Redis when this is the first listener."""
        super().join(listener)
        if not self._following:
            self._following = asyncio.create_task(self._follow())

    def leave(self, listener: Callable[[], object]) -> None:
        """Follow Redis no more when this was the last listener."""
        super().leave(listener)
        if self._following and not self._listeners:
            self._following.cancel()
            self._following, self.dots, self.problem = None, (), READING

    async def add(self, dot: Dot) -> None:
        """Put a dot on the board in Redis, all of it or nothing; it is shown when Redis has it."""
        async with self._change() as commands:
            commands.rpush(KEY, json.dumps(dot, ensure_ascii=False)).ltrim(KEY, -MAX_DOTS, -1)

    async def remove(self, dot: Dot) -> None:
        """Take a dot from the board in Redis."""
        async with self._change() as commands:
            commands.lrem(KEY, 0, self._texts.get(dot, ""))

    @contextlib.asynccontextmanager
    async def _change(self):
        """Send the commands, and a message that something has changed; say on the page that it did not work."""
        try:
            async with self._redis.pipeline(transaction=True) as commands:
                yield commands
                await commands.publish(KEY, "").execute()
        except (RedisError, OSError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if self.problem != LOST:
            log.warning("Redis does not answer: %s: %s", type(error).__name__, error)
        self._show(self.dots, LOST)

    async def _follow(self) -> None:
        """Show what is in Redis, as long as this is not cancelled."""
        wait = WAITS[0]
        while True:
            try:
                async with self._redis.pubsub() as messages:
                    await messages.subscribe(KEY)
                    while True:
                        await self._read()
                        wait = WAITS[0]
                        await asyncio.sleep(TOGETHER)
                        await messages.get_message(timeout=LOOK)
                        while await messages.get_message(timeout=0):
                            pass
            except Exception as error:  # whatever it is: the next try may work
                self._lose(error)
            finally:
                await self._redis.connection_pool.disconnect(inuse_connections=False)
            await asyncio.sleep(wait)
            wait = min(2 * wait, WAITS[1])

    async def _read(self) -> None:
        texts = {}
        for text in await self._redis.lrange(KEY, -MAX_DOTS, -1):
            try:
                texts[Dot.read(text)] = text
            except ValueError as error:
                log.warning("not shown, for %s: %.80r", error, text)
        if self.problem == LOST:
            log.warning("Redis answers again")
        self._texts = texts
        self._show(tuple(texts))


def make(url: str) -> Board:
    """Return the board for a REDIS_URL, or one in memory, which says why."""
    only_here = "Only the visitors of one worker see each other: "
    if not url:
        return Board(f"{only_here}REDIS_URL is not set.")
    try:
        if redis is None:
            raise ValueError("REDIS_URL is set, but the package redis is not installed: see requirements-redis.txt.")
        try:
            return RedisBoard(url)
        except ValueError as error:
            raise ValueError("REDIS_URL is no redis://HOST:PORT or rediss://….") from error  # nobody else has to see it
    except ValueError as error:
        log.warning("%s", error)
        return Board(f"{only_here}{error}")


BOARD = make(os.environ.get("REDIS_URL", ""))
