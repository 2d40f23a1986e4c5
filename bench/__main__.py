"""Measure this dyno and its peers, all with the same small site, in turns; print tables, write JSON.

A run of everything also writes bench/RESULTS.md and the table of promises in docs/promises.md; choice that of README.md.
"""

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
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from statistics import median

from dyno_under_test import ROOT

from bench import choice, dynos, edits, generations  # noqa: F401 (their parts)
from bench.client import WrongAnswer
from bench.measures import PARTS
from bench.peers import PEERS, TITLES
from bench.tables import Run, Table, Target

FOLDER = ROOT / "bench"
PACKAGES = ("bokeh", "tornado", "gunicorn", "flask", "bokeh_fastapi", "uvicorn", "starlette", "a2wsgi", "requests")
HOW = (
    "The last whole run of `bin/bench`, which writes this file. Every peer serves the same site and the same apps "
    "(`bench/site`), in turns, on the same machine as the load generator. A figure is the median of the rounds, with "
    "the lowest and the highest in parentheses where they differ; a ratio is taken round by round. CPU ms: of all the "
    "peer's processes, for each page, view and so on. client: how busy the load generator was; 1 is one core. Behind a "
    "peer's name: the Bokeh that it runs on, which every document that it sends has to say, too."
)


def main() -> int:
    """Run the parts asked for; return 0, or 1 when somebody gave a wrong answer."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is stopped on the way out
    machine = describe_machine()
    tables: dict[str, list[Table]] = {}
    began = time.monotonic()
    for name in arguments.parts:
        print(f"bench: {name}: {PARTS[name].__doc__}", file=sys.stderr)
        tables[name] = []
        try:
            for table in PARTS[name](Run(arguments.peers, arguments.rounds, arguments.seconds)):
                tables[name].append(table)
                print(f"{markdown(table)}\n", flush=True)
        except (WrongAnswer, OSError) as error:  # a peer did not even start
            tables[name].append(Table(name, "Not measured.", failures={"it": str(error)}))
            print(f"{markdown(tables[name][-1])}\n", flush=True)
    machine["minutes"] = f"{(time.monotonic() - began) / 60:.1f}"
    everything = [table for several in tables.values() for table in several]
    print(f"{promises(everything)}\n\n{described(machine)}")
    taken = f"{machine['date'][:10]}, {machine['machine'].split(', ')[0]}"
    for table in tables.get("choice", []):
        quote("README.md", "choice", choice.summary(table, taken))
    is_whole = arguments.parts == list(PARTS) and arguments.peers == PEERS
    path = arguments.json or FOLDER / ("results.json" if is_whole else "partial.json")
    parts = {name: [asdict(table) for table in several] for name, several in tables.items()}
    path.write_text(json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n")
    if is_whole:
        report = ["# Figures", HOW, described(machine), promises(everything), *map(markdown, everything)]
        (FOLDER / "RESULTS.md").write_text("\n\n".join(report) + "\n")
        quote("docs/promises.md", "figures", f"{taken}:\n\n{promises(everything)}")
    return 1 if any(table.failures for table in everything) else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parts = "\n".join(f"  {name:<12} {measure.__doc__}" for name, measure in PARTS.items())
    peers = "\n".join(f"  {name:<12} {TITLES[name]}" for name in PEERS)
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description=__doc__,
        epilog=f"parts:\n{parts}\n\npeers:\n{peers}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="part", help="all of them when none is named")
    parser.add_argument("--peers", default=",".join(PEERS), help="names, separated by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="samples of every figure (default: 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in a round (default: 3)")
    parser.add_argument("--json", type=Path, help="(default: bench/results.json; for a part of it bench/partial.json)")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or list(PARTS)
    arguments.peers = arguments.peers.split(",")
    for what, names, known in (("part", arguments.parts, PARTS), ("peer", arguments.peers, PEERS)):
        for name in names:
            if name not in known:
                parser.error(f"there is no {what} {name!r}: choose from {', '.join(known)}")
    if not 1 <= arguments.rounds <= 100 or not 0 < arguments.seconds <= 60:
        parser.error("--rounds may be 1 to 100, --seconds more than 0 and at most 60")
    return arguments


def describe_machine() -> dict[str, str]:
    """Return what the figures depend on: machine, load, commit, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    cpus = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    changed = first_line("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    versions = ((package.name.lower(), package.version) for package in distributions())
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), "chromium")
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "commit": first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") + (changed and ", changed"),
        "machine": f"{os.cpu_count()} cores, {cpus[0] if cpus else platform.processor()}, {platform.platform()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "nginx": first_line("nginx", "-v").rpartition("/")[2],
        "Chromium": first_line(chromium, "--version").removeprefix("Chromium ").partition(" ")[0],
        **{name: version for name, version in sorted(versions) if name in PACKAGES},
    }


def first_line(*command: str) -> str:
    """Return the first line that a command prints, "none" when there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout or done.stderr).strip().partition("\n")[0]
    except OSError:
        return "none"


def described(machine: dict[str, str]) -> str:
    """Return the machine as a line of text."""
    return "; ".join(f"{name}: {value}" for name, value in machine.items()) + "."


def figure(value: float) -> str:
    """Return a number with as many digits as it deserves."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(samples: list[float]) -> str:
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
        lines.append(f"| {TITLES.get(row, row)} | {' | '.join(cell(cells.get(name, [])) for name in columns)} |")
    lines += [f"\n{TITLES.get(name, name)} failed: {why}" for name, why in table.failures.items()]
    return "\n".join(lines)


def promises(tables: list[Table]) -> str:
    """Return the table of promises, kept and not."""

    def line(table: Table, target: Target) -> str:
        limit = f"at least {target.at_least:g}" if target.at_most is None else f"at most {target.at_most:g}"
        verdict = "met" if target.met else "**not met**"
        return f"| {table.title}: {target.text} | {limit} | {cell(target.samples)} | {verdict} |"

    lines = [line(table, target) for table in tables for target in table.targets]
    return "\n".join(["| promise | limit | measured | |", "|---|---|---|---|", *lines])


def quote(name: str, mark: str, text: str) -> None:
    """Put text between the two marks of a page."""
    page = ROOT / name
    between = re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.DOTALL)
    page.write_text(between.sub(lambda _: text + "\n", page.read_text(), count=1))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
