"""The unit for a machine of one's own, config/bokeh-dyno.service: systemd takes it, and it fits what it starts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from dyno_under_test import ROOT, installed, procfile_line

from bokeh_dyno.start import dyno, generations

UNIT = ROOT / "config" / "bokeh-dyno.service"
FOLDER = "/srv/bokeh-dyno"


def value(name: str) -> str:
    """Return what the unit has for a name that stands in it once."""
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return found


def test_systemd_finds_nothing_wrong_with_the_unit(scratch: Path) -> None:
    analyze = installed("systemd-analyze")
    if not analyze:
        pytest.skip("there is no systemd-analyze here: the unit was not verified")
    unit = scratch / UNIT.name
    unit.write_text(UNIT.read_text().replace(FOLDER, str(ROOT)))  # what it starts has to be there
    said = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr, said.returncode) == ("", "", 0)


def test_the_unit_runs_what_the_procfile_runs() -> None:
    assert value("ExecStart") == f"{FOLDER}/{procfile_line(ROOT)}"
    assert value("WorkingDirectory") == FOLDER


def test_the_unit_waits_for_as_long_as_a_stop_may_take() -> None:
    linger = 20  # STOP_LINGER, at most
    longest = linger + max(dyno.DRAIN_SECONDS - linger, dyno.LEAST_DRAIN_SECONDS) + generations.STOP_SECONDS
    assert int(value("TimeoutStopSec")) >= longest + 2
    assert (value("KillMode"), value("ExecReload")) == ("mixed", "/bin/kill -USR2 $MAINPID")


def test_the_unit_gives_the_dyno_a_run_dir_of_its_own() -> None:
    assert value("Environment") == f"RUN_DIR=/run/{value('RuntimeDirectory')}"
    assert value("RuntimeDirectoryMode") == "0700"
