"""One app of bokeh_app/, a folder or a file: its code ends nothing but itself, and each app has its own modules."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import sys
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bokeh.application.application import ServerContext, SessionContext
from bokeh.application.handlers.directory import DirectoryHandler
from bokeh.application.handlers.handler import Handler
from bokeh.application.handlers.notebook import NotebookHandler
from bokeh.application.handlers.script import ScriptHandler
from bokeh.core.templates import FILE
from bokeh.document.document import Document
from bokeh.models.widgets.markups import Div
from bokeh.server.contexts import BokehSessionContext

from bokeh_dyno.bokeh.faults import AppError, Faults
from bokeh_dyno.shared import apps, errors, health, private, sentry, tokens

HOOKS = ("app_hooks.py", "server_lifecycle.py")
log = logging.getLogger(__name__)


class App(DirectoryHandler):
    """What Bokeh runs for each visitor of an app. What fails is tried again for the next one.

    It is a DirectoryHandler also for a file, by which Bokeh 3.10 knows that main.py is not to be run in a thread.
    """

    def __init__(self, path: Path, run_dir: Path, faults: Faults, number: int, argv: list[str], *, read: bool) -> None:
        """Take the app in a folder or file; number is its place among the names that `faults` was made with, from 1.

        argv is what it finds in sys.argv behind its own name. read: read it now, which runs the file with its hooks.
        """
        Handler.__init__(self)
        self._run_dir = run_dir
        self._app, self._faults, self._number, self._argv = path, faults, number, argv
        self._problem = ""  # a traceback, of what Bokeh itself does not take for an error of the app
        # tracebacks of process_request, by session
        self._refused: weakref.WeakKeyDictionary[SessionContext, str] = weakref.WeakKeyDictionary()
        self._handler = Handler()  # does nothing
        self._static = str(path / "static") if (path / "static").is_dir() else None
        self._is_read = self._has_run = False
        if read:
            self._guard(self._read)

    failed = property(lambda self: bool(self._problem) or self._handler.failed)
    error = property(lambda self: (self._problem.strip().splitlines() or [self._handler.error])[-1])
    error_detail = property(lambda self: self._problem or self._handler.error_detail)
    safe_to_fork = property(lambda self: True)

    @property
    def has_hooks(self) -> bool:
        """Whether the app wants to be told when a server and its sessions begin and end."""
        return any((self._app / hooks).exists() for hooks in HOOKS)

    def _read(self) -> None:
        if missing := apps.missing(self._app):
            raise ImportError(f"a notebook needs packages: add {' and '.join(missing)} to requirements.txt")
        if not self._is_read:
            kind = {".py": ScriptHandler, ".ipynb": NotebookHandler}.get(self._app.suffix, DirectoryHandler)
            kind = DirectoryHandler if self._app.is_dir() else kind
            _take_own_modules(self._app)
            self._handler = kind(filename=str(self._app), argv=self._argv)
            self._is_read = True

    def _guard(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function of the app's code, and keep what it raises: that is no error of the server."""
        self._problem = ""
        try:
            self._faults.call(self._number, function, *arguments)
        except Exception as error:
            cause = (error.__cause__ or error) if isinstance(error, AppError) else error
            trace = cause.__traceback__
            self._problem = "".join(traceback.format_exception(type(cause), cause, trace and trace.tb_next))

    def modify_document(self, doc: Document) -> None:
        """Run the app's code for a visitor; where it fails, say so in the place of the plot."""
        self._faults.note_app(doc, self._number)
        self._problem = self._refused.pop(doc.session_context, "") if doc.session_context else ""
        if not self._problem:
            self._guard(self._run, doc)
        if self.failed:  # the log says why
            self.note_error()
            doc.clear()
            doc.template = FILE
            doc.add_root(Div(text="This plot could not be made.", name="dyno-failed"))
        elif not self._has_run:
            self._has_run = True
            health.forget_failure(self._run_dir, apps.name(self._app))

    def note_error(self) -> None:
        """Note, in development, why this app has failed."""
        errors.note(f"bokeh_app/{apps.name(self._app)}", self.error_detail or self.error)

    def _run(self, doc: Document) -> None:
        self._read()
        _take_own_modules(self._app)
        self._handler.modify_document(doc)

    def on_server_loaded(self, server_context: ServerContext) -> None:
        self._guard(self._read)
        return self._faults.call(self._number, self._handler.on_server_loaded, server_context)

    def on_server_unloaded(self, server_context: ServerContext) -> None:
        return self._faults.call(self._number, self._handler.on_server_unloaded, server_context)

    async def on_session_created(self, session_context: SessionContext) -> None:
        """Tell the app; before that, have its process_request see the request, which Bokeh does where it makes the token."""
        try:
            if isinstance(session_context, BokehSessionContext) and private.has("requests"):
                await self._add_to_payload(session_context)
        except Exception:
            self._refused[session_context] = traceback.format_exc()
            return
        await self._faults.call(self._number, self._handler.on_session_created, session_context)

    async def _add_to_payload(self, session_context: BokehSessionContext) -> None:
        seen, token = session_context.request, session_context._token
        if seen is None or token is None:
            return
        request: Any = copy.copy(seen._request)
        request.arguments = seen.arguments  # the page's, not the WebSocket's
        values = self.process_request(request)
        if inspect.isawaitable(values):
            values = await values
        if values:
            session_context._token = tokens.extend(token, values)

    async def on_session_destroyed(self, session_context: SessionContext) -> None:
        """Tell the app; an error of its hook is none of those that come after it (bokeh_dyno/bokeh/worker.py, Forget)."""
        try:
            await self._faults.call(self._number, self._handler.on_session_destroyed, session_context)
        except Exception as error:
            log.exception("bokeh_app/%s: on_session_destroyed: %r", apps.name(self._app), error)

    def process_request(self, request: Any) -> Any:
        return self._faults.call(self._number, self._handler.process_request, request)


def _handle_exception(handler: Any, error: Exception) -> None:
    """Do as Bokeh's, which keeps the text of an error only."""
    path = Path(os.path.abspath(handler.path))
    app = apps.FOLDER / path.relative_to(os.path.abspath(apps.FOLDER)).parts[0]
    sentry.capture(error, f"bokeh_app/{apps.name(app)}")
    _keep_error(handler, error)


if private.has("errors"):
    _keep_error = private.replace("bokeh.application.handlers.code_runner:handle_exception", _handle_exception)

# Modules that an app has imported under a name which another app has, too: by the app's folder and that name
_kept: dict[tuple[Path, str], ModuleType] = {}


def _take_own_modules(app: Path) -> None:
    """Have `import part` give an app the part.py in its own folder, though another app has one as well.

    They stay until another app wants its own, for a callback may import them.
    """
    folder = app if app.is_dir() else app.parent
    names = {name for name, folders in apps.twins().items() if folder in folders}
    if not names:  # or every view would go through all modules
        return
    for name, module in list(sys.modules.items()):
        if (first := name.partition(".")[0]) in names:
            owner = next((one for one in apps.twins()[first] if _is_below(module, one)), folder)
            if owner != folder:
                _kept[owner, name] = sys.modules.pop(name)
    for owner, name in [key for key in _kept if key[0] == folder]:
        sys.modules[name] = _kept.pop((owner, name))


def _is_below(module: ModuleType, folder: Path) -> bool:
    return folder in Path(getattr(module, "__file__", None) or "/").parents
