"""bin/dev: what is edited is on the open page by itself, and what is wrong with it, too. Here what the page is told;
tests/test_dev_page.py has what it does then."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import BOOT, ROOT, STOP, Dyno, free_port, token_in, wait_for
from playwright.sync_api import Page
from visitor import Visitor, change, find

MakeDev = Callable[..., "Dev"]
PAGE = """<!doctype html>
<html lang="en"><head><title>page</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="{{ url_for("static", filename="site.css") }}"></head>
<body><h1>before</h1>{{ bokeh_app("counter") }}</body></html>
"""
# a site with a template and a static file of its own, and another folder for those of a part of it
SITE = """
import os
from flask import Blueprint, Flask, render_template
from bokeh_dyno.flask import BokehApps

part = Blueprint("part", __name__, static_folder="part", url_prefix="/of/part")


def create_app():
    app = Flask(__name__)
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 31536000
    app.register_blueprint(part)
    BokehApps(app)

    @app.route("/")
    def index():
        return render_template("index.html")

    @app.route("/plain")
    def plain():
        return "no html at all, but what browsers take for it"

    @app.route("/settings/<name>")
    def setting(name):
        return os.environ.get(name, "not set")

    @app.route("/fail")
    def fail():
        raise ValueError("this page always fails")

    @app.errorhandler(500)
    def sorry(error):
        return "our own sentence about errors", 500

    return app
"""
SOURCE, APP, TEMPLATE = "flask_app/__init__.py", "bokeh_app/counter/main.py", "flask_app/templates/index.html"
ROUTING = "config/nginx.conf.erb"
SCRIPT = '<script src="/dyno-dev/page.js" '


class Dev:
    """A run of bin/dev in a copy of the project, and what a page that is open hears of it."""

    def __init__(self, dyno: Dyno) -> None:
        self.dyno, self.folder = dyno, dyno.folder
        self.events: list[dict] = []
        self._seen = 0  # of them, when something was last edited
        self._hears = False  # what is told now: after `serving` the stream ends, and is listened to anew
        self._stops = False
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self, *, serves: bool = True) -> Dev:
        """Start it, and return when the first generation serves, or when it says why there is none."""
        self.dyno.launch()
        self._thread.start()
        said = self.dyno.log
        check = (
            (lambda: self.generation() and self._hears)
            if serves
            else (lambda: self.heard("hello", lambda one: one["errors"]))
        )
        try:
            wait_for("bin/dev", lambda: check() or self.dyno.process.poll() is not None, BOOT)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{said()}") from None
        assert self.dyno.process.poll() is None, said()
        return self

    def stop(self) -> None:
        """Stop it as Ctrl-C does; raises AssertionError when something is left."""
        assert self.dyno.stop() == 0, self.dyno.log()
        self._stops = True
        assert not list(self.folder.glob("run/*.sock"))

    def generation(self) -> str | None:
        """Return the generation that the page was last told of."""
        told = [one["generation"] for one in self.events if "generation" in one]
        return told[-1] if told else None

    def errors(self) -> list[dict]:
        """Return the errors that the page was last told of."""
        told = [one["errors"] for one in self.events if "errors" in one]
        return told[-1] if told else []

    def edit(self, name: str, text: str, *, in_place: bool = False) -> None:
        """Save a file; what the page heard before is not looked at any more.

        Most editors put it in place whole; one that writes in_place may be seen before it has written anything.
        """
        wait_for("the stream", lambda: self._hears)
        self._seen = len(self.events)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if in_place:
            path.write_text(text)
        else:
            self.dyno.save(name, text)

    def replace(self, name: str, old: str, new: str) -> None:
        """Save a file with `new` in the place of `old`."""
        text = (self.folder / name).read_text()
        assert old in text
        self.edit(name, text.replace(old, new))

    def heard(self, kind: str, test: Callable[[dict], object] = lambda one: True) -> list[dict]:
        """Return the messages of a kind that came since the last edit and pass the test."""
        return [one for one in self.events[self._seen :] if one["type"] == kind and test(one)]

    def wait(self, kind: str, test: Callable[[dict], object] = lambda one: True) -> dict:
        """Wait for such a message and return it."""
        try:
            return wait_for(kind, lambda: self.heard(kind, test), BOOT)[0]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.events[self._seen :]}\n{self.dyno.log()[-5000:]}") from None

    def wait_for_an_error(self) -> dict:
        """Wait until the page is told of an error, and return it."""
        return self.wait("errors", lambda one: one["errors"])["errors"][0]

    def _listen(self) -> None:
        while not self._stops:
            connection = http.client.HTTPConnection("127.0.0.1", self.dyno.port, timeout=60)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/dyno-dev/events")
                response = connection.getresponse()
                while line := response.readline():
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        self._hears = event["type"] != "serving"
                        self.events.append(event)
            connection.close()
            time.sleep(0.02)


@pytest.fixture
def dev(project: Path, dyno: Callable[..., Dyno]) -> MakeDev:
    """Make a run of bin/dev, not yet started, in a copy of the project with the site above."""
    (project / SOURCE).write_text(SITE)
    for name, text in ((TEMPLATE, PAGE), ("flask_app/static/site.css", "h1 { color: red }\n")):
        (project / name).parent.mkdir()
        (project / name).write_text(text)

    def make(env: dict[str, str] | None = None, arguments: tuple[str, ...] = ()) -> Dev:
        return Dev(dyno(project, env, [sys.executable, "-m", "bokeh_dyno", "dev", *arguments]))

    return make


# --- what an edit needs -----------------------------------------------------------------------------------------------


def test_each_edit_gets_what_it_needs_and_no_more(dev: MakeDev) -> None:
    one = dev().start()
    get = one.dyno.get
    assert "before" in get("/").text
    before = backends(one)
    assert before

    one.edit("flask_app/static/site.css", "h1 { color: blue }\n")
    assert one.wait("styles")["files"] == ["static/site.css"]
    assert "blue" in get("/static/site.css").text
    one.edit("flask_app/part/deep/part.css", "")
    assert one.wait("styles")["files"] == ["of/part/part/deep/part.css"]
    one.edit("flask_app/static/new.js", "")
    assert one.wait("page")["files"] == ["static/new.js"]
    one.replace(TEMPLATE, "before", "behind")
    one.wait("page")
    assert "behind" in get("/").text
    assert not one.heard("styles")
    one.replace(ROUTING, "# location = /old", "location = /old")
    one.wait("page")
    assert get("/old").status == 301
    assert backends(one) == before
    assert not [event for event in one.events if event["type"] == "building"]

    for name, old, new, path, shows in (
        (SOURCE, "no html at all", "something else", "/plain", "something else"),
        (APP, 'title="counter"', 'title="counted"', "/bkapp/counter", ""),
        (APP, 'title="counted"', 'title="counter"', "/", "/bkapp/counter"),
    ):
        was = one.generation()
        one.replace(name, old, new)
        one.wait("building")
        assert one.wait("serving")["generation"] != was
        assert shows in get(path).text
    wait_for("the end of the first ones", lambda: not {process.pid for process in one.dyno.processes()} & before, STOP)
    one.edit("bokeh_app/fresh/main.py", (one.folder / "bokeh_app/plain.one/main.py").read_text())
    one.wait("serving")
    assert get("/bkapp/fresh").status == 200
    one.edit(".env", "TEST_SETTING=here\n")
    one.wait("serving")
    assert get("/settings/TEST_SETTING").text.startswith("here")
    assert get("/settings/WEB_CONCURRENCY").text.startswith("1")
    one.stop()
    assert "Traceback" not in one.dyno.log()


def backends(one: Dev) -> set[int]:
    """Return the processes that run the site and the apps: the generation that serves, without the spare one."""
    found = set()
    for process in one.dyno.find(r"gunicorn|bokeh_dyno\.bokeh"):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("DYNO_GENERATION") == one.generation():
                found.add(process.pid)
    return found


def test_saves_that_come_together_are_one_and_the_last_one_counts(dev: MakeDev) -> None:
    one = dev().start()
    for number in range(20):
        (one.folder / "flask_app" / f"part{number}.py").write_text("")
    one.replace(SOURCE, "no html at all", "one")
    one.wait("building")
    one.replace(SOURCE, '"one', '"two')
    one.replace(SOURCE, '"two', '"three')
    one.wait("building")
    one.wait("serving", lambda told: told["generation"] and one.dyno.get("/plain").text.startswith("three"))
    one.edit("flask_app/static/site.css", "")
    one.wait("styles")
    # the first ones may have come in two parts
    assert len([event for event in one.events if event["type"] == "building"]) <= 4


def test_a_second_save_within_a_second_is_not_taken_for_the_first(dev: MakeDev) -> None:
    one = dev().start()
    path = one.folder / SOURCE
    one.replace(SOURCE, "no html at all", "no html to-day")
    one.wait("serving")
    assert one.dyno.get("/plain").text.startswith("no html to-day")
    saved = path.stat().st_mtime_ns
    fresh = path.with_name(".saved")  # as an editor does that puts it in place whole
    fresh.write_text(path.read_text().replace("no html to-day", "no html at all"))
    os.utime(fresh, ns=(saved, saved // 10**9 * 10**9 + (saved + 1) % 10**9))
    one.edit("flask_app/static/site.css", "")
    fresh.rename(path)
    one.wait("serving")
    assert one.dyno.get("/plain").text.startswith("no html at all")


def test_what_is_not_the_sites_starts_nothing(dev: MakeDev) -> None:
    one = dev().start()
    passing = [
        ".__init__.py.swp",
        "__init__.py~",
        "#__init__.py#",
        ".#__init__.py",
        "4913",
        "__pycache__/new.pyc",
        "x.tmp",
    ]
    elsewhere = ["run/new.py", "tests/test_new.py", ".hidden/new.py", "node_modules/new.py", "README.md", "new.csv"]
    for name in [*(f"flask_app/{name}" for name in passing), "flask_app/static/.new.css.swp", *elsewhere]:
        (one.folder / name).parent.mkdir(exist_ok=True)
        (one.folder / name).write_text("")
    (one.folder / "other").mkdir()
    (one.folder / "other" / "pyvenv.cfg").write_text("")
    (one.folder / "other" / "new.py").write_text("")
    os.utime(one.folder / "flask_app")
    for text in ("", "h1 {}"):  # twice: of what came before the first, a generation is told after its styles
        one.edit("flask_app/static/site.css", text)
        one.wait("styles")
    assert {event["type"] for event in one.events} <= {"hello", "notice", "serving", "errors", "styles"}


def test_a_folder_of_files_from_another_place_is_watched_as_well(dev: MakeDev, scratch: Path) -> None:
    one = dev().start()
    (scratch / "moved" / "deep").mkdir(parents=True)
    (scratch / "moved" / "deep" / "one.css").write_text("")
    (scratch / "moved").rename(one.folder / "flask_app" / "static" / "moved")
    assert one.wait("styles")["files"] == ["static/moved/deep/one.css"]
    one.edit("flask_app/static/moved/deep/one.css", "h1 {}", in_place=True)
    one.wait("styles")


# --- what is wrong ----------------------------------------------------------------------------------------------------

# file, what is in it, what is there instead; then what is told: where, file, in which line (of this text), and what
THEME = "bokeh_app/counter/theme.yaml"
BROKEN = {
    "the site is no Python": (SOURCE, "def create_app():", "def create_app(:", "site", SOURCE, "app(:", "SyntaxError"),
    "create_app": (SOURCE, "    BokehApps(app)", "    raise RuntimeError('no')", "site", SOURCE, "raise R", "RuntimeError: no"),
    "no extension": (SOURCE, "    BokehApps(app)", "", "site", None, None, "BokehApps(app)"),
    "an app": (APP, "slider = ", "1 / 0\nslider = ", "bokeh_app/counter", APP, "1 / 0", "ZeroDivisionError"),
    "an app is no Python": (APP, "slider = ", "slider = = ", "bokeh_app/counter", APP, "= =", "SyntaxError"),
    "a theme": (THEME, "", "attrs:\n  Plot: [\n", "bokeh_app/counter", THEME, 3, "expected"),
    "a setting": (".env", "", "BOKEH_WARM=perhaps\n", "site", None, None, "BOKEH_WARM='perhaps' is not allowed"),
    "the routing": (ROUTING, "# location = /old { return", "location = /old { retrun", ROUTING, ROUTING, "retrun", "retrun"),
    "its template": (ROUTING, "<%= part 'server' %>", "<%= prat 'server' %>", ROUTING, ROUTING, "prat", "prat"),
}  # fmt: skip


def test_a_broken_edit_is_told_with_its_place_and_the_site_goes_on(dev: MakeDev) -> None:
    one = dev().start()
    for what, (name, old, new, where, file, line, message) in BROKEN.items():
        path = one.folder / name
        text = path.read_text() if old else ""
        one.edit(name, text.replace(old, new, 1) if old else new)
        error = one.wait_for_an_error()
        number = line_of(path, line) if isinstance(line, str) else line
        assert (error["where"], error["file"], error["line"]) == (where, file, number), (what, error)
        assert message in error["message"], (what, error)
        if where != ROUTING and isinstance(line, str):
            assert line in error["traceback"], (what, error)
        assert "running" not in error
        assert one.dyno.get("/").status == 200
        one.edit(name, text)
        one.wait("errors", lambda told: not told["errors"])
        one.wait("page" if name == ROUTING else "serving")
    one.stop()


def line_of(path: Path, text: str) -> int:
    """Return the number of the line that has the text in it."""
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_what_goes_wrong_while_it_runs_is_told_until_another_edit(dev: MakeDev) -> None:
    one = dev()
    for kind, lines in CALLBACKS.items():
        folder = one.folder / "bokeh_app" / kind
        folder.mkdir()
        (folder / "main.py").write_text(f"{HEAD}{lines}")
    one.start()
    for number, (kind, lines) in enumerate(CALLBACKS.items()):
        with Visitor(one.dyno, token=token_in(one.dyno.get(f"/bkapp/{kind}").text), app=kind) as visitor:
            slider = find(visitor.document(), "slider")
            visitor.send_message(change(slider, "value", 5))
            path = f"bokeh_app/{kind}/main.py"
            (error,) = one.wait(
                "errors", lambda told, path=path: told["errors"][-1:] and told["errors"][-1]["file"] == path
            )["errors"]
        assert error["message"] == f"ValueError: of {kind}"
        assert error["where"] == f"bokeh_app/{kind}"
        assert error["line"] == (HEAD + lines).splitlines().index(f'    raise ValueError("of {kind}")') + 1
        assert f'raise ValueError("of {kind}")' in error["traceback"]
        assert error["running"]
        one.edit(path, f"{HEAD}{lines}\n# {number}\n")
        one.wait("serving")
        assert one.errors() == []


HEAD = """\
import asyncio
from bokeh.io import curdoc
from bokeh.models import Slider

slider = Slider(name="slider", start=0, end=10, value=1)
curdoc().add_root(slider)
"""
CALLBACKS = {
    "called": """
def changed(attr, old, new):
    raise ValueError("of called")
slider.on_change("value", changed)
""",
    "awaited": """
async def later():
    await asyncio.sleep(0)
    raise ValueError("of awaited")
slider.on_change("value", lambda attr, old, new: curdoc().add_next_tick_callback(later))
""",
    "tasks": """
async def work():
    raise ValueError("of tasks")
async def begin():
    asyncio.create_task(work())
slider.on_change("value", lambda attr, old, new: curdoc().add_next_tick_callback(begin))
""",
}


def test_a_page_that_fails_shows_the_debugger_and_is_told_until_its_template_is_mended(dev: MakeDev) -> None:
    one = dev().start()
    one.edit(TEMPLATE, PAGE.replace("before", "{{ 1 / 0 }}"))
    one.wait("page")
    answer = one.dyno.get("/")
    assert answer.status == 500
    assert "Werkzeug Debugger" in answer.text
    assert SCRIPT in answer.text
    error = one.wait_for_an_error()
    assert (error["where"], error["file"], error["message"]) == (
        "site",
        TEMPLATE,
        "ZeroDivisionError: division by zero",
    )
    assert error["line"] == line_of(one.folder / TEMPLATE, "1 / 0")
    one.edit(TEMPLATE, PAGE.replace("before", "mended"))
    one.wait("errors", lambda told: not told["errors"])
    one.wait("page")
    assert "mended" in one.dyno.get("/").text
    # one that is none is seen before anybody asks for the page, when another generation is to have it
    was = one.generation()
    one.edit(TEMPLATE, PAGE.replace("before", "{% if %}"))
    one.wait("page")
    one.replace(SOURCE, "no html at all", "something else")
    error = one.wait_for_an_error()
    assert (error["file"], error["line"]) == (TEMPLATE, line_of(one.folder / TEMPLATE, "{% if %}"))
    assert one.generation() == was


# --- no dyno ----------------------------------------------------------------------------------------------------------

FIRST = {
    "the site": (SOURCE, "def create_app():", "def create_app(:", f"{SOURCE}, line 9: SyntaxError"),
    "create_app": (
        SOURCE,
        "    BokehApps(app)",
        "    raise RuntimeError('no')",
        f"{SOURCE}, line 13: RuntimeError: no",
    ),
    "the routing": (ROUTING, "<%= part 'server' %>", "<%= prat 'server' %>", "prat"),
    "every app": ("bokeh_app/*/main.py", "curdoc()", "curdoc(", "SyntaxError"),
    "no app": ("bokeh_app/*/main.py", "", None, "has no main.py"),
}


@pytest.mark.parametrize("what", FIRST)
def test_a_site_that_cannot_start_says_so_on_its_port_and_is_started_by_an_edit(what: str, dev: MakeDev) -> None:
    pattern, old, new, message = FIRST[what]
    one = dev()
    texts = {path: path.read_text() for path in one.folder.glob(pattern)}
    assert texts
    for path, text in texts.items():
        if new is None:
            path.unlink()
        else:
            path.write_text(text.replace(old, new))
    one.start(serves=False)
    answer = one.dyno.get("/any/page", Accept="text/html")
    assert answer.status == 503
    assert answer.headers["content-type"].startswith("text/html")
    assert '<script src="/dyno-dev/page.js"></script>' in answer.text
    assert one.dyno.request("POST", "/any", body=b"x").status == 503
    one.dyno.wait_for_log(rf"dev     \| error: .*{re.escape(message)}")
    assert message.split(": ")[-1].split(" line ")[0] in answer.text
    for path, text in texts.items():
        one.edit(str(path.relative_to(one.folder)), text)
    # of several files, some may have been seen before the others
    wait_for("the site", lambda: one.generation() and one.errors() == [], BOOT)
    assert "before" in one.dyno.get("/").text
    one.stop()


def test_a_dyno_that_has_ended_is_started_by_the_next_edit(dev: MakeDev) -> None:
    one = dev().start()
    was = one.generation()
    one.edit("README.md", "")  # nothing
    one.dyno.find("gunicorn")[0].kill()
    one.wait("hello", lambda told: told["errors"] and told["generation"] is None)
    assert one.dyno.get("/").status == 503
    one.replace(TEMPLATE, "before", "behind")
    wait_for("the site", lambda: one.generation() not in (None, was), BOOT)
    assert "behind" in one.dyno.get("/").text


def test_what_no_edit_can_mend_ends_it(dev: MakeDev, dyno: Callable[..., Dyno]) -> None:
    one = dev().start()
    beside = {"PORT": str(free_port())}
    for env, says in (
        (beside, r"error: RUN_DIR=run is in use"),
        ({"PORT": str(one.dyno.port), "RUN_DIR": "other"}, "PORT=.* is taken"),
    ):
        other = dev(env).dyno.launch()
        assert other.process.wait(BOOT) == 1
        other.wait_for_log(says)
        other.process = None  # the other one is in this folder
    for env, says in (
        ({"BOKEH_WORKERS": "many"}, "BOKEH_WORKERS='many' is not allowed"),
        ({"BOKEH_UPSTREAM": "a:1"}, "BOKEH_SECRET_KEY"),
    ):
        other = dev({"RUN_DIR": "other", **env}).dyno.launch()
        assert other.process.wait(BOOT) == 1
        other.wait_for_log(f"^error: {says}")
        other.process = None
    one.edit("flask_app/static/site.css", "")
    one.wait("styles")
    one.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("when", ["it starts", "it serves"])
def test_what_is_below_it_ends_with_it(when: str, number: signal.Signals, dev: MakeDev) -> None:
    one = dev()
    if when == "it serves":
        one.start()
    else:
        one.dyno.launch()
        wait_for("the first generation", lambda: one.dyno.find(r"bokeh_dyno\.bokeh"))
    one.dyno.process.send_signal(number)
    assert one.dyno.process.wait(STOP) == (-number if number == signal.SIGKILL else 0)
    wait_for("the end of all", lambda: not one.dyno.processes(), STOP)
    assert not one.dyno.port_is_open()
    assert "Traceback" not in one.dyno.log()


# --- the page itself --------------------------------------------------------------------------------------------------


def test_what_is_edited_is_on_the_open_page_with_what_was_entered(dev: MakeDev, page: Page) -> None:
    one = dev().start()
    page.goto(f"http://127.0.0.1:{one.dyno.port}/")
    assert_plots_are_drawn(page, 1)

    def wait_for_what_was_entered() -> None:
        wait_for("the line where the slider has it", lambda: "[4, 4, 4]" in str(source_values(page)))

    turn_slider(page, 3)
    wait_for_what_was_entered()
    text = (one.folder / APP).read_text().replace("column(slider", 'column(Div(text="how high"), slider')
    one.edit(APP, text.replace("import ColumnDataSource", "import ColumnDataSource, Div"))
    page.get_by_text("how high").first.wait_for()
    wait_for_what_was_entered()
    one.replace(TEMPLATE, "before", "behind")
    page.get_by_text("behind").wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(255, 0, 0)"
    one.edit("flask_app/static/site.css", "h1 { color: blue }\n")
    page.wait_for_function("getComputedStyle(document.querySelector('h1')).color == 'rgb(0, 0, 255)'")
    one.replace(APP, "slider = ", "1 / 0\nslider = ")
    page.get_by_text("ZeroDivisionError: division by zero").first.wait_for()
    one.replace(APP, "1 / 0\n", "")
    page.get_by_text("ZeroDivisionError: division by zero").first.wait_for(state="detached")
    page.get_by_text("how high").first.wait_for()
    wait_for_what_was_entered()


# --- what is different ------------------------------------------------------------------------------------------------


def test_every_page_has_the_script_and_nothing_is_kept(dev: MakeDev) -> None:
    one = dev().start()
    get = one.dyno.get
    script = (
        rf'<script src="/dyno-dev/page\.js" data-method="GET" data-generation="{one.generation()}" (defer)?></script>'
    )
    for path in ("/", "/plain", "/fail", "/no/such/page", "/bkapp/counter"):
        answer = get(path, Accept_Encoding="gzip")
        text = gzip.decompress(answer.body).decode() if "content-encoding" in answer.headers else answer.text
        assert len(re.findall(script, text)) == 1, (path, text)
    assert get("/dyno-dev/page.js").body == (ROOT / "bokeh_dyno/page/dev.js").read_bytes()
    assert get("/dyno-dev/nothing").status == 404
    (bokeh_js,) = set(re.findall(r'src="(/bkapp/[^"]*/js/bokeh\.min\.js)', get("/").text))
    for path, kept in (
        ("/", "no-store"), ("/plain", "no-cache"), ("/static/site.css", "no-cache"), (bokeh_js, "no-cache"),
        ("/bkapp/counter", "no-store"), ("/dyno-dev/page.js", "no-store"), ("/fail", "no-cache"),
    ):  # fmt: skip
        answer = get(path)
        assert answer.headers["cache-control"] == kept, path
        assert "expires" not in answer.headers


@pytest.mark.parametrize("env", [{}, {"FLASK_DEBUG": "1"}], ids=["plain", "FLASK_DEBUG"])
def test_a_dyno_without_it_shows_no_traceback_and_no_debugger(
    env: dict[str, str], dev: MakeDev, dyno: Callable[..., Dyno]
) -> None:
    folder = dev().folder
    with (folder / APP).open("a") as file:
        file.write("\n1 / 0\n")
    one = dyno(folder, env).start()
    for path in (
        "/fail",
        "/",
        "/plain",
        "/bkapp/counter",
        "/no/such/page",
        "/fail?__debugger__=yes&cmd=resource&f=debugger.js",
    ):
        text = one.get(path).text
        for word in ("Traceback", "always fails", "Debugger", "dyno-dev", "ZeroDivisionError", "flask_app"):
            assert word not in text, (path, word)
    answer = one.get("/fail")
    assert (answer.status, answer.text) == (500, "our own sentence about errors")
    assert one.get("/dyno-dev/events").status == 404
    assert one.get("/static/site.css").headers["cache-control"] == "public, max-age=31536000"
    assert not list((folder / "run").rglob("errors"))
    assert not list((folder / "run").rglob("site.json"))


def test_what_only_a_production_would_notice_is_said_once(dev: MakeDev) -> None:
    one = dev({"BOKEH_ALLOW_WS_ORIGIN": "*", "FLASK_DEBUG": "0"}).start()
    one.replace(SOURCE, "no html at all", "something else")
    one.wait("serving")
    for name in ("BOKEH_SECRET_KEY", "BOKEH_ALLOW_WS_ORIGIN", "FLASK_DEBUG"):
        assert len(re.findall(rf"in production: .*{name}", one.dyno.log())) == 1
        assert len([told for told in one.events if told["type"] == "notice" and name in str(told["text"])]) == 1
    assert one.dyno.log().count("BOKEH_SECRET_KEY") == 1


def test_it_opens_a_browser_when_the_site_is_ready(dev: MakeDev, scratch: Path) -> None:
    browser = scratch / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >>{scratch}/opened\n')
    browser.chmod(0o755)
    one = dev({"BROWSER": f"{browser} %s"}, ("--open",)).start()
    wait_for("the browser", lambda: (scratch / "opened").exists() and (scratch / "opened").read_text())
    one.replace(SOURCE, "no html at all", "something else")
    one.wait("serving")
    assert (scratch / "opened").read_text() == f"http://localhost:{one.dyno.port}/\n"


def test_it_says_what_it_takes(project: Path) -> None:
    command = [sys.executable, "-m", "bokeh_dyno", "dev", "--reload"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: bin/dev [--open]")


def test_flask_alone_shows_static_plots_and_says_what_shows_an_app(project: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "flask", "--app", "flask_app", "run", "--debug", "--port", str(port)]
    env = {"PATH": os.environ["PATH"]}
    server = subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return get("/echo")[0] == 200
        return False

    try:
        wait_for("flask", answers, BOOT)
        for path in ("/with/counter", "/bkapp/counter"):
            status, body = get(path)
            assert status == 200
            assert b"counter" in body
            assert b"bin/dev" in body
        _, body = get("/drawn")
        scripts = re.findall(r'src="(/bkapp/static/[^"]*)', body.decode())
        assert scripts
        for script in scripts:
            status, body = get(script)
            assert status == 200
            assert len(body) > 10_000
        assert get("/bkapp/static/js/nothing.js")[0] == 404
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
