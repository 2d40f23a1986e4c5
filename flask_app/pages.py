"""The pages that everybody may see, and the error pages."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from bokeh.embed import components
from bokeh.plotting import figure
from flask import Flask, Response, abort, current_app, render_template, request, send_from_directory
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from flask_app import gallery, login

ICON = "favicon.ico"
DAY = 86400  # seconds
MAX_NUMBERS = 10_000
MAX_NUMBER = 1000  # characters in each
MAX_ARGUMENTS = 20  # arguments of a page that are passed on to its app ...
MAX_ARGUMENT = 200  # ... the characters in each
MAX_QUERY = 8192  # ... and the bytes of all, as they stand in the address
DEFAULT_NUMBERS = "3, 5, 4, 8, 9, 7, 12, 11, 14, 13, 17, 16"
# each digit can be taken in one way only: with two, a long word that is no number takes minutes
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
# where werkzeug's own sentence is not for visitors
SENTENCES = {
    400: "The site could not make sense of this request.",
    403: "This is not for everybody.",
    404: "There is no such page here.",
    405: "This page cannot be used in that way.",
    413: "That is more than this page takes.",
    414: "This address is too long.",
    500: "Something went wrong on our side. It has been written to the log; please try again in a moment.",
}


def init_app(app: Flask) -> None:
    """Add the pages and the error pages to `app`."""
    app.add_url_rule("/", "index", index)
    app.add_url_rule("/apps/<name>", "app_page", app_page)
    app.add_url_rule("/plot", "plot", plot, methods=["GET", "POST"])
    # of whatever method: what is no page is 404, not 405
    app.add_url_rule("/<name>", "page", page, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    app.add_url_rule("/robots.txt", "robots", robots)
    # browsers ask for it on the apps' own pages, which name no icon
    app.add_url_rule("/favicon.ico", "favicon", lambda: send_from_directory(app.static_folder, ICON, max_age=DAY))
    app.url_defaults(add_version)
    app.register_error_handler(HTTPException, error_page)


def index() -> ResponseReturnValue:
    """Show a card for each app of bokeh_app/, whatever there is."""
    return render_template("index.html", apps=[gallery.app(name) for name in listed()])


def listed() -> list[str]:
    """Return the names of the apps that this visitor may see, without that of the members' page."""
    names = current_app.extensions["bokeh_apps"].names()
    return [name for name in names if name != login.APP and login.may_see(name)]


def app_page(name: str) -> ResponseReturnValue:
    """Show app `name`; what follows the `?` of this page reaches it as `session_context.request.arguments`."""
    if name not in current_app.extensions["bokeh_apps"].names():
        abort(404, "There is no app of that name.")
    if not login.may_see(name):
        return current_app.login_manager.unauthorized()
    arguments = {key: value for key, value in request.args.items() if not key.startswith("bokeh-")}
    too_long = any(len(text) > MAX_ARGUMENT for pair in arguments.items() for text in pair)
    if too_long or len(arguments) > MAX_ARGUMENTS or len(request.query_string) > MAX_QUERY:
        abort(414, f"A page takes {MAX_ARGUMENTS} arguments of {MAX_ARGUMENT} characters at most.")
    names = listed()
    at = names.index(name)
    return render_template(
        "app.html",
        app=gallery.app(name),
        arguments=arguments,
        visitor=login.visitor(name),
        before=gallery.app(names[at - 1]) if at else None,
        after=gallery.app(names[at + 1]) if at + 1 < len(names) else None,
    )


def page(name: str) -> ResponseReturnValue:
    """Show templates/pages/NAME.html: what is in that folder is a page, and nothing else has to be touched for it."""
    if name not in {path.stem for path in Path(current_app.root_path, "templates", "pages").glob("*.html")}:
        abort(404)
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(["GET", "HEAD", "OPTIONS"])
    return render_template(f"pages/{name}.html")


def robots() -> Response:
    """Tell crawlers what is not for them: the apps' own pages, each view of which is a session."""
    prefix = current_app.extensions["bokeh_apps"].url("")
    return Response(f"User-agent: *\nAllow: {prefix}static/\nDisallow: {prefix}\n", mimetype="text/plain")


def plot() -> ResponseReturnValue:
    """Draw the numbers that the visitor typed: a static plot, for which no Bokeh server is needed."""
    typed = request.form.get("numbers", "") if request.method == "POST" else DEFAULT_NUMBERS
    try:
        drawing = draw(numbers(typed))
    except ValueError as error:
        return render_template("plot.html", typed=typed, error=error), 400
    script, div = components(drawing)
    return render_template("plot.html", typed=typed, drawing=drawing, script=script, div=div)


def error_page(error: HTTPException) -> ResponseReturnValue:
    """Show an error as a page of this site, with the sentence given to `abort()` if there is one."""
    described = error.description != type(error).description and error.code != 500
    text = error.description if described else SENTENCES.get(error.code, error.description)
    response = error.get_response()  # with the headers that belong to the error, such as Allow
    response.data = render_template("error.html", code=error.code, name=error.name, text=text)
    response.content_type = "text/html; charset=utf-8"
    return response


def add_version(endpoint: str, values: dict[str, object]) -> None:
    """Give the address of a static file its version: browsers may keep it for a year, and never show an old one."""
    if endpoint == "static" and (version := digest(Path(current_app.static_folder, values["filename"]))):
        values["v"] = version


@functools.cache
def digest(path: Path) -> str:
    """Return a few letters that change with the file, nothing when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def numbers(text: str) -> list[float]:
    """Return the numbers in `text`. Raises ValueError, with a sentence for the visitor, when they cannot be drawn."""
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    if not words:
        raise ValueError("Type at least one number.")
    if len(words) > MAX_NUMBERS:
        raise ValueError(f"These are {len(words):,} numbers; at most {MAX_NUMBERS:,} can be drawn.")
    for word in words:
        if len(word) > MAX_NUMBER:
            raise ValueError(f"“{_short(word)}” is too long to be a number: it has {len(word):,} characters.")
        # float() would also take nan, inf, 1_000 and digits of every alphabet
        if not NUMBER.fullmatch(word):
            raise ValueError(f"“{_short(word)}” is not a number. Write numbers such as 3, -0.5 or 2e6.")
        # beyond these the plot would have no room left for a range around the number, and stay empty
        if float(word) and not 1e-300 <= abs(float(word)) <= 1e300:
            raise ValueError(f"“{_short(word)}” is too large or too small to be drawn.")
    return [float(word) for word in words]


def draw(values: list[float]) -> figure:
    """Return a line plot of `values` in their order, as wide as the page."""
    drawing = figure(
        height=360,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        tooltips=[("number", "@x"), ("value", "@y")],
        x_axis_label="number",
        y_axis_label="value",
    )
    x = list(range(1, len(values) + 1))
    drawing.line(x, values, line_width=2, color="#3b82c4")
    if len(values) <= 200:
        drawing.scatter(x, values, size=7, color="#3b82c4")
    return drawing


def _short(word: str) -> str:
    return word if len(word) <= 20 else word[:19] + "…"
