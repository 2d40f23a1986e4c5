"""Every config var: what is refused, what is taken, and that docs/settings.md says the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dyno_under_test import ROOT, settings_of

KEY = "8b1f0c3de5a749628d0f7ce1b3a5946d7720c4f1e98ba3d56c0f12e4a7b98c3d"
GOOD = {
    "PORT": ["1", "80", "5000", "65535"],
    "WEB_CONCURRENCY": ["0", "1", "64"],
    "BOKEH_WORKERS": ["1", "4", "64"],
    "BOKEH_UPSTREAM": ["10.0.0.7:5000", "bokeh-1.internal:80, bokeh_2:65535", "[::1]:5000"],
    "BOKEH_PREFIX": ["/bkapp", "/a/b/c", "/plots_1.0-x"],
    "FORCE_HTTPS": ["0", "1"],
    "ALLOWED_HOSTS": ["a.example", "a.example, *.b.example,localhost", "[::1]"],
    "MAINTENANCE": ["0", "1"],
    "MAX_UPLOAD_MB": ["1", "20", "10000"],
    "REQUEST_TIMEOUT": ["1", "29", "86400"],
    "CONTENT_SECURITY_POLICY": ["on", "report", "off"],
    "FRAME_ANCESTORS": ["self", "none", "*", "https://a.example, http://*.b.example:8080"],
    "STOP_LINGER": ["0", "3", "20"],
    "LOG_FORMAT": ["text", "json"],
    "METRICS_TOKEN": ["x" * 16, KEY],
    "METRICS_ALLOW_IPS": ["*", "10.0.0.0/8, ::1"],
    "SENTRY_DSN": ["https://abc123@o1.ingest.sentry.example/45", "http://k:s@localhost:9000/sentry/1"],
    "RUN_DIR": ["run", "run here", "/tmp/x"],
    "BOOT_TIMEOUT": ["1", "55", "3600"],
    "BOKEH_WARM": ["0", "1"],
    "BOKEH_HANG_TIMEOUT": ["0", "60", "86400"],
    "GENERATION_LIFETIME": ["0", "3600", "86400"],
    "BOKEH_MAX_MEMORY": ["0", "512", "1000000"],
    "BOKEH_MESSAGE_MEMORY": ["0", "200", "1000000"],
    "BOKEH_MESSAGE_SECONDS": ["0", "2", "3600"],
    "BOKEH_UNFINISHED_MEMORY": ["1", "64", "1000000"],
    "BOKEH_MAX_SESSIONS": ["1", "400", "1000000"],
    "BOKEH_MAX_STARTS": ["1", "20", "10000"],
    "VISITOR_SESSIONS": ["1", "100", "1000000"],
    "VISITOR_CONNECTIONS": ["1", "500", "65536"],
    "NGINX_WORKERS": ["1", "64"],
    "NGINX_WORKER_CONNECTIONS": ["32", "65536"],
    "NGINX_ACCESS_LOG_PATH": ["/dev/stdout", "off", "logs/nginx/access.log"],
    "NGINX_ERROR_LOG_PATH": ["stderr", "logs/nginx/error.log"],
    "FORWARDED_ALLOW_IPS": ["*", "127.0.0.1", "10.0.0.0/8, ::1,fd00::/8"],
    "REAL_IP_HEADER": ["X-Forwarded-For", "Fly-Client-IP", "X-Real-IP"],
    "BOKEH_SESSIONS": ["open", "flask"],
    "BOKEH_RESOURCES": ["server", "cdn"],
    "BOKEH_SECRET_KEY": [KEY],
    "BOKEH_TOKEN_LIFETIME": ["60", "93600", "31536000"],
    "BOKEH_ALLOW_WS_ORIGIN": ["a.example", "a.example:8080,*.b.example", "*", "localhost:*", "[::1]:5000"],
    "BOKEH_PY_LOG_LEVEL": ["info", "DEBUG", "none"],
}
NO_NUMBER = ["", "x", "1.5", "-1", "0x10", " 7", "+7", "1_000", "٣", "1e3", "7\n"]
WRONG = {
    "PORT": [*NO_NUMBER, "0", "65536", "$PORT"],
    "WEB_CONCURRENCY": [*NO_NUMBER, "65"],
    "BOKEH_WORKERS": [*NO_NUMBER, "0", "65"],
    "BOKEH_UPSTREAM": ["host", ":80", "host:", "host:0", "host:65536", "http://host:80", "a:1,,b:2", "a:1;", "a:1 b:2"],
    "BOKEH_PREFIX": [
        "/",
        "bkapp",
        "/bkapp/",
        "//a",
        "/a//b",
        "/a b",
        "/..",
        "/a/../b",
        "/a;",
        '/a"',
        "/ä",
        "/a\n",
        "/a$b",
    ],
    "FORCE_HTTPS": ["2", "true", "yes", "on", " 1"],
    "ALLOWED_HOSTS": ["https://a.example", "a.example:80", "a b", "a;b", "*", "*.*.a", "a,,b"],
    "MAINTENANCE": ["2", "true", " 1"],
    "MAX_UPLOAD_MB": [*NO_NUMBER, "0", "10001", "20m"],
    "REQUEST_TIMEOUT": [*NO_NUMBER, "0", "86401", "29s"],
    "CONTENT_SECURITY_POLICY": ["1", "ON", "default-src 'self'"],
    "FRAME_ANCESTORS": ["'self'", "a.example", "https://a.example/", "https://a;b", "self none"],
    "STOP_LINGER": [*NO_NUMBER, "21"],
    "LOG_FORMAT": ["JSON", "yaml"],
    "METRICS_TOKEN": ["x" * 15, "x" * 201, "a b c d e f g h i j", "x" * 15 + "ä"],
    "METRICS_ALLOW_IPS": ["x", "localhost", "1.2.3.4,,5.6.7.8"],
    "SENTRY_DSN": ["x", "https://a.example/1", "https://abc@a.example/", "https://abc@a.example/1;"],
    "RUN_DIR": ["x" * 81, 'a"b', "a$b", "a;b", "a{b", "a\nb"],
    "BOOT_TIMEOUT": [*NO_NUMBER, "0", "3601"],
    "BOKEH_WARM": ["2", "true", "no", " 1"],
    "BOKEH_HANG_TIMEOUT": [*NO_NUMBER, "86401"],
    "GENERATION_LIFETIME": [*NO_NUMBER, "86401"],
    "BOKEH_MAX_MEMORY": [*NO_NUMBER, "1000001", "1GB"],
    "BOKEH_MESSAGE_MEMORY": [*NO_NUMBER, "1000001", "200MB"],
    "BOKEH_MESSAGE_SECONDS": [*NO_NUMBER, "3601"],
    "BOKEH_UNFINISHED_MEMORY": [*NO_NUMBER, "0", "1000001"],
    "BOKEH_MAX_SESSIONS": [*NO_NUMBER, "0", "1000001"],
    "BOKEH_MAX_STARTS": [*NO_NUMBER, "0", "10001"],
    "VISITOR_SESSIONS": [*NO_NUMBER, "0", "1000001"],
    "VISITOR_CONNECTIONS": [*NO_NUMBER, "0", "65537"],
    "NGINX_WORKERS": [*NO_NUMBER, "0", "65", "auto"],
    "NGINX_WORKER_CONNECTIONS": [*NO_NUMBER, "31", "65537"],
    "NGINX_ACCESS_LOG_PATH": ["a b", "a;b", "a'b", "a$b", "a{"],
    "NGINX_ERROR_LOG_PATH": ["a b", "a;b", "a'b", "a$b", "a{"],
    "FORWARDED_ALLOW_IPS": ["x", "1.2.3", "127.0.0.1;", "10.0.0.0/", "localhost", "1.2.3.4,,5.6.7.8", "999.1.1.1", ":"],
    "REAL_IP_HEADER": ["X Real", "X-Real-IP;", "X_Real_IP", "-X", "x" * 65, "proxy_protocol"],
    "BOKEH_SESSIONS": ["closed", "Flask", "open "],
    "BOKEH_RESOURCES": ["inline", "CDN", "server-dev", "absolute", "relative"],
    "BOKEH_SECRET_KEY": ["x", "x" * 64, "secret", "0123456789" * 5, "correct horse battery staple"],
    "BOKEH_TOKEN_LIFETIME": [*NO_NUMBER, "59", "31536001"],
    "BOKEH_ALLOW_WS_ORIGIN": [
        "https://a.example",
        "a.example/",
        "a b",
        "a.example:x",
        "a;b",
        "a.example,,b",
        "-a.example",
    ],
    "BOKEH_PY_LOG_LEVEL": ["loud", "info;", " info", "warn", "10"],
}


def refusals(*environs: dict[str, str]) -> list[list[str]]:
    """Return what bokeh_dyno.shared.settings says of each of these sets of config vars, a line each."""
    program = """if True:
        import json, sys
        from bokeh_dyno.shared.settings import SettingsError, read
        def lines(env):
            try:
                read(env)
            except SettingsError as error:
                return str(error).splitlines()
            return []
        print(json.dumps([lines(env) for env in json.load(sys.stdin)]))"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        input=json.dumps(environs),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def test_every_setting_is_tried_here() -> None:
    known = set(settings_of(ROOT))
    assert known == set(GOOD)
    assert known == set(WRONG)


def test_the_defaults_are_allowed() -> None:
    assert refusals({}, settings_of(ROOT)) == [[], []]


@pytest.mark.parametrize("name", GOOD)
def test_good_values_are_taken(name: str) -> None:
    tried = [{"BOKEH_SECRET_KEY": KEY, name: value} for value in ["", *GOOD[name]]]  # an empty one counts as not set
    assert refusals(*tried) == [[] for _ in tried]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_by_name(name: str) -> None:
    values = [value for value in WRONG[name] if value]
    for value, lines in zip(values, refusals(*({name: value} for value in values)), strict=True):
        assert len(lines) == 1, (value, lines)
        assert re.match(rf"{name}=.+ is not allowed: .+", lines[0]), value
        if name in ("BOKEH_SECRET_KEY", "METRICS_TOKEN", "SENTRY_DSN"):
            assert re.match(rf"{name}=of {len(value)} characters ", lines[0])


def test_what_is_wrong_together_is_refused() -> None:
    bokeh_alone, bokeh_elsewhere = {"WEB_CONCURRENCY": "0"}, {"BOKEH_UPSTREAM": "10.0.0.7:5000"}
    for env in (bokeh_alone, bokeh_elsewhere):
        ((line,),) = refusals(env)
        assert line.startswith("BOKEH_SECRET_KEY is not set: with ")
        assert next(iter(env)) in line
    ((line,),) = refusals({**bokeh_alone, **bokeh_elsewhere, "BOKEH_SECRET_KEY": KEY})
    assert line.startswith("WEB_CONCURRENCY=0 is not allowed with BOKEH_UPSTREAM")


def test_the_table_of_the_docs_is_that_of_the_settings() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    written = re.search(r"^<!-- settings -->\n(.*?)^<!-- /settings -->$", page, re.MULTILINE | re.DOTALL).group(1)
    program = [sys.executable, "-m", "bokeh_dyno", "settings"]
    made = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert written.strip() == made.strip()


def test_the_example_env_file_names_what_something_reads() -> None:
    names = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", Path(ROOT, ".env.example").read_text(), re.MULTILINE)
    assert names
    site = "\n".join(path.read_text() for path in Path(ROOT, "flask_app").glob("*.py"))
    read_by_the_site = re.findall(r'os\.environ\.get\("([A-Z_]+)"', site)
    assert set(names) <= set(settings_of(ROOT)) | set(read_by_the_site)
