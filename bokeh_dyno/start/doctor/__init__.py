"""bin/doctor: what is wrong with this machine, folder, settings, platform and running dyno, in sentences with remedies."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bokeh_dyno.shared import apps, container, health, run_dir, settings
from bokeh_dyno.shared.buildpack import INITIALIZED
from bokeh_dyno.shared.settings import ROOT, Settings, SettingsError
from bokeh_dyno.shared.signals import die_with_parent
from bokeh_dyno.start import check, port, start_script
from bokeh_dyno.start.doctor import folder, hops, machine, visit

STOP_SECONDS = 35  # that a dyno takes at most (dyno.py)
REST_SECONDS = 3.0  # ... and what is left of it then
WORDS = 3  # last lines of a dyno that did not start
START = (
    "note no dyno runs here: `bin/server` starts one; `bin/doctor --start` starts one on a free port for as long as it is asked; "
    "`--url https://…` asks a site that is elsewhere"
)


def main(arguments: list[str]) -> int:
    """Print a line for each thing that is looked at; return 0 when nothing is wrong, 1 otherwise."""
    parser = argparse.ArgumentParser("bin/doctor", description=main.__doc__)
    parser.add_argument("--start", action="store_true", help="start a dyno on a free port, ask it, and stop it")
    parser.add_argument(
        "--url", metavar="URL", help="ask a site through its router; its path may be that of a page with a plot"
    )
    given = parser.parse_args(arguments)
    try:
        site = visit.Site(given.url) if given.url else None
    except ValueError:  # without the value: there may be a password in it
        parser.error("--url is no address such as https://www.example.com")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what was started has to be stopped
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.chdir(ROOT)
    wrong = False
    try:
        for line in _lines(given.start, site):
            wrong |= line.startswith("WRONG ")
            print("".join(one if one.isprintable() else " " for one in line), flush=True)
    except KeyboardInterrupt:
        return 130
    return int(wrong)


def _lines(start: bool, site: visit.Site | None) -> Iterator[str]:
    yield from _safely("python", machine.python())
    yield from _safely("packages", machine.packages())
    yield from _safely("programs", machine.programs())
    complete = not check.missing_packages()
    if complete:
        yield from _safely(".env", folder.dotenv())
        _take_dotenv()
    if limited := container.apply(os.environ):
        yield f"ok   {limited}"
    values = _values()
    yield from _safely("limits", machine.limits(values))
    yield from _safely("platform", machine.platform(values, os.environ))
    yield from _safely("files", folder.files())
    yield from _safely("apps", folder.bokeh_apps())
    yield from _safely("git", folder.secrets(os.environ))
    yield from _safely("settings", folder.config_vars(os.environ))
    if values:
        yield "ok   settings: all are allowed"
        yield from _safely("settings", folder.advice(values, os.environ))
        yield from _safely("routing", folder.routing(values, os.environ))
        if complete:
            yield from _safely("dyno", _here(values, start, site))
    else:
        yield "note no dyno is asked before the settings are right"


def _safely(name: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines of a check; that one fails itself is a line, too."""
    try:
        yield from lines
    except OSError as error:
        where = error.filename or "a file"
        yield f"WRONG {name}: {where} cannot be read or written ({error.strerror}): is it what it should be, and yours?"
    except Exception as error:
        yield f"note {name}: this could not be found out ({type(error).__name__}): please report it"


def _take_dotenv() -> None:
    """Take what .env has, which wins, as with honcho."""
    from honcho import environ

    with contextlib.suppress(OSError, ValueError):  # a line about it has been said
        os.environ.update(environ.parse(Path(".env").read_text("utf-8")))


def _values() -> Settings | None:
    try:
        return settings.read()
    except SettingsError:
        return None


# --- a dyno ---


def _here(values: Settings, start: bool, site: visit.Site | None) -> Iterator[str]:
    """Yield lines about the dyno of this folder, running or started for this, and about a site that was named."""
    number = _runs_on(values)
    if number:
        yield from _ask(values, number)
    elif start and check.wrong_procfile(Path("Procfile")):
        yield "note no dyno is started before the Procfile is right"
    elif start:
        yield from _start(values)
    elif not site:
        yield START
    if not number and not start:
        try:
            for held in port.hold(values.port):
                held.close()
        except SettingsError as error:
            yield f"WRONG {error}"
    if site:
        yield from hops.ask(site, values.bokeh_prefix, apps.names(), bool(values.bokeh_secret_key))


def _runs_on(values: Settings) -> int:
    """Return the port of the dyno that has RUN_DIR, 0 when there is none."""
    try:
        start_script.check_is_free(values.run_dir / "lock")
        # the nginx buildpack's start script has no lock
        runs = any((values.run_dir / name).exists() for name in ("flask.sock", "bokeh.1.sock"))
    except PermissionError:  # another user's
        runs = True
    except SettingsError:
        with contextlib.suppress(OSError):  # it is still starting
            text = (values.run_dir / "nginx.conf").read_text()
            if found := re.search(r"^\s*listen (?:\S*:)?([0-9]+)", text, re.MULTILINE):
                return int(found[1])
        return values.port
    return values.port if runs and port.listens(values.port) else 0


def _ask(values: Settings, number: int) -> Iterator[str]:
    """Yield lines about the dyno that listens on this port: each process by its own socket, then all by nginx."""
    state = run_dir.generations(values.run_dir)
    if not os.access(values.run_dir, os.X_OK):
        yield f"note RUN_DIR={values.run_dir} is another user's, so Flask and Bokeh are asked by nginx alone"
    else:
        one = Settings({**vars(values), "run_dir": values.run_dir / (state.get("serving") or "")})
        asked = health.probes(one)
        silent = health.silent(asked, visit.SECONDS)  # a busy machine is not wrong
        yield from (f"WRONG {name} does not answer on its socket: see its lines in the log" for name in silent)
        if not silent:
            yield f"ok   {', '.join(name for name, _, _ in asked)}: each answers on its socket"
    if failed := state.get("failed"):
        yield f"WRONG a generation could not take over: {failed.get('why') or 'the log says why'}: mend it, kill -USR2 again"
    if not port.listens(number):
        yield f"WRONG nginx does not listen on port {number}: is the dyno still starting? Its log says why"
        return
    host = values.allowed_hosts[0].replace("*.", "www.") if values.allowed_hosts else f"127.0.0.1:{number}"
    site = visit.Site(f"http://{host}", at=("127.0.0.1", number))
    yield from hops.ask(site, values.bokeh_prefix, apps.names(), bool(values.bokeh_secret_key))


def _start(values: Settings) -> Iterator[str]:
    """Start a dyno as the platform does, by the Procfile's line, on a free port; yield lines about it, and stop it."""
    scratch = Path(tempfile.mkdtemp(prefix="doctor."))
    number = _free_port()
    environ = {**os.environ, "PORT": str(number), "RUN_DIR": str(scratch / "run"), "STOP_LINGER": "0"}
    environ["HONCHO_PROCESS_NAME"] = "web.1"  # .env has been read
    began, log = time.monotonic(), scratch / "log"
    was_initialized = INITIALIZED.exists()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", start_script.web_line()], env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        try:
            while process.poll() is None and not port.listens(number):
                if time.monotonic() > began + values.boot_timeout + 5:
                    yield f"WRONG the dyno does not answer after {values.boot_timeout + 5} s: what does it wait for?"
                    break
                time.sleep(0.05)
            else:
                if process.poll() is None:
                    yield f"ok   a dyno was started, and ready after {time.monotonic() - began:.1f} s"
                    yield from _ask(Settings({**vars(values), "run_dir": scratch / "run"}), number)
                else:
                    yield from _last_words(log, process.returncode)
        finally:
            _stop(process)
            if not was_initialized:
                INITIALIZED.unlink(missing_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _last_words(log: Path, code: int) -> Iterator[str]:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [re.sub(r"^.*?error: ", "", line) for line in lines if "error: " in line]
    for line in dict.fromkeys(errors or lines[-WORDS:]):
        yield f"WRONG the dyno does not start ({code}): {line}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it as Ctrl-C does; the nginx buildpack's script ends before what it has started, and leaves some for good."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        end = time.monotonic() + REST_SECONDS
        while time.monotonic() < end:
            os.killpg(process.pid, 0)  # raises ProcessLookupError when none is left
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
