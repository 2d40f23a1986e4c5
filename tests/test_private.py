"""Bokeh's private names: all are as expected in the versions known, and a page opens when they are not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bokeh
import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import ROOT, Dyno

from bokeh_dyno.shared import private

MakeDyno = Callable[..., Dyno]
# Has a process find other parameters, and another source, where it looks for these names; they do what they did
CHANGED = """
import importlib
import inspect

def changed(function):
    return lambda *arguments, **keywords: function(*arguments, **keywords)

for name in {names!r}:
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    owner = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    function = inspect.getattr_static(owner, last)
    if isinstance(function, classmethod):
        setattr(owner, last, classmethod(changed(function.__func__)))
    elif inspect.isfunction(function):
        setattr(owner, last, changed(function))
"""


def test_this_version_of_bokeh_is_as_expected() -> None:
    """Or nobody may notice what is off."""
    table = subprocess.check_output([sys.executable, "-m", "bokeh_dyno.shared.private"], cwd=ROOT, text=True)
    assert len(table.splitlines()) == sum(len(use.names) for use in private.USES.values())
    assert re.findall("^CHANGED.*", table, re.MULTILINE) == []


@pytest.mark.parametrize("use", private.USES)
def test_what_has_changed_costs_a_line_in_the_log_but_no_page(project: Path, dyno: MakeDyno, page, use: str) -> None:
    (project / "changed").mkdir()
    (project / "changed" / "sitecustomize.py").write_text(CHANGED.format(names=list(private.USES[use].names)))
    procfile = project / "Procfile.dyno"
    procfile.write_text(procfile.read_text().replace("bokeh: exec", "bokeh: PYTHONPATH=changed exec"))
    one = dyno(project).start()
    warning = f"warning: Bokeh {bokeh.__version__} is not as expected; off: "
    (line,) = re.findall(f".*{re.escape(warning)}.*", one.log())
    assert private.USES[use].without in line
    # the one page that is of the app alone for every other use: each takes a second
    path = ("/with/counter", "/bkapp/counter")[list(private.USES).index(use) % 2]
    page.goto(f"http://127.0.0.1:{one.port}{path}")
    assert_plots_are_drawn(page, 1)
    values = source_values(page)
    turn_slider(page)
    source_values(page, different_from=values)
    page.goto("about:blank")
    assert "Traceback" not in one.log()


@pytest.mark.parametrize("name", ["bokeh.gone:name", "bokeh.document.document:gone", "bokeh.server.urls:urljoin.gone"])
def test_a_name_that_is_gone_is_not_as_expected(name: str) -> None:
    assert not private._is(name, "")


@pytest.mark.parametrize("version", ["2.4.3", "3.0.0", "3.7.3", "3.8.2"])
def test_a_bokeh_that_is_too_old_is_refused_with_what_to_write(project: Path, version: str) -> None:
    package = project / "older" / "bokeh"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not this one')\n")
    (project / "older" / f"bokeh-{version}.dist-info").mkdir()
    for command in (["bin/start-nginx", "true"], [sys.executable, "-m", "bokeh_dyno.bokeh"]):
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {"PATH": path, "PYTHONPATH": str(project / "older")}
        result = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=60)
        assert result.returncode == 1
        line = (
            rf"error: Bokeh {version} is too old, 3\.9 is needed: write bokeh==3\.\d+\.\d+ into requirements\.txt.*\n"
        )
        assert re.fullmatch(line, result.stderr), result.stderr


def test_what_is_to_be_written_is_what_requirements_txt_has() -> None:
    assert re.search(rf"^{re.escape(private.PINS)};", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("version", "newer"), [("3.9.0", False), ("3.10.9", False), ("3.11.0rc1", True), ("4.0.0", True)]
)
def test_a_bokeh_that_is_newer_is_named(version: str, newer: bool) -> None:
    private.check_version(version)
    assert (f"Bokeh {version} is newer than 3.10" in private.warning(version)) == newer
