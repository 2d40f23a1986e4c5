"""Computes bands for the visitors of all dynos: `python3 -m bokeh_app.sea_surface.worker`, as many as you like.

It is an RQ worker with four differences. It calls one function, whatever others write into Redis. It goes on when Redis is
away, at the start, too: a line of Procfile.dyno that ends would end the dyno. At SIGINT, which a dyno that stops sends to all,
the work ends at once, as failed, and its page hears of it; RQ would let it go on for longer than the dyno lives. And it looks
for Redis every few seconds, not every minute.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time

try:
    import redis
    from rq import Worker, get_current_job
    from rq.job import Job
    from rq.serializers import JSONSerializer
except ImportError:
    sys.exit("error: the packages redis and rq are not installed: see requirements-redis.txt")

from .band import steps
from .work import BUSY, BUSY_SECONDS, QUEUE, WANTED, BandError, connect

AGAIN = 5  # seconds until Redis is tried again, at most
LEAVE = 2.5  # seconds from a signal to the end, whatever Redis does; a dyno gives 4
IDLE = 30  # seconds: RQ's worker_ttl; Redis is waited for 5 s less


def compute(days: float) -> dict | None:
    """Return the band around the average over `days` days, None as soon as no page waits for it. Tells Redis how far it is."""
    if not isinstance(days, int | float) or not 0 < days <= 366:
        raise ValueError("not a number of days")
    job = get_current_job()
    for answer in steps(days):
        if "percent" not in answer:
            return answer
        if not job.connection.exists(WANTED % job.id):
            return None
        job.connection.set(BUSY, 1, ex=BUSY_SECONDS)
        job.meta = answer
        job.save_meta()
    return None


class BandJob(Job):
    """A job that calls `compute`, whatever function Redis names: others may be able to write there."""

    func = property(lambda self: compute)
    success_callback = failure_callback = stopped_callback = property(lambda self: None)

    def send_webhooks(self, *_: object, **__: object) -> None:
        """Tell nobody: an address in Redis is no reason to connect to it."""


class BandWorker(Worker):
    """An RQ worker that is stopped by a dyno."""

    job_class = BandJob
    max_connection_wait_time = float(AGAIN)
    is_stopped = False

    def request_stop(self, signum: int, frame: object) -> None:
        """End, and what computes before; it must not matter whether Redis answers."""
        self.is_stopped = True
        end = threading.Timer(LEAVE, self._leave)
        end.daemon = True
        end.start()
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGINT)
        super().request_stop(signum, frame)

    def _leave(self) -> None:
        if self.horse_pid:
            self.kill_horse()
        os._exit(0)

    def setup_work_horse_signals(self) -> None:
        """In the process that computes: be interrupted, once, which is an error like others."""

        def interrupt(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def be_brief(record: logging.LogRecord) -> bool:
    """Take out of what RQ logs the tracebacks of a Redis that is lost, and of work that ends because of a stop."""
    if record.exc_info and isinstance(record.exc_info[1], redis.RedisError):
        record.exc_info = None
    if "KeyboardInterrupt" in record.getMessage():
        record.msg, record.args = "the work is interrupted: this worker stops", ()
    return True


def main() -> None:
    """Work until a signal says to stop."""
    os.nice(5)  # the visitors of the apps go first
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("rq.worker").addFilter(be_brief)
    told = ""
    while True:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(0))
        worker, problem = None, ""
        try:
            worker = BandWorker(
                [QUEUE], connection=connect(), serializer=JSONSerializer, worker_ttl=IDLE, job_monitoring_interval=5
            )
            worker.work()
        except BandError as error:
            sys.exit(f"error: {error}")
        except Exception as error:  # whatever it is: the next try may work
            problem = f"Redis does not answer: {type(error).__name__}: {error}"
        if worker and worker.is_stopped:
            return
        if problem and problem != told:
            print(problem, flush=True)
        told = problem
        time.sleep(AGAIN)


if __name__ == "__main__":
    main()
