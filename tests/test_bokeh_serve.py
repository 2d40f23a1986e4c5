"""What `bokeh serve` has beside the pages of apps: its options, hooks, logins, clients; docs/bokeh-serve.md has the rest."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import psutil
import pytest
from bokeh.command.subcommands.serve import Serve
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import OTHER_SITE, ROOT, Answer, Dyno, copy_project, temporary_folder, token_in, wait_for
from test_routing import from_bokeh
from test_sessions import KEY, forged, runs
from visitor import Visitor

from bokeh_dyno.bokeh import options
from bokeh_dyno.bokeh.master import BokehError
from bokeh_dyno.shared import settings

SITE = '''
import os

from bokeh.client import pull_session
from bokeh.embed import server_document, server_session
from flask import Flask, abort, render_template_string, request

from bokeh_dyno.flask import BokehApps

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>page</title><link rel="icon" href="data:,"><body>
{{ script | safe }}{% if name %}{{ bokeh_app(name, arguments=request.args) }}{% endif %}</body></html>"""


def create_app():
    app = Flask(__name__)
    bokeh_apps = BokehApps(app)

    @app.route("/with/<name>")
    def with_app(name):
        return render_template_string(PAGE, name=name)

    @app.route("/session/<name>")
    def session(name):
        with pull_session(url=f"http://localhost:{os.environ['PORT']}/bkapp/{name}") as session:
            session.document.select_one({"name": "height"}).value = 7
            session.force_roundtrip()  # or Bokeh's client leaves before it has sent that
            script = server_session(session_id=session.id, url=bokeh_apps.url(name, _external=True))
        return render_template_string(PAGE, script=script)

    @app.route("/document/<name>")
    def document(name):
        return render_template_string(PAGE, script=server_document(bokeh_apps.url(name, _external=True)))

    @app.route("/shop/told/static/<path:file>")
    def of_the_site(file):
        return abort(404) if file == "none" else f"the site's {file}"

    return app
'''
HOOKS = """
from pathlib import Path

from bokeh.embed.bundle import extension_dirs

extension_dirs["of_told"] = Path(__file__).parent / "static"


def process_request(request):
    if "X-Unknown" in request.headers:
        raise LookupError("nobody knows this visitor")
    who = request.cookies["who"].value if "who" in request.cookies else "nobody"
    return {"who": who, "asked": sorted(request.arguments)}
"""
MAIN = """
import json
import sys

from bokeh.io import curdoc
from bokeh.models import Div

payload = curdoc().session_context.token_payload
told = {"argv": sys.argv[1:], "who": payload["who"], "asked": payload["asked"]}
curdoc().add_root(Div(text=json.dumps(told), name="told"))
curdoc().add_root(Div(text='<img src="told/static/a%20dot.svg">'))
"""
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle cx="4" cy="4" r="4"/></svg>'
WORKING = (
    "--log-level debug --log-format '%(levelname)s of {number}: %(message)s' --keep-alive 100 --stats-log-frequency 300 "
    "--mem-log-frequency 300 --unused-session-lifetime 170000 --check-unused-sessions 500 --use-xheaders "
    "--websocket-max-message-size 1000000 --websocket-compression-level 2 --websocket-compression-mem-level 9 "
    "--disable-index --disable-index-redirect --args --fast 7"
)
LOGINS = "--auth-module auth.py --cookie-secret nobody-knows --enable-xsrf-cookies --log-file run/bokeh.log"
AUTH = """
from tornado.web import RequestHandler

login_url = "/login"
logout_url = "/logout"


def get_user(handler):
    return handler.get_signed_cookie("user")


class LoginHandler(RequestHandler):
    def get(self):
        self.write('<form method="post" action="/login">' + self.xsrf_form_html() + self.get_argument("error", ""))
        self.write('<input name="word"><input name="next" value="' + self.get_argument("next", "/") + '"></form>')

    def post(self):
        if self.get_argument("word") == "please":
            self.set_signed_cookie("user", "somebody")
            self.redirect(self.get_argument("next"))
        else:
            self.redirect(login_url + "?error=wrong")


class LogoutHandler(RequestHandler):
    def get(self):
        self.clear_cookie("user")
        self.redirect("/with/told")
"""


def run(more: str) -> Iterator[Dyno]:
    """Run the site of the tests with an app that has hooks and files, and `more` in its Procfile.dyno."""
    scratch = temporary_folder()
    one = None
    try:
        folder = copy_project(scratch / "app", OTHER_SITE)
        app = folder / "bokeh_app" / "told"
        (app / "static").mkdir(parents=True)
        (app / "static" / "a dot.svg").write_text(DOT)
        (app / "main.py").write_text(MAIN)
        (app / "app_hooks.py").write_text(HOOKS)
        (folder / "flask_app" / "__init__.py").write_text(SITE)
        (folder / "auth.py").write_text(AUTH)
        procfile = folder / "Procfile.dyno"
        procfile.write_text(procfile.read_text().replace("bokeh_dyno.bokeh", f"bokeh_dyno.bokeh {more}"))
        one = Dyno(folder, {"TEST_COUNTER": str(scratch / "runs"), "BOKEH_SECRET_KEY": KEY})
        yield one.start()
        assert one.stop() == 0, one.log()
    finally:
        if one:
            one.clean_up()
        shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def served() -> Iterator[Dyno]:
    """A dyno with every option that works, but for those of logins."""
    yield from run(WORKING)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Dyno]:
    """A dyno with an auth module, which has the form of the one in Bokeh's documentation."""
    yield from run(LOGINS)


def told(dyno: Dyno, token: str, **headers) -> dict:
    """Open the session of `token` and return what the app has put on its page."""
    with Visitor(dyno, "told", token=token, **headers) as visitor:
        assert visitor.status == 101
        roots = [root["attributes"] for root in visitor.document()["roots"]]
        (text,) = [root["text"] for root in roots if root.get("name") == "told"]
        return json.loads(text)


# --- options ----------------------------------------------------------------------------------------------------------


def test_every_option_of_bokeh_serve_works_or_says_what_there_is_instead() -> None:
    named = {option.removeprefix("--").replace("-", "_"): argument for option, argument in Serve.args}
    assert set(named) == set(options.OPTIONS)
    table = (ROOT / "docs" / "bokeh-serve.md").read_text()
    values = settings.read({})
    for name, instead in options.OPTIONS.items():
        option = f"--{name.replace('_', '-')}"
        if not instead:
            assert option in WORKING + LOGINS
            continue
        assert name == "files" or f"`{option}`" in table
        given = ["bokeh_app/counter"] if name == "files" else [option]
        if name != "files" and getattr(named[name], "action", "store") != "store_true" and name != "dev":
            default = getattr(named[name], "default", None)
            given.append(str(default) if isinstance(default, int) else "signed" if name == "session_ids" else "x")
        with pytest.raises(BokehError) as error:
            options.parse(values, given)
        assert str(error.value) == f"Procfile.dyno: {given[0]}: {instead}"
    with pytest.raises(BokehError, match=r"nowhere\.py: there is no such file"):
        options.parse(values, ["--auth-module", "nowhere.py"])


def test_the_options_that_work_do_what_they_do_in_bokeh_serve(served: Dyno) -> None:
    for line in (
        r"INFO of [12]: Keep-alive ping configured every 100 milliseconds",
        r"INFO of [12]: Unused sessions last for 170000 milliseconds",
        r"INFO of [12]: Check for unused sessions every 500 milliseconds",
        r"INFO of [12]: T.* websocket_max_message_size set to 1000000 bytes",
        r"DEBUG of [12]: \[pid \d+\] 0 clients connected",
        r"(INFO|DEBUG) of [12]: \[pid \d+\] Memory usage: ",
    ):
        served.wait_for_log(line)
    with Visitor(served) as visitor:
        assert 9 in (opcode for opcode, _ in visitor.frames())  # a ping
    with Visitor(served) as visitor:
        visitor.message("ACK")
        visitor.send_message("x" * 1_000_001)
        assert visitor.close_code() == 1009


def test_what_follows_args_is_what_the_apps_find_in_sys_argv(served: Dyno) -> None:
    assert told(served, served.token("/with/told"))["argv"] == ["--fast", "7"]


# --- process_request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["/with/told", "/bkapp/told"])
def test_what_process_request_returns_is_in_the_payload(served: Dyno, page: str) -> None:
    token = served.get(f"{page}?colour=red", Cookie="who=me").text
    token = token_in(token)
    found = told(served, token, Cookie="who=me")
    assert found == {"argv": ["--fast", "7"], "who": "me", "asked": ["colour"]}


def test_process_request_is_called_again_for_a_session_that_is_made_anew(served: Dyno) -> None:
    token = served.token("/with/told")
    assert told(served, token, Cookie="who=me")["who"] == "me"
    assert told(served, token, Cookie="who=another")["who"] == "me"
    for worker in served.bokeh_workers():
        worker.send_signal(signal.SIGKILL)
        psutil.wait_procs([worker])
    # /healthz would not do: what it says may be a second old
    wait_for("a worker", lambda: served.get("/bkapp/told/metadata").status == 200)
    assert told(served, token, Cookie="who=another")["who"] == "another"


def test_an_error_in_process_request_is_one_of_the_app_alone(served: Dyno) -> None:
    with Visitor(served, "told", **{"X-Unknown": "1"}) as visitor:
        assert "This plot could not be made." in json.dumps(visitor.document())
    served.wait_for_log("LookupError: nobody knows this visitor")
    answer = served.get("/bkapp/told", X_Unknown="1")
    assert answer.status == 200
    assert told(served, served.token("/with/told"))["who"] == "nobody"


# --- Bokeh's client in a view -----------------------------------------------------------------------------------------


def test_a_view_pulls_a_session_changes_it_and_shows_it(served: Dyno, page) -> None:
    before = len(runs(served))
    page.goto(f"http://127.0.0.1:{served.port}/session/counter")
    assert_plots_are_drawn(page, 1)
    values = source_values(page)
    assert "[7,7,7]" in json.dumps(values, separators=(",", ":"))
    turn_slider(page)
    source_values(page, different_from=values)
    assert len(runs(served)) == before + 1


def test_server_document_shows_an_app(served: Dyno, page) -> None:
    page.goto(f"http://127.0.0.1:{served.port}/document/counter")
    assert_plots_are_drawn(page, 1)
    values = source_values(page)
    turn_slider(page)
    source_values(page, different_from=values)


def test_a_session_id_that_is_forged_or_another_pages_opens_nothing(served: Dyno) -> None:
    from bokeh.util.token import generate_session_id, get_session_id

    before = len(runs(served))
    path = "/bkapp/counter/autoload.js?bokeh-autoload-element=a"
    ids = [get_session_id(served.token("/with/counter")), "x", "x.y", "\u00e4.x", "a" * 44 + "." + "b" * 43]
    ids.append(get_session_id(forged("foreign key")))
    for session_id in ids:
        assert served.get(path, Bokeh_Session_Id=session_id.encode().decode("latin-1")).status == 403, session_id
        assert served.get(f"{path}&{urlencode({'bokeh-session-id': session_id})}").status == 403, session_id
    assert len(runs(served)) == before
    good = generate_session_id(secret_key=KEY.encode(), signed=True)
    assert served.get(path, Bokeh_Session_Id=good).status == 200
    assert served.get(path, Bokeh_Session_Id=good).status == 200
    assert len(runs(served)) == before + 1


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/bkapp/told", "/told", "/with/told", "/a/b/told", "/bkapp/static/extensions/of_told"]
)
def test_a_file_of_an_app_comes_wherever_its_address_is_relative_to(served: Dyno, path: str) -> None:
    path += "/a%20dot.svg" if "extensions" in path else "/static/a%20dot.svg"
    answer = served.get(path)
    assert (answer.status, answer.text) == (200, DOT)
    assert answer.headers["content-type"] == "image/svg+xml"
    assert served.request("HEAD", path).status == 200


@pytest.mark.parametrize("page", ["", "/with", "/with/told"])
def test_a_file_of_an_extension_comes_wherever_its_address_is_relative_to(served: Dyno, page: str) -> None:
    assert served.get(f"{page}/static/extensions/of_told/a%20dot.svg").text == DOT
    assert from_bokeh(served.get(f"{page}/static/extensions/of_told/none.svg").text)


def test_what_the_site_has_or_nobody_is_the_sites(served: Dyno) -> None:
    assert served.get("/shop/told/static/a%20dot.svg").text == "the site's a dot.svg"
    for path in (
        "/with/told/static/none.svg",
        "/with/nope/static/a%20dot.svg",
        "/with/told/static/../main.py",
        "/with/told/static/..%2fmain.py",
        "/with/told/static/",
        "/with/told/static/" + "x" * 300,
        "/with/counter/static/a%20dot.svg",
        "/login",
    ):
        answer = served.get(path)
        assert answer.status in (400, 404), path
        assert not from_bokeh(answer.text), path
    assert served.request("POST", "/with/told/static/a%20dot.svg").status == 404


def test_the_picture_is_on_a_page_of_the_site(served: Dyno, page) -> None:
    with page.expect_response(re.compile("/with/told/static/")) as answer:
        page.goto(f"http://127.0.0.1:{served.port}/with/told")
    assert answer.value.status == 200


# --- logins -----------------------------------------------------------------------------------------------------------


def cookies_of(answer: Answer) -> dict[str, str]:
    """Return the cookies that an answer sets, which has one at most."""
    return {name: morsel.value for name, morsel in SimpleCookie(answer.headers.get("set-cookie", "")).items()}


def log_in(dyno: Dyno, address: str, word: str) -> Answer:
    """Fill in the form that is at `address`; return the answer."""
    form = dyno.get(address)
    assert form.status == 200
    (token,) = re.findall(r'name="_xsrf" value="([^"]+)"', form.text)
    goal = re.search(r'name="next" value="([^"]+)"', form.text)[1]
    body = urlencode({"_xsrf": token, "word": word, "next": goal}).encode()
    headers = {
        "Cookie": f"_xsrf={cookies_of(form)['_xsrf']}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    sent = dyno.request("POST", "/login", headers, body)  # as the form says
    assert (sent.status, sent.headers["location"]) == (307, "/bkapp/login")
    return dyno.request("POST", "/bkapp/login", headers, body)


def test_an_auth_module_lets_in_whoever_has_logged_in(guarded: Dyno) -> None:
    asked = guarded.get("/bkapp/told?colour=red")
    assert (asked.status, asked.headers["location"]) == (302, "/bkapp/login?next=%2Fbkapp%2Ftold%3Fcolour%3Dred")
    assert guarded.get("/bkapp/told/metadata").status == 302
    wrong = log_in(guarded, asked.headers["location"], "open sesame")
    assert (wrong.status, wrong.headers["location"]) == (302, "/login?error=wrong")
    again = guarded.get("/login?error=wrong")
    assert (again.status, again.headers["location"]) == (307, "/bkapp/login?error=wrong")
    assert "wrong" in guarded.get(again.headers["location"]).text
    right = log_in(guarded, asked.headers["location"], "please")
    assert (right.status, right.headers["location"]) == (302, "/bkapp/told?colour=red")
    cookie = f"user={right.headers['set-cookie'].split(';')[0].removeprefix('user=')}"
    page = guarded.get("/bkapp/told?colour=red", Cookie=cookie)
    token = token_in(page.text)
    assert told(guarded, token, Cookie=cookie)["asked"] == ["colour"]
    assert guarded.get("/bkapp/told/metadata", Cookie=cookie).status == 200
    out = guarded.get("/bkapp/logout", Cookie=cookie)
    assert (out.status, out.headers["location"], cookies_of(out)["user"]) == (302, "/with/told", "")
    assert guarded.get("/bkapp/nope").status == 404
    assert not from_bokeh(guarded.get("/bkapp/nope").text)


def test_a_websocket_of_somebody_who_is_not_logged_in_is_a_403_and_one_line(guarded: Dyno) -> None:
    log = guarded.folder / "run" / "bokeh.log"
    before = log.read_text()
    token = guarded.token("/with/told")
    with Visitor(guarded, "told", token=token) as visitor:
        assert visitor.status == 403
    line = wait_for("the log", lambda: (text := log.read_text().removeprefix(before)).endswith("\n") and text)
    assert re.fullmatch(
        r"WARNING \[worker \d\] 403 GET /bkapp/told/ws .*somebody who is not logged in .*request_id=\w+\n", line
    )
    for text in (log.read_text(), guarded.log()):
        assert token[:60] not in text
        assert "Traceback" not in text
