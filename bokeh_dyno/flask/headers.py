"""The headers of the site's pages that depend on what is in them: the Content-Security-Policy (bokeh_dyno/page/policy.py)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from flask import Flask, Response, current_app, g, request
from jinja2 import TemplateError
from werkzeug.exceptions import RequestURITooLarge

from bokeh_dyno.page import needs, policy
from bokeh_dyno.shared.settings import ROOT, Settings

MAX_LOCATION = 8192  # bytes; nginx takes 32 kB of response headers (proxy_buffer_size), and answers 502 to more
TOKEN = re.compile(r"bokeh-token(=|%3D|%253D)[\w.-]*(&|%26|%2526)?", re.IGNORECASE)
PAGES = ("text/html", "application/xhtml+xml")


def init_app(app: Flask, values: Settings, run_dir: Path) -> None:
    """Give the pages of `app` the policy, unless a view has set one of its own, and templates the function csp_nonce()."""
    app.after_request(_no_token)
    app.after_request(_no_endless_redirect)
    app.jinja_env.globals["csp_nonce"] = lambda: policy.MARK
    if not policy.is_marking():  # `flask run`, or a test's client: there is no dyno
        return
    process = app.process_response

    def process_response(response: Response) -> Response:
        # before the site's own functions, one of which may compress it, and after those: one may add to it
        response = _with_policy(process(_with_nonce(response)), values, run_dir)
        return response if response.content_encoding else _with_nonce(response)

    app.process_response = process_response  # type: ignore[method-assign] # as with wsgi_app; after_request would be too late


def _no_token(response: Response) -> Response:
    """Leave the token of an address out of the address of the login, where `next` would repeat it."""
    place = response.headers.get("Location", "")
    if "bokeh-token" in request.args and "bokeh-token" in place:
        response.headers["Location"] = TOKEN.sub("", place)
    return response


def _no_endless_redirect(response: Response) -> Response:
    """Answer 414 where a redirect (to the login, with `next`) would repeat a very long address of the visitor's."""
    if len(response.headers.get("Location", "")) <= MAX_LOCATION:
        return response
    return current_app.make_response(current_app.handle_http_exception(RequestURITooLarge()))


def _nonce() -> str:
    if "bokeh_nonce" not in g:
        g.bokeh_nonce = policy.nonce()
    return g.bokeh_nonce


def _with_nonce(response: Response) -> Response:
    """Put the nonce of this answer in the place of the mark."""
    if response.direct_passthrough or not policy.is_text(response.mimetype or ""):
        return response
    if not response.is_sequence:
        response.response = policy.unmarked(response.response, _nonce())
    elif policy.MARK.encode() in (data := response.get_data()):
        response.set_data(data.replace(policy.MARK.encode(), _nonce().encode()))
    return response


def _with_policy(response: Response, values: Settings, run_dir: Path) -> Response:
    own = [name for name in (policy.ON, policy.REPORT_ONLY) if name in response.headers]
    for name in own:  # which may have the nonce
        response.headers[name] = response.headers[name].replace(policy.MARK, _nonce())
    # a file of the site's own, such as documentation, is as it is; and 304 is the page with the nonce that the browser has
    is_file = (request.endpoint or "").rpartition(".")[2] == "static"
    if own or is_file or response.status_code == 304 or response.mimetype not in PAGES:
        return response
    shown = dict.fromkeys(g.get("bokeh_apps_on_page", []))
    further = [source for name in shown for source in needs.sources_of_app(run_dir, name)]
    if response.is_sequence and not response.direct_passthrough and needs.COMPILED_ON_PAGE.search(response.get_data()):
        further.append(needs.EVAL)  # of a static plot
    response.headers.update(policy.headers(values, _nonce(), further))
    return response


def tell_refused(app: Flask, values: Settings) -> None:
    """Print a line for each template of the site's own with code in attributes, which the policy refuses."""
    what = "is refused" if values.content_security_policy == "on" else "would be refused"
    loaders = [one.jinja_loader for one in (app, *app.blueprints.values()) if one.jinja_loader]
    for loader in loaders if values.content_security_policy != "off" else []:
        for name in loader.list_templates():
            try:
                source, path, _ = loader.get_source(app.jinja_env, name)
            except (TemplateError, UnicodeDecodeError, OSError):
                continue
            if path is None or not Path(os.path.abspath(path)).is_relative_to(ROOT) or "site-packages" in path:
                continue
            for line, code in policy.refused(source):
                print(
                    f"{os.path.relpath(path, ROOT)}, line {line}: {code} {what} by the Content-Security-Policy: "
                    "use addEventListener in a script, or set CONTENT_SECURITY_POLICY=off", file=sys.stderr, flush=True,
                )  # fmt: skip
                break
