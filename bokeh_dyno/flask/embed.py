"""The Flask extension: Bokeh apps in pages, in sessions that Flask mints, and the dyno's own URLs.

bokeh_apps = BokehApps()
bokeh_apps.init_app(app)        then, in a template:  {{ bokeh_app("sliders") }}
"""

from __future__ import annotations

import functools
import json
import mimetypes
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from flask import Flask, Response, abort, current_app, g, redirect, request
from markupsafe import Markup
from werkzeug.middleware.proxy_fix import ProxyFix

from bokeh_dyno.flask import dev, headers
from bokeh_dyno.flask.edge import Edge
from bokeh_dyno.flask.loading import LOADING
from bokeh_dyno.page import needs, policy, static
from bokeh_dyno.shared import apps, balance, health, run_dir, settings, tokens

if TYPE_CHECKING:
    from bokeh.model import Model

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
PLACE = (
    '<div role="group" aria-label="{}"{} class="bokeh-loading" style="{}" data-bokeh-app="{}" data-bokeh-token="{}"'
    ' data-bokeh-later="{}"><noscript><p>This plot needs JavaScript.</p></noscript></div>'
)
MAX_ARGUMENTS = 4096  # bytes; they travel in the token, which is a header of the WebSocket's request


class BokehApps:
    """Gives a Flask site its Bokeh apps: template functions, the apps' own pages, /healthz."""

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add to `app`: the template functions, the routes below BOKEH_PREFIX, /healthz, and nginx as its proxy.

        Raises settings.SettingsError when a config var is wrong.
        """
        self._settings = settings.read()
        if not self._settings.bokeh_secret_key:  # `flask run`, or a test's client: there is no dyno
            os.environ["BOKEH_SECRET_KEY"] = os.urandom(32).hex()
        self._prefix = self._settings.bokeh_prefix
        self._run_dir = self._settings.run_dir
        self._auth_file = self._run_dir / "auth.json"
        self._choice = balance.Choice(self._run_dir / "workers", self._settings.bokeh_workers)
        app.extensions["bokeh_apps"] = self
        app.jinja_env.globals.update(
            bokeh_app=self.embed, bokeh_scripts=self.scripts, bokeh_url=self.url, bokeh_app_names=self.names
        )
        if app.config.get("MAX_CONTENT_LENGTH") is None:  # the site may take less; more, nginx does not let pass
            app.config["MAX_CONTENT_LENGTH"] = self._settings.max_upload_mb << 20
        for path in ("/<name>", "/<name>/", "/<name>/autoload.js"):
            app.add_url_rule(self._prefix + path, "bokeh_session", self._session, methods=METHODS)
        dev.init_app(app, self._prefix)
        # around the site, so that no login or error page of its own comes before the answer
        edge = Edge(ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1), self._settings)
        app.wsgi_app = edge  # type: ignore[method-assign] # as Flask's documentation has it
        app.after_request(self._no_store)
        app.after_request(self._pass_on)
        headers.init_app(app, self._settings, self._run_dir)

    @staticmethod
    def names() -> list[str]:
        """Return the names of all apps in bokeh_app/, sorted."""
        return apps.names()

    def warm(self) -> None:
        """Do once, before gunicorn forks, what is slow when the first page with an app does it.

        A site without static plots does not import Bokeh's models for this, unless the Bokeh server is elsewhere.
        """
        tokens.mint(60)
        static.versions()
        for name in apps.names():
            needs.sources_named(name)
        if self._settings.bokeh_upstream:
            self._all  # noqa: B018 (kept)

    def url(self, name: str, arguments: Mapping[str, str] | None = None, _external: bool = False) -> str:
        """Return the path of an app's own page, where arguments reach the app as those of `embed` do.

        With _external, as in Flask's url_for, the whole address, for Bokeh's server_document() and server_session().
        """
        path = f"{self._prefix}/{name}" + (f"?{urlencode(arguments)}" if arguments else "")
        return request.host_url.rstrip("/") + path if _external else path

    def embed(
        self,
        name: str,
        arguments: Mapping[str, str] | None = None,
        visitor: Mapping[str, object] | None = None,
        alt: str = "",
    ) -> Markup:
        """Return the HTML that shows app `name` on this page; any number of them, the same one twice included.

        arguments reach the app as `session_context.request.arguments` ({name: [bytes]}). visitor is what the site
        knows of who is looking, a JSON-able dict; the app finds its items in `session_context.token_payload`. Both are
        signed, not secret: the visitor can read them, but not change them. The session can be opened, and opened again
        after a lost connection, for BOKEH_TOKEN_LIFETIME seconds, also when the visitor has logged out meanwhile; so
        a page with an app is not stored by browsers and proxies. Raises LookupError when there is no app of that name
        (ask `names` first when it comes from the visitor), ValueError when visitor uses a name of Bokeh's own or both
        together are too long for a header (24,000 bytes), TypeError when visitor is not JSON or an argument not text.
        alt is what the plot shows, in words, for those who do not see it; docs/accessibility.md has what is said without.

        The idea: a session id given to the page in advance leads its WebSocket to one worker, whatever the number;
        https://docs.bokeh.org/en/latest/docs/user_guide/server/server_embed.html has the other ways.
        """
        if name not in apps.names():
            raise LookupError(f"bokeh_app/ has no app {name!r}")
        if instead := dev.instead_of(name):
            return instead
        listed = {key: [value] for key, value in (arguments or {}).items()}
        token = self._mint(name, listed, visitor, self._renews(name))
        needed, later = self._needs(name)
        script = static.page_script_tag(self._prefix, self._settings.max_upload_mb)
        said = _attributes({"data-bokeh-alt": alt} if alt else {})
        height = f"min-height:{needed.height}px" if needed.height else ""
        place = Markup(PLACE).format(apps.title(name), said, height, self.url(name), token, json.dumps(later))
        return self._tags(needed, LOADING, script) + place

    def _mint(
        self,
        name: str,
        arguments: Mapping[str, Sequence[str]],
        visitor: Mapping[str, object] | None = None,
        renews: str = "",
        session_id: str = "",
    ) -> str:
        """Return a token for a session of app `name`: that of `renews` or session_id, or one on the least busy worker."""
        if renews and tokens.generation_of(renews) in self._ended():
            renews = ""  # its session has ended, too, and the next one's id says where that is
        if not session_id and not self._settings.bokeh_upstream:
            session_id = tokens.new_id(0 if renews else self._choice.worker(), self._settings.bokeh_workers)
        return tokens.mint(self._settings.bokeh_token_lifetime, arguments, visitor, renews, name, session_id)

    @staticmethod
    def _no_store(response: Response) -> Response:
        """Keep pages with a session in them out of every cache: whoever has the token has the session."""
        if "bokeh_apps_on_page" in g:
            response.cache_control.no_store = True
        return response

    def _needs(self, name: str) -> tuple[needs.Needs, list[dict[str, str]]]:
        """Return what app `name` needs, as found when it was first run, and the rest of BokehJS.

        For an app that was not, those scripts that most apps need: bokeh_dyno/page/page.js loads what proves to be missing.
        """
        everything = needs.saved(self._run_dir, "") or self._all  # None when the Bokeh server is elsewhere
        found = needs.saved(self._run_dir, name)
        if not found:
            usual = [tag for tag in everything.scripts if not re.search(r"/bokeh-(gl|tables|mathjax)\b", tag["src"])]
            found = needs.Needs(usual, [])
        return found, [tag for tag in everything.scripts if tag not in found.scripts]

    @functools.cached_property
    def _all(self) -> needs.Needs:
        return needs.of(self._settings)

    def scripts(self, *models: Model) -> Markup:
        """Return the tags of the BokehJS bundles, and of what else `models` need (of all BokehJS when none is given).

        The page's script comes before them: the plots follow the colours of the page.
        """
        page_script = static.page_script_tag(self._prefix, self._settings.max_upload_mb)
        return self._tags(needs.of(self._settings, *models), page_script)

    @staticmethod
    def _tags(found: needs.Needs, *before: Markup | dict[str, str]) -> Markup:
        """Return the tags of stylesheets and scripts, each once per page, however many apps are on it."""
        seen = g.setdefault("bokeh_tags", [])
        links = map(Markup('<link rel="stylesheet" href="{}">\n').format, found.styles)
        wanted: list[Markup | dict[str, str]] = [*links, *before, *found.scripts]
        fresh = [one for one in wanted if one not in seen]
        seen += fresh
        return Markup("").join(
            one
            if isinstance(one, Markup)
            else Markup('<script defer nonce="{}"{}></script>\n').format(policy.MARK, _attributes(one))
            for one in fresh
        )

    def _renews(self, name: str) -> str:
        """Return the token that bokeh_dyno/page/page.js holds for this very app on the page, when it asks for the page again."""
        g.setdefault("bokeh_apps_on_page", []).append(name)
        place, _, token = request.headers.get("Bokeh-Token", "").rpartition(" ")
        if place != f"{self.url(name)} {g.bokeh_apps_on_page.count(name) - 1}":
            return ""
        probes = health.bokeh_probes(self._settings)
        if len(health.silent(probes, 0.5)) == len(probes):
            abort(Response(status=204))  # not yet: a WebSocket now would only fail; the page asks again
        return token

    def _session(self, name: str) -> Response:
        """Check or mint the token of an app's own page and of its autoload.js; nginx then asks the worker.

        See @bokeh_session in config/nginx.conf.erb.
        """
        if name not in apps.names():
            # the auth module's login page; of two tiers only Bokeh's knows
            if request.path.removeprefix(self._prefix) in self._auth_urls() or self._settings.bokeh_upstream:
                return Response(headers={"X-Accel-Redirect": "@bokeh"})
            abort(404)
        if instead := dev.instead_of(name):
            return Response(instead)
        if request.method == "OPTIONS":  # Bokeh answers one without an Origin with 500
            return Response(status=204, headers={"Allow": "GET, HEAD, OPTIONS"})
        token = request.args.get("bokeh-token")
        # what Bokeh's server_session() and show_session() ask with
        session_id = request.headers.get("Bokeh-Session-Id", request.args.get("bokeh-session-id", ""))
        if token is not None and not tokens.is_valid(token, name):
            abort(403, "This link to a session is not valid, or no longer. Open the page itself.")
        if token is None and session_id and not tokens.is_foreign_id(session_id):
            abort(403, "This session is not known here. Open the page itself.")
        if token is None and not session_id and self._settings.bokeh_sessions == "flask":
            abort(403, "This app is shown in a page of the site only.")
        if token is None:
            if len(request.query_string) > MAX_ARGUMENTS:
                abort(414, f"The arguments of this page are too long: {MAX_ARGUMENTS} bytes are allowed.")
            arguments = {key: values for key, values in request.args.lists() if not key.startswith("bokeh-")}
            token = self._mint(name, arguments, renews=self._renews(name), session_id=session_id)
        if request.method == "HEAD":  # Bokeh answers that with 405
            return Response(headers={"Cache-Control": "no-store"})
        return Response(
            headers={"X-Accel-Redirect": "@bokeh_session", "X-Bokeh-Token": token, "Cache-Control": "no-store"}
        )

    def _ended(self) -> list[str]:
        """Return the names of this dyno's generations that have ended."""
        return run_dir.generations(self._run_dir.parent).get("ended", [])

    def _auth_urls(self) -> list[str]:
        """Return the addresses of the auth module's own pages, below the prefix: those of its login_url and logout_url."""
        try:
            return json.loads(self._auth_file.read_text())
        except OSError:
            return []

    def _pass_on(self, response: Response) -> Response:
        """Have nginx ask Bokeh for what the site does not have: a file, or a login page, whose address an app has written.

        An app's `NAME/static/…` and an extension's `static/extensions/…` are relative to the page that they are on.
        """
        if response.status_code != 404:
            return response
        if request.path in self._auth_urls():
            return current_app.make_response(redirect(self._prefix + request.full_path.rstrip("?"), 307))
        if ".." in request.path or request.method not in ("GET", "HEAD"):
            return response
        names = "|".join(map(re.escape, apps.names()))
        of_extension = re.search(r"/static/extensions/.+", request.path)
        of_app = re.search(rf"/({names})/static/(.+)", request.path)
        # of an app that has no such file, the site's own page says so
        if of_app and os.path.isfile(apps.FOLDER / of_app[1] / "static" / of_app[2]):
            found = of_app[0]
        elif of_extension:
            found = of_extension[0]
        else:
            return response
        response.headers["X-Accel-Redirect"] = quote(self._prefix + found)
        # without a charset, which nginx would give to the file, too
        response.headers["Content-Type"] = mimetypes.guess_type(found)[0] or "application/octet-stream"
        return response


def _attributes(script: Mapping[str, str]) -> Markup:
    return Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in script.items())
