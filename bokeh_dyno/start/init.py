"""`bokeh-dyno init`: what a repository with a Flask site needs to be a dyno."""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from bokeh_dyno import __version__
from bokeh_dyno.shared import apps
from bokeh_dyno.shared.settings import ROOT
from bokeh_dyno.start import check, nginx

FILES = Path(__file__).parent / "project"  # as they are written; SITE stands for gunicorn's argument
FOR_NEW = {"apps", "pages"}  # folders in there, of new.py
FACTORIES = {"create_app", "make_app"}
NOT_THE_SITES = {"tests", "test", "docs", "node_modules", "venv", "env", "build", "dist", "bokeh_app", "bokeh_dyno"}
SITE = re.compile(r"(?!(?:python|file|unix|fd):)[\w.]+:[A-Za-z_][\w.]*(?:\([^()]*\))?")


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
        if not SITE.fullmatch(site):
            raise LookupError(f"{site!r} is no site: write MODULE:NAME, such as wsgi:app or shop:create_app()")
        ours = files(site)
        theirs = {name: (ROOT / name).read_bytes() for name in ours if os.path.lexists(ROOT / name)}
        if given.diff:
            for name, text in ours.items():
                sys.stdout.writelines(_diff(theirs.get(name), text, name))
        else:
            for name, text in ours.items():
                if name not in theirs:
                    (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
                    (ROOT / name).write_text(text)
                    (ROOT / name).chmod(0o755 if name.startswith("bin/") else 0o644)
            print(f"bokeh-dyno {__version__} for {site}")
            _tell("written", [name for name in ours if name not in theirs])
            _tell("left alone, the same", [name for name in theirs if theirs[name] == ours[name].encode()])
            _tell("left alone, yours", [name for name in theirs if theirs[name] != ours[name].encode()])
        for line in left_to_do(ROOT, site):
            print(f"to do: {line}")
    except (LookupError, OSError) as error:
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"error: {where}", file=sys.stderr)
        return 1
    return 0


def _tell(what: str, names: list[str]) -> None:
    if names:
        print(f"{what}: {', '.join(names)}")


def files(site: str) -> dict[str, str]:
    """Return the text of each file that a project with this site has, by name; an app only where there is none."""
    argument = shlex.quote(site)
    module = site.partition(":")[0].replace(".", "/")
    if not source(ROOT, module) and source(ROOT / "src", module):
        argument = f"--pythonpath src {argument}"
    texts = {}
    for path in sorted(FILES.rglob("*")):
        name = path.relative_to(FILES)
        if not path.is_dir() and path.suffix != ".pyc" and name.parts[0] not in FOR_NEW:
            texts[str(name)] = path.read_text().replace("SITE", argument)
    if not apps.paths():
        first = (FILES / "apps" / "slider" / "main.py").read_text()
        texts["bokeh_app/hello/main.py"] = first.replace("NAME", "hello")
    return texts


def find_site(root: Path) -> str:
    """Return the Flask site in `root` as gunicorn has it: MODULE:NAME, or MODULE:FACTORY().

    What gunicorn is told in the Procfile comes first, then the only app at module level, then the only factory that can be
    called without arguments. Asked for where that is not plain. Raises LookupError when nobody can be asked.
    """
    for line in [*_lines(root / "Procfile.dyno"), *_lines(root / "Procfile")]:
        if line.startswith(("web:", "flask:")) and (site := _of_gunicorn(line)):
            return site
    candidates = sorted(set(_candidates(root)))
    for of_one_kind in ([one for one in candidates if not one.endswith("()")], candidates):
        if len(of_one_kind) == 1:
            return of_one_kind[0]
    seen = f"found {', '.join(candidates)}" if candidates else "no create_app() and no Flask(…) is found"
    if not sys.stdin.isatty():
        raise LookupError(f"which is your Flask site? {seen}: say so with --app MODULE:NAME")
    try:
        return input(f"Which is your Flask site ({seen})? MODULE:NAME ").strip()
    except EOFError:
        raise LookupError("no answer: say which is your Flask site with --app MODULE:NAME") from None


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _of_gunicorn(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is not closed
        return ""
    names = [Path(word).name for word in words]
    behind = words[names.index("gunicorn") + 1 :] if "gunicorn" in names else []
    return next((word for word in reversed(behind) if SITE.fullmatch(word)), "")


def _candidates(root: Path) -> Iterator[str]:
    for path, tree in modules(root):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[parts[0] == "src" :]).removesuffix(".__init__")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in FACTORIES and not _needs_arguments(node):
                yield f"{module}:{node.name}()"
            elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if _name(node.value.func) in {"Flask", *FACTORIES}:
                    yield from (f"{module}:{target.id}" for target in targets if isinstance(target, ast.Name))


def _needs_arguments(function: ast.FunctionDef) -> bool:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return positional > 0 or None in arguments.kw_defaults


def modules(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the Python files of a site that can be imported from its folder or from src/, down to packages in packages."""
    for path in [*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/*/*.py")]:
        folders = path.relative_to(root).parts[:-1]
        if all(folder.isidentifier() for folder in folders) and not NOT_THE_SITES & set(folders):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    yield path, ast.parse(path.read_bytes())
                except (SyntaxError, ValueError, RecursionError, OSError):
                    continue


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def source(root: Path, module: str) -> Path | None:
    return next((path for path in (root / f"{module}.py", root / module / "__init__.py") if path.is_file()), None)


def _diff(theirs: bytes | None, ours: str, name: str) -> Iterator[str]:
    if theirs is None:
        yield f"{name}: missing\n"
        return
    lines = theirs.decode(errors="replace").splitlines(keepends=True)
    yield from difflib.unified_diff(lines, ours.splitlines(keepends=True), name, f"{name} of bokeh-dyno {__version__}")


def left_to_do(root: Path, site: str) -> list[str]:
    """Return a line for each thing that the person has to do: in their code, in their requirements, in their Procfile."""
    lines = []
    if not any("BokehApps(" in path.read_text(errors="replace") for path, _ in modules(root)):
        module = site.partition(":")[0].replace(".", "/")
        file = source(root, module) or source(root / "src", module) or root / f"{module}.py"
        add = "`from bokeh_dyno.flask import BokehApps`, `BokehApps(app)`"
        lines.append(f"in {file.relative_to(root)}, where the Flask app is made: {add}")
        name = (apps.names() or ["hello"])[0]
        lines.append(f'in a template, where a plot shall be: `{{{{ bokeh_app("{name}") }}}}`')
    lines += check.wrong_procfile(root / "Procfile")
    inside = "\n".join(_lines(root / "Procfile.dyno"))
    for needed in ("python:bokeh_dyno.flask.gunicorn", "bokeh_dyno.bokeh"):
        if inside and needed not in inside:
            lines.append(f"Procfile.dyno does not run {needed}: see {FILES / 'Procfile.dyno'}")
    if (root / "gunicorn.conf.py").exists():
        lines.append("gunicorn.conf.py is not read any more: write its options behind gunicorn in Procfile.dyno")
    lines += lacking(root)
    for program, found in (("nginx", nginx.is_installed()), ("erb (ruby)", bool(shutil.which("erb")))):
        if not found:
            lines.append(f"{program} is needed here, too: bin/setup, or bin/server, installs it")
    return lines


def lacking(root: Path) -> list[str]:
    """Return a line for what requirements.txt, and another for what .gitignore, has no line for."""
    lines = []
    required = {_package(line.strip().lower()) for line in _lines(root / "requirements.txt")}
    needed = check.PACKAGES if (root / "bokeh_dyno").is_dir() else ("bokeh-dyno",)
    if lacks := [name for name in needed if name.replace("_", "-") not in required]:
        lines.append(f"requirements.txt has no line for {', '.join(lacks)} (a path of the wheel is one, too)")
    entries = {line.strip().strip("/") for line in _lines(root / ".gitignore")}
    wanted = (FILES / ".gitignore").read_text().split()
    if absent := [entry for entry in wanted if entry.strip("/") not in entries]:
        lines.append(f".gitignore has no line for {' '.join(absent)}")
    return lines


def _package(line: str) -> str:
    """Return the name of the package in a line of requirements.txt; that may be the path of a wheel."""
    name, at, _ = line.partition("@")
    found = re.match(r"[a-z0-9]+(?:[-_.][a-z][a-z0-9]*)*", name if at else name.rpartition("/")[2])
    return found[0].replace("_", "-") if found else ""
