"""What goes where, over HTTP, through the port."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import bokeh.util.paths
import psutil
import pytest
from dyno_under_test import Dyno, settings_of, token_in
from frames import frame

MakeDyno = Callable[..., Dyno]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]
PREFIX = "/plots/live.v1"
HTTPS = {"X-Forwarded-Proto": "https"}


def from_bokeh(text: str) -> bool:
    """Return whether an error page is Tornado's; nginx and Flask write others."""
    return bool(re.fullmatch(r"<html><title>(\d+: [\w ]+)</title><body>\1</body></html>", text))


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_flask(site: Dyno, method: str) -> None:
    body = b"x" * 1000 if method in ("POST", "PUT", "PATCH", "DELETE") else b""
    answer = site.request(method, "/echo?a=b", body=body)
    assert answer.status == 200
    if method == "HEAD":
        assert answer.body == b""
        assert int(answer.headers["content-length"]) > 100
    else:
        assert answer.json["method"] == method
        assert answer.json["body"] == len(body)
        assert answer.json["arguments"] == {"a": "b"}


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("path", ["/bkapp/counter/metadata", "/bkapp/static/extensions/nothing.js"])
def test_every_method_reaches_bokeh(site: Dyno, method: str, path: str) -> None:
    answer = site.request(method, path)
    assert answer.status in (404, 405)
    if method == "HEAD":
        assert "text/html" in answer.headers["content-type"]
    else:
        assert from_bokeh(answer.text), answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_an_apps_own_page_answers_other_methods_as_bokeh_does(site: Dyno, method: str) -> None:
    answer = site.request(method, "/bkapp/counter")
    assert answer.status == 405
    assert from_bokeh(answer.text), answer


def test_an_apps_own_page_answers_head(site: Dyno) -> None:
    answer = site.request("HEAD", "/bkapp/counter")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/html; charset=utf-8", b"")
    assert site.request("HEAD", "/bkapp/nope").status == 404


def test_a_preflight_for_autoload_js_is_no_error(site: Dyno) -> None:
    preflight = {"Origin": f"http://127.0.0.1:{site.port}", "Access-Control-Request-Method": "GET"}
    for headers in (preflight, {}):
        assert site.request("OPTIONS", "/bkapp/counter/autoload.js", headers).status < 500


def test_a_body_of_15_mb_arrives_whole(site: Dyno) -> None:
    assert site.request("POST", "/echo", body=b"x" * 15_000_000).json["body"] == 15_000_000


def test_a_body_that_is_far_too_large_is_refused(site: Dyno) -> None:
    with _tolerate_a_reset() as answers:
        answers.append(site.request("POST", "/echo", body=b"x" * 60_000_000).status)
    assert answers in ([], [413])
    assert site.get("/echo").status == 200


@contextmanager
def _tolerate_a_reset() -> Iterator[list[int]]:
    """Collect answers; a connection that the server closed while we were still sending is one without a number."""
    try:
        yield (answers := [])
    except ConnectionError:
        assert answers == []


# --- what Flask is told -----------------------------------------------------------------------------------------------


def headers_at_flask(one: Dyno, **headers: str) -> dict[str, str]:
    """Return what Flask sees of a request with these headers."""
    answer = one.request("GET", "/echo", {name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status == 200
    names = [name for name, _ in answer.json["headers"]]
    assert len(names) == len(set(names)), names
    return {**dict(answer.json["headers"]), "url": answer.json["url_root"], "address": answer.json["remote_addr"]}


def test_flask_sees_what_nginx_knows_and_not_what_a_visitor_claims(site: Dyno) -> None:
    # an address that is no router: 127.0.0.1 is trusted by default, so the claim has to come from the entry before
    seen = headers_at_flask(
        site,
        X_Forwarded_For="6.6.6.6, 203.0.113.7",
        X_Real_IP="6.6.6.6",
        X_Forwarded_Host="evil.example",
        X_Forwarded_Port="6666",
        X_Forwarded_Prefix="/evil",
        X_Forwarded_Ssl="on",
        X_Forwarded_Protocol="ssl",
        X_Forwarded_Server="evil.example",
        Forwarded="for=6.6.6.6;host=evil.example;proto=https",
    )
    assert seen["address"] == "203.0.113.7"
    assert seen["X-Forwarded-For"] == "203.0.113.7"
    assert seen["X-Real-Ip"] == "203.0.113.7"
    assert seen["X-Forwarded-Host"] == f"127.0.0.1:{site.port}"
    assert seen["X-Forwarded-Proto"] == "http"
    assert seen["url"] == f"http://127.0.0.1:{site.port}/"
    assert "X-Forwarded-Port" not in seen
    assert "Forwarded" not in seen
    assert "evil" not in json.dumps(seen)
    assert "6.6.6.6" not in json.dumps(seen)


def test_a_trusted_router_names_the_visitor_in_the_rightmost_entry(routed_site: Dyno) -> None:
    assert headers_at_flask(routed_site, X_Forwarded_Proto="https", X_Forwarded_For="1.2.3.4, 5.6.7.8")["address"] == (
        "5.6.7.8"
    )


def test_a_router_that_is_not_trusted_is_not_believed(project, dyno: MakeDyno) -> None:
    one = dyno(project, {"FORWARDED_ALLOW_IPS": "10.0.0.0/8"}).start()
    assert headers_at_flask(one, X_Forwarded_For="1.2.3.4")["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("sent", "scheme"),
    [
        ("https", "https"),
        ("https,http", "https"),
        ("HTTPS", "https"),
        ("http", "http"),
        (None, "http"),
        ("http, https", "https"),
        ("nonsense", "http"),
        ("not-https", "http"),
    ],
)
def test_the_scheme_is_the_routers(site: Dyno, sent: str | None, scheme: str) -> None:
    seen = headers_at_flask(site, **({"X_Forwarded_Proto": sent} if sent else {}))
    assert seen["X-Forwarded-Proto"] == scheme
    assert seen["url"] == f"{scheme}://127.0.0.1:{site.port}/"


def test_a_redirect_of_flask_says_https_behind_https(site: Dyno) -> None:
    answer = site.request("GET", "/absolute", {"Host": "www.example.com", **HTTPS})
    assert answer.headers["location"] == "https://www.example.com/echo"
    slash = site.request("GET", "/folder", {"Host": "www.example.com", **HTTPS})
    assert slash.status == 308
    assert slash.headers["location"].removeprefix("https://www.example.com") == "/folder/"


def test_cookies_of_24_kb_break_neither_site_nor_apps(site: Dyno) -> None:
    cookies = {"Cookie": "; ".join(f"name{number}={'v' * 2000}" for number in range(12))}
    for path in (
        "/echo",
        "/with/counter",
        "/bkapp/counter",
        "/bkapp/counter/metadata",
        "/bkapp/static/js/bokeh.min.js",
    ):
        assert site.request("GET", path, cookies).status == 200, path
    status, websocket = site.handshake("/bkapp/counter/ws", site.token("/with/counter"), **cookies)
    websocket.close()
    assert status == 101


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/folder?" + "x" * 30_000, {}),  # a redirect that would repeat all of it
        ("/bkapp//counter?" + "%25" * 8000, {}),
        ("/bkapp/counter/metadata", {f"X-{number}": "x" * 30_000 for number in range(3)}),
    ],
    ids=["redirect", "slashes", "90 kB of headers"],
)
def test_nothing_that_a_visitor_sends_is_an_error_of_ours(site: Dyno, path: str, headers: dict[str, str]) -> None:
    assert 200 <= site.request("GET", path, headers).status < 500


# --- https only -------------------------------------------------------------------------------------------------------


def test_http_is_redirected_with_every_byte_of_path_and_query_kept(routed_site: Dyno) -> None:
    for path in (
        "/",
        "/a%2Fb%20c/..%2e/?q=%26&x=a+b&y=%C3%A4",
        f"{PREFIX}/counter?a=b",
        f"{PREFIX}/static/js/bokeh.min.js?v=1",
    ):
        for headers in ({"X-Forwarded-Proto": "http"}, {}):
            answer = routed_site.request("GET", path, {"Host": "www.example.com", **headers})
            assert answer.status == 308, (path, headers)
            assert answer.headers["location"] == f"https://www.example.com{path}"
    assert routed_site.request("POST", "/echo", {"X-Forwarded-Proto": "http"}, b"x").status == 308


def test_healthz_is_never_redirected(routed_site: Dyno) -> None:
    for headers in ({}, {"X-Forwarded-Proto": "http"}, HTTPS):
        assert routed_site.request("GET", "/healthz", headers).status == 200


@pytest.mark.parametrize("proto", ["https", "https,http", "HTTPS", "http, https"])
def test_https_is_never_redirected(routed_site: Dyno, proto: str) -> None:
    answer = routed_site.request("GET", "/echo", {"X-Forwarded-Proto": proto})
    assert answer.status == 200
    assert answer.json["scheme"] == "https"


def test_without_force_https_nothing_is_redirected(site: Dyno) -> None:
    assert site.request("GET", "/echo", {"X-Forwarded-Proto": "http"}).status == 200


# --- the prefix -------------------------------------------------------------------------------------------------------


def test_everything_of_bokeh_moves_with_its_prefix(routed_site: Dyno) -> None:
    page = routed_site.request("GET", "/with/counter", HTTPS)
    assert page.status == 200
    assert "/bkapp" not in page.text
    scripts = re.findall(r'src="([^"]+)"', page.text)
    assert len(scripts) >= 2
    for script in scripts:
        assert script.startswith(f"{PREFIX}/static/")
        assert routed_site.request("GET", script, HTTPS).status == 200, script
    for path in (
        "counter",
        "counter/",
        "counter/metadata",
        "counter/autoload.js?bokeh-autoload-element=x",
        "plain.one",
    ):
        assert routed_site.request("GET", f"{PREFIX}/{path}", HTTPS).status == 200, path
    token = token_in(page.text)
    status, websocket = routed_site.handshake(f"{PREFIX}/counter/ws", token, **HTTPS)
    websocket.close()
    assert status == 101
    for path in ("/bkapp/counter", "/bkapp/static/js/bokeh.min.js", "/plots/counter", "/plots/liveXv1/counter"):
        assert routed_site.request("GET", path, HTTPS).status == 404, path


def test_redirects_of_nginx_name_neither_scheme_nor_host(site: Dyno) -> None:
    answer = site.request("GET", "/bkapp", {"Host": "www.example.com", **HTTPS})
    assert answer.status in (301, 308)
    assert answer.headers["location"] == "/bkapp/"


def test_the_list_of_all_apps_is_the_sites_business(site: Dyno) -> None:
    answer = site.get("/bkapp/")
    assert answer.status == 404
    assert "counter" not in answer.text


@pytest.mark.parametrize("path", ["/bkapp/nope", "/bkapp/nope/metadata", "/bkapp/nope/autoload.js", "/bkapp/a/b"])
def test_an_unknown_app_is_not_found(site: Dyno, path: str) -> None:
    assert site.get(path).status == 404


# --- static files -----------------------------------------------------------------------------------------------------


def test_bokehjs_comes_as_it_is_in_the_installed_package(site: Dyno) -> None:
    folder = bokeh.util.paths.static_path()
    for name in ("bokeh.min.js", "bokeh-widgets.min.js", "bokeh.js"):
        original = (folder / "js" / name).read_bytes()
        assert site.get(f"/bkapp/static/js/{name}").body == original
        packed = site.get(f"/bkapp/static/js/{name}", Accept_Encoding="gzip")
        assert packed.headers["content-encoding"] == "gzip"
        assert "javascript" in packed.headers["content-type"]
        assert gzip.decompress(packed.body) == original


@pytest.mark.parametrize("encoding", ["br", "gzip", "identity"])
def test_a_static_file_is_kept_by_its_version_and_asked_for_without(site: Dyno, encoding: str) -> None:
    page = site.get("/with/counter").text
    for script in re.findall(r'src="([^"]+)"', page):
        without, count = re.subn(r"/static/[0-9a-f]{16}/", "/static/", script)
        assert count == 1, script
        versioned = site.get(script, Accept_Encoding=encoding)
        assert versioned.headers["cache-control"] == "public, max-age=31536000, immutable"
        plain = site.get(without, Accept_Encoding=encoding)
        assert plain.headers["cache-control"] == "no-cache"
        assert plain.body == versioned.body
        again = site.get(without, Accept_Encoding=encoding, If_None_Match=plain.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert site.get(without, Accept_Encoding=encoding, If_None_Match='"old"').body == plain.body


def test_a_static_file_that_is_not_there_is_asked_of_bokeh(site: Dyno) -> None:
    answer = site.get("/bkapp/static/extensions/panel/panel.min.js")
    assert answer.status == 404
    assert from_bokeh(answer.text)


def test_static_files_stay_in_their_folder(site: Dyno) -> None:
    for path in (
        "/bkapp/static/../../../etc/passwd",
        "/bkapp/static/%2e%2e/%2e%2e/nginx.conf",
        "/bkapp/static../nginx.conf",
    ):
        answer = site.get(path)
        assert answer.status in (400, 403, 404), path
        assert "root:" not in answer.text


# --- who answers and who does not -------------------------------------------------------------------------------------


def test_a_slow_page_keeps_nobody_waiting(site: Dyno) -> None:
    with ThreadPoolExecutor(6) as pool:
        slow = [pool.submit(site.get, "/slow/6.0") for _ in range(6)]
        began = time.monotonic()
        assert site.get("/echo").status == 200
        assert time.monotonic() - began < 5
        assert {answer.result().status for answer in slow} == {200}


def test_idle_connections_outlive_those_of_the_router(site: Dyno) -> None:
    conf = (site.folder / "run" / "nginx.conf").read_text()
    assert int(re.search(r"^\s*keepalive_timeout\s+(\d+)s?;", conf, re.MULTILINE).group(1)) > 90


# --- sessions and WebSockets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token", ["garbage", "", "eyJ", "a.b", "%00", "eyJzZXNzaW9uX2lkIjogIng" + "A" * 300, "x" * 7000]
)
def test_a_token_that_is_none_is_refused_and_never_an_error(site: Dyno, token: str) -> None:
    for path in ("/bkapp/counter", "/bkapp/counter/autoload.js"):
        assert site.get(f"{path}?bokeh-token={token}").status in (400, 401, 403, 414), path
    if token.isprintable() and "%" not in token:
        status, websocket = site.handshake("/bkapp/counter/ws", token)
        websocket.close()
        assert status in (400, 401, 403)


def origins(host: str, port: int) -> list[tuple[str, int]]:
    """Return (Origin, expected status) for a site at host:port."""
    return [
        (f"http://{host}:{port}", 101),
        (f"https://{host}:{port}", 101),
        ("https://evil.example", 403),
        ("null", 403),
        (f"http://{host}", 403),
        (f"http://{host}:{port + 1}", 403),
        (f"http://{host}:{port}.evil.example", 403),
        (f"http://{host}.evil.example:{port}", 403),
        (f"http://evil-{host}:{port}", 403),
        (f"http://{host}:{port}@evil.example", 403),
        (f"http://evil.example/{host}:{port}", 403),
        ("file://", 403),
    ]


@pytest.mark.parametrize("number", range(12))
def test_a_websocket_from_another_site_is_refused(site: Dyno, number: int) -> None:
    origin, expected = origins("127.0.0.1", site.port)[number]
    status, websocket = site.handshake("/bkapp/counter/ws", site.token("/with/counter"), Origin=origin)
    websocket.close()
    assert status == expected, origin


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://www.my-site.example", 101),
        ("https://friend.example", 101),
        ("http://friend.example", 101),
        ("http://friend.example:80", 101),
        ("http://friend.example:8080", 403),
        ("https://a.partner.example:8443", 101),
        ("https://a.partner.example", 403),
        ("https://not-friend.example", 403),
        ("https://friend.example.evil.example", 403),
        ("https://friendXexample", 403),
        ("null", 403),
    ],
)
def test_other_sites_can_be_allowed(routed_site: Dyno, origin: str, expected: int) -> None:
    token = token_in(routed_site.request("GET", "/with/counter", HTTPS).text)
    headers = {"Host": "www.my-site.example", "Origin": origin, **HTTPS}
    status, websocket = routed_site.handshake(f"{PREFIX}/counter/ws", token, **headers)
    websocket.close()
    assert status == expected


def test_a_websocket_is_compressed_for_those_who_offer_it(site: Dyno) -> None:
    for offer, compressed in (({"Sec-WebSocket-Extensions": "permessage-deflate"}, True), ({}, False)):
        status, websocket = site.handshake("/bkapp/counter/ws?document=1", site.token("/with/counter"), **offer)
        with websocket, websocket.makefile("rb") as received:
            assert status == 101
            first, length = received.read(2)
            while length < 126:  # the small ones, which are not worth it
                received.read(length)
                first, length = received.read(2)
            assert bool(first & 0x40) == compressed  # RSV1 of a frame's first byte, RFC 7692


SOCK = """

without_sock = create_app


def create_app():
    from flask_sock import Sock

    app = without_sock()
    connections = set()

    @Sock(app).route("/sock")
    def sock(websocket):
        while True:
            websocket.send(f"heard {websocket.receive()}")

    @app.route("/connections")
    def count():
        connections.add(request.environ["gunicorn.socket"])
        return str(len(connections))

    return app
"""


def test_a_websocket_of_the_sites_own_passes_and_other_connections_are_kept(project, dyno: MakeDyno) -> None:
    with (project / "flask_app" / "__init__.py").open("a") as file:
        file.write(SOCK)
    one = dyno(project, {"WEB_CONCURRENCY": "1", "NGINX_WORKERS": "1"}).start()
    status, websocket = one.handshake("/sock", "none", Origin=f"http://127.0.0.1:{one.port}")
    with websocket:
        assert status == 101
        for _ in range(2):
            websocket.sendall(frame(b"it"))
            assert websocket.recv(100) == b"\x81\x08heard it"
        assert [one.get("/connections").text for _ in range(10)] == ["1"] * 10
    for upgrade in ("h2c", "TLS/1.0", "websocketx", "h2c, websocket"):
        seen = headers_at_flask(one, Upgrade=upgrade, Connection="Upgrade, HTTP2-Settings", HTTP2_Settings="AAMAAABk")
        assert not {"Upgrade", "Connection"} & set(seen), upgrade
    # nor are the apps' pages for a WebSocket
    assert one.get("/bkapp/counter", Upgrade="websocket", Connection="Upgrade").status == 200
    assert one.get("/connections").text == "1"


# --- the template by hand ---------------------------------------------------------------------------------------------


def render(one, **env: str) -> str:
    """Render the template with the plain erb command and nothing but `env` in the environment."""
    command = ["env", "-i", f"PATH={os.environ['PATH']}", *(f"{name}={value}" for name, value in env.items())]
    result = subprocess.run([*command, "erb", "config/nginx.conf.erb"], cwd=one, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


VARS = {
    "PORT": "8080", "BOKEH_PREFIX": "/a/b", "BOKEH_WORKERS": "3", "FORCE_HTTPS": "1", "RUN_DIR": "run",
    "NGINX_WORKERS": "1", "NGINX_WORKER_CONNECTIONS": "64", "FORWARDED_ALLOW_IPS": "*",
    "BOKEH_ALLOW_WS_ORIGIN": "friend.example,*.partner.example:8443,[::1]:*",
}  # fmt: skip


@pytest.mark.parametrize("env", [{}, VARS], ids=["nothing", "config vars"])
def test_the_plain_erb_command_renders_what_nginx_accepts(site: Dyno, env: dict[str, str], scratch) -> None:
    text = render(site.folder, **env)
    assert f"listen {env.get('PORT', '5000')};" in text
    (scratch / "run").mkdir()
    (scratch / "logs" / "nginx").mkdir(parents=True)
    (scratch / "nginx.conf").write_text(text)
    nginx = psutil.Process(site.find("nginx: master")[0].pid).exe()
    if (site.folder / "bin" / "nginx").exists():
        nginx = str(site.folder / "bin" / "nginx")
    result = subprocess.run(
        [nginx, "-t", "-p", str(scratch), "-c", str(scratch / "nginx.conf")],
        cwd=scratch,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "[warn]" not in result.stderr


def test_the_templates_defaults_are_those_of_the_settings(site: Dyno) -> None:
    defaults = settings_of(site.folder)
    assert len(defaults) > 10
    logs = {"NGINX_ACCESS_LOG_PATH": "logs/nginx/access.log", "NGINX_ERROR_LOG_PATH": "logs/nginx/error.log"}
    assert render(site.folder) == render(site.folder, **{**defaults, **logs})
