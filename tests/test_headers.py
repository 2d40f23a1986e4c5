"""Headers, the policy of scripts, what is refused at the edge: by its Host, its size, its time; and maintenance."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import assert_plots_are_drawn, turn_slider
from conftest import NGINXES
from dyno_under_test import OTHER_SITE, Answer, Dyno, copy_project, temporary_folder, token_in
from visitor import Visitor

HTTPS = {"X-Forwarded-Proto": "https"}
MORE_PAGES = """
    from flask import Response, make_response, render_template, render_template_string

    @app.route("/inline")
    def inline():
        return render_template("inline.html", typed="<script>document.title = 'typed'</script>")

    @app.route("/injected")
    def injected():
        return "<!doctype html><title>none</title><link rel=icon href='data:,'><script>document.title = 'injected'</script>"

    @app.route("/own")
    def own():
        return Response("own", headers={
            "Content-Security-Policy": "default-src 'none'; frame-ancestors https://a.example", "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff", "X-Request-Id": "mine", "Strict-Transport-Security": "max-age=1",
        })

    @app.route("/cookies")
    def cookies():
        answer = make_response("cookies")
        answer.set_cookie("a", "1", samesite="Lax")
        answer.set_cookie("b", "2", secure=True, httponly=True)
        return answer

    @app.route("/stream/<int:parts>/<float:seconds>")
    def stream(parts, seconds):
        def generate():
            for number in range(parts):
                time.sleep(seconds)
                yield f"{number}\\n"
        return Response(generate(), mimetype="text/event-stream")

    @app.route("/form", methods=["GET", "POST"])
    def form():
        return render_template_string(
            "<!doctype html><title>form</title><link rel=icon href='data:,'><form method=post enctype=multipart/form-data>"
            "<input type=file name=file><button>Send</button></form>{{ bokeh_app('counter') }}"
        )

    @app.before_request
    def login():
        if "login" in request.args:
            return redirect(f"/version?next={quote(request.full_path, safe='')}")

    return app
"""
INLINE = """<!doctype html><title>none</title><link rel="icon" href="data:,">
<script>document.title = 'inline'</script><script nonce="{{ csp_nonce() }}">window.nonced = true</script>
{{ typed | safe | replace("SCRIPT", "script") }}
<button onclick="document.title = 'clicked'">Click</button>{{ bokeh_app("clicks") }}
"""
APP = """
from bokeh.io import curdoc
from bokeh.models import Button, CustomJS

button = Button(label="Click")
button.js_on_event("button_click", CustomJS(code="document.title = 'compiled'"))
curdoc().add_root(button)
"""
TEMPLATE = """{% extends base %}{% block postamble %}
<link rel="icon" href="data:,"><script>window.of_template = true</script>{% endblock %}
"""


@pytest.fixture(scope="module", params=NGINXES)
def one(request: pytest.FixtureRequest) -> Iterator[Dyno]:
    """The site of the tests with some pages and an app more, behind a router that ends https, with small limits."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "app", OTHER_SITE)
    site = folder / "flask_app" / "__init__.py"
    code = site.read_text().replace("\n    return app\n", MORE_PAGES)
    site.write_text(code.replace("import os\n", "import os\nfrom urllib.parse import quote\n"))
    (folder / "flask_app" / "templates").mkdir()
    (folder / "flask_app" / "templates" / "inline.html").write_text(INLINE)
    (folder / "bokeh_app" / "clicks" / "templates").mkdir(parents=True)
    (folder / "bokeh_app" / "clicks" / "main.py").write_text(APP)
    (folder / "bokeh_app" / "clicks" / "templates" / "index.html").write_text(TEMPLATE)
    if request.param != "installed":
        (folder / "bin" / "nginx").symlink_to(Path(request.param).resolve())
    dyno = Dyno(
        folder,
        {
            "TEST_COUNTER": str(scratch / "runs"), "FORWARDED_ALLOW_IPS": "*", "MAX_UPLOAD_MB": "1",
            "REQUEST_TIMEOUT": "4", "ALLOWED_HOSTS": "127.0.0.1,*.x.example,[::1]",
            "BOKEH_ALLOW_WS_ORIGIN": "friend.example",
        },
    )  # fmt: skip
    try:
        yield dyno.start()
        assert dyno.stop() == 0, dyno.log()
    finally:
        dyno.clean_up()
        shutil.rmtree(scratch)


def ask(one: Dyno, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    """Ask by https, as a router passes it on."""
    return one.request(
        method, path, {**HTTPS, **{name.replace("_", "-"): value for name, value in headers.items()}}, body
    )


def scripts(answer: Answer) -> str:
    """Return what the policy of an answer says of scripts."""
    found = re.search(r"script-src ([^;]+)", answer.headers["content-security-policy"])
    return found[1] if found else ""


# --- headers ----------------------------------------------------------------------------------------------------------

ANSWERS = {
    "/version": 200, "/with/counter": 200, "/bkapp/counter": 200, "/bkapp/static/js/bokeh.min.js": 200, "/nowhere": 404,
    "/bkapp/nowhere": 404, "/bkapp/counter/metadata": 200, "/bkapp/counter/ws": 403, "/fail": 500,
    "/healthz": 200, "/bkapp/static/0123456789abcdef/dyno.js": 404,
}  # fmt: skip


@pytest.mark.parametrize("path", ANSWERS)
def test_every_answer_has_the_headers_once_and_no_version(one: Dyno, path: str) -> None:
    with socket.create_connection(("127.0.0.1", one.port), timeout=20) as client:
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: a.x.example\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n".encode()
        )
        head = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[0].decode()
    assert f" {ANSWERS[path]} " in head.splitlines()[0]
    names = [line.partition(":")[0].lower() for line in head.splitlines()[1:]]
    for name in (
        "x-content-type-options", "referrer-policy", "content-security-policy", "x-request-id",
        "x-frame-options", "server",
    ):  # fmt: skip
        # friend.example may show the app's own page, and a file is no page
        wanted = 0 if name == "x-frame-options" and (path == "/bkapp/counter" or "/static/" in path) else 1
        assert names.count(name) == wanted, head
    assert not re.search(r"(?i)(nginx|gunicorn|werkzeug|tornado|python)/[0-9]|gunicorn|tornado", head)


def test_what_the_site_sets_itself_stays(one: Dyno) -> None:
    headers = ask(one, "/own").headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors https://a.example"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-request-id"] == "mine"
    assert headers["strict-transport-security"] == "max-age=1"
    assert "x-frame-options" not in headers


def test_hsts_comes_by_https_only(routed_site: Dyno, site: Dyno) -> None:
    for path in ("/version", "/nowhere", "/plots/live.v1/counter", "/plots/live.v1/static/js/bokeh.min.js", "/healthz"):
        answer = ask(routed_site, path, Host="a.example")
        assert answer.headers["strict-transport-security"] == "max-age=2592000", path
        assert "strict-transport-security" not in routed_site.get(path).headers
        assert "strict-transport-security" not in ask(site, path).headers
    assert routed_site.get("/version").status == 308


def test_a_file_that_has_not_changed_has_the_headers_too(one: Dyno) -> None:
    first = ask(one, "/bkapp/static/js/bokeh.min.js")
    again = ask(one, "/bkapp/static/js/bokeh.min.js", If_None_Match=first.headers["etag"])
    assert again.status == 304
    assert again.headers["x-content-type-options"] == "nosniff"


def test_an_extensions_file_beside_a_page_of_the_site_has_its_type(one: Dyno) -> None:
    served = next((one.folder / "run").glob("*/static"))
    (served / "extensions" / "own").mkdir(parents=True)
    (served / "extensions" / "own" / "own.css").write_text("p { color: red }\n")
    for path in ("/bkapp", "/with/clicks", "/with"):  # any other type, nosniff would refuse
        answer = ask(one, f"{path}/static/extensions/own/own.css")
        assert answer.headers["content-type"] == "text/css", path
        assert answer.text == "p { color: red }\n"


def test_an_address_with_a_token_is_nobody_elses_business(one: Dyno) -> None:
    token = token_in(ask(one, "/with/counter").text)
    assert ask(one, f"/bkapp/counter?bokeh-token={token}").headers["referrer-policy"] == "strict-origin"
    assert (
        ask(one, f"/version?next=%2Fbkapp%2Fcounter%3Fbokeh-token%3D{token}").headers["referrer-policy"]
        == "strict-origin"
    )
    answer = ask(one, f"/bkapp/counter?login=1&bokeh-token={token}&x=1")
    assert answer.status == 302
    assert token not in answer.headers["location"]
    assert "x%3D1" in answer.headers["location"]


def test_cookies_are_for_https_where_the_visitor_came_by_that(one: Dyno) -> None:
    with socket.create_connection(("127.0.0.1", one.port), timeout=20) as client:
        client.sendall(
            b"GET /cookies HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
        )
        text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    first, second = re.findall(r"(?im)^set-cookie: (.*)\r$", text)
    assert first.lower().count("secure") == second.lower().count("secure") == 1
    assert "samesite=lax" in first.lower()
    assert "samesite" not in second.lower()
    assert "secure" not in one.get("/cookies").headers["set-cookie"].lower().replace("b=2; secure", "")


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_eval_is_for_pages_with_an_app_that_needs_it(one: Dyno) -> None:
    for path in ("/version", "/with/counter", "/bkapp/counter", "/drawn"):
        assert re.fullmatch(r"'self' blob: 'nonce-[\w-]{24}'", scripts(ask(one, path))), path
    for path in ("/inline", "/bkapp/clicks", "/with/counter+clicks"):
        assert scripts(ask(one, path)).endswith(" 'unsafe-eval'"), path
    nonces = {re.search(r"nonce-([^']+)", scripts(ask(one, "/inline")))[1] for _ in range(3)}
    assert len(nonces) == 3
    for path in ("/inline", "/bkapp/clicks", "/drawn"):
        answer = ask(one, path)
        nonce = re.search(r"nonce-([^']+)", scripts(answer))[1]
        assert set(re.findall(r"nonce=\"?([\w-]+)", answer.text)) == {nonce}


def test_who_may_show_a_page_in_a_frame(one: Dyno) -> None:
    assert ask(one, "/version").headers["content-security-policy"].endswith("frame-ancestors 'self'")
    assert (
        ask(one, "/bkapp/counter").headers["content-security-policy"].endswith("frame-ancestors 'self' friend.example")
    )


def test_code_in_an_attribute_of_a_template_is_told_at_boot(one: Dyno) -> None:
    one.wait_for_log(r"flask_app/templates/inline\.html, line 4: onclick is refused by the Content-Security-Policy")


def test_scripts_of_templates_and_apps_run_and_injected_ones_do_not(one: Dyno, page) -> None:
    base = f"http://127.0.0.1:{one.port}"
    page.goto(f"{base}/inline")
    assert page.title() == "inline"
    page.get_by_role("button", name="Click").first.click()
    page.get_by_role("button", name="Click").nth(1).click()
    page.wait_for_function("document.title == 'compiled'")
    assert page.evaluate("window.nonced")
    assert len(page.complaints) == 2, page.complaints  # what was typed, and the handler in an attribute
    page.complaints.clear()
    page.goto(f"{base}/drawn")
    assert_plots_are_drawn(page, 1)
    page.goto(f"{base}/bkapp/clicks")
    page.get_by_role("button", name="Click").click()
    page.wait_for_function("document.title == 'compiled'")
    assert page.evaluate("window.of_template")
    assert page.complaints == []
    page.goto(f"{base}/injected")
    assert page.title() == "none"
    assert "Content Security Policy" in page.complaints[0]
    page.complaints.clear()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_another_host_is_refused(one: Dyno) -> None:
    for host in ("a.x.example", "A.B.X.example:8080", "127.0.0.1:99", "[::1]:5000"):
        assert ask(one, "/version", Host=host).status == 200, host
    for host in ("x.example", "evilx.example", "a.x.example.evil", "127.0.0.1.evil", "evil.example", "[::2]"):
        for path in ("/version", "/bkapp/counter", "/bkapp/static/js/bokeh.min.js", "/bkapp/counter/ws"):
            answer = ask(one, path, Host=host)
            assert answer.status == 421, (host, path)
            assert "There is no site of that name here." in answer.text
    assert ask(one, "/healthz", Host="10.0.0.1").status == 200


def test_what_is_too_large_is_413_and_a_sentence(one: Dyno) -> None:
    assert ask(one, "/echo", "POST", bytes(1_000_000)).json["body"] == 1_000_000
    answer = ask(one, "/echo", "POST", bytes(1_100_000))
    assert answer.status == 413
    assert "1 MB are possible" in answer.text
    with socket.create_connection(("127.0.0.1", one.port), timeout=20) as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(17):
            client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert b" 413 " in client.recv(65536).partition(b"\r\n")[0]


def test_a_message_has_the_same_limit(one: Dyno) -> None:
    with Visitor(one, token=token_in(ask(one, "/with/counter").text), **HTTPS) as visitor:
        visitor.document()
        visitor.send_message("x" * 1_100_000)
        assert visitor.close_code() == 1009


def test_the_browser_does_not_send_a_file_that_is_too_large(one: Dyno, page) -> None:
    page.goto(f"http://127.0.0.1:{one.port}/form")
    choose = page.locator("form input[type=file]")
    choose.set_input_files({"name": "large", "mimeType": "text/plain", "buffer": bytes(1_100_000)})
    assert "it takes 1.1 MB, and 1.0 MB are possible" in choose.evaluate("(one) => one.validationMessage")
    choose.set_input_files({"name": "small", "mimeType": "text/plain", "buffer": bytes(1000)})
    assert choose.evaluate("(one) => one.validationMessage") == ""


def test_what_takes_too_long_is_504_and_a_stream_goes_on(one: Dyno) -> None:
    answer = ask(one, "/slow/30.0")
    assert answer.status == 504
    assert "has not answered in time" in answer.text
    assert "http-equiv" not in answer.text
    assert ask(one, "/stream/6/1.0").text == "0\n1\n2\n3\n4\n5\n"


# --- maintenance ------------------------------------------------------------------------------------------------------


def test_maintenance_closes_the_site_and_leaves_open_plots(project: Path, dyno, page) -> None:
    one = dyno(project).start()
    page.goto(f"http://127.0.0.1:{one.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    turn_slider(page, 3)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 4")
    routing = project / "config" / "nginx.conf.erb"
    routing.write_text(f"<% ENV['MAINTENANCE'] = '1' %>{routing.read_text()}")
    one.process.send_signal(signal.SIGHUP)
    one.wait_for_log("nginx reloads its configuration")
    for path in ("/version", "/bkapp/counter", "/bkapp/counter/autoload.js", "/with/counter"):
        answer = one.get(path, Accept="application/json")
        assert answer.status == 503, path
        assert answer.headers["retry-after"] == "10"
        assert "is being worked on" in answer.text
        assert 'http-equiv="refresh"' in answer.text
    assert one.get("/healthz").status == 200
    assert one.get("/bkapp/static/js/bokeh.min.js").status == 200
    turn_slider(page)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 5")
    page.evaluate("window.before = Bokeh.documents[0]")
    for worker in one.bokeh_workers():
        worker.kill()
    page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0] != before", timeout=30_000)
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('line').data.y[0] == 5")
    page.complaints.clear()
