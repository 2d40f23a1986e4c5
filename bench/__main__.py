"""Measure this dyno and its peers with the same small site, in turns; print tables, write JSON and RESULTS.md."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from statistics import median

from dyno_under_test import ROOT

from bench.client import WrongAnswer
from bench.measures import PARTS, Run, Table, Target
from bench.peers import PEERS, TITLES

FOLDER = ROOT / "bench"
PACKAGES = ("bokeh", "tornado", "gunicorn", "flask", "uvicorn", "bokeh-fastapi", "a2wsgi", "requests")


def main() -> int:
    """Run the parts asked for; return 0, or 1 when somebody gave a wrong answer."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is stopped on the way out
    machine = describe_machine()
    run = Run(arguments.peers, arguments.rounds, arguments.seconds)
    tables: dict[str, list[Table]] = {}
    began = time.monotonic()
    for name in arguments.parts:
        print(f"bench: {name}: {about(name)}", file=sys.stderr)
        tables[name] = []
        try:
            for table in PARTS[name](run):
                tables[name].append(table)
                print(f"\n{markdown(table)}", flush=True)
        except (WrongAnswer, OSError) as error:  # a peer did not even start
            tables[name].append(Table(name, "Not measured.", failures={name: str(error)}))
            print(f"\n{markdown(tables[name][-1])}", flush=True)
    everything = [table for several in tables.values() for table in several]
    machine["minutes"] = f"{(time.monotonic() - began) / 60:.1f}"
    print(f"\n{targets(everything)}\n\n{described(machine)}")
    is_whole = arguments.parts == list(PARTS) and arguments.peers == PEERS
    path = FOLDER / ("results.json" if is_whole else "partial.json")
    path.write_text(json.dumps({"machine": machine, "parts": as_json(tables)}, indent=1) + "\n")
    print(f"bench: wrote {path.relative_to(ROOT)}", file=sys.stderr)
    if is_whole:
        (FOLDER / "RESULTS.md").write_text(report(machine, everything))
        print("bench: wrote bench/RESULTS.md", file=sys.stderr)
    return 1 if any(table.failures for table in everything) else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parts = "\n".join(f"  {name:<12} {about(name)}" for name in PARTS)
    peers = "\n".join(f"  {name:<12} {TITLES[name]}" for name in PEERS)
    parser = argparse.ArgumentParser(
        prog="bin/bench", description=__doc__, epilog=f"parts:\n{parts}\n\npeers:\n{peers}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="part", help="all of them when none is named")
    parser.add_argument("--peers", default=",".join(PEERS), help="names, separated by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="samples of every figure (default: 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in a round (default: 4)")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or list(PARTS)
    arguments.peers = arguments.peers.split(",")
    for what, names, known in (("part", arguments.parts, PARTS), ("peer", arguments.peers, PEERS)):
        for name in names:
            if name not in known:
                parser.error(f"there is no {what} {name!r}: choose from {', '.join(known)}")
    if arguments.rounds < 1 or not 0 < arguments.seconds <= 60:
        parser.error("--rounds has to be 1 or more, --seconds more than 0 and at most 60")
    return arguments


def about(part: str) -> str:
    """Return the sentence about a part."""
    return str(PARTS[part].__doc__).splitlines()[0]


def describe_machine() -> dict[str, str]:
    """Return what the figures depend on: machine, load, versions, the commit."""

    def first_line(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            return (done.stdout or done.stderr).strip().partition("\n")[0]
        except OSError:
            return "none"

    cpus = (
        re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    )
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), "chromium")
    changed = (
        " and changes" if first_line("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no") else ""
    )
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "commit": first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") + changed,
        "machine": f"{os.cpu_count()} cores, {cpus[0] if cpus else platform.processor()}, {platform.platform()}",
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "nginx": first_line("nginx", "-v").rpartition("/")[2],
        "Chromium": first_line(chromium, "--version").removeprefix("Chromium ").partition(" ")[0],
        **{package: version(package) for package in PACKAGES},
    }


def described(machine: dict[str, str]) -> str:
    """Return the machine as a line of text."""
    return "; ".join(f"{name}: {value}" for name, value in machine.items()) + "."


def figure(value: float) -> str:
    """Return a number with as many digits as it deserves."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(samples: list[float] | None) -> str:
    """Return the median and, in parentheses, the lowest and the highest sample."""
    if not samples:
        return ""
    middle, low, high = (figure(value) for value in (median(samples), min(samples), max(samples)))
    return middle if low == high else f"{middle} ({low} to {high})"


def markdown(table: Table) -> str:
    """Return a table of figures."""
    columns = list(dict.fromkeys(column for cells in table.rows.values() for column in cells))
    lines = [f"### {table.title}", "", table.how, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, cells in table.rows.items():
        lines.append(f"| {TITLES.get(row, row)} | " + " | ".join(cell(cells.get(name)) for name in columns) + " |")
    lines += [f"\n{TITLES.get(name, name)} failed: {why}" for name, why in table.failures.items()]
    return "\n".join(lines)


def targets(tables: list[Table]) -> str:
    """Return the table of promises."""

    def line(table: Table, target: Target) -> str:
        limit = f"at most {target.at_most:g}" if isfinite(target.at_most) else f"at least {target.at_least:g}"
        return f"| {table.title}: {target.text} | {limit} | {cell(target.samples)} | {'met' if target.met else '**not met**'} |"

    lines = [line(table, target) for table in tables for target in table.targets]
    return "\n".join(["### Promises", "", "| promise | limit | measured | |", "|---|---|---|---|", *lines])


def report(machine: dict[str, str], tables: list[Table]) -> str:
    """Return RESULTS.md."""
    how = (
        "The last whole run of `bin/bench`, which writes this file. Every peer serves the same site and apps "
        "(`bench/site`), in turns within a round, on the same machine as the load generator. A figure is the median of "
        "the rounds, with the lowest and the highest in parentheses; a ratio is taken round by round."
    )
    return "\n\n".join(["# Figures", how, described(machine), targets(tables), *map(markdown, tables)]) + "\n"


def as_json(tables: dict[str, list[Table]]) -> dict[str, object]:
    """Return everything measured, every sample."""
    return {
        name: [
            {
                "title": table.title, "rows": table.rows, "failures": table.failures,
                "targets": [vars(target) | {"met": target.met} for target in table.targets],
            }
            for table in several
        ]
        for name, several in tables.items()
    }  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
