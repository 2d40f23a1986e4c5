"""One stream of log lines: everything is in it, once, with the name of its process, and nothing private."""

from __future__ import annotations

import re
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor

from dyno_under_test import Dyno, wait_for
from frames import frame
from visitor import Visitor

NAMES = r"(nginx|flask\.1|bokeh\.1|dyno|system)"


def test_every_line_names_its_process(site: Dyno) -> None:
    site.get("/fail")  # a traceback of Flask: each of its lines, too
    site.wait_for_log(r"this page always fails")
    words = [secrets.token_hex(8) for _ in range(100)]  # many at the same time, of several processes
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(lambda word: site.get(f"/print/{word}"), words)} == {200}
    for word in words:
        for line in (f"flask printed {word}", f"flask complained {word}", f'"GET /print/{word}" 200 .*'):
            site.wait_for_log(rf"^\S+ \S+ +\| .*{line}$")
    lines = site.log().splitlines()
    assert len(lines) > 10
    for line in lines:
        assert re.match(rf"\d\d:\d\d:\d\d {NAMES}\s+\| ", line), line
    assert {re.match(rf"\S+ {NAMES}", line).group(1) for line in lines} == {
        "nginx",
        "flask.1",
        "bokeh.1",
        "dyno",
        "system",
    }


def test_what_flask_prints_shows_up_at_once(site: Dyno) -> None:
    word = secrets.token_hex(8)
    assert site.get(f"/print/{word}").status == 200
    site.wait_for_log(rf"^\S+ flask\.1 +\| flask printed {word}$")
    site.wait_for_log(rf"^\S+ flask\.1 +\| flask complained {word}$")


def test_what_an_app_prints_shows_up_at_once(site: Dyno) -> None:
    word = secrets.token_hex(8)
    assert site.get(f"/bkapp/counter?word={word}").status == 200
    site.wait_for_log(rf"^\S+ bokeh\.1 +\| bokeh printed {word}$")


def test_a_request_is_logged_exactly_once_though_heroku_turns_gunicorns_log_on(site: Dyno) -> None:
    word = secrets.token_hex(8)
    for path in (f"/{word}", f"/bkapp/static/{word}", f"/bkapp/{word}/metadata", f"/bkapp/{word}"):
        assert site.get(path).status == 404
        line = rf'127\.0\.0\.1 "GET {path}" 404 \d+ seconds=[\d.]+ request_id=[0-9a-f]{{32}} backend=(\w+)'
        backend = site.wait_for_log(rf"^\S+ nginx +\| {line} upstream=unix:\S+\.sock upstream_seconds=[\d.]+$").group(1)
        assert backend == ("flask" if "bkapp/" not in path or path == f"/bkapp/{word}" else "bokeh")
    # what would say it twice has had its turn when a line that comes after it is there
    last = secrets.token_hex(8)
    site.get(f"/print/{last}")
    site.wait_for_log(rf"flask printed {last}")
    site.wait_for_log(rf'"GET /print/{last}" 200')
    assert len([line for line in site.log().splitlines() if word in line]) == 4, site.log()


def test_the_request_id_of_the_router_is_logged(site: Dyno) -> None:
    word = secrets.token_hex(8)
    site.get("/echo", X_Request_ID=word)
    site.wait_for_log(rf'"GET /echo" 200 \d+ seconds=[\d.]+ request_id={word} backend=flask ')


def test_what_nginx_complains_about_is_in_the_stream(project, dyno) -> None:
    one = dyno(project, {"BOKEH_WORKERS": "1"}).start()
    [socket] = (project / "run").glob("*/bokeh.1.sock")
    aside = project / "run" / "aside.sock"
    socket.rename(aside)
    try:
        assert one.get("/bkapp/counter/metadata?secret=1").status == 502
    finally:
        aside.rename(socket)
    line = one.wait_for_log(r"^\S+ nginx +\| .*\[(crit|error)\].* connect\(\) to unix:.*$").group(0)
    assert "secret" not in line


def test_no_token_and_no_query_reaches_the_log(site: Dyno) -> None:
    before = len(site.log())
    token = site.token("/with/counter?password=hunter2")
    secret = {"password": "hunter2"}
    site.get("/echo?password=hunter2")
    site.get("/fail?password=hunter2")
    for path in (
        "counter",
        "counter/autoload.js",
        "counter/metadata",
        "counter/ws",
        "nope",
        "static/nope.js",
        "nope/ws",
    ):
        for query in (
            f"bokeh-token={token}",
            "bokeh-token=garbage.hunter2",
            "password=hunter2&bokeh-autoload-element=x",
        ):
            for method in ("GET", "OPTIONS", "POST"):
                site.request(method, f"/bkapp/{path}?{query}", {"Origin": f"http://127.0.0.1:{site.port}"})
                site.request(method, f"/bkapp/{path}?{query}")
    for wrong in (token, token[:-3] + "xyz", token + "A" * 100):
        status, websocket = site.handshake("/bkapp/counter/ws?password=hunter2", wrong)
        websocket.close()
        assert status == (101 if wrong == token else 403)
    # a message that is none, from a page that has a session: Bokeh logs the error and the message
    with Visitor(site, token=token) as visitor:
        visitor.message("ACK")
        for message in (b'{"msgid": "1", "msgtype": "PATCH-DOC"}', b"{}", b"[" * 60_000):
            visitor.send(frame(message))
        site.wait_for_log("Unhandled exception receiving a message")
    # what gunicorn itself refuses
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(b"GET /echo?password=hunter2&\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b" 400 " in client.recv(100)
    site.wait_for_log("Invalid HTTP request line")
    last = secrets.token_hex(8)
    site.get(f"/bkapp/counter?word={last}")
    site.wait_for_log(rf"bokeh printed {last}")
    site.get(f"/{last}")
    wait_for("the last line", lambda: f'"GET /{last}"' in site.log())
    text = site.log()[before:]
    assert len(text) > 1000
    session_id = re.search(r'"session_id": "([^"]+)"', _decoded(token)).group(1)
    for private in (token, token[:60], token.split(".")[-1], session_id, "hunter2", *secret, "bokeh-token", "eyJ"):
        lines = [line for line in text.splitlines() if private in line]
        assert lines == [], private
    assert max(map(len, text.splitlines())) < 3000


def _decoded(token: str) -> str:
    """Return the readable part of a token."""
    import base64

    payload = token.split(".")[0]
    return base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
