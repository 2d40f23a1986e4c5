"""Who is compared: each peer is a function that says what to run and where it answers, for the same site and apps.

A new peer is one more adapter: a function whose docstring is its name in the tables, beside the Bokeh that it runs on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from dyno_under_test import ROOT, copy_project, free_port, procfile_line

from bench.client import WrongAnswer
from bench.server import SITE, Server, Urls

APPS = "bokeh_app/curve bokeh_app/large"
VENV = ROOT / ".venv"
# the Bokeh of Python 3.10 and 3.11; bin/bench makes a virtual environment with it, as bin/test --bokeh does
OLDER = re.search(r"^bokeh==(.+); python_version <", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
OLDER_VENV = ROOT / f".venv-bokeh-{OLDER}"
PATH = os.pathsep.join([".", str(ROOT)])  # the folder's flask_app, not the example


def bokeh_of(venv: Path) -> str:
    """Return the version of Bokeh in a virtual environment."""
    (found,) = venv.glob("lib/python3*/site-packages/bokeh-*.dist-info")
    return found.stem.removeprefix("bokeh-")


# the clients of a load have one address
UNLIMITED = dict.fromkeys(
    ("VISITOR_CONNECTIONS", "VISITOR_SESSIONS", "BOKEH_MAX_SESSIONS", "BOKEH_MAX_STARTS"), "10000"
)


def dropping(unused: int) -> str:
    """Return the options of `bokeh serve` that drop a session so many ms after its page was closed; 0: as it comes."""
    return f" --unused-session-lifetime {unused} --check-unused-sessions {min(unused, 17_000)}" if unused else ""


def lasting(unused: int) -> dict[str, str]:
    """Return the same for the servers of bench/peer_servers.py."""
    return {"BENCH_UNUSED": str(unused or 15_000)}


def dyno(
    server: Server,
    venv: Path = VENV,
    example: bool = False,
    bokeh: str = "",
    unused: int = 0,
    further: Mapping[str, str] | None = None,
    **env: str,
) -> Urls:
    """this dyno"""
    port = free_port()
    copy_project(server.folder, None if example else SITE)
    for name, main in (further or {}).items():  # apps
        (server.folder / "bokeh_app" / name).mkdir()
        (server.folder / "bokeh_app" / name / "main.py").write_text(main)
    procfile = server.folder / "Procfile.dyno"
    procfile.write_text(procfile.read_text().rstrip() + f" {bokeh}{dropping(unused)}\n")
    build = {**os.environ, "PATH": f"{venv}/bin{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
    built = subprocess.run(
        [server.folder / "bin" / "post_compile"], env=build, capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise WrongAnswer(f"bin/post_compile: {built.stderr[-2000:]}")
    line = procfile_line(server.folder)
    server.run(f"/bin/sh -c 'exec {line}'", venv=str(venv), PORT=str(port), **UNLIMITED, **env)
    site = f"http://127.0.0.1:{port}"
    return Urls(site, [f"{site}/healthz"], f"{site}/bkapp", f"{site}/apps" if example else "")


def older(server: Server, **options: object) -> Urls:
    """this dyno"""
    if not OLDER_VENV.exists():
        raise WrongAnswer(f"there is no {OLDER_VENV.name}: bin/bench makes it")
    return dyno(server, OLDER_VENV, **options)


def direct(server: Server, unused: int = 0) -> Urls:
    """gunicorn and `bokeh serve` on two ports"""
    flask, bokeh = free_port(), free_port()
    server.prepare()
    # our gunicorn in every respect, only without nginx
    server.run(
        f"gunicorn --config python:bokeh_dyno.flask.gunicorn --bind 127.0.0.1:{flask} flask_app:create_app()",
        PYTHONPATH=PATH, BENCH_BOKEH_URL=f"http://127.0.0.1:{bokeh}",
    )  # fmt: skip
    server.run(f"bokeh serve {APPS}{dropping(unused)} --port {bokeh} --allow-websocket-origin 127.0.0.1:{flask}")
    site, apps = f"http://127.0.0.1:{flask}", f"http://127.0.0.1:{bokeh}"
    return Urls(site, [site, f"{apps}/curve/metadata"], apps)


def nginx(server: Server, unused: int = 0) -> Urls:
    """nginx and server_document as documented"""
    port, flask, *bokeh = (free_port() for _ in range(4))
    server.prepare()
    site = f"http://127.0.0.1:{port}"
    server.run(f"gunicorn --workers 2 --bind 127.0.0.1:{flask} flask_app:create_app()", BENCH_BOKEH_URL=f"{site}/bkapp")
    for number in bokeh:
        server.run(
            f"bokeh serve {APPS}{dropping(unused)} --port {number} --prefix /bkapp --use-xheaders"
            f" --allow-websocket-origin 127.0.0.1:{port}"
        )
    server.nginx(port, f"127.0.0.1:{flask}", bokeh, "least_conn")
    return Urls(site, [site, *(f"http://127.0.0.1:{number}/bkapp/curve/metadata" for number in bokeh)], f"{site}/bkapp")


def tornado(server: Server, unused: int = 0) -> Urls:
    """the forum thread's Tornado proxy"""
    port, bokeh = free_port(), free_port()
    server.prepare()
    site = f"http://127.0.0.1:{port}"
    server.run(
        f"python -m bench.peer_servers tornado {port} {bokeh}",
        PYTHONPATH=PATH, BENCH_BOKEH_URL=f"{site}/bkapp",
    )  # fmt: skip
    server.run(
        f"bokeh serve {APPS}{dropping(unused)} --port {bokeh} --prefix /bkapp --allow-websocket-origin 127.0.0.1:{port}"
    )
    return Urls(site, [site, f"{site}/bkapp/curve/metadata"], f"{site}/bkapp")


def embedded(server: Server, unused: int = 0) -> Urls:
    """Bokeh's flask_gunicorn_embed"""
    port = free_port()
    server.prepare()
    server.run(
        f"gunicorn --workers 2 --bind 127.0.0.1:{port} bench.peer_servers:embedded()",
        PYTHONPATH=PATH, BENCH_ORIGIN=f"127.0.0.1:{port}", **lasting(unused),
    )  # fmt: skip
    site = f"http://127.0.0.1:{port}"
    return Urls(site, [site])


def fastapi(server: Server, unused: int = 0) -> Urls:
    """bokeh-fastapi on uvicorn, Flask mounted"""
    port = free_port()
    server.prepare()
    server.run(
        f"uvicorn --factory bench.peer_servers:fastapi --port {port} --no-access-log",
        PYTHONPATH=PATH, BENCH_ORIGIN=f"127.0.0.1:{port}", **lasting(unused),
    )  # fmt: skip
    site = f"http://127.0.0.1:{port}"
    return Urls(site, [site], site, views=site)


def asgi(server: Server, unused: int = 0, workers: int = 1) -> Urls:
    """BokehASGI on uvicorn, Flask mounted"""
    port = free_port()
    server.prepare()
    site = f"http://127.0.0.1:{port}"
    server.run(
        f"uvicorn --factory bench.peer_servers:asgi --port {port} --no-access-log --workers {workers}",
        PYTHONPATH=PATH, BENCH_BOKEH_URL=f"{site}/bkapp", **lasting(unused),
    )  # fmt: skip
    return Urls(site, [site], f"{site}/bkapp")


def asgi_workers(server: Server, unused: int = 0) -> Urls:
    """BokehASGI, uvicorn --workers 2, no affinity"""
    return asgi(server, unused, workers=2)


def asgi_nginx(server: Server, unused: int = 0) -> Urls:
    """BokehASGI, two uvicorns behind nginx with ip_hash"""
    port, *bokeh = (free_port() for _ in range(3))
    server.prepare()
    site = f"http://127.0.0.1:{port}"
    for number in bokeh:
        server.run(
            f"uvicorn --factory bench.peer_servers:asgi --port {number} --no-access-log",
            PYTHONPATH=PATH, BENCH_BOKEH_URL=f"{site}/bkapp", **lasting(unused),
        )  # fmt: skip
    server.nginx(port, "myapp", bokeh, "ip_hash")  # a session is in one process, and so is the site
    return Urls(site, [*(f"http://127.0.0.1:{number}" for number in bokeh), site], f"{site}/bkapp")


def bokeh_serve(server: Server, unused: int = 0, example: bool = False) -> Urls:
    """`bokeh serve` alone"""
    port = free_port()
    server.prepare(ROOT / "bokeh_app" if example else SITE)
    apps = "sliders" if example else APPS
    server.run(f"bokeh serve {apps}{dropping(unused)} --port {port}")
    site = f"http://127.0.0.1:{port}"
    return Urls(site, [f"{site}/{'sliders' if example else 'curve'}/metadata"], site, views=site)


ADAPTERS = {
    adapter.__name__: adapter
    for adapter in (
        dyno, older, direct, nginx, tornado, embedded, fastapi, asgi, asgi_nginx, asgi_workers, bokeh_serve,
    )
}  # fmt: skip
# what has its own place: the older Bokeh, a visitor in two processes by chance, what is no site with apps in it
PEERS = [name for name in ADAPTERS if name not in ("older", "asgi_workers", "bokeh_serve")]
VERSIONS = dict.fromkeys(ADAPTERS, version("bokeh")) | {"dyno": bokeh_of(VENV), "older": OLDER}
BOTH = ["older", "dyno"] if VERSIONS["dyno"] != OLDER else ["dyno"]  # this dyno on each version that there is
TITLES = {name: f"{adapter.__doc__} ({VERSIONS[name]})" for name, adapter in ADAPTERS.items()}


def peer(name: str) -> Server:
    """Return the peer of this name, not started."""
    return Server(name, ADAPTERS[name], VERSIONS[name])


@contextlib.contextmanager
def running(names: Iterable[str], **options: object) -> Iterator[dict[str, Server]]:
    """Run the peers of these names, started together, until the end of the block; options are for their adapters.

    One that does not start says so when it is asked for something.
    """
    servers = {name: peer(name) for name in names}
    try:
        for step in (lambda server: server.start(**options), Server.wait):
            for server in servers.values():
                try:
                    step(server)
                except WrongAnswer as error:
                    server.fail(error)
        yield servers
    finally:
        for server in servers.values():
            server.end()
        for server in servers.values():
            server.stop()
