"""Has a band computed: by RQ workers where REDIS_URL is set (worker.py), else in a process of its own, one at a time.

Bokeh runs main.py for each visitor, but this module once: all visitors of a worker share it. RQ waits for Redis as it likes,
so it is called in threads; they, and the connections, begin with the first work, after the workers were forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import redis
    from redis import RedisError
    from rq import Queue
    from rq.exceptions import NoSuchJobError
    from rq.job import Job
    from rq.serializers import JSONSerializer
except ImportError:
    redis, RedisError = None, OSError

from .data import TIMES

MODULE = "bokeh_app.sea_surface"
ROOT = Path(__file__).resolve().parents[2]
ONE_AT_A_TIME = asyncio.Semaphore(1)  # process of this worker

QUEUE = "sea_surface"
MAX_QUEUED = 20
MAX_SECONDS = 120  # for one band, which takes 5 to 10
KEPT = 60  # seconds: what has come of it
EVERY = 0.5  # seconds between two looks
WANTED, WANTED_SECONDS = "sea_surface:wanted:%s", 10  # there for as long as a page waits for this job
BUSY, BUSY_SECONDS = "sea_surface:busy", 8  # there for as long as any worker works
NOBODY = 4.0  # seconds for which no worker works, and none takes this one
SILENT = 12.0  # seconds without progress, after which a worker is lost
TIMEOUT = 2.0  # seconds for what Redis is asked
THREADS = ThreadPoolExecutor(4, "rq")
AGAIN = "please try again."

log = logging.getLogger("bokeh_app.sea_surface")


class BandError(Exception):
    """There will be no band; the text is a sentence for the visitor."""


async def band(days: float) -> AsyncIterator[dict]:
    """Yield {"wait": True} while others come first, what band.steps yields, and nothing after that. Raises BandError.

    To end the work, cancel what waits for this, or close it (contextlib.aclosing).
    """
    way = by_a_worker if os.environ.get("REDIS_URL") else in_a_process
    async with contextlib.aclosing(way(days)) as answers:
        async for answer in answers:
            yield answer


# --- in a process of its own -----------------------------------------------------------------------------------------


async def in_a_process(days: float) -> AsyncIterator[dict]:
    """Compute a band in a process, which is killed when nobody waits for it any more."""
    if ONE_AT_A_TIME.locked():
        yield {"wait": True}
    async with ONE_AT_A_TIME:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"{MODULE}.band", str(days), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        try:
            while line := await process.stdout.readline():
                yield json.loads(line)
            if await process.wait():
                raise BandError(f"This was interrupted; {AGAIN}")
        finally:  # also when this is cancelled
            with contextlib.suppress(ProcessLookupError):  # it has ended
                process.kill()
            await process.wait()


# --- by an RQ worker --------------------------------------------------------------------------------------------------


async def by_a_worker(days: float) -> AsyncIterator[dict]:
    """Queue a job, and tell what becomes of it. A worker ends it by itself when nobody waits for it any more."""
    call = functools.partial(asyncio.get_running_loop().run_in_executor, THREADS)
    name = f"band-{uuid.uuid4().hex}"
    try:
        await call(_enqueue, name, days)
        seen, changed = None, time.monotonic()
        while True:
            status, percent, is_busy = now = await call(_look, name)
            if now[:2] != seen or (status == "queued" and is_busy):
                seen, changed = now[:2], time.monotonic()
            silent = time.monotonic() - changed
            if status == "finished":
                yield await call(_result, name)
                return
            if status == "queued":
                if silent > NOBODY:
                    raise BandError("No worker is running that could do this; please try again later.")
                yield {"wait": True}
            elif status == "started":
                if silent > SILENT:
                    raise BandError(f"The worker that did this is lost; {AGAIN}")
                yield {"percent": percent}
            else:
                raise BandError(f"This was interrupted; {AGAIN}")
            await asyncio.sleep(EVERY)
    except BandError:
        raise
    except RedisError as error:
        log.warning("Redis does not answer: %s: %s", type(error).__name__, error)
        raise BandError(f"Redis does not answer; {AGAIN}") from error
    except Exception as error:  # Redis has something else there
        log.warning("no answer of RQ: %s: %.80r", type(error).__name__, error)
        raise BandError(f"This went wrong; {AGAIN}") from error
    finally:
        with contextlib.suppress(Exception):  # then it is forgotten after a while
            await call(_drop, name)


def connect() -> redis.Redis:
    """Return a client, which connects when it is used. Raises BandError when REDIS_URL does not allow that."""
    url = os.environ.get("REDIS_URL", "")
    if not url:
        raise BandError("REDIS_URL is not set.")
    if redis is None:
        raise BandError(
            "REDIS_URL is set, but the packages redis and rq are not installed: see requirements-redis.txt."
        )
    options = {"ssl_cert_reqs": os.environ.get("REDIS_SSL_CERT_REQS", "required")} if url.startswith("rediss") else {}
    try:
        return redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, **options)
    except ValueError as error:  # its text may have the password in it
        raise BandError("REDIS_URL is no redis://HOST:PORT or rediss://….") from error


@functools.cache
def _queue() -> Queue:
    # JSON: pickle would have Redis run code here
    return Queue(QUEUE, connection=connect(), serializer=JSONSerializer)


def _enqueue(name: str, days: float) -> None:
    queue = _queue()
    if queue.count >= MAX_QUEUED:
        raise BandError("Too many others are waiting; please try again in some minutes.")
    queue.connection.set(WANTED % name, 1, ex=WANTED_SECONDS)
    queue.enqueue_call(
        f"{MODULE}.worker.compute", (days,), job_id=name, timeout=MAX_SECONDS, result_ttl=KEPT, failure_ttl=KEPT,
        ttl=MAX_QUEUED * MAX_SECONDS,
    )  # fmt: skip


def _look(name: str) -> tuple[str, int, bool]:
    """Say that the job is wanted; return its status, how many percent are done, and whether any worker works."""
    queue = _queue()
    queue.connection.set(WANTED % name, 1, ex=WANTED_SECONDS)
    job = Job.fetch(name, queue.connection, JSONSerializer)
    percent = job.meta.get("percent", 0)
    if not isinstance(percent, int) or not 0 <= percent <= 100:
        raise ValueError(percent)
    return job.get_status(refresh=False), percent, bool(queue.connection.exists(BUSY))


def _result(name: str) -> dict:
    """Return the band. Raises ValueError when it is none: whoever can write to Redis may have put anything there."""
    answer = Job.fetch(name, _queue().connection, JSONSerializer).return_value()
    numbers = [answer["at"], answer["low"], answer["high"]]
    if len(set(map(len, numbers))) != 1 or not 0 < len(numbers[0]) <= len(TIMES):
        raise ValueError("not of one length")
    if not all(type(at) is int and 0 <= at < len(TIMES) for at in numbers[0]):
        raise ValueError("of other readings")
    return {"at": numbers[0], "low": [float(one) for one in numbers[1]], "high": [float(one) for one in numbers[2]]}


def _drop(name: str) -> None:
    """Want the job no more: a worker that is at it ends it, and none will begin it."""
    connection = _queue().connection
    connection.delete(WANTED % name)
    with contextlib.suppress(NoSuchJobError):
        job = Job.fetch(name, connection, JSONSerializer)
        if job.get_status() != "started":
            job.delete()
