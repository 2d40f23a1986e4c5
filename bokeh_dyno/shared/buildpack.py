"""Under the nginx buildpack's own bin/start-nginx, which overwrites ours when its build step comes last.

It renders config/nginx.conf.erb, starts COMMAND, waits for /tmp/app-initialized and starts nginx; it checks nothing,
makes no key, and every process hears the platform's SIGTERM at once. What ours does before COMMAND is done here instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bokeh_dyno.shared import health, run_dir, sentry, settings
from bokeh_dyno.shared.settings import Settings

INITIALIZED = Path("/tmp/app-initialized")


def prepare() -> None:
    """Prepare what gunicorn and Bokeh share, whichever comes first: the run folder, the config vars, a key.

    Before anything of Bokeh is imported, which reads the key then. Ends the process when a config var is wrong.
    """
    if "DYNO_PID" in os.environ:  # our start script has done all of it
        return
    try:
        values = settings.read()
        sentry.check(values)
        run_dir.make(values)
    except settings.SettingsError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
    settings.complete()
    if not values.bokeh_secret_key:
        os.environ["BOKEH_SECRET_KEY"] = _shared_key(values.run_dir / "key")


def _shared_key(path: Path) -> str:
    """Return the key in the file, which only its owner may read; make it when there is none."""
    fresh = path.with_suffix(f".{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(os.urandom(32).hex())
    try:
        os.link(fresh, path)  # whole or not at all, and only one of two succeeds
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return path.read_text()


def announce(values: Settings) -> bool:
    """Let the buildpack's script start nginx, once every backend answers; return whether all of that is done."""
    if "DYNO_PID" in os.environ:
        return True
    asked = health.probes(values)
    if health.missing(asked, health.silent(asked, 0.5), values):
        return False
    INITIALIZED.touch()
    print("not bin/start-nginx of this project but another runs here: a stop (SIGTERM) cuts off requests", flush=True)
    return True
