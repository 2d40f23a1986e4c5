"""In development: processes of the next generation that are there already, with everything imported but the project's own code.

Python and the packages take most of the time of a start. A spare generation has gone that far when an edit is saved; what it is
to import it knows from the generation that serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

from bokeh_dyno.shared import apps, errors, fork, run_dir, settings

# RUN_DIR/NAME/spare, which the start script has locked as long as the processes are to wait, and the folder of the generation
# that serves
LOCK, BEFORE = "DYNO_SPARE", "DYNO_BEFORE"
ALONE = "DYNO_SPARE_ALONE"  # set when it is to import nothing


def wait(process: str) -> None:
    """In a spare generation: import what the `process` before this one has imported of packages, then wait until it is wanted."""
    if not (lock := os.environ.get(LOCK)):
        return
    if not os.environ.get(ALONE):
        now = fork.Before()
        with contextlib.suppress(OSError, ValueError):
            for name in json.loads((Path(os.environ[BEFORE]) / f"{process}.modules").read_text()):
                with contextlib.suppress(Exception):  # what it is will be said when the project imports it
                    importlib.import_module(name)
        if now.left():  # which a fork must not share, and the code that imports it would be blamed no more
            os.environ[ALONE] = "1"
            fork.execute_again()
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    del os.environ[LOCK]


def is_known(app: Path, folder: Path) -> bool:
    """Return whether the generation before has run this app as it is now; what its pages need is then in our folder, too."""
    before = Path(os.environ.get(BEFORE, "/"))
    needs = before / "needs" / f"{apps.name(app)}.json"
    began = run_dir.generations(before.parent).get("began", {}).get(before.name, 0.0)
    if any(file.stat().st_mtime >= began for file in [app, *app.rglob("*")] if file.exists()) or not needs.exists():
        return False
    (folder / "needs").mkdir(exist_ok=True)
    shutil.copy(needs, folder / "needs")
    return True


def note(process: str) -> None:
    """Note what this process has imported of packages, for `wait`."""
    if not errors.is_dev():
        return
    folders = tuple(f"{prefix}{os.sep}" for prefix in {sys.prefix, sys.base_prefix})
    found = [
        name
        for name, module in list(sys.modules.items())
        if (getattr(module, "__file__", None) or "").startswith(folders) and name.partition(".")[0] != "bokeh_dyno"
    ]
    (settings.read().run_dir / f"{process}.modules").write_text(json.dumps(found))
