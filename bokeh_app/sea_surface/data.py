"""The readings, and their moving average."""

import gzip
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "sea_surface_temperature.csv.gz"
STEP = np.timedelta64(30, "m")  # the station reads every half an hour
PER_DAY = 48


def load(path: Path = FILE) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (datetime64, UTC, every half an hour) and the temperatures (°C), NaN where there is no reading.

    The file lacks 24 half hours, 23 of them in one night, and has two readings for one: the later line counts.
    """
    with gzip.open(path, "rt", encoding="ascii") as lines:
        next(lines)
        cells = lines.read().replace("Z,", "\n").split("\n")
    read_at = np.array(cells[0:-1:2], dtype="datetime64[s]")
    readings = np.array(cells[1::2], dtype=np.float64)
    times = np.arange(read_at[0], read_at[-1] + STEP, STEP)
    temperatures = np.full(len(times), np.nan)
    temperatures[(read_at - read_at[0]) // STEP] = readings
    return times, temperatures


def smooth(temperatures: np.ndarray, days: float) -> np.ndarray:
    """Return the average of the readings within `days` days around each one; 0 days are the readings themselves.

    At the ends of the series it is the average of those that there are. Where a reading is missing, so is the average.
    """
    half = round(days * PER_DAY / 2)
    if half == 0:
        return temperatures
    missing = np.isnan(temperatures)
    sums = np.concatenate([[0.0], np.cumsum(np.where(missing, 0.0, temperatures))])
    counts = np.concatenate([[0], np.cumsum(~missing)])
    here = np.arange(len(temperatures))
    first, end = np.maximum(here - half, 0), np.minimum(here + half + 1, len(temperatures))
    average = (sums[end] - sums[first]) / np.maximum(counts[end] - counts[first], 1)
    return np.where(missing, np.nan, average)


TIMES, TEMPERATURES = load()
