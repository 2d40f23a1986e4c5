"""A site that is not the example: what the tests put in the place of flask_app/ to see what arrives at Flask."""

import os
import sys
import time

from flask import Flask, redirect, render_template_string, request, url_for

from bokeh_dyno.flask import BokehApps

VERSION = "one"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title><link rel="icon" href="data:,"></head>
<body><h1>{{ title }}</h1>
{% for name in names %}{{ bokeh_app(name, arguments=request.args, alt=request.args.alt or "") }}{% endfor %}</body>
</html>
"""
DRAWN = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>drawn</title><link rel="icon" href="data:,">{{ bokeh_scripts(plot) }}</head>
<body>{{ div | safe }}{{ script | safe }}</body>
</html>
"""


def create_app():
    app = Flask(__name__)
    BokehApps(app)

    @app.route("/version")
    def version():
        return VERSION

    @app.route("/echo", methods=METHODS)
    def echo():
        return {
            "method": request.method,
            "headers": [list(pair) for pair in request.headers],
            "remote_addr": request.remote_addr,
            "url_root": request.url_root,
            "scheme": request.scheme,
            "body": len(request.get_data()),
            "arguments": request.args,
        }

    @app.route("/favicon.ico")  # the apps' own pages have no icon, so browsers ask for this one
    def icon():
        return "", 204

    @app.route("/with/<names>")
    def with_apps(names):
        return render_template_string(PAGE, title=names, names=names.split("+"))

    @app.route("/drawn")
    def drawn():
        from bokeh.embed import components
        from bokeh.plotting import figure

        plot = figure(height=200)
        plot.line([1, 2, 3], [3, 1, 2])
        script, div = components(plot)
        return render_template_string(DRAWN, plot=plot, script=script, div=div)

    @app.route("/absolute")
    def absolute():
        return redirect(url_for("echo", _external=True))

    @app.route("/folder/")
    def folder():
        return "folder"

    @app.route("/print/<word>")
    def print_a_word(word):
        print(f"flask printed {word}")
        print(f"flask complained {word}", file=sys.stderr)
        return "printed"

    @app.route("/fail")
    def fail():
        raise RuntimeError("this page always fails")

    @app.route("/slow/<float:seconds>")
    def slow(seconds):
        time.sleep(seconds)
        return f"{os.getpid()}"

    return app
