"""The image: what is in the Dockerfile, and a dyno that lives as it does in a container.

Most of it needs no engine. With one, and an image that is built, the last part tries that:
`docker build -t bokeh-dyno . && TEST_IMAGE=bokeh-dyno bin/test tests/test_containers.py`.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from dyno_under_test import (
    OTHER_SITE,
    ROOT,
    Dyno,
    copy_project,
    free_port,
    installed,
    source_files,
    temporary_folder,
    wait_for,
)
from load import Load
from test_drain import LINGER, STOP_LINGER
from test_faults import hears_sigterm
from test_start import assert_the_site_works

from bokeh_dyno.shared import settings
from bokeh_dyno.shared.settings import SETTINGS
from bokeh_dyno.start import dyno as start
from bokeh_dyno.start import generations

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = [f"FROM {stage}" for stage in DOCKERFILE.split("\nFROM ")[1:]]
SOMEBODY = 4242  # who is not in /etc/passwd


def instructions(stage: str, name: str) -> list[str]:
    """Return what the instructions of that name in a stage of the Dockerfile say, each as one line."""
    joined = re.sub(r"\\\n\s*", "", stage)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def environment() -> dict[str, str]:
    """Return what ENV sets in the image that is started."""
    pairs = [pair for stage in (STAGES[0], STAGES[-1]) for line in instructions(stage, "ENV") for pair in line.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def health_check() -> list[str]:
    """Return the command of HEALTHCHECK."""
    (line,) = instructions(STAGES[-1], "HEALTHCHECK")
    return json.loads(line.partition("CMD ")[2])


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing_wrong() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("there is no hadolint for this machine: the Dockerfile was not checked by it")
    said = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr, said.returncode) == ("", "", 0)


def test_the_image_is_what_its_documentation_says() -> None:
    last = STAGES[-1]
    assert instructions(last, "USER") == ["10001:0"]
    assert instructions(last, "EXPOSE") == [SETTINGS["PORT"].default]
    assert instructions(last, "STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(instructions(last, "CMD")[0]) == ["python3", "-m", "bokeh_dyno", "server"]
    env = environment()
    assert env["HOME"] == "/tmp"
    assert env["RUN_DIR"].startswith("/tmp/")
    SETTINGS["RUN_DIR"].check(env["RUN_DIR"])
    assert "/healthz" in " ".join(health_check())
    assert f"${{PORT:-{SETTINGS['PORT'].default}}}" in " ".join(health_check())


def test_the_build_leaves_nothing_of_root_where_the_dyno_runs() -> None:
    (build,) = [line for line in instructions(STAGES[1], "RUN") if "bokeh_dyno check" in line]
    assert "bokeh_dyno static" in build
    (run_dir,) = re.findall(r"RUN_DIR=(\S+)", build)
    assert not run_dir.startswith(environment()["RUN_DIR"])
    assert "RUN" not in [line.split(" ")[0] for line in STAGES[-1].splitlines()]  # all that was run is in other stages


# --- .dockerignore ----------------------------------------------------------------------------------------------------


def patterns(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_what_git_ignores_does_not_get_into_the_image() -> None:
    # in Docker's way of writing it: from the folder of the build, unless `**/` says anywhere
    wanted = [line.strip("/") if line.startswith("/") else f"**/{line.strip('/')}" for line in patterns(".gitignore")]
    missing = [one for one in wanted if not {one, one.removeprefix("**/")} & set(patterns(".dockerignore"))]
    assert missing == []
    assert set(patterns(".dockerignore")) >= {line.strip("/") for line in patterns(".slugignore")} | {".env", ".git"}


def test_the_image_has_what_a_dyno_needs_and_no_more() -> None:
    ignored = patterns(".dockerignore")
    names = {path.parts[0] for path in source_files()}
    kept = {name for name in names if not any(fnmatch.fnmatch(name, one.removeprefix("**/")) for one in ignored)}
    needed = {"Procfile", "Procfile.dyno", "bin", "bokeh_app", "bokeh_dyno", "config", "flask_app", "requirements.txt"}
    small = {".python-version", ".slugignore", "Aptfile", "LICENSE", "app.json", "pyproject.toml"}
    others = {name for name in names if re.fullmatch(r"requirements-\w+\.txt|\w+\.(toml|yaml|json)", name)}
    assert needed <= kept
    assert kept <= needed | small | others


# --- compose.yaml -----------------------------------------------------------------------------------------------------

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DYNOS = {name: one for name, one in COMPOSE["services"].items() if name.startswith("web-")}
ROUTER = ROOT / "deploy" / "compose" / "haproxy.cfg"


def test_compose_has_three_dynos_that_live_as_the_image_is_tried() -> None:
    assert list(DYNOS) == ["web-1", "web-2", "web-3"]
    linger = 20  # STOP_LINGER, at most
    longest = linger + max(start.DRAIN_SECONDS - linger, start.LEAST_DRAIN_SECONDS) + generations.STOP_SECONDS
    for one in DYNOS.values():
        assert (one["read_only"], one["tmpfs"], one["cap_drop"]) == (True, "/tmp", ["ALL"])
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert int(one["stop_grace_period"].removesuffix("s")) >= longest + 2
        assert one["env_file"] == ".env"
        settings.read({**one["environment"], "BOKEH_SECRET_KEY": ""})
        assert one["environment"].keys() - SETTINGS.keys() == {"REDIS_URL"}
        assert (ROOT / one["build"]["args"]["REQUIREMENTS"]).exists()
    assert re.search(r"redis://(\w+):6379", DYNOS["web-1"]["environment"]["REDIS_URL"])[1] in COMPOSE["services"]


def test_compose_has_the_router_that_the_dynos_are_tested_with() -> None:
    tested, ours = ((ROOT / "config" / "haproxy.cfg").read_text(), ROUTER.read_text())
    without = [re.sub(r"(?m)^#.*\n|^ +server .*\n|^    # by their names.*\n", "", text) for text in (tested, ours)]
    assert without[1].partition("\nresolvers docker\n")[0].rstrip() == without[0].rstrip()
    port = DYNOS["web-1"]["environment"]["PORT"]
    assert re.findall(r"server \S+ (\S+) resolvers docker init-addr libc,none", ours) == [f"{n}:{port}" for n in DYNOS]
    (volume,) = COMPOSE["services"]["router"]["volumes"]
    assert ROOT / volume.split(":")[0] == ROUTER
    (ports,) = COMPOSE["services"]["router"]["ports"]
    assert f"bind :{ports.rpartition(':')[2]}\n" in ours
    assert f"${{PORT:-{SETTINGS['PORT'].default}}}" in ports


def test_haproxy_takes_the_routers_file() -> None:
    haproxy = installed("haproxy")
    if not haproxy:
        pytest.skip("there is no haproxy here: deploy/compose/haproxy.cfg was not checked by it")
    said = subprocess.run([haproxy, "-c", "-f", str(ROUTER)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert re.findall(r"(?:WARNING|ALERT).*", re.sub(r".*could not resolve address.*", "", said.stderr)) == []


# --- a dyno as it is in a container, without one ----------------------------------------------------------------------

# as root of a mount namespace: all is read-only but the folder TMP, and what follows runs as somebody without any right
ENTER = """\
set -eu
mount --bind "$TMP" "$TMP"
mount --bind "$APP" "$APP"
mount -o remount,bind,ro "$APP"
mount -o remount,bind,ro / || echo "only $APP is read-only here"
exec setpriv --reuid=$ID --regid=$ID --clear-groups --no-new-privs $RIGHTS "$@"
"""
NO_RIGHTS = "--inh-caps=-all --bounding-set=-all"
# where the virtual environment is in root's home, somebody else needs the right to read (and to nothing more)
DAC_READ_SEARCH = 1 << 2
READING = "--securebits=+no_setuid_fixup --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"


def folders(app: Path) -> list[Path]:
    return [app, *(path for path in app.rglob("*") if path.is_dir() and not path.is_symlink())]


def in_a_container(app: Path, tmp: Path) -> list[str]:
    """Return what has to come before a command so that it finds what it would in a container: as far as one may here."""
    if os.getuid() != 0:
        for path in folders(app):
            path.chmod(0o555)
        return []
    if not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("only root here, and no setpriv or unshare to become somebody else")
    for rights in (NO_RIGHTS, READING):
        names = [f"APP={app}", f"TMP={tmp}", f"ID={SOMEBODY}", f"RIGHTS={rights}"]
        before = ["env", *names, "unshare", "--mount", "--propagation=private", "/bin/sh", "-c", ENTER, "enter"]
        # through a shell: setpriv itself still has root's rights when it starts the program
        check = [*before, "/bin/sh", "-c", 'exec "$0" -c "import bokeh"', sys.executable]
        tried = subprocess.run(check, capture_output=True, text=True, check=False)
        if not tried.returncode:
            return before
    return pytest.skip(f"somebody without rights cannot run {sys.prefix} here: {tried.stderr[-200:]}")


@pytest.fixture(scope="module")
def contained() -> Iterator[Dyno]:
    """A dyno as it is in a container: see ENTER."""
    scratch = temporary_folder()
    one = None
    try:
        app, tmp = copy_project(scratch / "app", OTHER_SITE), scratch / "tmp"
        tmp.mkdir()
        tmp.chmod(0o1777)
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(app)], check=True)
        env = {"HOME": str(tmp), "TMPDIR": str(tmp), "RUN_DIR": str(tmp / "bokeh-dyno"), "BOKEH_WORKERS": "1"}
        command = json.loads(instructions(STAGES[-1], "CMD")[0])
        one = Dyno(app, {**env, "STOP_LINGER": STOP_LINGER}, command, before=in_a_container(app, tmp))
        yield one.start()
    finally:
        if one:
            one.clean_up()
        for path in folders(scratch / "app"):
            path.chmod(0o755)
        shutil.rmtree(scratch)


def test_it_works_as_an_unknown_user_without_any_right_on_a_read_only_disk(contained: Dyno) -> None:
    assert_the_site_works(contained)
    if os.getuid() == 0:
        for process in contained.processes():
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert set(re.search(r"Uid:\t(.*)", status)[1].split()) == {str(SOMEBODY)}
            rights = {int(mask, 16) for mask in re.findall(r"Cap(?:Prm|Eff|Amb):\t(\w+)", status)}
            assert rights <= {0, DAC_READ_SEARCH}
            assert "NoNewPrivs:\t1" in status
    assert not re.search(r"(?i)error|warning|denied|read-only", contained.log())


def test_docker_and_the_dyno_are_of_one_mind_about_its_health(contained: Dyno) -> None:
    for port, code in ((contained.port, 0), (free_port(), 1)):
        said = subprocess.run(health_check(), env={"PORT": str(port)}, capture_output=True, timeout=30, check=False)
        assert said.returncode == code


def test_it_stops_under_load_without_a_loss_and_leaves_nothing(contained: Dyno) -> None:
    load = Load(contained, [0.01, 0.1, 1.0], clients=6).start()
    wait_for("requests", lambda: len(load.requests) > 20)
    stopped = time.monotonic()
    assert contained.stop(signal.SIGTERM) == 0, contained.log()
    assert len(load.stop()) > 20
    assert load.failed(until=stopped + LINGER) == []
    tmp = contained.folder.parent / "tmp"
    left = {str(path.relative_to(tmp / "bokeh-dyno")) for path in tmp.rglob("*") if not path.is_dir()}
    assert left <= {
        "lock",
        "generations.json",
        "nginx.conf",
        "closing",
    }  # what the next start begins with, or overwrites


def test_the_command_of_the_image_hears_sigterm_before_it_becomes_the_dyno(
    project: Path, dyno: Callable[..., Dyno]
) -> None:
    new = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() or subprocess.run([*new, "true"], check=False).returncode:
        pytest.skip("no PID namespace for this user")
    one = dyno(project, command=[*new, *json.loads(instructions(STAGES[-1], "CMD")[0])]).launch()
    first = wait_for("the first process", lambda: psutil.Process(one.process.pid).children())[0]
    # unshare has it wait, too, until it is about to become another program
    while first.name() == "unshare" or not hears_sigterm(first.pid):
        became = first.cmdline()[-1:]  # empty for a moment
        assert became in ([], ["server"]), "it has become the dyno, and did not hear SIGTERM until then"
    first.send_signal(signal.SIGTERM)
    assert one.wait() == 0, one.log()


# --- the image, with an engine ----------------------------------------------------------------------------------------

IMAGE = os.environ.get("TEST_IMAGE", "")
ENGINES_OWN = {name: text for name, text in os.environ.items() if name.startswith(("CONTAINERS_", "DOCKER_", "XDG_"))}
HARDENED = [
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=256m",
    "--cpus=1",
]


@pytest.fixture
def engine() -> str:
    """The path of docker, or of podman: whichever has the image."""
    if not IMAGE:
        pytest.skip("TEST_IMAGE names no image: none was tried")
    for found in filter(None, map(shutil.which, ("docker", "podman"))):
        if not subprocess.run([found, "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
            return found
    return pytest.skip(f"neither docker nor podman has the image {IMAGE}: it was not tried")


def asked(engine: str, *arguments: str) -> str:
    """Return what the engine answers. Raises CalledProcessError."""
    return subprocess.run([engine, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "options", [[], [f"--user={SOMEBODY}:{SOMEBODY}"], [f"--user={SOMEBODY}:{SOMEBODY}", "--init"]]
)
def test_the_image_serves_and_stops_under_load(engine: str, scratch: Path, options: list[str], record_property) -> None:
    name = f"bokeh-dyno-{os.getpid()}"
    port = free_port()
    mounts = [f"--volume={OTHER_SITE / room}:/app/{room}:ro" for room in ("flask_app", "bokeh_app")]
    run = [
        engine,
        "run",
        "--rm",
        f"--name={name}",
        f"--publish=127.0.0.1:{port}:5000",
        *HARDENED,
        *options,
        *mounts,
    ]
    one = Dyno(scratch, {"PORT": str(port), **ENGINES_OWN}, [*run, IMAGE])
    try:
        one.start()
        assert_the_site_works(one)
        user = options[0].removeprefix("--user=").partition(":")[0] if options else "10001"
        assert asked(engine, "exec", name, "id", "-u") == user
        assert asked(engine, "exec", name, "find", "/tmp", "-not", "-uid", user, "-not", "-path", "/tmp") == ""
        asked(engine, "exec", name, *health_check())
        began = re.search(r"ready after ([0-9.]+) s", one.log())[1]
        load = Load(one, [0.01, 0.1, 1.0, 3.0], clients=8).start()
        wait_for("requests", lambda: len(load.requests) > 20)
        stopped = time.monotonic()
        asked(engine, "stop", "-t", "40", name)
        assert one.wait() == 0, one.log()
        requests = load.stop()
        assert load.failed(until=stopped + int(SETTINGS["STOP_LINGER"].default)) == []
        record_property("figure", f"ready after {began} s, {len(requests)} requests, none lost: {' '.join(options)}")
    finally:
        subprocess.run([engine, "rm", "-f", name], capture_output=True, check=False)
        one.clean_up()


def test_the_image_is_small_and_has_no_tools_of_a_build(engine: str) -> None:
    assert int(asked(engine, "image", "inspect", "--format", "{{.Size}}", IMAGE)) <= 320_000_000
    look = "command -v gcc make pip git; find / -xdev -name '*.whl' -o -xdev -path '*/site-packages/pip'; ls -A /root/.cache"
    ran = [engine, "run", "--rm", "--user=0", IMAGE, "bash", "-c", look]
    assert subprocess.run(ran, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout == b""
