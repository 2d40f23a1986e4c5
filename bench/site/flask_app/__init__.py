"""What every peer serves: a page, a page with the Bokeh app in it, and one that takes its time."""

from __future__ import annotations

import os
import time

from flask import Flask, render_template


def create_app(bokeh_url: str = os.environ.get("BENCH_BOKEH_URL", "")) -> Flask:
    """Return the site; with bokeh_url, apps are embedded as Bokeh's documentation says, otherwise by bokeh_dyno."""
    app = Flask(__name__)
    if bokeh_url:
        from bokeh.embed import server_document

        app.jinja_env.globals["bokeh_app"] = lambda name: server_document(f"{bokeh_url}/{name}")
    else:
        from bokeh_dyno.flask import BokehApps

        BokehApps(app)
    app.add_url_rule("/", "page", lambda: render_template("page.html"))
    app.add_url_rule("/view/<name>", "view", lambda name: render_template("view.html", name=name))
    app.add_url_rule("/slow/<float:seconds>", "slow", slow)
    return app


def slow(seconds: float) -> str:
    """Answer after so many seconds."""
    time.sleep(seconds)
    return f"after {seconds} s\n"
