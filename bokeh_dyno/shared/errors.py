"""In development (bin/dev): what went wrong in the site or in an app, noted for the page to show it, with file and line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import traceback

from bokeh_dyno.shared import sentry, settings
from bokeh_dyno.shared.log import MAX_LINE, own_places, what_of

MAX_ERRORS = 30  # that are kept of one generation; the same one again is none more
MAX_TRACEBACK = 40  # lines, the last ones


def is_dev() -> bool:
    """Return whether this process is one of bin/dev, which alone says so."""
    return os.environ.get("DYNO_DEV") == "1"


def note(where: str, error: BaseException | str) -> None:
    """Note an error, or the text of its traceback, of the "site" or of "bokeh_app/NAME": for the error tracker, and ...

    ... in development in a file in RUN_DIR/errors of this generation, from which bokeh_dyno/start/dev.py takes it.
    """
    if isinstance(error, BaseException):
        sentry.capture(error, where)
    if not is_dev():
        return
    text = error if isinstance(error, str) else "".join(traceback.format_exception(error))
    try:
        folder = settings.ROOT / settings.read().run_dir / "errors"
        folder.mkdir(exist_ok=True)
        described = describe(where, text)
        what = repr([described[name] for name in ("where", "file", "line", "message")])
        path = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
        if path.exists() or len(os.listdir(folder)) < MAX_ERRORS:
            fresh = path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(described))
            os.replace(fresh, path)
    except (OSError, settings.SettingsError):
        pass  # the log has it as well


def describe(where: str, text: str) -> dict[str, object]:
    """Return what the page shows of a traceback, from the first frame that is the project's own; the last has file and line."""
    places = own_places(text)
    file, line = (places[-1].file, places[-1].line) if places else (None, None)
    # as YAML says it, in its message
    if not places and (found := re.search(rf' in "{re.escape(str(settings.ROOT) + os.sep)}([^"]+)", line (\d+)', text)):
        file, line = found[1], int(found[2])
    lines = text.strip().splitlines()[places[0].at if places else 0 :][-MAX_TRACEBACK:]
    return {
        "where": where,
        "file": file,
        "line": line,
        "message": what_of(text)[:MAX_LINE],
        "traceback": "\n".join(one[:MAX_LINE] for one in lines),
    }


class Handler(logging.Handler):
    """Notes what is logged with a traceback: errors of tasks, which nobody else hears of."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        if error:
            text = "".join(traceback.format_exception(error))
            places = own_places(text)
            app = re.match(r"bokeh_app/([^/]+?)(?:\.py|\.ipynb)?(?:/|$)", places[-1].file if places else "")
            note(f"bokeh_app/{app[1]}" if app else "site", text)
