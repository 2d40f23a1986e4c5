"""What can be checked of the project without starting it: bin/post_compile does in a build, bin/lint on a laptop."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from bokeh_dyno.shared import apps, container, run_dir, settings
from bokeh_dyno.shared.settings import SETTINGS
from bokeh_dyno.start import nginx

LINE = "web: bin/start-nginx honcho start -e /dev/null -f Procfile.dyno"
FOLLOWS = (
    "\\* In a container whose CPUs or memory are limited (cgroups, Heroku's DYNO_RAM) it follows from these, unless you set it:\n"
    "more workers on more CPUs, fewer and less below 512 MB. The dyno says what follows when it starts, as does\n"
    "`python -m bokeh_dyno check`. What a machine has is no limit."
)
# what the dyno imports or runs, and requirements.txt has to bring
PACKAGES = ("bokeh", "brotli", "flask", "gunicorn", "honcho", "prometheus_client", "psutil")


def main(arguments: list[str]) -> int:
    """Check what a project consists of, or what honcho reads of it (--env): print a line for each error."""
    os.chdir(settings.ROOT)
    wrong = _lacking() or wrong_lines(Path(".env")) + wrong_procfile(Path("Procfile"))
    return _tell(wrong or (wrong_settings() if arguments == ["--env"] else _problems()))


def prepare_static() -> int:
    """Compress the files that nginx sends, if all packages are there."""
    if not (wrong := _lacking()):
        from bokeh_dyno.page import static

        static.prepare()
    return _tell(wrong)


def _tell(wrong: list[str]) -> int:
    print("".join(f"error: {line}\n" for line in wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


def _lacking() -> list[str]:
    return [f"requirements.txt brings no {name}" for name in missing_packages()]


def _problems() -> list[str]:
    try:
        if limited := container.apply(os.environ):
            print(limited)
        values = settings.read()
        apps.check()
        run_dir.make(values)
        if line := check_routing(values.run_dir / "nginx.check"):
            print(f"warning: {line}", file=sys.stderr)
    except nginx.NotInstalledError as error:  # a buildpack that comes later brings it
        print(f"config/nginx.conf.erb is checked when the dyno starts: here, {error}")
    except (settings.SettingsError, apps.AppsError, nginx.NginxError) as error:
        return str(error).splitlines()
    return []


def wrong_settings() -> list[str]:
    """Return what is wrong with the config vars, those of .env included: at a wrong PORT honcho ends with a traceback."""
    from honcho import environ

    dotenv = environ.parse(Path(".env").read_text("utf-8")) if Path(".env").exists() else {}
    try:
        settings.read({**os.environ, **dotenv})
    except settings.SettingsError as error:
        return str(error).splitlines()
    return []


def missing_packages() -> list[str]:
    """Return the packages that the dyno needs and this Python does not have."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def wrong_procfile(path: Path) -> list[str]:
    """Return a line when the Procfile, where there is one, starts something else than the start script."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    if any(line.startswith("web:") and re.search(r"start-nginx|bokeh[_-]dyno start", line) for line in lines):
        return []
    return [f"{path.name} does not run the start script: write `{LINE}`, and what is to run into Procfile.dyno"]


def check_routing(conf: Path, environ: Mapping[str, str] = os.environ) -> str | None:
    """Render the routing, as `conf` for a while, and have nginx test it; return what a log should say of it.

    Raises NotInstalledError without nginx or erb, NginxError when the routing is wrong.
    """
    binary = nginx.find()
    # names elsewhere need not be known where this runs, and nginx -t would ask for them
    complete = {**environ, "BOKEH_UPSTREAM": ""}
    settings.complete(complete)
    nginx.rendered(nginx.rendering({**complete, "NGINX_VERSION": nginx.version(binary)}), conf)
    try:
        line = nginx.warning(conf)
        nginx.test(binary, conf)
    finally:
        conf.unlink()
    return line


def wrong_lines(path: Path) -> list[str]:
    """Return a sentence for each line of .env that honcho cannot read; nothing when there is no such file.

    honcho itself ends with a traceback at some lines, and skips others without a word.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{path.name} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"]
    return [f"{path.name}, line {number}: {why}" for number, line in enumerate(lines, 1) if (why := _wrong(line))]


def _wrong(line: str) -> str | None:
    from honcho import environ

    # without its content: it may be a password
    if re.fullmatch(r"\s*(#.*|[A-Za-z_]\w*\s*=\s*)?", line):
        return None
    try:
        if environ.parse(line):
            return None
    except ValueError:
        return 'a quote is not closed; a value with one in it goes into double quotes: NAME="it\'s"'
    return "write NAME=value, without `export` and `:`"


def misspelled(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each name in `environ` that is nearly, but not quite, that of a config var."""
    import difflib

    # Bokeh's own BOKEH_LOG_LEVEL is this near to BOKEH_PY_LOG_LEVEL: 0.91
    near = {name: difflib.get_close_matches(name, SETTINGS, 1, 0.93) for name in environ if name not in SETTINGS}
    return [f"{name} is no config var: {found[0]} is" for name, found in near.items() if found]


def table() -> str:
    """Return the table of docs/settings.md, in Markdown."""
    rows = ["| config var | default | allowed | what it does |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        default = f"`{setting.default}`" if setting.default else "not set"
        default += " *" if name in container.SETS else ""
        rows.append(f"| `{name}` | {default} | {setting.allowed} | {setting.about} |")
    return "\n".join([*rows, "", FOLLOWS])
