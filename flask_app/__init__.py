"""The site: what the visitor sees around the plots.

gunicorn runs `flask_app:create_app()`; bokeh_dyno/ and the Procfiles need nothing else from this package.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import timedelta

from flask import Flask

from bokeh_dyno.flask import BokehApps
from flask_app import login, pages


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Return the site; `config` overrides what the environment says (for tests)."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=_secret_key(),
        # Lax also keeps the cookie out of forms that other sites send here, so those need no CSRF token
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_HTTPONLY=True,
        # the apps' own pages: "flask" has them refused, so no page links to them
        BOKEH_SESSIONS=os.environ.get("BOKEH_SESSIONS") or "open",
        # static files: pages.add_version puts their version into their address
        SEND_FILE_MAX_AGE_DEFAULT=timedelta(days=365),
        # bytes of a form's fields, files not counted; 10,000 numbers of the plot page's form fit, with all their digits
        MAX_FORM_MEMORY_SIZE=1_000_000,
        DEMO_USER=os.environ.get("DEMO_USER") or "demo",
        DEMO_PASSWORD=os.environ.get("DEMO_PASSWORD", ""),
    )
    app.config.update(config or {})

    BokehApps(app)

    pages.init_app(app)
    login.init_app(app)

    return app


def _secret_key() -> bytes:
    """Return the key of the login cookies: SECRET_KEY, or one that follows from BOKEH_SECRET_KEY.

    So all workers have the same, and all dynos that share either; with neither, logins end with this process.
    """
    if key := os.environ.get("SECRET_KEY"):
        return key.encode()
    if key := os.environ.get("BOKEH_SECRET_KEY"):
        return hmac.digest(key.encode(), b"flask_app session cookies", hashlib.sha256)
    return os.urandom(32)
