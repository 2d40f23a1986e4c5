"""/metrics: who may have it, and the requests, counted from nginx's access lines. What else is in it: start/collector.py."""

from __future__ import annotations

import bisect
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from bokeh_dyno.shared.numbers import BUCKETS
from bokeh_dyno.shared.settings import Settings

TEXT = "text/plain; charset=utf-8"
# The line as it is printed, and the short one that is not. What a visitor has written has no quote in it, and the id no space
LINE = re.compile(
    rb'(?:\x1f|[^ "]+ "[^"]*" )([1-5][0-9][0-9]) (?:[0-9]+ )?seconds=([0-9]+(?:[.][0-9]+)?) '
    rb"(?:request_id=[^ ]* )?backend=(flask|bokeh|nginx)(?![^ \n])"
)
KEPT_SECONDS = 0.25  # that an answer is given again: whoever asks more often costs nothing more

# by backend and status; and of each backend the number of requests by BUCKETS, and the sum of their seconds
_requests: dict[tuple[bytes, bytes], int] = {}
_seconds: dict[bytes, list[float]] = {name: [0.0] * (len(BUCKETS) + 2) for name in (b"flask", b"bokeh", b"nginx")}
_lock = threading.Lock()
_kept: tuple[float, str, bytes] | None = None


def count(line: bytes) -> None:
    """Count the request of one of nginx's access lines: in a microsecond or two. Other lines count for nothing."""
    if not (found := LINE.match(line)):
        return
    status, seconds, backend = found.groups()
    _requests[backend, status] = _requests.get((backend, status), 0) + 1
    if status == b"101":  # a WebSocket is there for as long as its page
        return
    took = float(seconds)
    of_backend = _seconds[backend]
    of_backend[bisect.bisect_left(BUCKETS, took)] += 1
    of_backend[-1] += took


def requests() -> tuple[dict[tuple[str, str], int], dict[str, list[float]]]:
    """Return what has been counted: requests by backend and status; and by backend how many took how long, and the sum."""
    return (
        {(backend.decode(), status.decode()): number for (backend, status), number in dict(_requests).items()},
        {backend.decode(): list(numbers) for backend, numbers in _seconds.items()},
    )


def answer(headers: Mapping[str, str], run_dir: Path, values: Settings) -> tuple[int, str, bytes]:
    """Answer GET /metrics; return status, content type and body. The names of the headers are in lower case.

    401 goes with `WWW-Authenticate: Bearer`. run_dir is RUN_DIR, with the folders of all generations.
    """
    if not (_has_token(headers, values) or _is_allowed(headers.get("x-real-ip", ""), values)):
        if values.metrics_token:
            return 401, TEXT, b"Ask with the header `Authorization: Bearer TOKEN` (METRICS_TOKEN).\n"
        return 403, TEXT, b"Not for this address (METRICS_ALLOW_IPS).\n"
    from bokeh_dyno.start import collector  # 4 MB, for those dynos only that are asked

    global _kept
    with _lock:
        if not _kept or time.monotonic() - _kept[0] > KEPT_SECONDS:
            _kept = time.monotonic(), *collector.exposition(run_dir)
        return 200, _kept[1], _kept[2]


def _has_token(headers: Mapping[str, str], values: Settings) -> bool:
    """Compare in a time that says nothing of how much is right."""
    import hmac  # here, for few dynos need it

    scheme, _, token = headers.get("authorization", "").partition(" ")
    given, wanted = token.strip().encode("utf-8", "replace"), values.metrics_token.encode()
    return hmac.compare_digest(given, wanted) and scheme.lower() == "bearer" and wanted != b""


def _is_allowed(address: str, values: Settings) -> bool:
    import ipaddress

    if "*" in values.metrics_allow_ips:
        return True
    try:
        visitor = ipaddress.ip_address(address)
    except ValueError:  # a unix socket's, or none
        return False
    if isinstance(visitor, ipaddress.IPv6Address) and visitor.ipv4_mapped:
        visitor = visitor.ipv4_mapped
    return any(visitor in ipaddress.ip_network(part, strict=False) for part in values.metrics_allow_ips)
