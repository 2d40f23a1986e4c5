"""Breaks one line of each promise of docs/promises.md in turn, and shows which test notices: python tests/mutations.py [WORD...]

By hand, some 10 minutes for all; with words, only the promises that have one of them. Each is tried on a clone of what is
committed, with the tests that are about it; the exit code is the number of those that no test noticed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 400  # for the tests of one


class Mutation(NamedTuple):
    """A line of a promise, what is put in its place, and the tests that are about it (pytest's arguments)."""

    promise: str
    files: str  # a pattern; the line is in one of them
    line: str
    broken: str
    tests: str


MUTATIONS = [
    Mutation("nothing is answered before all of it works", "bokeh_dyno/start/dyno.py",
             "        while probes:", "        while False:", "tests/test_start.py -k port_opens_only"),
    Mutation("no request is lost when the platform stops the dyno", "bokeh_dyno/start/processes.py",
             "            if deafen:", "            if False:", "tests/test_drain.py -k no_request_is_lost"),
    Mutation("WebSockets are told why: 1012", "bokeh_dyno/bokeh/gate.py",
             "handler.close, 1012,", "handler.close, 1000,", "tests/test_drain.py -k no_request_is_lost"),
    Mutation("a reload takes the new routing", "bokeh_dyno/start/dyno.py",
             "os.kill(pid, signal.SIGHUP)", "os.kill(pid, 0)", "tests/test_drain.py -k takes_the_new_routing"),
    Mutation("a killed worker is back", "bokeh_dyno/bokeh/master.py",
             "                self._restart_dead()", "                pass", "tests/test_heal.py -k killed_bokeh_worker"),
    Mutation("a process that cannot be replaced ends the dyno", "bokeh_dyno/start/dyno.py",
             "return self._report_gone(gone)\n                told", "pass\n                told",
             "tests/test_heal.py -k death_of_a_first"),
    Mutation("a worker that dies again and again ends the dyno", "bokeh_dyno/shared/health.py",
             "return len(self._times) >= DEATHS", "return False", "tests/test_heal.py -k again_and_again"),
    Mutation("a further Bokeh worker costs little memory", "bokeh_dyno/bokeh/__main__.py",
             "        gc.freeze()  # what the workers share", "        # what the workers share",
             "tests/test_heal.py -k costs_little_memory"),
    Mutation("open pages come back by themselves", "bokeh_dyno/page/*.js",
             "async recover(old) {", "async recover(old) {\n      if (old != null) return",
             "tests/test_recovery.py"),
    Mutation("a page loads only what its apps need", "bokeh_dyno/page/needs.py",
             "    if not objects:", "    if objects:", "tests/test_bokehjs.py -k loads_what_it_needs"),
    Mutation("every page gets the scripts of its own version", "bokeh_dyno/start/routing/server.conf.erb",
             "if ($static_elsewhere) { return 418; }", "", "tests/test_static.py -k sent_round"),
    Mutation("a running dyno keeps its files", "bokeh_dyno/page/static.py",
             "shutil.copytree(folder, fresh / version, ignore=shutil.ignore_patterns(SUMS), dirs_exist_ok=True)",
             "(fresh / version).symlink_to(folder)", "tests/test_static.py -k running_dyno_keeps"),
    Mutation("an app runs once per view, on the worker of its session", "bokeh_dyno/start/routing/http.conf.erb",
             "hash $session;", "hash $request_id;", "tests/test_sessions.py -k 'dropped or runs_the_app_once'"),
    Mutation("forged, foreign, expired sessions are refused", "bokeh_dyno/shared/tokens.py",
             "            return False\n        payload =", "            pass\n        payload =",
             "tests/test_sessions.py -k 'forged or and_no_other'"),
    Mutation("other sites' WebSockets are refused", "bokeh_dyno/start/routing/server.conf.erb",
             "if ($origin_allowed = 0) { return 403; }", "", "tests/test_routing.py -k another_site"),
    Mutation("one visitor does not freeze what the others use", "config/nginx.conf.erb",
             "limit_conn visitors <%= var 'VISITOR_CONNECTIONS' %>;", "", "tests/test_limits.py -k connections_of_a_visitor"),
    Mutation("an app that ends its worker is off after the third", "bokeh_dyno/bokeh/faults.py",
             "OFF_AFTER = 3", "OFF_AFTER = 99", "tests/test_limits.py -k off_for_a_while"),
    Mutation("an app that cannot run costs only itself", "bokeh_dyno/bokeh/__main__.py",
             "if len(failed) == len(self.applications):", "if failed:", "tests/test_start.py -k cost_only_themselves"),
    Mutation("what a fork must not share is not shared", "bokeh_dyno/shared/fork.py",
             '        return ", ".join(left)', '        return ""', "tests/test_theirs.py -k not_be_shared"),
    Mutation("what apps and pages start hears SIGTERM", "bokeh_dyno/shared/sigterm.py",
             "        signal.signal(signal.SIGTERM, signal.SIG_DFL)", "        pass", "tests/test_theirs.py tests/test_drain.py"),
    Mutation("the page says what went wrong", "bokeh_dyno/page/*.js",
             "This plot may be out of date: its app has failed.", "", "tests/test_told.py -k callback_that_fails"),
    Mutation("a value that cost the connection twice is not entered again", "bokeh_dyno/page/*.js",
             "MAX_LOSSES = 2 //", "MAX_LOSSES = 99 //", "tests/test_told.py -k is_entered_again_once"),
]  # fmt: skip


def try_one(mutation: Mutation, folder: Path) -> list[str]:
    """Return the tests that fail with the mutation. Raises LookupError when its line is not there once."""
    found = [path for path in folder.glob(mutation.files) if mutation.line in path.read_text()]
    if len(found) != 1 or found[0].read_text().count(mutation.line) != 1:
        raise LookupError(f"{mutation.files} does not have this line once: {mutation.line.strip()}")
    found[0].write_text(found[0].read_text().replace(mutation.line, mutation.broken))
    command = f"{sys.executable} -m pytest -q -x -n 2 -p no:cacheprovider {mutation.tests}"
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        command, shell=True, cwd=folder, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise LookupError(f"no result within {SECONDS} s") from None
    if process.returncode not in (0, 1, 2):  # 2: stopped at the first
        raise LookupError(f"pytest ended with {process.returncode}: {output[-600:]}")
    return sorted(set(re.findall(r"^(?:FAILED|ERROR) [^\s:]+::(\w+)", output, re.MULTILINE)))


def main(words: list[str]) -> int:
    """Try those whose promise has one of the words, or all; print a row of Markdown for each."""
    unnoticed = 0
    print("| promise | the line that was broken | noticed by |\n|---|---|---|", flush=True)
    for mutation in MUTATIONS:
        if words and not any(word in mutation.promise for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="dyno.") as scratch:
            folder = Path(scratch) / "clone"
            subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
            if (ROOT / ".static").exists():
                subprocess.run(["cp", "-r", ROOT / ".static", folder], check=True)
            try:
                noticed = try_one(mutation, folder)
            except LookupError as error:
                noticed = []
                print(error, file=sys.stderr)
        unnoticed += not noticed
        by = f"{', '.join(noticed[:3])}{' …' if noticed[3:] else ''}{f' ({len(noticed)})' if noticed[1:] else ''}"
        print(f"| {mutation.promise} | `{mutation.line.strip().splitlines()[0]}` | {by or '**nothing**'} |", flush=True)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
