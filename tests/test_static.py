"""The files that nginx sends itself: how they come, their versions, and where they are kept."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bokeh.util.paths
import brotli
import pytest
from browsing import assert_plots_are_drawn
from dyno_under_test import ROOT, Dyno

from bokeh_dyno.page import static

MakeDyno = Callable[..., Dyno]
PACKAGE = bokeh.util.paths.static_path()
SCRIPT = static.page_script()
BOKEH = (PACKAGE / "js/bokeh.min.js").read_bytes()
CHROMIUM = "gzip, deflate, br, zstd"
FOREVER = "public, max-age=31536000, immutable"
DECODE = {"br": brotli.decompress, "gzip": gzip.decompress, None: bytes}


def version(data: bytes) -> str:
    """Return the version of a file, which is the beginning of what Bokeh has behind ?v=."""
    return hashlib.sha512(data).hexdigest()[:16]


# --- how they come ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (CHROMIUM, "br"),
        ("br", "br"),
        ("gzip,br;q=0.001", "br"),
        ("gzip , BR ; q=1.0", "br"),
        ("gzip, br;q=0", "gzip"),
        ("br; q=0.000, gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, brotli, abr, br-x", "gzip"),
        ("identity", None),
        ("", None),
    ],
)
def test_a_file_comes_in_the_coding_that_is_accepted(site: Dyno, accepted: str, coding: str | None) -> None:
    for path in (
        f"js/bokeh.min.js?v={hashlib.sha512(BOKEH).hexdigest()}",
        f"{version(BOKEH)}/js/bokeh.min.js",
        "dyno.js",
    ):
        answer = site.get(f"/bkapp/static/{path}", Accept_Encoding=accepted)
        assert answer.status == 200
        assert answer.headers.get("content-encoding") == coding
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["content-type"] == "text/javascript"
        assert answer.headers["cache-control"] == ("no-cache" if path == "dyno.js" else FOREVER)
        original = SCRIPT if path == "dyno.js" else BOKEH
        assert DECODE[coding](answer.body) == original
        head = site.request("HEAD", f"/bkapp/static/{path}", {"Accept-Encoding": accepted})
        for name in ("content-length", "content-encoding", "vary", "etag", "cache-control"):
            assert head.headers.get(name) == answer.headers.get(name), name
        assert head.body == b""


def test_the_codings_are_files_of_their_own_for_caches(site: Dyno) -> None:
    path = f"/bkapp/static/{version(BOKEH)}/js/bokeh.min.js"
    answers = {coding: site.get(path, Accept_Encoding=coding) for coding in ("br", "gzip", "identity")}
    assert len({answer.headers["etag"] for answer in answers.values()}) == 3
    tag = answers["br"].headers["etag"]
    again = site.get(path, Accept_Encoding="br", If_None_Match=tag)
    assert (again.status, again.body, again.headers["vary"]) == (304, b"", "Accept-Encoding")
    assert site.get(path, Accept_Encoding="gzip", If_None_Match=tag).body == answers["gzip"].body
    part = site.get(path, Accept_Encoding="br", Range="bytes=1000-1999", If_Range=tag)
    assert (part.status, part.headers["content-encoding"]) == (206, "br")
    assert part.body == answers["br"].body[1000:2000]
    assert site.get(path, Accept_Encoding="gzip", Range="bytes=1000-1999", If_Range=tag).status == 200


def test_what_is_not_brotli_is_not_called_so(site: Dyno) -> None:
    for path in ("js/bokeh.js", "js/lib/bokeh.d.ts"):
        answer = site.get(f"/bkapp/static/{path}", Accept_Encoding=CHROMIUM)
        assert DECODE[answer.headers.get("content-encoding")](answer.body) == (PACKAGE / path).read_bytes()
    assert "content-encoding" not in site.get("/bkapp/static/extensions/none.js", Accept_Encoding="br").headers


def test_a_cold_page_with_sliders_is_less_than_428_kb(example: Path, dyno: MakeDyno, page, record_property) -> None:
    subprocess.run([sys.executable, "-m", "bokeh_dyno.page.static"], cwd=example, check=True)  # as bin/setup does
    one = dyno(example).start()
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    sizes = []
    wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(f"http://localhost:{one.port}/apps/sliders")
    assert_plots_are_drawn(page, 1)
    record_property("figure", f"{sum(sizes) / 1e3:.0f} kB of {sum(size > 0 for size in sizes)} responses")
    assert sum(sizes) < 420_000  # the WebSocket's messages, compressed, are 7,000 more


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["js/bokeh.min.js", "dyno.js"])
def test_an_unknown_version_is_not_found_and_not_kept(site: Dyno, file: str) -> None:
    for coding in ("br", "gzip", "identity"):
        answer = site.get(f"/bkapp/static/0123456789abcdef/{file}", Accept_Encoding=coding)
        assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")
        wrong = site.get(f"/bkapp/static/{version(b'something else')}/{file}", Accept_Encoding=coding)
        assert wrong.status == 404
        assert site.get(f"/bkapp/static/{version(BOKEH)}/js/bokeh-gl.min.js", Accept_Encoding=coding).status == 404
        for value in ("1", "0" * 128, version(BOKEH), hashlib.sha512(BOKEH).hexdigest() + "0"):
            answer = site.get(f"/bkapp/static/{file}?v={value}", Accept_Encoding=coding)
            assert (answer.status, answer.headers["cache-control"]) == (200, "no-cache")


def test_the_scripts_of_bokehs_own_pages_are_kept(site: Dyno) -> None:
    script = site.get("/bkapp/counter/autoload.js?bokeh-autoload-element=x").text
    urls = re.findall(r'"(/bkapp/static/js/[^"]+)"', script)
    assert len(urls) >= 5
    for url in urls:
        assert site.get(url, Accept_Encoding="br").headers["cache-control"] == FOREVER, url


def test_a_page_is_sent_round_for_a_script_that_another_dyno_has(site: Dyno) -> None:
    path = "/bkapp/static/0123456789abcdef/js/bokeh.min.js"
    for headers in ({"Sec_Fetch_Dest": "script"}, {"Referer": f"http://127.0.0.1:{site.port}/with/counter"}):
        answer = site.get(path, **headers)
        for _ in range(9):
            assert (answer.status, answer.headers["cache-control"]) == (307, "no-store")
            assert answer.headers["location"].startswith(path)
            assert answer.headers["connection"] == "close"
            answer = site.get(answer.headers["location"], **headers)
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.headers["content-type"] == "text/javascript"
        assert "location.reload()" in answer.text


@pytest.mark.parametrize(
    "path",
    ["/bkapp/static/0123456789abcdef/%0d%0aX-Header:%20x", "//bkapp/static/0123456789abcdef/dyno.js"],
)
def test_a_page_is_sent_nowhere_else(site: Dyno, path: str) -> None:
    answer = site.get(path, Sec_Fetch_Dest="script")
    assert answer.status == 404
    assert "x-header" not in answer.headers


# --- where they are kept ----------------------------------------------------------------------------------------------

PROGRAM = """
import json, pathlib, sys
from bokeh_dyno.page import static
call = {"best": static.prepare, "quick": lambda cache: static.prepare(cache, quick=True), "link": static.link}[sys.argv[1]]
folders = call(pathlib.Path(sys.argv[2])) or []
print(json.dumps([[str(folder) for folder in folders], static.versions()]))
"""


class Packages:
    """A small package called bokeh, and what bokeh_dyno.page.static makes of it."""

    def __init__(self, folder: Path) -> None:
        self.js = folder / "packages/bokeh/server/static/js"
        self.js.mkdir(parents=True)
        (folder / "packages/bokeh/__init__.py").touch()
        self.cache = folder / "cache"
        self.write("one" * 100)
        (self.js / "bokeh-gl.min.js").write_text("gl" * 100)

    def write(self, text: str) -> None:
        """Write BokehJS anew."""
        (self.js / "bokeh.min.js").write_text(text)

    def prepare(self, how: str = "best", project: Path = ROOT, folder: Path | None = None):
        """Run PROGRAM; return its folders and versions."""
        command = [sys.executable, "-c", PROGRAM, how, str(folder or self.cache)]
        env = {"PYTHONPATH": str(self.js.parents[3])}
        folders, versions = json.loads(subprocess.check_output(command, cwd=project, env=env, text=True))
        return dict(zip(versions, map(Path, folders), strict=False)), versions


@pytest.fixture
def packages(scratch: Path) -> Packages:
    return Packages(scratch)


def test_an_upgrade_of_bokeh_shows_no_old_file_and_keeps_those_that_are_the_same(packages: Packages) -> None:
    folders, versions = packages.prepare()
    assert packages.prepare() == (folders, versions)
    packages.write("another")
    newer, newer_versions = packages.prepare()
    changed = {name for name in versions if versions[name] != newer_versions[name]}
    assert changed == {name for name in folders if folders[name] != newer[name]} == {"js/bokeh.min.js"}
    folder = newer["js/bokeh.min.js"]
    assert (folder / "js/bokeh.min.js").read_text() == "another"
    assert gzip.decompress((folder / "js/bokeh.min.js.gz").read_bytes()) == b"another"
    assert brotli.decompress((folder / "js/bokeh.min.js.br").read_bytes()) == b"another"


def test_the_boot_does_not_wait_for_the_best_compression_and_takes_it_when_it_is_there(packages: Packages) -> None:
    packages.write((PACKAGE / "js/bokeh-widgets.min.js").read_text())
    name = "js/bokeh.min.js"
    quick, _ = packages.prepare("quick")
    best, _ = packages.prepare("best")
    assert (best[name] / f"{name}.br").stat().st_size < 0.95 * (quick[name] / f"{name}.br").stat().st_size
    assert packages.prepare("quick")[0] == best


@pytest.mark.parametrize("damage", ["deleted", "cut", "changed", "half"])
def test_a_folder_that_is_not_whole_is_made_again(packages: Packages, damage: str) -> None:
    for how in ("quick", "best"):
        folder = packages.prepare(how)[0]["js/bokeh.min.js"]
        file = folder / "js/bokeh.min.js.br"
        whole = file.read_bytes()
        if damage == "deleted":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(whole[:-1])
        elif damage == "changed":
            file.write_bytes(b"x" + whole[1:])
        else:
            (folder / "sums").unlink()
        again = packages.prepare(how)[0]["js/bokeh.min.js"]
        assert (again / "js/bokeh.min.js.br").read_bytes() == whole
        assert (again / "sums").exists()


def test_what_nobody_has_used_for_an_hour_is_cleaned_up_at_some_time(packages: Packages) -> None:
    first, _ = packages.prepare()
    old = time.time() - 4000
    for folder in first.values():
        os.utime(folder, (old, old))
    packages.prepare()  # in use
    (packages.cache / "new.cut-off").mkdir()
    os.utime(packages.cache / "new.cut-off", (old, old))
    packages.write("another")
    second, _ = packages.prepare()
    assert all(folder.exists() for folder in [*first.values(), *second.values()])
    assert not (packages.cache / "new.cut-off").exists()
    os.utime(first["js/bokeh.min.js"], (old, old))
    packages.write("a third")
    third, _ = packages.prepare()
    assert sorted(packages.cache.iterdir()) == sorted({*second.values(), *third.values()})


def test_of_several_at_once_all_have_what_they_need(packages: Packages) -> None:
    command = [sys.executable, "-c", PROGRAM, "quick", str(packages.cache)]
    env = {"PYTHONPATH": str(packages.js.parents[3])}
    several = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE) for _ in range(4)]
    answers = {one.communicate()[0] for one in several}
    assert len(answers) == 1
    folders, _ = json.loads(answers.pop())
    assert sorted(str(path) for path in packages.cache.iterdir()) == sorted(folders)


def test_a_running_dyno_keeps_its_files(project: Path, packages: Packages, dyno: MakeDyno) -> None:
    one = dyno(project).start()
    urls = [*re.findall(r'src="([^"]+)"', one.get("/with/counter").text), "/bkapp/static/js/bokeh-gl.min.js"]
    assert len(urls) == 4
    before = [one.get(url, Accept_Encoding=coding).body for url in urls for coding in ("br", "gzip", "identity")]
    old = time.time() - 4000
    for folder in (project / ".static").iterdir():
        os.utime(folder, (old, old))
    packages.prepare(project=project, folder=project / ".static")  # of another version, which cleans up
    assert not any(entry.name.startswith(version(BOKEH)) for entry in (project / ".static").iterdir())
    second = dyno(project, {"RUN_DIR": "run/2"}).start()
    second.process.send_signal(signal.SIGINT)
    assert second.wait() == 0
    refused = dyno(project).launch()
    assert refused.wait() == 1
    shutil.rmtree(project / ".static")
    subprocess.run(["sh", "-c", "kill -HUP $(cat run/lock)"], cwd=project, check=True)  # nothing that nginx holds open
    one.wait_for_log("nginx reloads")
    assert [
        one.get(url, Accept_Encoding=coding).body for url in urls for coding in ("br", "gzip", "identity")
    ] == before


def test_a_dyno_that_was_killed_leaves_nothing_that_the_next_one_does_not_clear(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project).start()
    one.clean_up()
    two = dyno(project).start()
    assert two.get("/bkapp/static/js/bokeh.min.js", Accept_Encoding="br").headers["content-encoding"] == "br"
    assert len(list((project / "run").glob("*/static.*"))) == 1


def test_what_is_in_use_of_an_old_cache_stays_when_one_file_is_new(scratch: Path) -> None:
    cache = scratch / "cache"
    folders = static.prepare(cache, quick=True)
    shutil.rmtree(folders[0])  # as after a change of the page's script
    for folder in folders[1:]:
        os.utime(folder, (0, 0))
    assert static.prepare(cache, quick=True) == folders
    assert all(folder.is_dir() for folder in folders)
