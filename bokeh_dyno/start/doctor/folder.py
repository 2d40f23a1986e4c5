"""What bin/doctor finds out about a project: its files, its apps, its settings."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from bokeh_dyno.shared import apps, container, run_dir, sentry, settings
from bokeh_dyno.shared.settings import ROOT, SETTINGS, Settings
from bokeh_dyno.start import check, erb, init, nginx

MAKE_KEY = "python3 -c 'import secrets; print(secrets.token_hex(32))'"
LATER = (
    ".gitignore ",
    "gunicorn.conf.py ",
    "requirements.txt ",
)  # how those lines of init's begin without which the dyno runs
MAX_BYTES = 1_000_000  # of a file in git that is looked into
KEY_LINE = re.compile(rb"SECRET_KEY[\"']?\s*[:=]\s*[\"']?[0-9A-Za-z_+/=-]{32,}")


def files() -> Iterator[str]:
    """Yield lines about the Procfiles, the start script and what a repository still lacks."""
    if not Path("Procfile").exists():
        yield f"WRONG there is no Procfile, by which a platform starts the dyno: write `{check.LINE}` into it"
    wrong = check.wrong_procfile(Path("Procfile"))
    yield from (f"WRONG {line}" for line in wrong)
    script = Path("bin", "start-nginx")
    if not script.is_file():
        yield "WRONG bin/start-nginx is missing: `python3 -m bokeh_dyno init` writes it"
        wrong.append("")
    elif "bokeh_dyno start" not in script.read_text(errors="replace"):
        yield (
            "WRONG bin/start-nginx is not this project's but another, as the nginx buildpack's, under which a stop cuts requests "
            "off: `git checkout bin/start-nginx`; on Heroku, `heroku buildpacks` has to have heroku/python after the one of nginx"
        )
        wrong.append("")
    elif not script.stat().st_mode & 0o100:
        yield "WRONG bin/start-nginx cannot be executed: chmod +x bin/*; git update-index --chmod=+x bin/*"
        wrong.append("")
    for line in _left_to_do():
        yield f"{'note' if line.startswith(LATER) else 'WRONG'} {line}"
        wrong.append(line)
    if not wrong:
        yield "ok   Procfile, Procfile.dyno, bin/start-nginx"


def _left_to_do() -> list[str]:
    procfile = Path("Procfile.dyno")
    if not procfile.is_file():
        return ["Procfile.dyno is missing: `python3 -m bokeh_dyno init` writes it"]
    lines = procfile.read_text(errors="replace").splitlines()
    named = [line.split()[-1].strip("\"'") for line in lines if "gunicorn" in line]
    site = next(filter(init.SITE.fullmatch, named), "app:app")
    # said already: the Procfile's, and what this machine has not
    said = {*check.wrong_procfile(Path("Procfile"))}
    lines = init.left_to_do(ROOT, site)
    return [line for line in lines if line not in said and " is needed here, too: " not in line]


def routing(values: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about config/nginx.conf.erb, and RUN_DIR, where it is tested."""
    try:
        run_dir.make(values)
        if not os.access(values.run_dir, os.W_OK | os.X_OK):
            yield f"note config/nginx.conf.erb is not checked: RUN_DIR={values.run_dir}, which that needs, is another user's"
            return
        line = check.check_routing(values.run_dir / "nginx.check", environ)
    except nginx.NotInstalledError as error:
        kind = "WRONG" if nginx.is_installed() and erb.find() else "note"  # said already
        yield f"{kind} config/nginx.conf.erb is not checked: {error}"
    except nginx.NginxError as error:
        there = nginx.TEMPLATE.is_file()
        yield f"WRONG {error}: `python3 -m bokeh_dyno init{' --diff` shows what you have changed' if there else '` writes it'}"
    except settings.SettingsError as error:
        yield f"WRONG {error}" + " (be its owner, or name another folder)" * ("cannot be used" in str(error))
    else:
        yield f"WRONG {line}" if line else "ok   config/nginx.conf.erb renders, and passes nginx -t"


def bokeh_apps() -> Iterator[str]:
    """Yield lines about bokeh_app/."""
    wrong = []
    try:
        apps.check()
    except apps.AppsError as error:
        wrong = str(error).splitlines()
    for path in apps.paths():
        if missing := apps.missing(path):
            wrong.append(
                f"bokeh_app/{path.name} is a notebook: add {' and '.join(missing)} to requirements.txt, then bin/setup"
            )
    yield from (f"WRONG {line}" for line in wrong)
    yield from (f"note {line}" for line in apps.strays())
    if not wrong:
        names = apps.names()
        yield f"ok   {len(names)} app{'s' * (len(names) != 1)} in bokeh_app/: {', '.join(names)}"


def dotenv() -> Iterator[str]:
    """Yield lines about .env."""
    wrong = check.wrong_lines(Path(".env"))
    yield from (f"WRONG {line}" for line in wrong)
    if not wrong:
        yield "ok   .env" if Path(".env").exists() else "ok   there is no .env: settings are those of the environment"


def secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about what is secret, and in git all the same; never the secret itself."""
    try:
        command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # no git, or no repository: a dyno has neither
        return
    names = [name for name in listed.split("\0") if name]
    if ".env" in names:
        yield "WRONG .env is in git: `git rm --cached .env`, a line /.env into .gitignore, and other keys"
    known = {name for name, one in SETTINGS.items() if one.secret} | {"SECRET_KEY"}
    values = {name: environ[name].encode() for name in known if len(environ.get(name, "")) >= 16}
    found = False
    for name in sorted(set(names) - {".env"}):
        content = _content(ROOT / name)
        held = [key for key, value in values.items() if value in content]
        if held or KEY_LINE.search(content):
            found = True
            yield f"WRONG {name} is in git with {', '.join(held) or 'a secret key'} in it: take it out, and have another one made"
    if not found and ".env" not in names:
        yield "ok   no secret key is in git"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else b""
    except OSError:
        return b""


def config_vars(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about settings that are not allowed, and names that are none."""
    try:
        values = settings.read(environ)
        sentry.check(values)
    except settings.SettingsError as error:
        yield from (f"WRONG {line}" for line in str(error).splitlines())
    yield from (f"WRONG {line}: rename it" for line in check.misspelled(environ))


def advice(values: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about settings that are allowed, and may not be what is meant."""
    on_heroku = "DYNO" in environ
    if not values.bokeh_secret_key:
        how = f"heroku config:set BOKEH_SECRET_KEY=$({MAKE_KEY})" if on_heroku else f"`{MAKE_KEY}` makes one"
        kind = "WRONG" if on_heroku else "note"
        yield f"{kind} BOKEH_SECRET_KEY is not set: open pages do not outlive a restart, and several dynos need the same: {how}"
    if any(part.partition(":")[0] == "*" for part in values.bokeh_allow_ws_origin):
        yield "note BOKEH_ALLOW_WS_ORIGIN=* lets the pages of any site use the apps: name those that may"
    if values.maintenance:
        yield "note MAINTENANCE=1 shows a page that says so in the place of the site: MAINTENANCE=0 ends that"
    if "*" in values.forwarded_allow_ips and not on_heroku:
        yield "note FORWARDED_ALLOW_IPS=* is for a dyno that nothing but a router can reach: name the router's addresses"
    most = container.defaults({name: text for name, text in environ.items() if name != "BOKEH_WORKERS"}).get(
        "BOKEH_WORKERS", "2"
    )
    if environ.get("BOKEH_WORKERS") and container.limits(environ).memory and values.bokeh_workers > int(most):
        yield (
            f"note BOKEH_WORKERS={values.bokeh_workers} is more than the memory and CPUs of this container are good for: unset "
            f"it, and it is {most}"
        )
