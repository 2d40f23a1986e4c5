"""The modules of the page's script: their pure parts in node's own test runner, and how they are made one script."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dyno_under_test import NODE, ROOT

from bokeh_dyno.page import static

FOLDER = Path(static.__file__).parent


def test_the_units(record_property) -> None:
    files = sorted((ROOT / "tests/page").glob("*.test.js"))
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", *files],
        env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(done.stdout.partition("\n# pass ")[2].split()[0])
    record_property("figure", f"{passed} tests of node's")
    assert passed > len(files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the modules."""
    for name in static.PAGE_MODULES:
        shutil.copy(FOLDER / f"{name}.js", tmp_path)
    return tmp_path


def is_a_script(code: bytes) -> bool:
    """Return whether node takes it for JavaScript; two constants of a name, say, are not."""
    return subprocess.run([NODE, "--check", "-"], input=code, capture_output=True, timeout=60).returncode == 0


def test_the_modules_are_one_script_without_what_is_for_their_readers(folder: Path) -> None:
    # dev.js is for bin/dev alone
    modules = [module for of_script in static.SCRIPTS.values() for module in of_script]
    assert sorted(path.stem for path in FOLDER.glob("*.js")) == sorted([*modules, "dev"])
    assert static.page_script(folder) == static.page_script()
    for name in static.SCRIPTS:
        script = static.page_script(name=name)
        assert is_a_script(script)
        lines = script.decode().splitlines()
        assert lines[:2] == ["(() => {", '"use strict"']
        assert lines[-1] == "})()"
        assert not [line for line in lines if line.startswith(("import", "export", "/", "*", " ")) or not line]


@pytest.mark.parametrize(
    "line",
    [
        'import * as values from "./values.js"',
        'import {title as name} from "./values.js"',
        'import {title,',
        'import "./values.js"',
        'import {title} from "./values.js" // why',
        'import {title} from "./page.js"',
        'import {title} from "elsewhere"',
        "export default 1",
        "export {title}",
        "export let value = 1",
        "export function title() {}",
        "/** More than",
        "/* one */ const two = 2 /* three */",
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_an_error(folder: Path, line: str) -> None:
    file = folder / "connection.js"
    file.write_text(f"{file.read_text('utf-8')}{line}\n", "utf-8")
    with pytest.raises(ValueError, match=r"connection\.js has a line"):
        static.page_script(folder)


def test_a_comment_behind_code_is_left_out_but_not_what_only_looks_like_one(folder: Path) -> None:
    file = folder / "page.js"
    kept = ["const a = 'b // c'", 'const b = "c // d" // e', "const c = /a // b/", "const d = `e // ${f} g`"]
    file.write_text("\n".join([*kept, "const e = 1 // two, three", "const f = 'g' // h"]), "utf-8")
    lines = static.page_script(folder).decode().splitlines()
    kept[1] = 'const b = "c // d"'
    assert lines[-7:] == [*kept, "const e = 1", "const f = 'g'", "})()"]


def test_two_modules_with_a_name_in_common_are_no_script(folder: Path) -> None:
    file = folder / "connection.js"
    whole = file.read_text("utf-8")
    for name in ("start", "unheard_of"):  # page.js has the first
        file.write_text(f"{whole}const {name} = 1\n", "utf-8")
        assert is_a_script(static.page_script(folder)) == (name != "start")
