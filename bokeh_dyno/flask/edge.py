"""What stands around the site: /healthz, and what is left of a request's body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.wsgi import ClosingIterator

from bokeh_dyno.shared import health
from bokeh_dyno.shared.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Edge:
    """WSGI middleware: answers /healthz, and reads what the site has not read of a request's body.

    gunicorn would close the connection while nginx still sends the rest, and a 413 of the site's would become a 502.
    """

    def __init__(self, wsgi_app: WSGIApplication, values: Settings) -> None:
        self._wsgi_app = wsgi_app
        self._settings = values

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != "/healthz":
            return ClosingIterator(self._wsgi_app(environ, start_response), lambda: _read_rest(environ))
        query = environ.get("QUERY_STRING", "")
        well, body = True, "ok\n"
        if f"/healthz?{query}" != health.FLASK:  # with that the start script asks, which asks the others itself
            probes = health.bokeh_probes(self._settings)
            well, body = health.report(self._settings, probes, strict=health.is_strict(query))
        status = "200 OK" if well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain"), ("Cache-Control", "no-store")])
        return [body.encode()]


def _read_rest(environ: WSGIEnvironment) -> None:
    if environ.get("wsgi.input_terminated"):  # it says where it ends, as gunicorn's does
        while environ["wsgi.input"].read(65536):
            pass
