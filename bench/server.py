"""A peer that runs: its processes in a folder of its own, what they answer, take and leave."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from dyno_under_test import INHERITED, ROOT, temporary_folder

from bench.client import Session, WrongAnswer, get, view
from bokeh_dyno.shared.signals import die_with_parent

SITE = ROOT / "bench" / "site"
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


@dataclass
class Urls:
    """Where a peer answers."""

    site: str
    ready: list[str]  # all of it works when all of these answer
    bokeh: str = ""  # above the apps and /static, where there is one such URL
    views: str = ""  # above the pages with an app, when those are not the site's


class Server:
    """One peer with its processes, in a folder of its own, where nothing of it is left afterwards."""

    def __init__(self, name: str, adapter: Callable[..., Urls], bokeh: str) -> None:
        """Make a peer that an adapter starts; bokeh is the version that its documents have to be of."""
        self.name, self.bokeh, self._adapter = name, bokeh, adapter
        self.folder = temporary_folder() / "app"
        self.runs = self.folder.parent / "runs"
        self._log = self.folder.parent / "log"
        self._started: list[subprocess.Popen] = []
        self._commands: list[tuple[str, str, dict[str, str]]] = []
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
        self._commands.append((command, venv, env))
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
        """Start its processes; see `wait`. options are those of its adapter. Raises WrongAnswer when that fails."""
        try:
            self._urls = self._adapter(self, **options)
        except (OSError, subprocess.CalledProcessError) as error:
            raise WrongAnswer(f"{self.name} does not start: {error}") from error

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

    def crash(self) -> None:
        """Kill every process of it at once."""
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for process in self._started:
                process.wait()

    def start_again(self) -> None:
        """Start what was started, after a crash, and wait until all of it answers."""
        commands, self._commands, self._started = self._commands, [], []
        self.began = 0.0
        for command, venv, env in commands:
            self.run(command, venv, **env)
        self.wait()

    @property
    def main(self) -> int:
        """The pid of the first process that was started."""
        return self._started[0].pid

    def view_url(self, app: str) -> str:
        """Return the URL of the page with an app in it."""
        return f"{self.urls.views or f'{self.urls.site}/view'}/{app}"

    def view(self, app: str = "curve", deflate: bool = True) -> Session:
        """View the page with an app; see `bench.client.view`. Raises WrongAnswer when another Bokeh than said made it."""
        session = view(self.view_url(app), deflate=deflate)
        if session.bokeh != self.bokeh:
            session.close()
            raise WrongAnswer(f"this is Bokeh {session.bokeh}, not {self.bokeh}")
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
        taken = {"": 0.0, "nginx": 0.0}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                cpu = sum(process.cpu_times()[:2])
                taken[""] += cpu
                taken["nginx"] += cpu * (process.name() == "nginx")
        return taken

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
        """Return its memory in MB: proportional set size, in which what n processes share counts 1/n for each.

        Raises WrongAnswer when it did not start.
        """
        return sum(process.memory_full_info().pss for process in self.urls and self.processes()) / 1e6

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
