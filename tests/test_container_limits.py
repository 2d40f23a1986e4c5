"""What a container's limits make of the settings: read from cgroups of both versions, DYNO_RAM and the CPUs, said, overruled."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dyno_under_test import ROOT, Dyno

from bokeh_dyno.shared import container
from bokeh_dyno.shared.container import LARGE, MIB, Limits
from bokeh_dyno.shared.settings import SETTINGS, read
from bokeh_dyno.start.memory import available

MACHINE = (64 << 30, 16)  # what it has, in these tests
NONE = Limits(None, None)
SMALL = {
    "WEB_CONCURRENCY": "1", "BOKEH_WORKERS": "1", "BOKEH_MESSAGE_MEMORY": "100", "BOKEH_UNFINISHED_MEMORY": "32",
    "BOKEH_MAX_SESSIONS": "107", "BOKEH_MAX_MEMORY": "128",
}  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch) -> None:
    """Have 64 GB of memory and 16 CPUs, all of them for this process."""
    monkeypatch.setattr(container, "_machines_memory", lambda: MACHINE[0])
    monkeypatch.setattr(os, "cpu_count", lambda: MACHINE[1])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MACHINE[1])), raising=False)


def limits(folder: Path, own: str, files: dict[str, str], environ: dict[str, str] | None = None) -> Limits:
    """Return what is read from these files of a cgroup file system, for a process that is in those of `own`."""
    for name, text in files.items():
        (folder / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fs" / name).write_text(f"{text}\n")
    (folder / "own").write_text(own)
    return container.limits(environ or {}, folder / "fs", folder / "own")


V1 = "9:name=systemd:/x\n5:memory:{0}\n4:cpu,cpuacct:{0}\n2:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "268435456", "cpu.max": "100000 100000"}, Limits(256 * MIB, 1)),
        ("0::/\n", {"memory.max": "max", "cpu.max": "max 100000"}, NONE),
        ("0::/\n", {"memory.max": "536870912", "memory.high": "268435456"}, Limits(256 * MIB, None)),
        ("0::/\n", {"cpu.max": "150000 100000"}, Limits(None, 1.5)),
        # the smallest on the way up counts, whoever has set it
        ("0::/a/b\n", {"a/b/memory.max": "900000000", "a/memory.max": "800000000", "a/b/cpu.max": "400000 100000",
                       "a/cpu.max": "max 100000", "cpu.max": "50000 100000"}, Limits(800_000_000, 0.5)),
        ("0::/a/b\n", {"a/c/memory.max": "1000000"}, NONE),  # of another one
        # of the host's tree a container sees its own part, or less of its path
        ("0::/kubepods/pod1/c1\n", {"memory.max": "268435456"}, Limits(256 * MIB, None)),
        ("0::/../x\n", {"memory.max": "268435456", "../x/memory.max": "1000000"}, Limits(256 * MIB, None)),
        (V1.format("/"), {"memory/memory.limit_in_bytes": "268435456", "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                          "cpu,cpuacct/cpu.cfs_period_us": "100000"}, Limits(256 * MIB, 0.5)),
        (V1.format("/docker/0a1b"), {"memory/memory.limit_in_bytes": "268435456"}, Limits(256 * MIB, None)),
        (V1.format("/"), {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                          "cpu,cpuacct/cpu.cfs_period_us": "100000"}, NONE),
        # not below what the machine has
        ("0::/\n", {"memory.max": str(64 << 30), "cpu.max": "1600000 100000"}, NONE),
        # what is no limit: nothing, garbage, no period
        ("", {}, NONE),
        ("0::/\n", {"memory.max": "", "cpu.max": ""}, NONE),
        ("\0\xff:::\n::\n0\n", {"memory.max": "12 MB", "cpu.max": "100000 0"}, NONE),
        ("0::/\n", {"memory.max": "0", "memory.high": "-5", "cpu.max": "1e5 100000"}, NONE),
        ("0::/\n", {"memory.max": "9" * 30, "cpu.max": "9" * 50_000}, NONE),
    ],
)  # fmt: skip
def test_the_smallest_limit_of_a_cgroup_is_found(scratch: Path, own: str, files: dict, expected: Limits) -> None:
    assert limits(scratch, own, files) == expected


def test_what_cannot_be_read_is_no_limit(scratch: Path) -> None:
    (scratch / "fs" / "memory.max").mkdir(parents=True)
    (scratch / "fs" / "cpu.max").symlink_to("cpu.max")
    assert limits(scratch, "0::/\n", {}) == NONE
    assert container.limits({}, scratch / "nothing", scratch / "none") == NONE
    assert container.limits({}, scratch / "own", scratch) == NONE


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "512MB", "1e3", "9" * 40])
def test_a_dyno_ram_that_is_no_number_limits_nothing(scratch: Path, text: str) -> None:
    assert limits(scratch, "0::/\n", {}, {"DYNO_RAM": text}) == NONE


def test_heroku_says_its_limit_in_dyno_ram(scratch: Path) -> None:
    assert limits(scratch, "0::/\n", {}, {"DYNO_RAM": "512"}) == Limits(512 * MIB, None)
    # the smaller one, where a cgroup has one as well
    assert limits(scratch, "0::/\n", {"memory.max": str(256 * MIB)}, {"DYNO_RAM": "512"}) == Limits(256 * MIB, None)


def test_cpus_that_are_others_are_a_limit(scratch: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    assert limits(scratch, "0::/\n", {}) == Limits(None, 3)
    assert limits(scratch, "0::/\n", {"cpu.max": "200000 100000"}) == Limits(None, 2)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert limits(scratch, "0::/\n", {}) == Limits(None, 2)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (NONE, {}),
        (Limits(16 << 30, 2), {}),
        (Limits(None, 0.5), {}),
        (Limits(256 * MIB, 1), SMALL),
        (Limits(256 * MIB, None), SMALL),
        (Limits(512 * MIB, None), {"BOKEH_MAX_SESSIONS": "352", "BOKEH_MAX_MEMORY": "366"}),
        (Limits(512 * MIB, 1), {"BOKEH_MAX_SESSIONS": "352", "BOKEH_MAX_MEMORY": "366"}),
        (Limits(512 * MIB, 8), {"BOKEH_MAX_SESSIONS": "352", "BOKEH_MAX_MEMORY": "366"}),
        (Limits(None, 7.5), {"BOKEH_WORKERS": "8", "WEB_CONCURRENCY": "4"}),
        (Limits(16 << 30, 8), {"BOKEH_WORKERS": "8", "WEB_CONCURRENCY": "4"}),
        (Limits(1 << 30, 8), {"BOKEH_WORKERS": "5", "WEB_CONCURRENCY": "4", "BOKEH_MAX_SESSIONS": "379",
                              "BOKEH_MAX_MEMORY": "805"}),
    ],
)  # fmt: skip
def test_what_follows(found: Limits, expected: dict[str, str]) -> None:
    assert container.defaults({}, found=found) == expected


def test_what_follows_is_always_allowed_and_never_more_than_the_default() -> None:
    for memory in (None, 1, MIB, 64 * MIB, 128 * MIB, *range(200 * MIB, LARGE, 100 * MIB), LARGE, 1 << 50):
        for cpus in (None, 0.01, 1, 1.5, 2, 3, 8, 64, 1000):
            follows = container.defaults({}, found=Limits(memory, cpus))
            assert set(follows) <= container.SETS <= set(SETTINGS)
            read(follows)
            for name in set(follows) - {"WEB_CONCURRENCY", "BOKEH_WORKERS", "BOKEH_MAX_MEMORY"}:
                assert int(follows[name]) <= int(SETTINGS[name].default)
            if memory is None or memory >= 512 * MIB:
                assert int(follows.get("BOKEH_WORKERS", 2)) >= int(follows.get("WEB_CONCURRENCY", 2)) >= 2


def test_what_is_set_stays_and_counts_for_the_rest() -> None:
    found = Limits(256 * MIB, 1)
    assert "BOKEH_WORKERS" not in container.defaults({"BOKEH_WORKERS": "2"}, found=found)
    assert container.defaults({"BOKEH_WORKERS": "2"}, found=found)["BOKEH_MAX_SESSIONS"] == "53"
    assert container.defaults({"BOKEH_WORKERS": ""}, found=found) == SMALL  # an empty one counts as not set
    assert container.defaults({"BOKEH_WORKERS": "x"}, found=found).keys() == SMALL.keys() - {"BOKEH_WORKERS"}
    elsewhere = {"BOKEH_UPSTREAM": "b:5000"}
    assert container.defaults(elsewhere, found=found) == {}
    assert container.defaults(elsewhere, found=Limits(128 * MIB, 1)) == {"WEB_CONCURRENCY": "1"}
    assert container.defaults(elsewhere, found=Limits(256 * MIB, 16)) == {"WEB_CONCURRENCY": "5"}
    assert container.defaults(dict.fromkeys(SETTINGS, "7"), found=found) == {}


def test_what_follows_is_set_anew_and_nothing_else(scratch: Path) -> None:
    paths = (scratch / "fs", scratch / "own")
    limits(scratch, "0::/\n", {"memory.max": str(256 * MIB)})
    environ = {"BOKEH_MAX_MEMORY": "900", "PORT": "1"}
    assert container.apply(environ, *paths).startswith(
        "limited to 256 MiB of memory: BOKEH_WORKERS=1 WEB_CONCURRENCY=1 "
    )
    assert environ.items() >= {**SMALL, "BOKEH_MAX_MEMORY": "900"}.items()
    assert container.is_derived("BOKEH_WORKERS", environ)
    assert not container.is_derived("BOKEH_MAX_MEMORY", environ)
    environ["BOKEH_WORKERS"] = "3"  # by .env, before SIGUSR2
    container.apply(environ, *paths)
    assert (environ["BOKEH_WORKERS"], environ["BOKEH_MAX_SESSIONS"]) == ("3", "35")
    limits(scratch, "0::/\n", {"memory.max": "max"})
    assert container.apply(environ, *paths) == ""
    assert environ == {"BOKEH_MAX_MEMORY": "900", "BOKEH_WORKERS": "3", "PORT": "1"}


# --- a dyno that is limited -------------------------------------------------------------------------------------------


def test_a_dyno_goes_by_its_limit_says_so_and_keeps_to_it(project: Path, dyno: Callable[..., Dyno]) -> None:
    one = dyno(project, {"DYNO_RAM": "256", "BOKEH_MAX_SESSIONS": "7"}).start()
    line = one.wait_for_log(r"dyno    \| limited to 256 MiB of memory.*: (BOKEH_.*), unless you set them$")
    assert len(one.bokeh_workers()) == 1
    assert len(one.find("gunicorn")) == 2  # the master and a worker
    environ = one.find(r"-m bokeh_dyno\.bokeh")[0].environ()
    assert environ.items() >= {**SMALL, "BOKEH_MAX_SESSIONS": "7"}.items()
    assert "BOKEH_MAX_SESSIONS" not in line[1]
    (project / ".env").write_text("")
    one.process.send_signal(signal.SIGUSR2)
    one.wait_for_log("takes over from")
    assert one.find(r"-m bokeh_dyno\.bokeh")[-1].environ().items() >= {**SMALL, "BOKEH_MAX_SESSIONS": "7"}.items()
    assert one.log().count("limited to") == 1
    assert one.get("/bkapp/counter").status == 200


def test_apps_that_are_large_are_no_reason_to_end_the_boot(project: Path, dyno: Callable[..., Dyno]) -> None:
    one = dyno(project, {"DYNO_RAM": "150"}).start()
    one.wait_for_log(r"the apps take \d+ MB without a visitor: no BOKEH_MAX_MEMORY unless you set it")
    assert one.get("/bkapp/counter").status == 200


@pytest.fixture
def cgroups() -> Iterator[list[Path]]:
    """Folders of a cgroup of one's own with 300 MiB and half a CPU; skips where this machine does not let one make it."""
    root, made = Path("/sys/fs/cgroup"), []
    v1 = {"memory": {"memory.limit_in_bytes": str(300 * MIB)}, "cpu": {"cpu.cfs_quota_us": "50000"}}
    v2 = {"": {"memory.max": str(300 * MIB), "cpu.max": "50000 100000"}}
    try:
        try:
            for controller, files in (v2 if (root / "cgroup.controllers").exists() else v1).items():
                folder = root / controller / f"bokeh-dyno-test-{os.getpid()}"
                folder.mkdir()
                made.append(folder)
                for name, text in files.items():
                    (folder / name).write_text(text)
        except OSError as error:
            pytest.skip(f"no cgroup can be made here: {error}")
        yield made
    finally:
        for folder in made:
            folder.rmdir()


def test_what_is_free_is_what_the_smallest_cgroup_leaves(scratch: Path) -> None:
    stat = f"inactive_file {10 * MIB}\nactive_file {50 * MIB}"
    limits(scratch, "0::/system.slice/dyno.service\n", {
        "memory.max": "max", "memory.current": "1",
        "system.slice/dyno.service/memory.max": str(100 * MIB), "system.slice/dyno.service/memory.current": str(70 * MIB),
        "system.slice/dyno.service/memory.stat": stat,
    })  # fmt: skip
    assert available(scratch / "fs", scratch / "own") == 40 * MIB


def test_real_cgroups_are_found_and_check_says_what_follows(project: Path, cgroups: list[Path]) -> None:
    enter = "".join(f"echo $$ >{folder}/cgroup.procs && " for folder in cgroups)
    line = f"{enter}exec {sys.executable} -m bokeh_dyno check"
    env = {"PATH": os.environ["PATH"], "HOME": str(project)}
    check = subprocess.run(["/bin/sh", "-c", line], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")
    assert re.search(r"^limited to 300 MiB of memory and 0\.5 CPUs: BOKEH_WORKERS=1 ", check.stdout), check.stdout
    shutil.rmtree(project / "run", ignore_errors=True)
    unlimited = subprocess.run(
        [sys.executable, "-m", "bokeh_dyno", "check"],
        cwd=ROOT,
        env={**env, "BOKEH_WORKERS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "BOKEH_WORKERS" not in unlimited.stdout
