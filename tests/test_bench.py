"""The benchmark runs: two short parts of it, without the peers; a peer that fails does not end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dyno_under_test import ROOT

from bench.client import WrongAnswer
from bench.peers import TITLES
from bench.tables import Run, Table


def test_two_parts_of_the_benchmark_measure_this_dyno(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "flask", "views", "--peers", "dyno", "--rounds", "2", "--seconds", "1"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    run = subprocess.run(
        [*command, "--json", str(results)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=170, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"| {TITLES['dyno']} |" in run.stdout
    assert " failed: " not in run.stdout, run.stdout + run.stderr
    assert "killed" not in run.stderr
    parts = json.loads(results.read_text())["parts"]
    (pages,), (views,) = parts["flask"], parts["views"]
    for figures in (pages["rows"]["dyno"], views["rows"]["dyno"]):
        assert all(value > 0 for samples in figures.values() for value in samples)
        assert all(len(samples) == 2 for samples in figures.values())
    assert views["rows"]["dyno"]["runs"] == [1, 1]
    assert [target["text"] for target in views["targets"]] == ["app runs per view"]
    for alone, everything in zip(*(pages["rows"]["dyno"][name] for name in ("nginx CPU ms", "CPU ms")), strict=True):
        assert alone < everything


def test_a_peer_that_fails_is_named_and_the_others_go_on() -> None:
    table = Table("", "")

    def once(name: str) -> None:
        if name == "nginx":
            raise WrongAnswer("502")
        table.add(name, {"ms": {"dyno": 3.0, "direct": 4.0, "asgi": 2.0}[name]})

    Run([], 2, 1.0).in_turns(table, ["dyno", "nginx", "direct", "asgi"], once)
    table.promise("of the quickest", "ms", of=["nginx", "direct", "asgi"], at_most=1.5)
    table.promise("of nginx", "ms", of="nginx", at_most=1.5)
    assert table.failures == {"nginx": "WrongAnswer: 502"}
    assert [(target.text, target.samples, target.met) for target in table.targets] == [
        ("of the quickest", [1.5, 1.5], True)
    ]
