"""What is different in development: below bin/dev Flask's debugger, and with `flask run` there is no dyno."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, got_request_exception, request, send_from_directory
from flask.sansio.scaffold import Scaffold
from markupsafe import Markup
from werkzeug.routing import BuildError

from bokeh_dyno.page import static
from bokeh_dyno.shared import errors, settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

NO_DYNO = Markup(
    "<p>The app “{}” is shown by the Bokeh server, which runs beside the site: start both with <code>bin/dev</code>.</p>"
)


def init_app(app: Flask, prefix: str) -> None:
    """Give `app` the debugger below bin/dev, and in no other dyno, whatever FLASK_DEBUG says; BokehJS without nginx."""
    if errors.is_dev():
        app.debug = True
        # each template is read anew: Jinja reads a file, then asks when it was written, and keeps for good what was saved between
        app.jinja_env.cache = None
        app.wsgi_app = _Debugger(app.wsgi_app)  # type: ignore[method-assign]
        got_request_exception.connect(_note, app)
    elif "bokeh_dyno.flask.gunicorn" in sys.modules:
        app.debug = False
    app.add_url_rule(f"{prefix}/static/<path:name>", "bokeh_static", _static)  # nginx asks for none of them


class _Debugger:
    """WSGI middleware: werkzeug's debugger, made by the process that answers: it has memory that a fork must not share."""

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        self._wsgi_app = wsgi_app

    @functools.cached_property
    def _debugged(self) -> WSGIApplication:
        from werkzeug.debug import DebuggedApplication

        return DebuggedApplication(self._wsgi_app, evalex=True)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._debugged(environ, start_response)


def instead_of(name: str) -> Markup | None:
    """Return what stands in the place of app `name` when Flask's own server answers, and there is no dyno; else None."""
    by_flask_alone = request.environ.get("SERVER_SOFTWARE", "").startswith("Werkzeug/")
    return NO_DYNO.format(name) if by_flask_alone else None


def publish(site: Flask) -> None:
    """Tell bin/dev where the site has its static files and its templates: what is edited there needs no new process."""
    if not errors.is_dev():
        return
    scaffolds: dict[str, Scaffold] = {"static": site}
    scaffolds.update({f"{name}.static": blueprint for name, blueprint in site.blueprints.items()})
    urls, static_folders = site.url_map.bind("localhost"), {}
    for endpoint, one in scaffolds.items():
        with contextlib.suppress(BuildError):  # the site may have a route of its own instead
            if one.static_folder:
                static_folders[os.path.realpath(one.static_folder)] = urls.build(endpoint, {"filename": ""})
    templates = [
        os.path.realpath(os.path.join(one.root_path, one.template_folder))
        for one in scaffolds.values()
        if one.template_folder
    ]
    found = {"static": static_folders, "templates": templates}
    (settings.ROOT / settings.read().run_dir / "site.json").write_text(json.dumps(found))


def _static(name: str) -> Response:
    name = re.sub(r"^[0-9a-f]{16}/", "", name)
    if name in static.SCRIPTS:
        return Response(static.page_script(name=name), mimetype="text/javascript")
    return send_from_directory(static.source(), name)


def _note(_app: Flask, exception: BaseException, **_: object) -> None:
    errors.note("site", exception)
