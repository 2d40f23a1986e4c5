"""RUN_DIR: sockets and whatever else lives only as long as the dyno; the processes' common ground."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

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
    clean_up(run_dir)  # what a dyno that was killed has left
    return lock


def clean_up(run_dir: Path) -> None:
    """Remove what a run of COMMAND has left in the run folder."""
    for name in ("*.sock", "*.pid", "trying", "auth.json", "workers", "needs/*", "failed/*"):
        for leftover in run_dir.glob(name):
            leftover.unlink()
