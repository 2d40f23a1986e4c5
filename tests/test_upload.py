"""The upload app: every form of CSV is understood, and no file takes more than its share, whatever is in it."""

from __future__ import annotations

import asyncio
import base64
import html
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from browsing import assert_plots_are_drawn
from conftest import run_for_the_session
from dyno_under_test import Dyno, is_alive, wait_for
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from bokeh_app.upload.data import Table, parse

MB = 1_000_000
GOOD_CSV = b"a,b\n1,2\n3,4\n"
LARGE_CSV = b"1,2\n" * 2 * MB  # takes seconds to read
ABC = {"a": [1, 3], "b": [2, 4]}
# what is in the file, and what is read of it: the columns, the column of dates if there is one, and what it ignores
FORMS = {
    "a comma, and two names alike": (b"a,a\n1,2\n3,4\n", {"a": [1, 3], "a*": [2, 4]}, None, []),
    "a tab, a title and a comment": (b"My title\n# from the lab\na\tb\n1\t2\n\t\n3\t4\n", ABC, None, []),
    "a bar, CR and Latin-1": ("größe|b\r1|2\r3|4\r".encode("latin-1"), {"größe": [1, 3], "b": [2, 4]}, None, []),
    "UTF-16": ("größe,b\r\n1,2\r\n3,4\r\n".encode("utf-16"), {"größe": [1, 3], "b": [2, 4]}, None, []),
    "UTF-8 with BOM, no header": (b"\xef\xbb\xbf1,2\n3,4\n", {"column 1": [1, 3], "column 2": [2, 4]}, None, []),
    "quotes": (b'"a, ""x""","b\nc"\n"1","2"\n"3","4"\n', {'a, "x"': [1, 3], "b c": [2, 4]}, None, []),
    "a quote that is never closed": (b'a,b\n"x,2\ny,4\n', {"b": [2, 4]}, None, ["a"]),
    "gaps, ragged rows": (b"a,b,c\n1,NA\n -,2,x\nnull,?,y\n3,n/a,z\n", {"a": [1, None, None, 3], "b": [None, 2, None, None]},
                          None, ["c"]),
    "decimal commas": (b"a;b\n1.234,5;2,5\n3;4\n", {"a": [1234.5, 3], "b": [2.5, 4]}, None, []),
    "decimal commas in quotes, and thousands": (b'a,b\n"1,5","1,234"\n"2,25","2,225,111.5"\n',
                                                {"a": [1.5, 2.25], "b": [1234, 2225111.5]}, None, []),
    "too large a number is a gap": (b"a,b\n1e999999," + b"9" * 39 + b"\n3,4\n", {"a": [None, 3], "b": [1e39, 4]}, None, []),
    "ISO dates, with an offset and without": (b"d,v\n2026-01-02T00:30:05.5+01:00,1\n2026/01/01 10:00,2\n,3\n", {"v": [2, 1]},
                                              ["2026-01-01T10:00", "2026-01-01T23:30:05.500"], []),
    "the day first": (b"d;v\n24.11.2026 10:30:15.25;1\n1.2.2026;2\n", {"v": [2, 1]},
                      ["2026-02-01", "2026-11-24T10:30:15"], []),
    "the month first": (b"d,v\n1/2/2026 9:05,1\n11/24/2026,2\n", {"v": [1, 2]}, ["2026-01-02T09:05", "2026-11-24"], []),
    "a date that cannot be": (b"d,v\n2026-01-01,1\n99999-99-99,2\n", {"v": [1, 2]}, None, ["d"]),
}  # fmt: skip
HOSTILE = {
    "40 kB of digits and an x": (b"1" * 40_000 + b"x\n", "a header, but no rows"),
    "the same below a header": (b"a\n" + b"1" * 400_000 + b"x\n", "no cells of a usual length"),
    "cells that begin as numbers": (b"a;b\n" + (b"1" + b".," * 50_000 + b"x;2\n") * 20, r"not numbers: a\."),
    "one line without a delimiter": (b"a" * 2 * MB, "no cells of a usual length"),
    "delimiters only": (b"," * 2 * MB, "only empty cells"),
    "quotes only": (b'"' * 10 * MB, "no cells of a usual length"),
    "line breaks only": (b"\n" * 2 * MB, "empty"),
    "NUL bytes": (b"1,\0\n" * 1000, "not a CSV"),
    "half a character of UTF-16": (b"\xff\xfe" + "1,2\n".encode("utf-16-le") + b"1", "1 column of numbers"),
    "one row": (b"1," * 5 * MB, "5,000,001 columns; at most 200"),
}


def read(content: bytes) -> Table:
    """Have a file read as the app does; in a thread, for this one may have playwright's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, parse(base64.b64encode(content).decode(), lambda text: None)).result()


@pytest.mark.parametrize("form", FORMS)
def test_a_csv_is_understood(form: str) -> None:
    content, columns, dates, ignored = FORMS[form]
    table = read(content)
    assert list(table.columns) == list(columns)
    for name, numbers in columns.items():
        np.testing.assert_array_equal(table.columns[name], np.array(numbers, float))
    x = range(1, len(table.x) + 1) if dates is None else np.array(dates, "datetime64[ms]")
    np.testing.assert_array_equal(table.x, x)
    assert (table.ignored, table.has_dates) == (ignored, dates is not None)


# --- on the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_worker() -> Iterator[Dyno]:
    """The example with one worker, so that all visitors have the same."""
    yield from run_for_the_session(None, "installed", BOKEH_WORKERS="1")


def open_upload(page, one: Dyno) -> None:
    """Open the app's page, and wait until it can be used."""
    assert page.goto(f"http://127.0.0.1:{one.port}/bkapp/upload").status == 200
    assert_plots_are_drawn(page, 1)


def upload(page, name: str, content: bytes) -> None:
    """Choose a file of that name."""
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})


def expect(page, name: str, sentence: str) -> None:
    """Wait until the page says this about a file; sentence is a regular expression."""
    try:
        page.get_by_text(re.compile(rf"^{re.escape(name)}: .*{sentence}")).wait_for(timeout=60_000)
    except PlaywrightTimeout:
        said = [text for text in page.locator(".bk-clearfix").all_inner_texts() if ": " in text]
        raise AssertionError(f"{name}: {sentence}: the page says {said}") from None


def stopped_reader(one: Dyno) -> psutil.Process:
    """Wait for the process that reads a large file, and stop it: it takes for ever then."""
    reader = wait_for("the reader", lambda: one.find(r"reader\.py"))[0]
    reader.suspend()
    return reader


def test_no_file_keeps_the_worker_from_others(one_worker: Dyno, page, record_property) -> None:
    open_upload(page, one_worker)
    worker = one_worker.bokeh_workers()[0]
    before, waits, done = worker.memory_info().rss, [], threading.Event()

    def ask() -> None:
        while not done.wait(0.2):
            began = time.monotonic()
            # it asks the worker, and is 503 when that takes 0.8 s
            wait_for("the worker", lambda: one_worker.get("/healthz").status == 200)
            waits.append(time.monotonic() - began)

    others = threading.Thread(target=ask)
    others.start()
    try:
        for number, (content, sentence) in enumerate(HOSTILE.values()):
            upload(page, f"{number}.csv", content)
            expect(page, f"{number}.csv", sentence)
    finally:
        done.set()
        others.join()
    wait_for("the worker to be rid of it", lambda: worker.memory_info().rss - before < 60 * MB)
    grown = (worker.memory_info().rss - before) / 1e6
    record_property(
        "figure", f"another visitor waited {max(waits):.2f} s at most; the worker has grown by {grown:.0f} MB"
    )
    assert max(waits) < 5
    assert "Traceback" not in one_worker.log()


def test_the_page_says_how_far_it_is_and_what_came_of_it(one_worker: Dyno, page) -> None:
    open_upload(page, one_worker)
    name = "<b>large & tall</b>.csv"  # text, whatever it looks like
    # each sentence is noted: a locator looks twice a second
    page.evaluate("""() => {
      const message = Bokeh.documents[0].get_model_by_name("message")
      window.said = []
      message.connect(message.properties.text.change, () => window.said.push(message.text))
    }""")
    upload(page, name, b"".join(b"%d;%d,5\n" % (number, number % 10) for number in range(600_000)))
    expect(page, name, "600,000 rows, 2 columns of numbers")
    said = page.evaluate("window.said")
    assert any(re.fullmatch(rf"{re.escape(html.escape(name))}: reading … \d+ %", one) for one in said), said


def test_files_are_read_one_after_the_other_for_visitors_who_are_there(one_worker: Dyno, browser, page) -> None:
    first = browser.new_page()
    try:
        for visitor in (first, page):
            open_upload(visitor, one_worker)
        upload(first, "first.csv", LARGE_CSV)
        reader = stopped_reader(one_worker)
        upload(page, "second.csv", GOOD_CSV)
        expect(page, "second.csv", "waiting until another file has been read")
    finally:
        first.close()
    expect(page, "second.csv", "2 rows")
    assert not is_alive(reader)


def test_what_takes_too_much_memory_gets_a_sentence(one_worker: Dyno, page) -> None:
    open_upload(page, one_worker)
    upload(page, "ragged.csv", b"1," * 199 + b"1\n" + b"1\n" * 500_000)  # 0.8 GB as numbers
    expect(page, "ragged.csv", "too much memory to read")
    upload(page, "good.csv", GOOD_CSV)
    expect(page, "good.csv", "2 rows")


def test_a_new_file_takes_the_place_of_the_one_before(one_worker: Dyno, page) -> None:
    open_upload(page, one_worker)
    upload(page, "stopped.csv", LARGE_CSV)
    reader = stopped_reader(one_worker)
    upload(page, "good.csv", GOOD_CSV)
    expect(page, "good.csv", "2 rows")
    assert not is_alive(reader)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process tells nobody its limits")
def test_what_takes_too_much_cpu_gets_a_sentence(one_worker: Dyno, page) -> None:
    open_upload(page, one_worker)
    upload(page, "large.csv", LARGE_CSV)
    reader = wait_for("the reader", lambda: one_worker.find(r"reader\.py"))[0]
    wait_for("its limit", lambda: 0 < reader.rlimit(psutil.RLIMIT_CPU)[0] <= 20)
    assert reader.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert "BOKEH_SECRET_KEY" not in reader.environ()
    reader.send_signal(signal.SIGXCPU)  # what the kernel does at the limit
    expect(page, "large.csv", "too long to read")


def test_what_takes_too_long_gets_a_sentence(example: Path, dyno, page) -> None:
    data = example / "bokeh_app" / "upload" / "data.py"
    data.write_text(data.read_text().replace("MAX_SECONDS = 30.0", "MAX_SECONDS = 4.0"))
    one = dyno(example).start()
    open_upload(page, one)
    upload(page, "stopped.csv", LARGE_CSV)
    reader = stopped_reader(one)
    expect(page, "stopped.csv", "too long to read")
    assert not is_alive(reader)


def test_the_reader_ends_with_its_worker(one_worker: Dyno, page) -> None:
    open_upload(page, one_worker)
    upload(page, "large.csv", LARGE_CSV)
    reader = stopped_reader(one_worker)
    one_worker.bokeh_workers()[0].kill()
    wait_for("its end", lambda: not is_alive(reader))
    page.close()  # it comes back, maybe before the worker does
    page.complaints.clear()
