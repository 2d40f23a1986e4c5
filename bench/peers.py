"""Who is compared: each peer is a function that says what to run and where it answers, for the same site and apps.

A new peer is one more adapter: a function whose docstring is its name in the tables, beside the Bokeh that it runs on.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from dyno_under_test import INHERITED, ROOT, copy_project, free_port, procfile_line, temporary_folder

from bench.client import Session, WrongAnswer, get, view
from dyno.signals import die_with_parent

SITE = ROOT / "bench" / "site"
APPS = "bokeh_app/curve bokeh_app/large"
VENV = ROOT / ".venv"
OLDER = "3.9.2"  # the Bokeh of Python 3.10 and 3.11; bin/bench makes its virtual environment, as bin/test --bokeh does
OLDER_VENV = ROOT / f".venv-bokeh-{OLDER}"
PATH = os.pathsep.join([".", str(ROOT)])  # the folder's flask_app, not the example
BOOT = 60.0  # seconds
# ms until a session is dropped that no page has open. Bokeh drops it after 15 s, this dyno after 180, and both halt for
# that: soon, where it belongs to what is measured, or not during the run.
SOON, LATER = 1000, 900_000
NGINX = """\
daemon off;
pid nginx.pid;
{user}events {{ worker_connections 4096; }}
error_log stderr;
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream myapp {{
        {balancing};
        server 127.0.0.1:{bokeh};
        server 127.0.0.1:{other};
    }}
    server {{
        listen {port};
        location / {{
            proxy_pass http://{flask};
            proxy_set_header Host $host:$server_port;
        }}
        location /bkapp {{
            proxy_pass http://myapp;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_http_version 1.1;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Host $host:$server_port;
            proxy_buffering off;
        }}
    }}
}}
"""


def bokeh_of(venv: Path) -> str:
    """Return the version of Bokeh in a virtual environment."""
    (found,) = venv.glob("lib/python3*/site-packages/bokeh-*.dist-info")
    return found.stem.removeprefix("bokeh-")


@dataclass
class Urls:
    """Where a peer answers."""

    site: str
    ready: list[str]  # all of it works when all of these answer
    bokeh: str = ""  # above the apps and /static, where there is one such URL
    views: str = ""  # above the pages with an app, when those are not the site's


class Server:
    """One peer with its processes, in a folder of its own, where nothing of it is left afterwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = temporary_folder() / "app"
        self.runs = self.folder.parent / "runs"
        self._log = self.folder.parent / "log"
        self._started: list[subprocess.Popen] = []
        self.began = self._ending = 0.0
        self._urls: Urls | None = None
        self._failed = ""

    # --- for the adapters ---

    def prepare(self, source: Path = SITE) -> None:
        """Put the site and its apps into the folder."""
        shutil.copytree(source, self.folder, ignore=shutil.ignore_patterns("__pycache__"))

    def nginx(self, port: int, flask: str, bokeh: list[int], balancing: str) -> None:
        """Start nginx as Bokeh's documentation shows it, before Flask and two Bokeh servers."""
        user = "user root; " if os.getuid() == 0 else ""
        ports = {"port": port, "bokeh": bokeh[0], "other": bokeh[1]}
        (self.folder / "nginx.conf").write_text(NGINX.format(flask=flask, balancing=balancing, user=user, **ports))
        self.run(f"nginx -p {self.folder} -c nginx.conf")

    def run(self, command: str, venv: str = sys.prefix, **env: str) -> None:
        """Start a process; it inherits a PATH that begins with the venv, and next to nothing else."""
        self.began = self.began or time.monotonic()
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        path = os.pathsep.join([f"{venv}/bin", os.environ["PATH"], "/usr/sbin"])
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                shlex.split(command), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**inherited, "PATH": path, "VIRTUAL_ENV": venv, "BENCH_RUNS": str(self.runs), **env},
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self._started.append(process)

    # --- for the measures ---

    def start(self, **options: object) -> None:
        """Start its processes; see `wait`. options are those of its adapter."""
        self._urls = ADAPTERS[self.name](self, **options)

    def fail(self, error: Exception) -> None:
        """Note why it does not run: whoever asks it for something is told so."""
        self._failed = str(error)

    @property
    def urls(self) -> Urls:
        """Where it answers. Raises WrongAnswer when it did not start."""
        if self._failed:
            raise WrongAnswer(self._failed)
        return self._urls

    def wait(self) -> float:
        """Wait until all of it answers; return the seconds since the start."""
        for url in self.urls.ready:
            while True:
                if ended := [process.returncode for process in self._started if process.poll() is not None]:
                    raise WrongAnswer(f"{self.name} ended with {ended[0]}: {self.log()[-2000:]}")
                try:
                    get(url)
                    break
                except (OSError, WrongAnswer):
                    time.sleep(0.005)
                if time.monotonic() > self.began + BOOT:
                    raise WrongAnswer(f"{url} does not answer within {BOOT} s: {self.log()[-2000:]}")
        return time.monotonic() - self.began

    def view_url(self, app: str) -> str:
        """Return the URL of the page with an app in it."""
        return f"{self.urls.views or f'{self.urls.site}/view'}/{app}"

    def view(self, app: str = "curve", deflate: bool = True) -> Session:
        """View the page with an app; see `bench.client.view`. Raises WrongAnswer when another Bokeh than said made it."""
        session = view(self.view_url(app), deflate=deflate)
        if session.bokeh != VERSIONS[self.name]:
            session.close()
            raise WrongAnswer(f"this is Bokeh {session.bokeh}, not {VERSIONS[self.name]}")
        return session

    def log(self) -> str:
        """Return what its processes have printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """Return all living processes: those started, their children, and orphans that run in the folder."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(self.folder):
                    found[process.pid] = process
        return list(found.values())

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time that its living processes have taken so far: of all, and of those that are nginx."""
        taken = [(process.name(), sum(process.cpu_times()[:2])) for process in self.processes()]
        return {"": sum(cpu for _, cpu in taken), "nginx ": sum(cpu for name, cpu in taken if name == "nginx")}

    def settle(self) -> float:
        """Wait until closed pages' sessions are dropped (see `dropping`), for a minute at most; return the seconds."""
        began, used = time.monotonic(), 1.0
        time.sleep(2 * SOON / 1000)
        while used > 0.1 and time.monotonic() < began + 60:
            before = self.cpu_seconds()[""]
            time.sleep(1)
            used = self.cpu_seconds()[""] - before
        return time.monotonic() - began - 1

    def pss(self) -> float:
        """Return its memory in MB: proportional set size, in which what n processes share counts 1/n for each."""
        return sum(process.memory_full_info().pss for process in self.processes()) / 1e6

    def app_runs(self) -> int:
        """Return how many times the app `curve` was run so far."""
        return self.runs.stat().st_size if self.runs.exists() else 0

    def end(self) -> None:
        """Tell all of it to stop, as a platform does, without waiting."""
        self._ending = self._ending or time.monotonic()
        for process in self._started:
            if process.poll() is None:
                process.terminate()

    def stop(self) -> float:
        """Stop everything, by force what takes more than 10 s, and remove the folder; return the seconds it took."""
        try:
            if not self._ending:
                self.end()
            while (left := self.processes()) and time.monotonic() < self._ending + 10:
                for process in self._started:
                    process.poll()  # lets it go
                time.sleep(0.01)
            taken = time.monotonic() - self._ending
            if left:
                print(f"bench: killed what was left of {self.name}: {left}", file=sys.stderr)
        finally:
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for process in self._started:
                process.wait()
            shutil.rmtree(self.folder.parent, ignore_errors=True)
        return taken


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
    server: Server, venv: Path = VENV, example: bool = False, bokeh: str = "", unused: int = 0, **env: str
) -> Urls:
    """this dyno"""
    port = free_port()
    copy_project(server.folder, None if example else SITE)
    procfile = server.folder / "Procfile.dyno"
    procfile.write_text(procfile.read_text().rstrip() + f" {bokeh}{dropping(unused)}\n")
    build = {**os.environ, "PATH": f"{venv}/bin{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
    subprocess.run([server.folder / "bin" / "post_compile"], env=build, check=True, capture_output=True)
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
        f"gunicorn --config python:dyno.gunicorn --bind 127.0.0.1:{flask} flask_app:create_app()",
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
# what is measured in its own place only: the older Bokeh (versions), a visitor's session in two processes (views)
PEERS = [name for name in ADAPTERS if name not in ("older", "asgi_workers", "bokeh_serve")]
VERSIONS = dict.fromkeys(ADAPTERS, version("bokeh")) | {"dyno": bokeh_of(VENV), "older": OLDER}
TITLES = {name: f"{adapter.__doc__} ({VERSIONS[name]})" for name, adapter in ADAPTERS.items()}


@contextlib.contextmanager
def running(names: Iterable[str], **options: object) -> Iterator[dict[str, Server]]:
    """Run the peers of these names, started together, until the end of the block; options are for their adapters.

    One that does not start says so when it is asked for something.
    """
    servers = {name: Server(name) for name in names}
    try:
        for step in (lambda server: server.start(**options), Server.wait):
            for server in servers.values():
                try:
                    step(server)
                except (WrongAnswer, OSError) as error:
                    server.fail(error)
        yield servers
    finally:
        for server in servers.values():
            server.end()
        for server in servers.values():
            server.stop()
