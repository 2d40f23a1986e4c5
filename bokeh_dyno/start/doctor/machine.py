"""What bin/doctor finds out about this machine, and about the platform that it belongs to."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bokeh_dyno.shared import container, sigterm
from bokeh_dyno.shared.settings import ROOT, SETTINGS, Settings
from bokeh_dyno.start import check, erb, nginx

MEMORY_FILE = Path("/proc/meminfo")
ROUTER_SECONDS = 30  # after which Heroku's router answers itself (H12)
BOOT_SECONDS = 60  # after which Heroku ends a dyno that does not listen (R10)
SHOWN = 6  # packages in one line


def python() -> Iterator[str]:
    """Yield a line about this Python and the virtual environment."""
    version, venv = ".".join(map(str, sys.version_info[:3])), ROOT / ".venv"
    wrong = ""
    if (venv / "unfinished").exists():
        wrong = "is not finished: run bin/setup again"
    elif venv.is_dir() and not _runs(str(venv / "bin" / "python"), "-c", ""):
        wrong = "has a Python that does not run (it is gone, or another version): run bin/setup, which makes .venv anew"
    elif (made_for := _read(venv / "made-for").rsplit(" ", 2)[0]) and Path(made_for) != Path(os.path.realpath(venv)):
        wrong = "was made in another folder: run bin/setup, which makes .venv anew"
    if wrong:
        yield f"WRONG .venv {wrong}"
    elif venv.is_dir() and Path(os.path.realpath(sys.prefix)) != Path(os.path.realpath(venv)):
        yield f"note Python {version} is not that of .venv: deactivate the other environment, or unset VIRTUAL_ENV"
    else:
        yield f"ok   Python {version}"
    meant = _read(ROOT / ".python-version").strip()
    if re.match(r"3\.[0-9]+", meant) and not f"{version}.".startswith(f"{meant}."):
        yield f"note .python-version has {meant} for a deploy, and here it is {version}"


def packages() -> Iterator[str]:
    """Yield lines about what is installed beside what requirements.txt has."""
    if lacking := check.missing_packages():
        yield f"WRONG Python has no package {', '.join(lacking)} ({sys.executable}): run bin/setup; is it in requirements.txt?"
        return
    from bokeh_dyno.shared import private

    absent, other = _compare(ROOT / "requirements.txt")
    if absent:
        yield f"WRONG requirements.txt has {_some(absent)}, which Python has not: run bin/setup"
    if other:
        yield f"note requirements.txt has other versions than Python: {_some(other)}: run bin/setup, or change the pins"
    try:
        private.check_version()
    except private.VersionError as error:
        yield f"WRONG {error} and run bin/setup"
        return
    version = importlib.metadata.version("bokeh")
    # the version that is pinned here has been looked at, which takes a second
    if f"bokeh=={version}" != private.PINS and (line := private.warning(version)):
        yield f"note {line.removeprefix('warning: ')}: a newer bokeh-dyno may know it (CHANGELOG.md)"
    elif not absent and not other:
        yield f"ok   packages, with Bokeh {version}"


def _compare(path: Path) -> tuple[list[str], list[str]]:
    """Return the packages of a requirements.txt, and of those that it includes, that are missing, and those of other versions."""
    if importlib.util.find_spec("packaging") is None or not path.is_file():
        return [], []
    from packaging.requirements import InvalidRequirement, Requirement

    absent, other = [], []
    for line in path.read_text(errors="replace").splitlines():
        if included := re.match(r"\s*(?:-r|--requirement)[\s=]+(\S+)", line):
            more = _compare(path.parent / included[1])
            absent += more[0]
            other += more[1]
        try:
            wanted = Requirement(re.sub(r"(^|\s)#.*|\\$|\s--hash\S+", "", line).strip())
        except InvalidRequirement:  # an option, a path, nothing
            continue
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(wanted.name)
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            other.append(f"{wanted.name}{wanted.specifier}, not {version}")
    return absent, other


def _some(names: list[str]) -> str:
    return "; ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)


def programs() -> Iterator[str]:
    """Yield lines about nginx and erb."""
    try:
        yield f"ok   nginx {nginx.version(nginx.find())}"
    except nginx.NginxError as error:
        yield f"WRONG {error}" + ": run bin/setup" * (not isinstance(error, nginx.NotInstalledError))
    if erb.find():
        yield "ok   erb"
    else:
        yield "WRONG erb is not installed (it comes with ruby): run bin/setup, or apt-get install ruby"


def limits(values: Settings | None) -> Iterator[str]:
    """Yield lines about open files, memory, and the shield against SIGTERM."""
    wanted = values.nginx_worker_connections if values else int(SETTINGS["NGINX_WORKER_CONNECTIONS"].default)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        yield (
            f"note a process may open {hard} files, and NGINX_WORKER_CONNECTIONS is {wanted}: raise the limit (`ulimit -Hn`, "
            f"LimitNOFILE= of systemd, `ulimits` of a container), or set NGINX_WORKER_CONNECTIONS={hard}"
        )
    else:
        yield f"ok   open files: {'any number' if hard == resource.RLIM_INFINITY else hard}"
    yield from _memory()
    shield, reason = sigterm.shield()
    if shield:
        yield "ok   seccomp: a stop is heard by those alone that finish their requests"
    else:
        yield (
            f"note no shield against SIGTERM ({reason}): where a platform sends it to every process, as Heroku does, a stop "
            "cuts requests off"
        )


def _memory() -> Iterator[str]:
    limit, needed = container.limits(os.environ).memory, container.IDLE
    if limit and limit < needed:
        yield f"WRONG {limit / 1e6:.0f} MB of memory are too few, a dyno takes {needed / 1e6:.0f}: give the container 512 MiB"
    elif (free := _free_memory()) and free < needed:
        yield f"note {free / 1e6:.0f} MB of memory are free, a dyno takes {needed / 1e6:.0f}: end something, or have more of it"
    else:
        yield "ok   memory" + (f": {limit / container.MIB:.0f} MiB for this container" if limit else "")


def _free_memory() -> int:
    try:
        found = re.search(r"^MemAvailable: *([0-9]+) kB$", MEMORY_FILE.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def platform(values: Settings | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield lines about where this runs: Heroku's dynos, images of Cloud Native Buildpacks, other containers."""
    by_buildpacks = Path("/cnb").is_dir() or any(name.startswith("CNB_") for name in environ)
    if dyno := environ.get("DYNO"):
        yield f"ok   this is Heroku's dyno {dyno}" + ", built by Cloud Native Buildpacks" * by_buildpacks
        if not by_buildpacks:
            yield from _slug()
        if values:
            yield from _on_heroku(values)
    elif by_buildpacks:
        yield "ok   this is an image of Cloud Native Buildpacks"
    elif "KUBERNETES_SERVICE_HOST" in environ:
        yield "ok   this is a container of Kubernetes"
    if by_buildpacks and not (nginx.is_installed() and erb.find()):
        yield "WRONG the image has no nginx or no erb: project.toml names them for heroku/deb-packages, before heroku/python"


def _slug() -> Iterator[str]:
    """Yield lines about what Heroku's buildpacks have left."""
    if not nginx.is_installed():
        yield "WRONG nginx's buildpack is missing: heroku buildpacks:add --index 1 heroku-community/nginx, and deploy again"
    if not (ROOT / ".static").is_dir():
        yield (
            "note bin/post_compile has not run, which Python's buildpack does at the end of a build: is it in git, executable? "
            "(`heroku buildpacks` lists the buildpacks: first heroku-community/nginx, then heroku/python)"
        )


def _on_heroku(values: Settings) -> Iterator[str]:
    if "*" not in values.forwarded_allow_ips:
        yield (
            "WRONG FORWARDED_ALLOW_IPS is not *, so all visitors have the router's address, and its limits: "
            "heroku config:set 'FORWARDED_ALLOW_IPS=*'"
        )
    if not values.force_https:
        yield "note pages are shown over http, too: heroku config:set FORCE_HTTPS=1"
    if values.request_timeout > ROUTER_SECONDS:
        yield f"note REQUEST_TIMEOUT={values.request_timeout} is longer than the router waits, {ROUTER_SECONDS} s (H12): set 29"
    if values.boot_timeout > BOOT_SECONDS:
        yield f"note BOOT_TIMEOUT={values.boot_timeout} is longer than Heroku waits, {BOOT_SECONDS} s (R10): set 55"


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
