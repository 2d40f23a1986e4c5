"""config/nginx.conf.erb: each place that is marked in it, taken into use as it says, and what is wrong there is told."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dyno_under_test import Dyno

MakeDyno = Callable[..., Dyno]


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    """The port of another backend, which answers with the path that it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def take(template: Path, *places: tuple[str, str]) -> None:
    """Take the # off the line that begins so, and replace what the person replaces in it."""
    text = template.read_text()
    for line, ours in places:
        text, found = re.subn(rf"(?m)^( *)# ({re.escape(line)}.*)$", lambda m, ours=ours: m[1] + (ours or m[2]), text)
        assert found == 1, line
    template.write_text(text)


def test_each_marked_place_does_what_it_says(project: Path, dyno: MakeDyno, backend: int) -> None:
    template = project / "config" / "nginx.conf.erb"
    take(
        template,
        ("~^(/private|<%= var 'BOKEH_PREFIX' %>/private)", '~^/(echo|bkapp/counter)(/|$) "For members";'),
        ("upstream api {", f"upstream api {{ server 127.0.0.1:{backend}; }}"),
        ("location = /old ", ""),
        ("location /api/ ", ""),
        ("location = /upload ", "location = /absolute { client_max_body_size 200m; proxy_pass http://flask; }"),
        ("location /downloads/ ", ""),
    )
    (project / "downloads").mkdir()
    (project / "downloads" / "data.csv").write_text("1,2\n")
    # made by: openssl passwd -apr1 -salt abcdefgh secret
    (project / "config" / "htpasswd").write_text("ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n")
    one = dyno(project).start()

    assert one.get("/old").headers["location"] == "/new"
    assert one.get("/api/x/y?z=1").text == "/x/y?z=1"
    assert one.get("/downloads/data.csv").text == "1,2\n"
    assert one.request("POST", "/echo", body=bytes(21_000_000)).status == 413
    assert one.request("POST", "/absolute", body=bytes(21_000_000)).status not in (413, 502)

    members = {"Authorization": f"Basic {base64.b64encode(b'ann:secret').decode()}"}
    others = {"Authorization": f"Basic {base64.b64encode(b'ann:wrong').decode()}"}
    for path in ("/echo", "/bkapp/counter", "/bkapp/counter/autoload.js?bokeh-autoload-element=x"):
        assert one.get(path).status == 401
        assert one.get(path, **others).status == 401
        assert one.get(path, **members).status == 200
    token = one.token("/with/counter")
    for headers, expected in ((members, 101), (others, 401), ({}, 401)):
        status, websocket = one.handshake("/bkapp/counter/ws", token, **headers)
        websocket.close()
        assert status == expected
    # what Flask sends on to nginx is as much the app's
    (project / "bokeh_app" / "counter" / "static").mkdir()
    (project / "bokeh_app" / "counter" / "static" / "secret.txt").write_text("secret")
    assert one.get("/bkapp/counter/static/secret.txt").status == 401
    assert one.get("/with/counter/static/secret.txt").status == 401
    assert "secret" not in one.get("/with/counter/static/secret.txt").text
    for path in ("/with/counter", "/bkapp/plain.one", "/bkapp/static/js/bokeh.min.js", "/healthz"):
        assert one.get(path).status == 200


def check(folder: Path) -> str:
    """Return what `bokeh-dyno check` says of a project."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "bokeh_dyno", "check"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr


@pytest.mark.parametrize(
    "line",
    [
        "auth_basic_user_file config/htpasswd;",
        'auth_basic_user_file "config/htpasswd";',
        "ssl_certificate keys/site.pem;",
        "location /x/ { auth_basic_user_file 'config/htpasswd'; }",
        "proxy_ssl_certificate keys/site.pem;",
        "include more.conf;",
    ],
)
def test_a_path_that_nginx_would_look_for_in_another_folder_is_told(line: str, project: Path) -> None:
    template = project / "config" / "nginx.conf.erb"
    template.write_text(template.read_text().replace("        # A REDIRECT\n", f"        {line}\n"))
    says = check(project)
    assert says.startswith("error: config/nginx.conf.erb: "), says
    assert says.endswith(" begin the path with <%= root %>/\n")
    assert says.count("\n") == 1


def test_a_template_of_another_version_is_told(project: Path, dyno: MakeDyno) -> None:
    template = project / "config" / "nginx.conf.erb"
    ours = template.read_text()
    template.write_text(ours.replace("written_for 2", "written_for 0"))
    says = check(project)
    assert re.fullmatch(r"error: config/nginx\.conf\.erb does not render: it was written for routing 0, .*\n", says)
    template.write_text(ours.replace("<%= written_for 2 %>", ""))
    one = dyno(project).start()
    one.wait_for_log(r"warning: config/nginx\.conf\.erb is not of this version: .* \(CHANGELOG\.md\)$")
