"""bin/doctor: each fault is real, and its line says what is wrong and what to do; never a traceback, never a secret."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dyno_under_test import ROOT, Dyno, free_port, installed, temporary_folder, wait_for

from bokeh_dyno.shared import settings
from bokeh_dyno.start.doctor import folder, hops, machine, visit

PREFIX, PAGE = "/plots/live.v1", "/with/counter"  # of routed_site
HOST, SCHEME = "proxy_set_header Host $http_host;", "proxy_set_header X-Forwarded-Proto https;"
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;"
GOOD = f"{HOST} {SCHEME} {UPGRADE}"
# what is wrong with a router that ends https: its configuration, and what is said of a page and of the WebSocket behind it
ROUTERS = {
    "nothing": (GOOD, [r"ok   \S+/healthz", r"ok   \S+/with/counter: a page", "ok   the WebSocket .* is open"]),
    "no upgrade": (f"{HOST} {SCHEME}", ["ok   ", "ok   ", "WRONG the WebSocket .* 400: the router does not pass the upgrade on"]),
    "another Host": (
        f"proxy_set_header Host inside.example; {SCHEME} {UPGRADE}",
        ["ok   ", "ok   ", "WRONG the WebSocket .* 403: Origin is .* have the router pass Host on .* BOKEH_ALLOW_WS_ORIGIN="],
    ),
    "no scheme": (
        f"{HOST} {UPGRADE}",
        ["ok   ", "WRONG .* redirects to itself .*`X-Forwarded-Proto: https`", "ok   ", "note .*FORCE_HTTPS=1", "ok   "],
    ),
    "no protocol": (
        f'{GOOD} proxy_set_header Sec-WebSocket-Protocol "";',
        ["ok   ", "ok   ", "WRONG the WebSocket .* 403: .*has to pass Sec-WebSocket-Protocol on"],
    ),
    "another key": (
        f'{GOOD} proxy_set_header Sec-WebSocket-Protocol "${{http_sec_websocket_protocol}}x";',
        ["ok   ", "ok   ", "WRONG the WebSocket .* 403: .*all dynos need the same BOKEH_SECRET_KEY"],
    ),
    "a password": (
        f"{GOOD} auth_basic on; auth_basic_user_file passwords;",
        ["WRONG .*/healthz asks for a password", "note .*PASSWORD@"],
    ),
    "no dyno": (
        "",
        ["WRONG .*/healthz answers 502: the router reaches no dyno", "WRONG .* 502: nginx, or a router, reaches no Flask"],
    ),
}  # fmt: skip
LINE = re.compile(r"(ok   |note |WRONG )\S.*")


@pytest.fixture(scope="module")
def routers(routed_site: Dyno) -> Iterator[dict[str, str]]:
    """The addresses of one nginx that is a router before a dyno eight times, by what is wrong with it; trusted here."""
    folder = temporary_folder()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    ports = {fault: free_port() for fault in ROUTERS}
    servers = [
        f"server {{ listen 127.0.0.1:{ports[fault]} ssl; proxy_http_version 1.1; {lines}\n"
        f"location / {{ proxy_pass http://127.0.0.1:{free_port() if fault == 'no dyno' else routed_site.port}; }} }}"
        for fault, (lines, _) in ROUTERS.items()
    ]
    (folder / "passwords").write_text("somebody:{PLAIN}let-me-in\n")
    (folder / "conf").write_text(
        f"{'user root;' if os.getuid() == 0 else ''} daemon off; pid pid; error_log stderr crit; events {{}}\n"
        "http { access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d;\n"
        "scgi_temp_path e; ssl_certificate cert.pem; ssl_certificate_key key.pem;\n" + "\n".join(servers) + "\n}\n"
    )
    router = subprocess.Popen([installed("nginx"), "-e", "stderr", "-p", folder, "-c", folder / "conf"])
    try:
        wait_for("the router", lambda: all(map(listens, ports.values())))
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
            yield {fault: f"https://127.0.0.1:{port}" for fault, port in ports.items()}
    finally:
        router.send_signal(signal.SIGTERM)
        router.wait(10)
        shutil.rmtree(folder)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(url: str) -> list[str]:
    """Return what is said of a site."""
    return list(hops.ask(visit.Site(url), PREFIX, ["counter"], has_key=False))


def assert_said(lines: list[str], patterns: list[str]) -> None:
    """Compare lines with patterns, one after the other."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.match(pattern, line), (pattern, line)


def doctor(place: Path, env: Mapping[str, str], *arguments: str, code: int, command: str = "bin/doctor") -> list[str]:
    """Run bin/doctor in a folder and return its lines."""
    result = subprocess.run(
        ["bash", "-c", f"exec {shlex.join([command, *arguments])}" if command == "bin/doctor" else command],
        cwd=place, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr == ""
    for name, value in env.items():
        if "KEY" in name or "TOKEN" in name:
            assert value not in result.stdout, name
    lines = result.stdout.splitlines()
    assert all(LINE.fullmatch(line) for line in lines), result.stdout
    assert all(": " in line for line in lines if line.startswith("WRONG ")), result.stdout  # with what to do
    assert result.returncode == code == any(line.startswith("WRONG ") for line in lines), result.stdout
    return lines


def assert_wrong(lines: list[str], patterns: list[str]) -> None:
    """Compare those lines that say that something is wrong with patterns, in any order."""
    wrong = [line for line in lines if line.startswith("WRONG ")]
    for pattern in patterns:
        assert any(re.match(f"WRONG {pattern}", line) for line in wrong), (pattern, wrong)
    assert len(wrong) == len(patterns), wrong


def environment(**more: str) -> dict[str, str]:
    """Return the environment of somebody who has a virtual environment of this Python, and no settings but `more`."""
    path = os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ["PATH"]])
    return {"PATH": path, "VIRTUAL_ENV": sys.prefix, "HOME": "/nonexistent", "PORT": str(free_port()), **more}


# --- the way to a dyno ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ROUTERS)
def test_the_hop_that_has_failed_is_named(fault: str, routers: dict[str, str]) -> None:
    assert_said(ask(routers[fault] + PAGE), ROUTERS[fault][1])


def test_a_password_is_used_and_never_shown(routers: dict[str, str]) -> None:
    lines = ask(routers["a password"].replace("://", "://somebody:let-me-in@") + PAGE)
    assert_said(lines, ["ok   ", "ok   ", "ok   the WebSocket"])
    assert "let-me-in" not in "".join(lines)


def test_a_way_that_ends_early_is_told_from_others(routers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    port = routers["nothing"].rpartition(":")[2]
    http_to_https = ["WRONG .* answers 400, and not as a dyno does", "note .* answers 400", "note no page"]
    assert_said(ask(f"http://127.0.0.1:{port}"), http_to_https)
    assert_said(ask(f"http://127.0.0.1:{free_port()}"), ["WRONG .* does not answer: nobody listens there: "])
    assert_said(ask(f"https://127.0.0.1:{free_port()}"), ["WRONG .* does not answer: nobody listens there: "])
    monkeypatch.delenv("SSL_CERT_FILE")
    assert_said(ask(routers["nothing"]), ["WRONG .* its certificate is not good"])
    assert "not known in the DNS" in visit.why(socket.gaierror())


@pytest.mark.parametrize(
    ("sends", "says"),
    [
        (b"", "WRONG .*: nothing arrives in 2 s: does the router hold answers back"),
        (
            b"\x88\x0a\x03\xf5FULL {0}",
            r"WRONG .*: it was closed with 1013 \(FULL \{0\}\): wait, or raise BOKEH_MAX_SESSIONS",
        ),
        (b"\x88\x02\x0f\xa0", "WRONG .*: it was closed with 4000: the dyno's log says why"),
        (b"\x81\x7f", "WRONG .*: it was cut off: "),
        (b"\x81\x02{}\x8a\x00", "ok   "),
    ],
    ids=["silent", "full", "off", "cut off", "well"],
)
def test_a_websocket_that_opens_is_no_more_than_that(sends: bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "SECONDS", 10.0 if sends else 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server, sends))
        thread.start()
        try:
            lines = ask(f"http://127.0.0.1:{server.getsockname()[1]}/")
        finally:
            thread.join()
    assert_said(lines, ["ok   ", "ok   ", says])


def serve(server: socket.socket, sends: bytes) -> None:
    """Answer as a dyno does, up to the WebSocket: what comes after that is `sends`."""
    page = '<div data-bokeh-app="/bkapp/one" data-bokeh-token="eyJ"></div>'
    for kind, body in (("plain", "ok\n"), ("html", page), ("", "")):
        client, _ = server.accept()
        with client:
            head = client.recv(65536).decode()
            if kind:
                client.sendall(
                    f"HTTP/1.1 200 OK\r\nContent-Type: text/{kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                continue
            key = re.search(r"^Sec-WebSocket-Key: (\S+)", head, re.MULTILINE)[1]
            accept = visit.accept(key)
            client.sendall(f"HTTP/1.1 101 Go on\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode() + sends)
            with contextlib.suppress(OSError):
                if sends:
                    client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass


# --- a dyno here ------------------------------------------------------------------------------------------------------


def test_a_dyno_that_runs_well_is_told_so_and_each_process_that_does_not_is_named(
    routed_site: Dyno, routers: dict[str, str]
) -> None:
    env = {**routed_site.env, "SSL_CERT_FILE": os.environ["SSL_CERT_FILE"]}
    # it listens elsewhere than the settings say now
    lines = doctor(routed_site.folder, {**env, "PORT": str(free_port())}, "--url", routers["nothing"] + PAGE, code=0)
    assert any(re.match(r"ok   flask, bokeh\.1, .*, bokeh\.4: each answers on its socket", line) for line in lines)
    assert len([line for line in lines if re.match("ok   the WebSocket .* is open", line)]) == 2
    (taken,) = (routed_site.folder / "run").glob("*/bokeh.2.sock")
    taken.rename(taken.with_suffix(".away"))
    try:
        lines = doctor(routed_site.folder, env, code=1)
    finally:
        taken.with_suffix(".away").rename(taken)
    assert any(re.match(r"WRONG bokeh\.2 does not answer on its socket: ", line) for line in lines)


def test_a_dyno_is_started_for_it_as_on_a_platform(project: Path, scratch: Path) -> None:
    (project / "bokeh_app" / "counter" / "main.py").write_text("import no_such_module\n")
    key, temporary = secrets.token_hex(32), scratch / "t"
    temporary.mkdir()
    env = environment(
        DYNO="run.1", FORWARDED_ALLOW_IPS="*", FORCE_HTTPS="1", BOKEH_SECRET_KEY=key, TMPDIR=str(temporary)
    )
    lines = doctor(project, env, "--start", code=1)
    for pattern in (
        r"this is Heroku's dyno run\.1$",
        "a dyno was started, and ready after",
        r"flask, bokeh\.1, bokeh\.2: each answers on its socket",
        "the WebSocket .* is open",
    ):
        assert any(re.match(f"ok   {pattern}", line) for line in lines), (pattern, lines)
    assert_wrong(lines, ["bokeh_app/counter could not run at the start: "])
    assert list(temporary.iterdir()) == []


def test_a_dyno_that_does_not_start_says_why(project: Path) -> None:
    with (project / "flask_app" / "__init__.py").open("a") as file:
        file.write("undefined\n")
    lines = doctor(project, environment(), "--start", code=1)
    assert_wrong(
        lines,
        [r'the dyno does not start \(\d+\): the site cannot run: File "flask_app/__init__.py", line \d+: NameError'],
    )


# --- what it needs ----------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_folder(project: Path) -> None:
    key, env = secrets.token_hex(32), environment()
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".env").write_text(f"BOKEH_SECRET_KEY={key}\nexport RUN_DIR=x\n")
    (project / "compose.yaml").write_text(f"environment:\n  KEY: {key}\n")
    subprocess.run(["git", "add", "-f", ".env", "compose.yaml"], cwd=project, check=True)
    (project / "bin" / "start-nginx").write_text('#!/bin/sh\n"$@" &\nexec bin/nginx\n')
    (project / "Procfile").write_text("web: gunicorn flask_app:create_app()\n")
    (project / "Procfile.dyno").write_text("flask: gunicorn 'flask_app:create_app()'\n")
    (project / "bokeh_app" / "empty").mkdir()
    template = project / "config" / "nginx.conf.erb"
    template.write_text(template.read_text().replace("written_for 2", "written_for 1"))
    with socket.create_server(("", int(env["PORT"]))):
        lines = doctor(project, env, code=1)
    assert key not in "\n".join(lines)
    assert any(line.startswith("note no dyno runs here: ") for line in lines)
    assert_wrong(
        lines,
        [
            "bin/start-nginx is not this project's but another, .*: `git checkout bin/start-nginx`; on Heroku, ",
            "Procfile does not run the start script: ",
            "Procfile.dyno does not run python:bokeh_dyno.flask.gunicorn: ",
            "Procfile.dyno does not run bokeh_dyno.bokeh: ",
            r"bokeh_app/empty has no main\.py: ",
            "config/nginx.conf.erb does not render: .*written for routing 1",
            r"\.env is in git: ",
            r"\.env, line 2: write NAME=value",
            r"compose\.yaml is in git with BOKEH_SECRET_KEY in it: ",
            "PORT=[0-9]+ is taken by another program: ",
        ],
    )


def test_what_is_allowed_and_may_not_be_meant() -> None:
    env = {"DYNO": "web.1", "BOKEH_ALLOW_WS_ORIGIN": "a.example,*:5000", "REQUEST_TIMEOUT": "60", "MAINTENANCE": "1"}
    values = settings.read(env)
    lines = [*folder.advice(values, env), *machine.platform(values, env)]
    for pattern in (
        "WRONG BOKEH_SECRET_KEY is not set: .*: heroku config:set BOKEH_SECRET_KEY=",
        "WRONG FORWARDED_ALLOW_IPS is not .*: heroku config:set",
        "note BOKEH_ALLOW_WS_ORIGIN=",
        "note REQUEST_TIMEOUT=60 .*H12",
        "note .* FORCE_HTTPS=1",
        "note MAINTENANCE=1",
    ):
        assert any(re.match(pattern, line) for line in lines), (pattern, lines)
    env = {"BOKEH_ALLOW_WS_ORIGIN": "*.a.example", "BOKEH_SECRET_KEY": secrets.token_hex(32)}
    assert list(folder.advice(settings.read(env), env)) == []


def test_what_a_platform_gives_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {
        "DYNO_RAM": "512",
        "BOKEH_WORKERS": "8",
        "BOKEH_SECRET_KEY": secrets.token_hex(32),
        "CNB_APP_DIR": "/workspace",
    }
    (line,) = folder.advice(settings.read(env), env)
    assert re.match("note BOKEH_WORKERS=8 is more than .* unset it, and it is [12]$", line)
    monkeypatch.setenv("DYNO_RAM", "128")
    assert any(re.match("WRONG 134 MB of memory are too few, .*: give ", line) for line in machine.limits(None))
    assert list(machine.platform(None, env)) == ["ok   this is an image of Cloud Native Buildpacks"]
    monkeypatch.setenv("PATH", "")
    assert any(
        re.match(r"WRONG the image has no nginx or no erb: project\.toml ", line)
        for line in machine.platform(None, env)
    )


def test_what_a_machine_and_its_settings_lack(project: Path, scratch: Path) -> None:
    module = project / "bokeh_dyno" / "start" / "nginx.py"  # it looks beyond PATH
    module.write_text(re.sub(r"^SBIN = .*", "SBIN = ()", module.read_text(), flags=re.MULTILINE))
    tools = scratch / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "env", "sh"):
        (tools / name).symlink_to(shutil.which(name))
    env = environment(PATH=str(tools))
    assert_wrong(doctor(project, env, code=1), ["there is no python3 of 3.10 or later here .*: run bin/setup"])

    python = tools / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (project / ".venv").mkdir()
    (project / "requirements.txt").write_text(
        "flask==0.1\nno-such-package==1; python_version > '3'\nnever; python_version < '3'\n"
    )
    lines = doctor(project, env, code=1, command="ulimit -n 900; bin/doctor")
    assert_wrong(
        lines,
        [
            r"\.venv has a Python that does not run .*: run bin/setup",
            "requirements.txt has no-such-package, which Python has not: run bin/setup",
            "nginx is not installed: run bin/setup",
            "erb is not installed .*: run bin/setup",
        ],
    )
    for pattern in (
        "requirements.txt has other versions than Python: flask==0.1, not ",
        "a process may open 900 files",
        "config/nginx.conf.erb is not checked",
    ):
        assert any(re.match(f"note {pattern}", line) for line in lines), pattern

    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    env |= {
        "BOKEH_SECRET_KEY": "x" * 40,
        "BOKEH_WORKER": "3",
        "WEB_CONCURRENCY": "many",
        "METRICS_TOKEN": "short and bad",
    }
    lines = doctor(project, env, code=1)
    for pattern in (
        "Python has no package bokeh, .*: run bin/setup",
        "BOKEH_SECRET_KEY=of 40 characters is not allowed: ",
        "WEB_CONCURRENCY='many' is not allowed: ",
        "METRICS_TOKEN=of 13 characters is not allowed: ",
        "BOKEH_WORKER is no config var: BOKEH_WORKERS is: rename it",
    ):
        assert any(re.match(f"WRONG {pattern}", line) for line in lines), (pattern, lines)
    assert lines[-1] == "note no dyno is asked before the settings are right"


@pytest.mark.parametrize(
    "url", ["www.example.com", "ftp://a@b", "http://", "http://a b", "http://a:port", "https://\u00e4"]
)
def test_an_address_that_is_none_is_known(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (it has no message)
        visit.Site(url)


def test_an_address_that_is_none_is_refused_without_being_repeated(project: Path) -> None:
    command = [sys.executable, "-m", "bokeh_dyno", "doctor", "--url", "ftp://a:let-me-in@b"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].endswith("--url is no address such as https://www.example.com")
    assert "let-me-in" not in result.stderr


def test_the_copy_of_the_script_is_the_same() -> None:
    ours = ROOT / "bokeh_dyno" / "start" / "project" / "bin" / "doctor"
    assert filecmp.cmp(ROOT / "bin" / "doctor", ours, shallow=False), "cp bin/doctor bokeh_dyno/start/project/bin/"
