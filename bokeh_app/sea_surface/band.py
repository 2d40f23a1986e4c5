"""How far the average may be off: takes several seconds, so work.py has it computed in another process.

`python -m bokeh_app.sea_surface.band DAYS` prints lines of JSON, the steps. It is a local block bootstrap: a stretch of what
the average leaves over is as likely to have come a few weeks earlier or later.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator

import numpy as np

from .data import PER_DAY, TEMPERATURES, smooth

DRAWS, STEPS = 2_000, 100
BLOCK = 5 * PER_DAY  # longer than the weather lasts ...
NEAR = 30 * PER_DAY  # ... and shorter than a season


def errors(days: float, at: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Return what `draws` random years would add to the average, at each of the readings `at`."""
    left = np.nan_to_num(TEMPERATURES - smooth(TEMPERATURES, days))
    firsts = np.arange(0, len(left), BLOCK)
    found = np.empty((draws, len(at)), np.float32)
    for row in found:
        moved = firsts + random.integers(-NEAR, NEAR + 1, len(firsts))
        blocks = np.clip(moved, 0, len(left) - BLOCK)[:, None] + np.arange(BLOCK)
        row[:] = smooth(left[blocks].ravel()[: len(left)], days)[at]
    return found


def steps(days: float) -> Iterator[dict]:
    """Yield {"percent": 40} as the work goes on, and at last {"at": …, "low": …, "high": …}.

    These are the band around the average over `days` days: where 95 of 100 averages of the same kind lie, and for which
    readings.
    """
    at = np.flatnonzero(~np.isnan(TEMPERATURES))[:: PER_DAY // 2]  # two a day, those that there are
    random = np.random.default_rng(1)  # the same band each time
    parts = []
    for step in range(STEPS):
        parts.append(errors(days, at, DRAWS // STEPS, random))
        yield {"percent": step + 1}
    low, high = smooth(TEMPERATURES, days)[at] + np.percentile(np.concatenate(parts), (2.5, 97.5), axis=0)
    yield {"at": at.tolist(), "low": low.round(3).tolist(), "high": high.round(3).tolist()}


if __name__ == "__main__":
    os.nice(5)  # the visitors of the apps go first
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody reads any more: that is the end, and no error
    for answer in steps(float(sys.argv[1])):
        print(json.dumps(answer), flush=True)
