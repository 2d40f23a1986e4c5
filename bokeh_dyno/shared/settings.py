"""The config vars (bokeh_dyno/shared/config_vars.py), read from the environment.

The start script checks all at once before anything starts and hands the complete set on to its children.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from bokeh_dyno.shared.config_vars import SETTINGS as SETTINGS
from bokeh_dyno.shared.config_vars import Settings as Settings

# the project that is served: the folder with config/, bokeh_app/ and the Procfiles
ROOT = Path(os.path.abspath(os.environ.get("DYNO_ROOT") or "."))  # which may be a link to what is there now


class SettingsError(ValueError):
    """One or more config vars are wrong; the message has one line for each."""


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Check every config var in `environ` and return their values; an empty one counts as not set.

    In a process of a generation (DYNO_GENERATION, bokeh_dyno/start/generation.py) run_dir is the folder of that one.
    Raises SettingsError with a line for each wrong one.
    """
    checked: dict[str, Any] = {}
    wrong = []
    generation = environ.get("DYNO_GENERATION")
    for name, setting in SETTINGS.items():
        text = environ.get(name, "") or setting.default
        if generation and name == "PORT":  # honcho gives each process of a Procfile another one
            text = environ.get("DYNO_PORT", setting.default)
        try:
            checked[name.lower()] = setting.check(text)
        except ValueError:
            shown = f"of {len(text)} characters" if setting.secret else f"{text!r}"
            wrong.append(f"{name}={shown} is not allowed: {setting.allowed}")
    if wrong:
        raise SettingsError("\n".join(wrong))
    if generation:
        checked["run_dir"] /= generation
    values = Settings(checked)
    if wrong := _contradictions(values):
        raise SettingsError("\n".join(wrong))
    return values


def _contradictions(values: Settings) -> list[str]:
    """Return a line for each pair of config vars that are right alone and wrong together."""
    wrong = []
    one_tier_of_two = "BOKEH_UPSTREAM" if values.bokeh_upstream else "WEB_CONCURRENCY=0"
    if values.bokeh_upstream and not values.web_concurrency:
        wrong.append("WEB_CONCURRENCY=0 is not allowed with BOKEH_UPSTREAM: neither Flask nor Bokeh would run here")
    if (values.bokeh_upstream or not values.web_concurrency) and not values.bokeh_secret_key:
        wrong.append(
            f"BOKEH_SECRET_KEY is not set: with {one_tier_of_two}, Flask's dynos and Bokeh's need the same one"
        )
    return wrong


def complete(environ: MutableMapping[str, str] = os.environ) -> None:
    """Fill the defaults in, for the children of the start script; drop what is empty, which Bokeh takes for a value."""
    for name, setting in SETTINGS.items():
        if text := environ.pop(name, "") or setting.default:
            environ[name] = text
    environ["BOKEH_SIGN_SESSIONS"] = "yes"  # for pull_session() in a view; read when Bokeh is imported
