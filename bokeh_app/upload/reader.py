"""Reads one CSV, whatever it looks like, in a process of its own: it may take all the time and memory that this one has.

`python reader.py PARENT`, with the file in base64 on stdin and the parent's pid, prints lines of JSON: {"percent": 40} as
it goes on, then either {"error": sentence} or what the table has, followed by its numbers: first x if it has dates
(milliseconds since 1970, int64), then each column (float64), in the machine's byte order.
"""

# ruff: noqa: E402 (the limits come before the imports)

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

MAX_CPU = 20  # seconds
MAX_MEMORY = 320_000_000  # bytes


def limit(parent: int) -> None:
    """Take no more than this process may have, and end with the parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU, MAX_CPU + 1))
    os.nice(5)  # the visitors of the apps go first
    if sys.platform == "linux":
        # not RLIMIT_AS, which counts what the libraries only reserve; macOS knows neither
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit()


if __name__ == "__main__":
    limit(int(sys.argv[1]))

import base64
import csv
import io
import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

MAX_COLUMNS = 200
MISSING = ["", "na", "n/a", "nan", "null", "none", "-", "?"]
BINARY = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f]")
NUMBER = re.compile(r"[+-]?(\d[\d.,]*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
THOUSANDS = r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?"
# 2026-11-24, 2026/11, with a time and an offset from UTC if there are …
ISO = re.compile(r"\d{4}[-/]\d\d([-/]\d\d([T ]\d\d:\d\d.*)?)?")
# … or 24.11.2026, 11/24/2026
DAY = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{4}([T ].*)?")


class Unreadable(Exception):
    """Nothing in the file can be drawn; the message is a sentence for the visitor."""


class Measured(io.BytesIO):
    """A file that tells how much of it has been read, from 0 to 1."""

    def __init__(self, content: bytes, tell: Callable[[float], None]) -> None:
        super().__init__(content)
        self._size, self._tell = len(content), tell

    def read1(self, size: int | None = -1) -> bytes:
        self._tell(self.tell() / self._size)
        return super().read1(size)


def main() -> None:
    """Read stdin and print the table, or a sentence for the visitor."""
    printed = 0

    def tell(percent: float) -> None:
        nonlocal printed
        if percent >= printed + 5:
            printed = int(percent)
            print(json.dumps({"percent": printed}), flush=True)

    try:
        read(base64.b64decode(sys.stdin.buffer.read(), validate=True), tell)
    except Unreadable as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except MemoryError:
        print(json.dumps({"error": "This file takes too much memory to read."}), flush=True)


def read(content: bytes, tell: Callable[[float], None]) -> None:
    """Print the table in `content`. Raises Unreadable when there is nothing in it to draw."""
    text = decode(content)
    if not text.strip():
        raise Unreadable("This file is empty.")
    if BINARY.search(text):
        raise Unreadable("This is not a CSV file: it holds something else than text.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    delimiter = find_delimiter(text)
    # rows without anything in them: pandas would make gaps of them
    content = re.sub(rf"\n[{delimiter} \t]*(?=\n|\Z)", "", f"\n{text}").strip("\n").encode()
    del text
    if not content:
        raise Unreadable("This file has no rows, only empty cells.")
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):  # the latter where a quote is never closed
        try:
            header, width, above = find_table(content, delimiter, quoting, lambda part: tell(30 * part))
            rows = content.split(b"\n", above)[above:]
            if not rows:
                raise Unreadable("This file has a header, but no rows.")
            frame = pd.read_csv(
                Measured(rows.pop(), lambda part: tell(30 + 30 * part)),
                sep=delimiter, header=None, names=range(width), index_col=False, low_memory=False, quoting=quoting,
                keep_default_na=False, na_values=[form(word) for word in MISSING for form in (str, str.upper, str.title)],
            )  # fmt: skip
            break
        except (csv.Error, pd.errors.ParserError) as error:
            if "memory" in str(error):
                raise MemoryError from error
            if quoting == csv.QUOTE_NONE:
                raise Unreadable("This is not a CSV file: it has no cells of a usual length.") from error
    del content
    found = {"rows": len(frame), "x_name": "row", "columns": [], "ignored": []}
    x, columns = None, []
    for number, name in enumerate(names(header, width)):
        tell(60 + 40 * number / width)
        column = frame.pop(number)  # what has been read need not be kept
        if number == 0 and (x := dates(column)) is not None:
            found["x_name"] = name
        elif (values := numbers(column, delimiter)) is not None:
            found["columns"].append(name)
            columns.append(values)
        else:
            found["ignored"].append(name)
    if not columns:
        raise Unreadable("There is no column of numbers in this file, so there is nothing to draw.")
    if x is not None:
        order = np.argsort(x, kind="stable")[: len(x) - np.isnat(x).sum()]  # the last have no date, nowhere to be drawn
        found["rows"] = len(order)
        columns = [values[order] for values in (x, *columns)]
    print(json.dumps({**found, "dates": x is not None}), flush=True)
    for values in columns:
        sys.stdout.buffer.write(values)


def decode(content: bytes) -> str:
    """Return the text of a file in UTF-8, UTF-16 or Latin-1."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def find_delimiter(text: str) -> str:
    """Return the delimiter that splits the first lines into the same number of cells, more than one."""
    lines = [line for line in text[:65536].split("\n")[:50] if line.strip()]
    if len(text) > 65536 and len(lines) > 1:
        lines.pop()  # it may be cut off
    shares = {}
    for candidate in "\t;|,":  # in this order: with all but the last, a comma may be in the numbers
        widths = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        usual = max(set(widths), key=widths.count)
        shares[candidate] = widths.count(usual) / len(widths) if usual > 1 else 0.0
        if shares[candidate] > 0.9:
            break
    best = max(shares, key=shares.get)
    return best if shares[best] else ","


def find_table(
    content: bytes, delimiter: str, quoting: int, tell: Callable[[float], None]
) -> tuple[list[str], int, int]:
    """Return the header (empty when there is none), the number of columns, and the number of lines above the rows."""

    def rows() -> csv.reader:
        file = io.TextIOWrapper(Measured(content, tell), "utf-8", newline="\n")
        return csv.reader(file, delimiter=delimiter, quoting=quoting)

    width = max(map(len, rows()))
    if width > MAX_COLUMNS:
        raise Unreadable(f"This file has {width:,} columns; at most {MAX_COLUMNS} can be drawn.")
    above, first_rows = 0, rows()
    for first in first_rows:
        if len(first) > 1 or width == 1:
            break
        above = first_rows.line_num  # a title, a comment
    after = first_rows.line_num
    return (first, width, after) if has_header(first, next(first_rows, [])) else ([], width, above)


def has_header(first: list[str], second: list[str]) -> bool:
    """Return whether the first row holds the names: no numbers, or text where the second has numbers."""
    values = [is_value(cell) for cell in first]
    return not any(values) or any(
        is_value(below) and cell.strip() and not value
        for cell, value, below in zip(first, values, second, strict=False)
    )


def is_value(cell: str) -> bool:
    """Return whether this is a number or a date."""
    return any(pattern.fullmatch(cell.strip()) for pattern in (NUMBER, ISO, DAY))


def names(header: list[str], width: int) -> list[str]:
    """Return a name for each column, no two the same."""
    found: dict[str, None] = {}
    for number in range(width):
        cell = header[number] if number < len(header) else ""
        name = " ".join(cell.split())[:80] or f"column {number + 1}"
        while name in found:
            name += "*"
        found[name] = None
    return list(found)


def texts(column: pd.Series) -> pd.Series | None:
    """Return the cells of a column that pandas has left as text, without the gaps; None when there are none."""
    if column.dtype.kind in "iufb":
        return None
    text = column.dropna().astype(str).str.strip()
    return text[text != ""]


def numbers(column: pd.Series, delimiter: str) -> np.ndarray | None:
    """Return a column as numbers, gaps as NaN; None when it holds anything else, or nothing."""
    text = texts(column)
    if text is not None:
        if not NUMBER.match(next((cell for cell in text if cell.lower() not in MISSING), "")):
            return None  # text: most columns that are no numbers end here
        text = text[~text.str.lower().isin(MISSING)]
        with_comma = text[text.str.contains(",", regex=False)]
        if len(with_comma) and delimiter == "," and with_comma.str.fullmatch(THOUSANDS).all():
            text = text.str.replace(",", "", regex=False)
        elif len(with_comma):
            text = text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        try:
            column = text.astype(float).reindex(column.index)
        except ValueError:
            return None
    elif column.dtype.kind == "b":
        return None
    values = column.to_numpy(float, copy=True)
    values[np.isinf(values)] = np.nan
    return None if np.isnan(values).all() else values


def dates(column: pd.Series) -> np.ndarray | None:
    """Return a column as dates (UTC when they have an offset), gaps as NaT; None when it holds anything else."""
    text = texts(column)
    if text is None or text.empty:
        return None
    try:
        if ISO.fullmatch(text.iloc[0]):
            found = pd.to_datetime(text, format="ISO8601", utc=True).dt.tz_localize(None)
        elif day := DAY.fullmatch(text.iloc[0]):
            found = days(text.str.replace("T", " ", regex=False), day[1])
        else:
            return None
    except ValueError:
        return None
    return found.reindex(column.index).to_numpy().astype("datetime64[ms]")


def days(text: pd.Series, mark: str) -> pd.Series:
    """Read 24.11.2026 or 11/24/2026, with a time or none: the day is first unless no such day exists."""
    text = text.str.replace(r"(:\d\d)\.\d+$", r"\1", regex=True)  # parts of a second
    colons = text.str.count(":")
    if colons.max() > 2:
        raise ValueError("not all are dates")
    times = [(text[colons == number], time) for number, time in enumerate(("", " %H:%M", " %H:%M:%S"))]
    day_first, month_first = (f"%d{mark}%m{mark}%Y", f"%m{mark}%d{mark}%Y")
    try:
        return pd.concat([pd.to_datetime(part, format=day_first + time) for part, time in times])
    except ValueError:
        return pd.concat([pd.to_datetime(part, format=month_first + time) for part, time in times])


if __name__ == "__main__":
    main()
