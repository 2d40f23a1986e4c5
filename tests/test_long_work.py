"""Long work by RQ workers: how far it is, the end of it, and each of those that may be lost meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis_under_test
from dyno_under_test import INHERITED, ROOT, Dyno, copy_project, is_alive, temporary_folder, until_stopped, wait_for
from redis_under_test import RedisServer, needs_redis
from rq import Callback, Queue
from rq.serializers import JSONSerializer
from visitor import Visitor, find

from bokeh_app.sea_surface import work

OTHERS = ("dyno", "shared", "sliders", "upload")  # apps that have no part in this
KEY = secrets.token_hex(32)
WORKER = ("-m", "bokeh_app.sea_surface.worker")
DONE = "it is in the orange band"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis for all tests of this file."""
    yield from redis_under_test.run()


def copy(folder: Path) -> Path:
    """Copy the project with this app alone, half of its work, which takes its time on any machine, and less patience.

    What has come of the work stays until a test has looked at it, however long the rest of that takes.
    """
    copy_project(folder)
    for name in OTHERS:
        shutil.rmtree(folder / "bokeh_app" / name)
    for name, before, after in (
        ("band.py", "DRAWS, STEPS = 2_000", "DRAWS, STEPS = 1_000"),
        ("band.py", "in range(STEPS):\n", "in range(STEPS):\n        __import__('time').sleep(0.1)\n"),
        ("work.py", "KEPT = 60", "KEPT = 600"),
        ("work.py", "SILENT = 12.0", "SILENT = 5.0"),
        ("worker.py", "AGAIN = 5", "AGAIN = 1"),
    ):
        file = folder / "bokeh_app" / "sea_surface" / name
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
    return folder


def env(redis: RedisServer) -> dict[str, str]:
    """Return the config vars of a small dyno."""
    return {"BOKEH_SECRET_KEY": KEY, "WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1", "REDIS_URL": redis.url}


@pytest.fixture(scope="module")
def site(redis: RedisServer) -> Iterator[Dyno]:
    """A dyno that leaves the work to others."""
    scratch = temporary_folder()
    one = Dyno(copy(scratch / "app"), env(redis))
    yield from until_stopped(one, scratch)


class RqWorker:
    """A worker as on a dyno of its own."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._log = folder / "worker.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *WORKER], cwd=folder, env={**inherited, "REDIS_URL": redis.url}, stdout=log, stderr=log
            )
        self.top = psutil.Process(self.process.pid)

    def log(self) -> str:
        """Return what it has said."""
        return self._log.read_text()

    def is_at_work(self) -> bool:
        """Return whether it has a process that computes."""
        return any(map(is_alive, self.top.children()))

    def kill(self) -> None:
        """Kill it, with what it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.top.children():
                child.kill()
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def worker(site: Dyno, redis: RedisServer) -> Iterator[RqWorker]:
    """A worker, until the end of the test."""
    one = RqWorker(site.folder, redis)
    try:
        wait_for("the worker", lambda: "Listening on" in one.log())
        yield one
    finally:
        one.kill()
        (site.folder / "worker.log").unlink()
        with contextlib.suppress(Exception):
            redis.client.flushall()


class Guest(Visitor):
    """A visitor of the app, who has clicked on "How sure is it?"."""

    def __init__(self, dyno: Dyno) -> None:
        super().__init__(dyno, "sea_surface", token=dyno.token("/apps/sea_surface"))
        assert self.status == 101
        self.document()
        self.click("begin")

    def click(self, name: str) -> None:
        """Click on a button."""
        values = [["model", {"id": find(self.document_json, name)}]]
        data = {"type": "event", "name": "button_click", "values": {"type": "map", "entries": values}}
        self.send_message({"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": data}]})

    def wait_for(self, *texts: str, seconds: float = 30) -> float:
        """Read messages until one has any of these texts in it; return the seconds that it took."""
        self.socket.settimeout(seconds)
        began = time.monotonic()
        while True:
            content = json.dumps(self.message("PATCH-DOC"), ensure_ascii=False)
            if any(text in content for text in texts):
                return time.monotonic() - began


# --- as it should be --------------------------------------------------------------------------------------------------


@needs_redis
def test_a_worker_computes_tells_how_far_it_is_and_can_be_cancelled(
    site: Dyno, worker: RqWorker, redis: RedisServer
) -> None:
    with Guest(site) as first:
        first.wait_for('"attr": "value"')  # of the bar
        assert worker.is_at_work()
        with Guest(site) as second:
            second.wait_for("Waiting until another visitor's work is done")
            first.click("cancel")
            first.wait_for("Cancelled.")
            second.wait_for(DONE)
    with Guest(site) as third:
        third.wait_for('"attr": "value"')
    wait_for("the end of the work of a visitor who has left", lambda: not worker.is_at_work())
    assert not site.find(r"sea_surface\.band")
    wait_for("nothing in Redis but RQ's own", lambda: not redis.client.keys("sea_surface:wanted:*"))
    assert redis.client.llen("rq:queue:sea_surface") == 0
    jobs = redis.client.keys("rq:job:*")
    # those that were not wanted any more, unless they ended before they were deleted; one that nobody ended has 100 percent
    assert len(jobs) <= 2
    assert all(json.loads(redis.client.hget(job, "meta"))["percent"] < 100 for job in jobs)
    assert all(redis.client.ttl(job) > 0 for job in jobs)
    assert "Traceback" not in site.log() + worker.log()


# --- what may be lost -------------------------------------------------------------------------------------------------


@needs_redis
def test_a_function_that_somebody_else_names_is_not_called(worker: RqWorker, redis: RedisServer, scratch: Path) -> None:
    queue = Queue(work.QUEUE, connection=redis.client, serializer=JSONSerializer)
    job = queue.enqueue_call("os.mkdir", (str(scratch / "made"),), on_failure=Callback("os.abort"))
    wait_for("it to fail", lambda: job.get_status() == "failed")
    assert "not a number of days" in worker.log()
    assert not (scratch / "made").exists()


@needs_redis
def test_no_worker_is_told(site: Dyno, redis: RedisServer) -> None:
    with Guest(site) as guest:
        assert guest.wait_for("No worker is running") < 15
    assert redis.client.llen("rq:queue:sea_surface") == 0


@needs_redis
def test_a_full_queue_is_told(site: Dyno, redis: RedisServer) -> None:
    redis.client.rpush("rq:queue:sea_surface", *("x" * work.MAX_QUEUED))
    with Guest(site) as guest:
        guest.wait_for("Too many others are waiting")
    redis.client.flushall()


@needs_redis
def test_a_process_that_is_killed_in_the_work_is_told(site: Dyno, worker: RqWorker) -> None:
    with Guest(site) as guest:
        guest.wait_for('"attr": "value"')
        worker.top.children()[0].kill()
        assert guest.wait_for("This was interrupted; please try again.") < 10
        guest.click("begin")
        wait_for("other work", worker.is_at_work)


@needs_redis
def test_a_worker_that_is_killed_with_all_of_it_is_told(site: Dyno, worker: RqWorker) -> None:
    with Guest(site) as guest:
        guest.wait_for('"attr": "value"')
        worker.kill()
        assert guest.wait_for("The worker that did this is lost; please try again.") < 20


@needs_redis
def test_a_redis_that_dies_is_told_and_the_worker_outlives_it(site: Dyno, worker: RqWorker, redis: RedisServer) -> None:
    with Guest(site) as guest:
        guest.wait_for('"attr": "value"')
        redis.kill()
        try:
            assert guest.wait_for("Redis does not answer; please try again.") < 10
            guest.click("begin")
            guest.wait_for("Redis does not answer; please try again.")
            assert site.get("/healthz").text == "ok\n"
        finally:
            redis.start()
        wait_for("the worker again", lambda: redis.client.keys("rq:worker:*") and not worker.is_at_work(), 30)
        guest.click("begin")
        guest.wait_for(DONE)


@needs_redis
def test_a_line_of_the_procfile_waits_for_redis_and_ends_with_the_dyno(
    scratch: Path, dyno: Callable[..., Dyno], redis: RedisServer
) -> None:
    folder = copy(scratch / "app")
    line = next(line for line in (folder / "Procfile.dyno").read_text().splitlines() if line.startswith("# work:"))
    with (folder / "Procfile.dyno").open("a") as lines:
        lines.write(f"{line.removeprefix('# ')}\n")
    redis.kill()
    try:
        one = dyno(folder, env(redis)).launch()
        one.wait_for_log(r"work\.1.*Redis does not answer", 30)
    finally:
        redis.start()
    one.wait_until_it_answers()
    with Guest(one) as guest:
        guest.wait_for('"attr": "value"', "No worker is running")
        if "Listening on" not in one.log():  # not yet
            one.wait_for_log("Listening on")
            guest.click("begin")
            guest.wait_for('"attr": "value"')
        began = time.monotonic()
        assert one.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 15
    assert "killed" not in one.log()
    assert not redis.client.smembers("rq:workers")  # it has said goodbye


# --- its parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [None, 7, [], {}, {"at": [], "low": [], "high": []}, {"at": [1], "low": [1], "high": [1, 2]},
     {"at": [-1], "low": [1], "high": [1]}, {"at": [10**9], "low": [1], "high": [1]}, {"at": ["1"], "low": [1], "high": [1]},
     {"at": [1], "low": ["x"], "high": [1]}, {"at": [1], "low": [[]], "high": [1]}, {"at": 1, "low": 1, "high": 1}],
)  # fmt: skip
def test_what_is_no_band_is_refused(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finished:
        @staticmethod
        def fetch(*_: object) -> Finished:
            return Finished()

        def return_value(self) -> object:
            return answer

    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    monkeypatch.setattr(work, "Job", Finished)
    with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
        work._result("name")


@pytest.mark.parametrize("url", ["http://secret@host", "secret", "redis://secret@host:port"])
def test_an_address_that_is_none_of_a_redis_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(work.BandError, match=r"REDIS_URL is no redis://HOST:PORT") as caught:
        work.connect()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("", "error: REDIS_URL is not set."),
        (
            "sys.modules['rq'] = None; ",
            "error: the packages redis and rq are not installed: see requirements-redis.txt",
        ),
    ],
)
def test_a_worker_that_cannot_work_says_why(program: str, sentence: str) -> None:
    program = f"import runpy, sys; {program}runpy.run_module({WORKER[1]!r}, run_name='__main__')"
    env = {name: os.environ[name] for name in INHERITED if name in os.environ}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, f"{sentence}\n")


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    monkeypatch.setattr(work, "redis", None)
    with pytest.raises(work.BandError, match=r"requirements-redis\.txt"):
        work.connect()
