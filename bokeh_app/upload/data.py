"""Reads the visitor's CSV, whatever it looks like, and makes little of much for the browser.

All of it works on whole columns at a time: a reader that goes row by row needs several seconds and hundreds of
megabytes for a file of 10 MB, which a worker that serves many visitors has not.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field

import numpy as np

MAX_BYTES = 10_000_000
MAX_COLUMNS = 200
MAX_NUMBER = 40  # characters; a longer cell is neither a number nor a date
POINTS = 5000  # in a line; more cannot be told apart on a screen
MISSING = [b"", b"na", b"n/a", b"nan", b"null", b"none", b"-", b"?"]
SPLIT = b"\x1f"  # stands for a delimiter or line break within quotes
BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
NUMBER = re.compile(rb"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)
THOUSANDS = re.compile(rb"\s*[+-]?\d{1,3}(\x1f\d{3})+(\.\d*)?\s*")
# 2026-11-24, 2026/11, with a time and an offset from UTC if there are …
ISO = re.compile(rb"\s*\d{4}[-/]\d\d([-/]\d\d([T ]\d\d:\d\d.*)?)?\s*")
OFFSET = re.compile(rb"([+-])(\d\d):?(\d\d)")
# … or 24.11.2026, 11/24/2026
DAY = rb"[ \t]*(\d{1,2})[./-](\d{1,2})[./-](\d{4})(?:[T ]+(\d{1,2})(:\d\d(?::\d\d)?)(?:\.\d+)?)?[ \t]*"


@dataclass
class Table:
    """A CSV that can be drawn: x is the date column (datetime64) or the number of the row, from 1."""

    x: np.ndarray
    columns: dict[str, np.ndarray]
    ignored: list[str] = field(default_factory=list)
    x_name: str = "row"

    @property
    def has_dates(self) -> bool:
        """Whether x is a date."""
        return self.x.dtype.kind == "M"


def parse(content: bytes) -> Table:
    """Read a CSV: any usual delimiter, with a header or without, UTF-8, UTF-16 or Latin-1, gaps as NaN.

    Raises ValueError, with a sentence for the visitor, when there is nothing in it to draw.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"This file has {len(content) / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB can be drawn.")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", errors="replace").encode()
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise ValueError("This file is empty.")
    if BINARY.search(content):
        raise ValueError("This is not a CSV file: it holds something else than text.")
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    delimiter = _delimiter(content)
    rows = _rows(content, delimiter)
    if not rows:
        raise ValueError("This file has no rows, only empty cells.")
    widths = [row.count(delimiter) + 1 for row in rows]
    width = max(widths)
    if width > MAX_COLUMNS:
        raise ValueError(f"This file has {width:,} columns; at most {MAX_COLUMNS} can be drawn.")
    table_begins = next(number for number, count in enumerate(widths) if count > 1 or width == 1)
    rows, widths = rows[table_begins:], widths[table_begins:]  # above it: a title, a comment
    if min(widths) < width:
        rows = [row + delimiter * (width - count) for row, count in zip(rows, widths, strict=True)]
    header = rows.pop(0).split(delimiter) if _has_header(*(row.split(delimiter) for row in rows[:2])) else []
    if not rows:
        raise ValueError("This file has a header, but no rows.")
    cells = delimiter.join(rows).split(delimiter)
    table = Table(np.arange(1, len(rows) + 1), {})
    del rows
    for number, name in enumerate(_names(header, width)):
        column = cells[number::width]
        if max(map(len, column)) > MAX_NUMBER:
            table.ignored.append(name)
        elif number == 0 and (dates := _dates(column)) is not None:
            table.x, table.x_name = dates, name
        elif (numbers := _numbers(column, delimiter)) is not None:
            table.columns[name] = numbers
        else:
            table.ignored.append(name)
    if not table.columns:
        raise ValueError("There is no column of numbers in this file, so there is nothing to draw.")
    if table.has_dates:
        order = np.argsort(table.x, kind="stable")
        order = order[: len(order) - np.isnat(table.x).sum()]  # they are last, and nowhere to be drawn
        table.x = table.x[order]
        table.columns = {name: values[order] for name, values in table.columns.items()}
    return table


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `points` of a line: of each stretch its lowest and its highest, so that no peak is lost."""
    if len(y) <= points:
        return x, y
    size = -(-len(y) // (points // 2))
    starts = np.arange(0, len(y), size)
    padded = np.full(len(starts) * size, np.nan)
    padded[: len(y)] = y
    stretches = padded.reshape(len(starts), size)
    low = np.where(np.isnan(stretches), np.inf, stretches).argmin(axis=1)
    high = np.where(np.isnan(stretches), -np.inf, stretches).argmax(axis=1)
    # a stretch without any number is a gap: it keeps one of its NaN
    kept = np.unique(np.concatenate([starts + low, starts + high]))
    kept = kept[kept < len(y)]
    return x[kept], y[kept]


def _delimiter(content: bytes) -> bytes:
    """Return the delimiter that splits the first lines into the same number of cells, more than one."""
    lines = [line for line in content[:65536].decode("latin-1").split("\n")[:50] if line.strip()]
    if len(content) > 65536 and len(lines) > 1:
        lines.pop()  # it may be cut off
    shares = {}
    for candidate in "\t;|,":  # in this order: with all but the last, a comma may be in the numbers
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        except csv.Error as error:
            raise ValueError("This is not a CSV file: it has no cells of a usual length.") from error
        usual = max(set(widths), key=widths.count)
        shares[candidate] = widths.count(usual) / len(widths) if usual > 1 else 0.0
        if shares[candidate] > 0.9:
            break
    best = max(shares, key=shares.get)
    return best.encode() if shares[best] else b","


def _rows(content: bytes, delimiter: bytes) -> list[bytes]:
    """Return the rows that have something in them, without quotes; SPLIT stands for what these protected."""
    if b'"' in content:
        mark = re.escape(delimiter)
        quoted = re.compile(rb'(?:^|(?<=[\n%b]))"([^"]*(?:""[^"]*)*)"(?=[\n%b]|$)' % (mark, mark))
        within = re.compile(rb"[\n%b]" % mark)
        content = quoted.sub(lambda cell: within.sub(SPLIT, cell[1].replace(b'""', b'"')), content)
    return [row for row in content.split(b"\n") if row.strip(delimiter + b" \t")]


def _has_header(first: list[bytes], second: list[bytes] | None = None) -> bool:
    """Return whether the first row holds the names: no numbers, or text where the second has numbers."""
    values = [_is_value(cell) for cell in first]
    return not any(values) or any(
        _is_value(below) and cell.strip() and not value
        for cell, value, below in zip(first, values, second or [], strict=bool(second))
    )


def _is_value(cell: bytes) -> bool:
    return bool(NUMBER.fullmatch(cell) or ISO.fullmatch(cell) or re.fullmatch(DAY, cell))


def _names(header: list[bytes], width: int) -> list[str]:
    """Return a name for each column, no two the same."""
    names: dict[str, None] = {}
    for number in range(width):
        cell = header[number].replace(SPLIT, b" ").strip() if header else b""
        try:
            name = cell.decode()
        except UnicodeDecodeError:
            name = cell.decode("latin-1")
        name = " ".join(name.split())[:80] or f"column {number + 1}"
        while name in names:
            name += "*"
        names[name] = None
    return list(names)


def _numbers(column: list[bytes], delimiter: bytes) -> np.ndarray | None:
    """Return a column as numbers, gaps as NaN; None when it holds anything else, or nothing."""
    decimal = SPLIT if delimiter == b"," else b","
    joined = b"\n".join(column)
    if decimal in joined:
        if decimal == SPLIT and all(THOUSANDS.fullmatch(cell) for cell in column if SPLIT in cell):
            column = joined.replace(SPLIT, b"").split(b"\n")
        else:
            column = joined.replace(b".", b"").replace(decimal, b".").split(b"\n")
    cells = np.array(column, dtype=bytes)
    try:
        values = cells.astype(float)
    except ValueError:
        cells[np.isin(np.char.lower(np.char.strip(cells)), MISSING)] = b""
        if not NUMBER.match(next(filter(None, cells.tolist()), b"")):
            return None  # text: most columns that are no numbers end here
        try:
            values = np.full(len(cells), np.nan)
            values[cells != b""] = cells[cells != b""].astype(float)
        except ValueError:
            return None
    values[np.isinf(values)] = np.nan
    return None if np.isnan(values).all() else values


def _dates(column: list[bytes]) -> np.ndarray | None:
    """Return a column as dates (datetime64, UTC when they have an offset), gaps as NaT; None when it holds others."""
    first = next((cell for cell in column if cell.strip()), b"")
    try:
        if ISO.fullmatch(first):
            return _iso(column)
        if re.fullmatch(DAY, first):
            return _days(column)
    except ValueError:
        pass
    return None


def _iso(column: list[bytes]) -> np.ndarray:
    cells = [cell.strip().removesuffix(b"Z").replace(b"/", b"-").replace(b" ", b"T", 1) for cell in column]
    ends = [cell[16:] for cell in cells]  # after the minutes
    offsets: list[int] | None = None
    if any(b"+" in end or b"-" in end for end in set(ends)):
        minutes = {end: _offset(end) for end in set(ends)}
        offsets = [minutes[end][1] for end in ends]
        cells = [cell[:16] + minutes[end][0] for cell, end in zip(cells, ends, strict=True)]
    # as text: numpy reads the dates in bytes one by one
    dates = np.array(np.array(cells, dtype=bytes).astype(str), dtype="datetime64[ms]")
    return dates if offsets is None else dates - np.array(offsets, dtype="timedelta64[m]")


def _offset(end: bytes) -> tuple[bytes, int]:
    """Return what follows the minutes of a time without its offset from UTC, and this in minutes."""
    found = OFFSET.search(end)
    if found is None:
        return end, 0
    minutes = int(found[2]) * 60 + int(found[3])
    return end[: found.start()], -minutes if found[1] == b"-" else minutes


def _days(column: list[bytes]) -> np.ndarray:
    """Read 24.11.2026 or 11/24/2026: the day is first unless no such day exists."""
    found = re.findall(rb"(?m)^(?:%b|[ \t]*)$" % DAY, b"\n".join(column))
    if len(found) != len(column):
        raise ValueError("not all are dates")
    month_first = any(int(second or 0) > 12 for _, second, *_ in found)
    iso = [
        b"%b-%b-%bT%b%b" % (year, *((a.zfill(2), b.zfill(2)) if month_first else (b.zfill(2), a.zfill(2))),
                            hour.zfill(2), rest or b":00") if year else b""
        for a, b, year, hour, rest in found
    ]  # fmt: skip
    return np.array(np.array(iso, dtype=bytes).astype(str), dtype="datetime64[ms]")
