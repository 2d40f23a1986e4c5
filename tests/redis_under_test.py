"""A Redis of Debian's package, on a free port, with nothing on the disk."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

import pytest
import redis
from dyno_under_test import free_port, installed, wait_for

REDIS = installed("redis-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="there is no redis-server here: bin/setup --test installs it")


class RedisServer:
    """A Redis that can be killed, paused, and started again, empty, on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen | None = None
        self.client = redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5)

    def start(self) -> RedisServer:
        """Start it and return when it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([REDIS, *options], stdout=subprocess.DEVNULL, cwd="/")
        wait_for("Redis", self._answers)
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return self.client.ping()
        return False

    def kill(self) -> None:
        """Kill it, with all that is in it."""
        self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """Have it answer nothing, and close nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        self._process.send_signal(signal.SIGCONT)

    def connections(self) -> int:
        """Return how many connections it has beside that of the test."""
        return len(self.client.client_list()) - 1


def run() -> Iterator[RedisServer]:
    """Run a Redis, and end it."""
    one = RedisServer().start()
    try:
        yield one
    finally:
        one.kill()
        one.client.close()
