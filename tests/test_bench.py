"""The benchmark runs: one short part of it, without the peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from dyno_under_test import ROOT


def test_a_part_of_the_benchmark_measures_this_dyno(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "views", "--peers", "dyno", "--rounds", "2", "--seconds", "0.5"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    run = subprocess.run(
        [*command, "--json", str(results)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"| this dyno ({version('bokeh')}) |" in run.stdout
    assert "killed" not in run.stderr
    (table,) = json.loads(results.read_text())["parts"]["views"]
    figures = table["rows"]["dyno"]
    assert figures["runs"] == [1, 1]
    assert all(value > 0 for samples in figures.values() for value in samples)
    assert all(len(samples) == 2 for samples in figures.values())
    assert [target["text"] for target in table["targets"]] == ["app runs per view"]
