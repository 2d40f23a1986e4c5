"""The platforms' files and pages (docs/platforms/): held to the dyno, which runs behind what each platform's proxy sends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import run_for_the_session
from dyno_under_test import OTHER_SITE, ROOT, Dyno, token_in
from test_drain import is_open

from bokeh_dyno.shared.settings import SETTINGS, read
from bokeh_dyno.start import dyno as start_dyno
from bokeh_dyno.start import generations

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later can read TOML")
PAGES = sorted((ROOT / "docs" / "platforms").glob("*.md"))
SECRETS = {"BOKEH_SECRET_KEY", "SECRET_KEY"}


class Platform(NamedTuple):
    """What a platform is told: config vars, where it asks for health, on which port (None: its own), s from TERM to KILL."""

    env: dict[str, str]
    health: set[str]
    ports: set[int | None]
    stop: int


def render() -> Platform:
    (service,) = yaml.safe_load((ROOT / "render.yaml").read_text())["services"]
    assert (service["type"], service["runtime"]) == ("web", "docker")
    assert service["plan"] != "free"  # which takes no time to stop
    env = {one["key"]: one.get("value", "") for one in service["envVars"]}
    assert {one["key"] for one in service["envVars"] if one.get("generateValue")} == SECRETS
    return Platform(env, {service["healthCheckPath"]}, {None}, service["maxShutdownDelaySeconds"])


def fly() -> Platform:
    said = tomllib.loads((ROOT / "fly.toml").read_text())
    service = said["http_service"]
    assert said["kill_signal"] == "SIGTERM"
    assert said["build"]["dockerfile"] == "Dockerfile"
    assert service["http_options"]["idle_timeout"] > 60
    ports = {service["internal_port"], int(said["env"]["PORT"])}
    return Platform(said["env"], {one["path"] for one in service["checks"]}, ports, said["kill_timeout"])


def railway() -> Platform:
    said = json.loads((ROOT / "railway.json").read_text())
    assert said["build"] == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}
    page = (ROOT / "docs" / "platforms" / "railway.md").read_text()
    env = dict(re.findall(r"(\w+)=([^\s\"$]+)", "".join(re.findall(r"variable set .*", page))))
    return Platform(env, {said["deploy"]["healthcheckPath"]}, {None}, said["deploy"]["drainingSeconds"])


def cloud_run() -> Platform:
    template = yaml.safe_load((ROOT / "deploy" / "cloud-run.yaml").read_text())["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert template["spec"]["timeoutSeconds"] == 3600
    assert container["resources"]["limits"]["memory"] == "512Mi"  # what the defaults suit
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    assert {one["name"] for one in container["env"] if "valueFrom" in one} == SECRETS
    ports = {one["containerPort"] for one in container["ports"]}
    assert ports == {8080}  # which it then sets as PORT
    return Platform(env, {container["startupProbe"]["httpGet"]["path"]}, {None}, 10)


def azure() -> Platform:
    said = yaml.safe_load((ROOT / "deploy" / "azure.yaml").read_text())["properties"]
    (container,) = said["template"]["containers"]
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    assert {one["name"] for one in container["env"] if "secretRef" in one} == SECRETS
    known = {one["name"] for one in said["configuration"]["secrets"]}
    assert {one["secretRef"] for one in container["env"] if "secretRef" in one} < known
    asked = [probe["httpGet"] for probe in container["probes"]]
    ports = {said["configuration"]["ingress"]["targetPort"], *(one["port"] for one in asked)}
    stop = said["template"]["terminationGracePeriodSeconds"]
    return Platform(env, {one["path"] for one in asked}, ports, stop)


def digitalocean() -> Platform:
    (service,) = yaml.safe_load((ROOT / "deploy" / "digitalocean.yaml").read_text())["services"]
    assert service["dockerfile_path"] == "Dockerfile"
    env = {one["key"]: "" if one.get("type") == "SECRET" else one["value"] for one in service["envs"]}
    assert {one["key"] for one in service["envs"] if one.get("type") == "SECRET"} == SECRETS
    return Platform(env, {service["health_check"]["http_path"]}, {None}, service["termination"]["grace_period_seconds"])


PLATFORMS = [render, fly, railway, cloud_run, azure, digitalocean]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_a_platform_is_told_fits_the_dyno(platform: Callable[[], Platform]) -> None:
    said = platform()
    assert said.health == {"/healthz"}
    assert said.ports <= {None, int(SETTINGS["PORT"].default)}
    assert set(said.env) - SECRETS <= set(SETTINGS)
    values = read({name: value for name, value in said.env.items() if value})
    assert values.forwarded_allow_ips == ("*",)
    linger = values.stop_linger
    drain = max(start_dyno.DRAIN_SECONDS - linger, start_dyno.LEAST_DRAIN_SECONDS)
    if platform is cloud_run:
        assert (said.stop, linger) == (10, 0)
    else:
        assert said.stop >= linger + drain + start_dyno.CLOSE_SECONDS + generations.STOP_SECONDS + 2


def test_each_platform_has_a_page_of_one_screen_that_names_its_sources_and_what_was_tried() -> None:
    index = (ROOT / "docs" / "platforms" / "README.md").read_text()
    for page in PAGES:
        text = page.read_text()
        assert len(text.splitlines()) <= 45, page
        if page.name != "README.md":
            assert f"({page.name})" in index
            assert re.search(r"^(Not t|T)ried: ", text, re.MULTILINE), page
            assert "](https://" in text


def test_the_pages_commands_make_the_files_that_the_platforms_get(scratch: Path) -> None:
    for name, made in (("azure", "app.yaml"), ("digitalocean", "app.yaml"), ("cloud-run", "service.yaml")):
        page = (ROOT / "docs" / "platforms" / f"{name}.md").read_text()
        script = "".join(re.findall(r"^    (KEY\(\) .*\n|sed (?:.*\n)*?.*deploy/.*\n)", page, re.MULTILINE))
        assert f">{made}" in script
        env = {
            "PATH": os.environ["PATH"],
            "ENVIRONMENT_ID": "/subscriptions/1/x",
            "PASSWORD": "p+/=",
            "OUT": str(scratch),
        }
        script = script.replace(f">{made}", f'>"$OUT/{made}"').replace("|NAME|", "|plots|")  # a name of one's own
        subprocess.run(["bash", "-euc", script], cwd=ROOT, env=env, check=True)
        text = (scratch / made).read_text()
        values = list(scalars(yaml.safe_load(text)))
        left = {"BOKEH_SECRET_KEY", "SECRET_KEY", "STOP_LINGER", "FORCE_HTTPS", "FORWARDED_ALLOW_IPS", "REAL_IP_HEADER"}
        left |= {"SECRET", "RUN_TIME"}
        assert not [one for one in values if re.search(r"[A-Z]{4,}", one) and one not in left], name
        if name != "cloud-run":
            keys = [one for one in values if re.fullmatch(r"[0-9a-f]{64}", one)]
            assert len(set(keys)) == 2
            read({"BOKEH_SECRET_KEY": keys[0]})


def scalars(node: Any) -> Iterator[str]:
    """Yield every value of a document as text."""
    if isinstance(node, dict | list):
        for one in node.values() if isinstance(node, dict) else node:
            yield from scalars(one)
    else:
        yield str(node)


def test_the_pages_keys_are_taken() -> None:
    commands = {one for page in PAGES for one in re.findall(r"python3 (-c '[^']+')", page.read_text())}
    assert commands
    for command in commands:
        key = subprocess.run(["bash", "-c", f"python3 {command}"], capture_output=True, text=True, check=True).stdout
        assert read({"BOKEH_SECRET_KEY": key.strip()})


# --- behind a platform's proxy ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_fly() -> Iterator[Dyno]:
    """The dyno with what fly.toml sets, but for the port."""
    env = {name: value for name, value in fly().env.items() if name != "PORT"}
    yield from run_for_the_session(OTHER_SITE, "installed", **env)


def test_the_visitors_address_is_in_the_header_that_the_platform_has_for_it(on_fly: Dyno) -> None:
    headers = {"Fly_Client_IP": "1.2.3.4", "X_Forwarded_For": "1.2.3.4, 66.241.124.1", "X_Forwarded_Proto": "https"}
    assert on_fly.get("/echo", **headers).json["remote_addr"] == "1.2.3.4"
    assert on_fly.get("/healthz").status == 200  # the platform's check, which is no https
    assert on_fly.get("/echo", X_Forwarded_Proto="http").status == 308


def test_it_listens_on_both_kinds_of_addresses(on_fly: Dyno) -> None:
    conf = (on_fly.folder / "run" / "nginx.conf").read_text()
    assert f"listen {on_fly.port};" in conf
    if Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text():
        assert f"listen [::]:{on_fly.port};" in conf


def test_a_stop_with_pages_open_takes_less_than_the_seconds_of_cloud_run(
    project: Path, dyno: Callable[..., Dyno]
) -> None:
    one = dyno(project, {name: value for name, value in cloud_run().env.items() if value}).start()
    token = token_in(one.get("/with/counter", X_Forwarded_Proto="https").text)
    status, page = one.handshake("/bkapp/counter/ws", token, **{"X-Forwarded-Proto": "https"})
    with page:
        assert status == 101
        assert is_open(page)
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == 0
        assert time.monotonic() - began < 10
    one.assert_nothing_left()
