"""RUN_DIR: sockets and whatever else lives only as long as the dyno; the processes' common ground."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bokeh_dyno.shared.settings import ROOT, Settings, SettingsError


def make(values: Settings) -> None:
    """Make RUN_DIR, which only its owner may enter: whoever reaches a socket in it speaks as nginx does.

    Raises SettingsError when it cannot be, or is a folder that others use, such as /tmp.
    """
    path = values.run_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
        if mode & 0o077:
            ours = ROOT in path.resolve().parents or (path / "lock").exists() or not any(path.iterdir())
            if mode & 0o002 or not ours:
                raise SettingsError(f"RUN_DIR={path} is a folder of others, too: name one that is for the dyno alone")
            path.chmod(0o700)
    except OSError as error:
        raise SettingsError(f"RUN_DIR={path} cannot be used: {error.strerror}") from error


def own(run_dir: Path) -> object:
    """Hold the run folder for as long as this process lives. Raises SettingsError when another dyno has it."""
    lock = open(run_dir / "lock", "a")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SettingsError(
            f"RUN_DIR={run_dir} is in use by another dyno: stop it or set RUN_DIR to another folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))  # for bokeh_dyno.shared.signals.start_script_is_gone
    lock.flush()
    os.environ["DYNO_LOCK"] = os.path.abspath(lock.name)
    for name in generations(run_dir).get("began", ()):  # what a dyno that was killed has left
        shutil.rmtree(run_dir / name, ignore_errors=True)
    return lock


def new_name(run_dir: Path, taken: Collection[str] = ()) -> str:
    """Return a name for a generation, and for its folder in RUN_DIR: three letters, as they are in its sessions' ids."""
    while True:
        name = "".join(secrets.choice(string.ascii_letters) for _ in range(3))
        if name not in taken and not (run_dir / name).exists():
            return name


def pid_in(file: Path) -> int | None:
    """Return the pid that is written in a file; None when it is not there, or just being written."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def generations(run_dir: Path) -> dict[str, Any]:
    """Return how the generations stand, as the start script has written it (bokeh_dyno/start/generations.py)."""
    try:
        return json.loads((run_dir / "generations.json").read_text())
    except (OSError, ValueError):  # there is no start script, or not of ours
        return {}


def write_generations(run_dir: Path, state: Mapping[str, object]) -> None:
    """Write that down, or leave what is there where it cannot be written."""
    with contextlib.suppress(OSError):
        fresh = run_dir / "generations.new"
        fresh.write_text(json.dumps(state))
        os.replace(fresh, run_dir / "generations.json")
