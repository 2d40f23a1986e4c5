"""`bokeh-dyno init`: what a repository with a Flask site needs to be a dyno; `bokeh-dyno new-app`: an app to begin with."""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bokeh_dyno import __version__
from bokeh_dyno.shared import apps
from bokeh_dyno.shared.settings import ROOT
from bokeh_dyno.start import check

FILES = Path(__file__).parent / "project"  # as they are written; SITE stands for MODULE:NAME
FACTORIES = {"create_app", "make_app"}
NOT_THE_SITES = {"tests", "test", "docs", "node_modules", "venv", "env", "build", "dist", "bokeh_app", "bokeh_dyno"}


def main(arguments: list[str]) -> int:
    """Write what is missing in the current folder, leave alone what is there, and say what is left to do."""
    parser = argparse.ArgumentParser("bokeh-dyno init", description=main.__doc__)
    parser.add_argument(
        "--app", metavar="MODULE:NAME", help='the Flask site as gunicorn has it, such as "site:create_app()"'
    )
    parser.add_argument(
        "--diff", action="store_true", help="write nothing, print what differs from this version's files"
    )
    given = parser.parse_args(arguments)
    try:
        site = given.app or find_site(ROOT)
    except LookupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    written: list[str] = []
    same: list[str] = []
    differing: list[str] = []
    for name in sorted(
        str(path.relative_to(FILES)) for path in FILES.rglob("*") if path.is_file() and path.suffix != ".pyc"
    ):
        target, text = ROOT / name, (FILES / name).read_text().replace("SITE", site)
        if name.startswith("bokeh_app/") and apps.paths():
            continue
        if target.exists():
            (same if target.read_text() == text else differing).append(name)
            if given.diff:
                sys.stdout.writelines(_diff(target, text, name))
        elif given.diff:
            print(f"{name}: missing")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            if name.startswith("bin/"):
                target.chmod(0o755)
            written.append(name)
    if not given.diff:
        print(f"bokeh-dyno {__version__} for {site}")
        for what, names in (("written", written), ("left alone, the same", same), ("left alone, yours", differing)):
            if names:
                print(f"{what}: {', '.join(names)}")
    for line in left_to_do(ROOT, site):
        print(f"to do: {line}")
    return 0


def new_app(arguments: list[str]) -> int:
    """Make a folder in bokeh_app/ with an app to begin with."""
    parser = argparse.ArgumentParser("bokeh-dyno new-app", description=new_app.__doc__)
    parser.add_argument("NAME", help="the app's name, which is its URL: letters, digits, `_`, `.` and `-`")
    name = parser.parse_args(arguments).NAME
    folder = apps.FOLDER / name
    if problem := f"bokeh_app/{name} exists already" if folder.exists() else apps.problem_of(name):
        print(f"error: {problem}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True)
    source = (FILES / "bokeh_app" / "hello" / "main.py").read_text()
    (folder / "main.py").write_text(source.replace('"hello"', f'"{name}"'))
    print(f'bokeh_app/{name}/main.py is written; in a page: {{{{ bokeh_app("{name}") }}}}')
    return 0


def find_site(root: Path) -> str:
    """Return the Flask site in `root` as gunicorn has it: MODULE:NAME, or MODULE:FACTORY().

    What gunicorn is told in the Procfile comes first, then the only factory, then the only Flask app at module level. Asked
    for where that is not plain. Raises LookupError when nobody can be asked.
    """
    for procfile in (root / "Procfile.dyno", root / "Procfile"):
        text = procfile.read_text() if procfile.exists() else ""
        if found := re.search(r"gunicorn\b[^\n]*?[\s\"'](?!python:)([A-Za-z_][\w.]*:[A-Za-z_]\w*(?:\(\))?)", text):
            return found[1]
    candidates = sorted(_candidates(root))
    factories = [one for one in candidates if one.endswith("()")]
    for of_one_kind in (factories, candidates):
        if len(of_one_kind) == 1:
            return of_one_kind[0]
    seen = f"found {', '.join(candidates)}" if candidates else "no create_app() and no Flask(…) is found"
    if not sys.stdin.isatty():
        raise LookupError(f"which is your Flask site? {seen}: say so with --app MODULE:NAME")
    return input(f"Which is your Flask site ({seen})? MODULE:NAME ").strip()


def _candidates(root: Path) -> Iterator[str]:
    for path, tree in _modules(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in FACTORIES:
                yield f"{module}:{node.name}()"
            elif (
                isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _name(node.value.func) == "Flask"
            ):
                yield from (f"{module}:{target.id}" for target in node.targets if isinstance(target, ast.Name))


def _modules(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the Python files of a site that can be imported from its folder, down to packages in packages."""
    for path in [*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/*/*.py")]:
        folders = path.relative_to(root).parts[:-1]
        if all(folder.isidentifier() for folder in folders) and not NOT_THE_SITES & set(folders):
            try:
                yield path, ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):
                continue


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _diff(theirs: Path, ours: str, name: str) -> Iterator[str]:
    lines = theirs.read_text().splitlines(keepends=True)
    return difflib.unified_diff(lines, ours.splitlines(keepends=True), name, f"{name} of bokeh-dyno {__version__}")


def left_to_do(root: Path, site: str) -> list[str]:
    """Return a line for each thing that the person has to do: in their code, in their requirements, in their Procfile."""
    lines = []
    if not any("BokehApps(" in path.read_text(errors="replace") for path, _ in _modules(root)):
        where = site.partition(":")[0].replace(".", "/")
        file = f"{where}.py" if (root / f"{where}.py").exists() else f"{where}/__init__.py"
        lines.append(
            f"in {file}, where the Flask app is made: `from bokeh_dyno.flask import BokehApps`, `BokehApps(app)`"
        )
        name = (apps.names() or ["hello"])[0]
        lines.append(f'in a template, where a plot shall be: `{{{{ bokeh_app("{name}") }}}}`')
    lines += check.wrong_procfile(root / "Procfile")
    requirements = root / "requirements.txt"
    required = requirements.read_text().lower() if requirements.exists() else ""
    needed = check.PACKAGES if (root / "bokeh_dyno").is_dir() else ("bokeh-dyno",)
    if lacks := [name for name in needed if not re.search(rf"^{name}\b", required, re.MULTILINE)]:
        lines.append(f"requirements.txt has no line for {', '.join(lacks)}")
    ignored = root / ".gitignore"
    wanted = (FILES / ".gitignore").read_text().split()
    entries = ignored.read_text().split() if ignored.exists() else wanted
    if absent := [entry for entry in wanted if entry.strip("/") not in {one.strip("/") for one in entries}]:
        lines.append(f".gitignore has no line for {' '.join(absent)}")
    if not shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/usr/bin"):
        lines.append("nginx and ruby's erb are needed here, too: bin/setup, or bin/server, installs them")
    return lines
