"""deploy/kubernetes: kustomize builds it, Kubernetes' own schemas take it, and it fits the dyno that it starts.

Without a cluster: what no schema here knows (an HTTPRoute) is compared with what its documentation names.
"""

from __future__ import annotations

import copy
import http.client
import importlib.util
import itertools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from dyno_under_test import ROOT, wait_for

from bokeh_dyno.shared import settings
from bokeh_dyno.shared.settings import SETTINGS
from bokeh_dyno.start import collector, dyno, generations

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.32", "1.37")  # of Kubernetes
OVERLAYS = ("one-tier", "two-tiers")
KEY = secrets.token_hex(32)
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/kubernetes with a secret in it, as a person has it."""
    folder = tmp_path_factory.mktemp("deploy") / "kubernetes"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("secret.env"))
    example = (folder / "base" / "secret.env.example").read_text()
    assert "BOKEH_SECRET_KEY=\n" in example
    (folder / "base" / "secret.env").write_text(example.replace("BOKEH_SECRET_KEY=\n", f"BOKEH_SECRET_KEY={KEY}\n"))
    return folder


@pytest.fixture(scope="module")
def built(source: Path) -> dict[str, list[Manifest]]:
    """What kustomize makes of each overlay, and of the one-tier one with each component."""
    kubectl = shutil.which("kubectl", path=f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}")
    if not kubectl:
        pytest.skip("there is no kubectl for this machine: deploy/kubernetes was not built")
    names = {name: (name, None) for name in OVERLAYS}
    for component in sorted(path.name for path in (source / "components").iterdir()):
        names[component] = ("one-tier", component)
    made = {}
    for name, (overlay, component) in names.items():
        folder = source / "overlays" / overlay
        if component:
            folder = source / "overlays" / f"with-{component}"
            folder.mkdir()
            resources = f"resources: [../{overlay}]\ncomponents: [../../components/{component}]\n"
            (folder / "kustomization.yaml").write_text(resources)
        said = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        assert (said.returncode, said.stderr) == (0, ""), said.stderr
        made[name] = list(yaml.safe_load_all(said.stdout))
    return made


def of_kind(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Return the one manifest of a kind."""
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"].startswith(name)]
    return found


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in ("Deployment", "StatefulSet")]


def container(workload: Manifest) -> Manifest:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return found


def config_vars(manifests: list[Manifest], workload: Manifest) -> dict[str, str]:
    """Return the environment of a workload's container: of its ConfigMap and Secret, as they are named, and its own."""
    env: dict[str, str] = {}
    for one in container(workload)["envFrom"]:
        ((reference, named),) = one.items()
        found = of_kind(manifests, {"configMapRef": "ConfigMap", "secretRef": "Secret"}[reference], named["name"])
        secret = found["kind"] == "Secret"
        env |= {name: KEY if secret else value for name, value in found["data"].items()}
    return env | {one["name"]: one["value"] for one in container(workload).get("env", [])}


# --- the schemas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(built: dict[str, list[Manifest]], version: str) -> None:
    if not importlib.util.find_spec("kubernetes_validate"):
        pytest.skip("there is no kubernetes_validate: deploy/kubernetes was not compared with Kubernetes' schemas")
    import kubernetes_validate

    for manifest in {str(one): one for one in itertools.chain(*built.values())}.values():
        if manifest["kind"] != "HTTPRoute":  # which is no part of Kubernetes: see below
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_route_has_what_the_gateway_api_names(built: dict[str, list[Manifest]]) -> None:
    # there is no schema of it in a package: these are the fields of https://gateway-api.sigs.k8s.io/reference/spec/#httproute
    route = of_kind(built["gateway"], "HTTPRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert set(route["spec"]) == {"parentRefs", "hostnames", "rules"}
    (rule,) = route["spec"]["rules"]
    assert set(rule) == {"matches", "backendRefs", "timeouts"}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert rule["timeouts"] == {"request": "0s"}
    service = of_kind(built["gateway"], "Service")
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}]
    assert not [one for one in built["gateway"] if one["kind"] == "Ingress"]


def test_git_and_docker_ignore_the_secret() -> None:
    ignored = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "check-ignore", "-q", "deploy/kubernetes/base/secret.env"],
        cwd=ROOT,
        check=False,
    )
    assert ignored.returncode == 0
    assert "deploy" in (ROOT / ".dockerignore").read_text().splitlines()


# --- the dyno ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_config_vars_are_those_of_the_dyno(built: dict[str, list[Manifest]], overlay: str) -> None:
    for workload in workloads(built[overlay]):
        env = config_vars(built[overlay], workload)
        assert env.keys() <= SETTINGS.keys()
        values = settings.read(env)  # raises what the boot would say
        assert values.forwarded_allow_ips != ("127.0.0.1", "::1")
    first = config_vars(built[overlay], workloads(built[overlay])[0])
    with pytest.raises(settings.SettingsError, match="BOKEH_SECRET_KEY"):  # of the example, as it is
        settings.read({**first, "BOKEH_SECRET_KEY": "", "WEB_CONCURRENCY": "0"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_waits_for_as_long_as_a_start_and_a_stop_may_take(
    built: dict[str, list[Manifest]], overlay: str
) -> None:
    linger = 20  # STOP_LINGER, at most
    longest = linger + max(dyno.DRAIN_SECONDS - linger, dyno.LEAST_DRAIN_SECONDS) + generations.STOP_SECONDS
    for workload in workloads(built[overlay]):
        one = container(workload)
        (_, before) = one["lifecycle"]["preStop"]["exec"]["command"]
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= int(before) + longest + 2
        startup = one["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] > int(SETTINGS["BOOT_TIMEOUT"].default)
        for probe in (startup, one["readinessProbe"]):
            assert probe["httpGet"] == {"path": "/healthz", "port": "http"}
            assert probe["timeoutSeconds"] == 5
        # until no router sends any more, a dyno serves: before SIGTERM, and after it for STOP_LINGER
        noticed = one["readinessProbe"]["periodSeconds"] * one["readinessProbe"]["failureThreshold"]
        assert noticed <= int(before) + int(SETTINGS["STOP_LINGER"].default)
        assert one["livenessProbe"]["tcpSocket"] == {"port": "http"}
        assert one["ports"] == [{"containerPort": int(SETTINGS["PORT"].default), "name": "http"}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_no_right_that_it_does_not_need(built: dict[str, list[Manifest]], overlay: str) -> None:
    run_dir = re.search(r"RUN_DIR=(\S+)", (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1])[1]
    for workload in workloads(built[overlay]):
        pod, one = workload["spec"]["template"]["spec"], container(workload)
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        (mount,) = one["volumeMounts"]
        assert run_dir.startswith(f"{mount['mountPath']}/")
        assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == [mount["name"]]
        assert one["image"] == "bokeh-dyno:latest"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_pods_selects_those_that_there_are(built: dict[str, list[Manifest]], overlay: str) -> None:
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in workloads(built[overlay])
    }
    assert {one["app.kubernetes.io/name"] for one in labels.values()} == {"bokeh-dyno"}
    for kind, path in (("Service", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        found = [one for one in built[overlay] if one["kind"] == kind]
        assert {one["metadata"]["name"] for one in found} == labels.keys()
        for one in found:
            selector = one["spec"][path]
            assert selector.get("matchLabels", selector) == labels[one["metadata"]["name"]], (kind, one)
    autoscaler = of_kind(built[overlay], "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    scaled = of_kind(built[overlay], autoscaler["kind"], autoscaler["name"])
    assert "replicas" not in scaled["spec"]
    assert scaled["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_ingress_lets_in_what_the_dyno_lets_in(built: dict[str, list[Manifest]]) -> None:
    ingress = of_kind(built["one-tier"], "Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{SETTINGS['MAX_UPLOAD_MB'].default}m"
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    service = of_kind(built["one-tier"], "Service")
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": service["spec"]["ports"][0]["name"]},
    }


# --- two tiers --------------------------------------------------------------------------------------------------------


def test_flask_names_every_pod_of_bokeh(built: dict[str, list[Manifest]]) -> None:
    tiers = built["two-tiers"]
    bokeh, service = of_kind(tiers, "StatefulSet"), of_kind(tiers, "Service", "bokeh")
    name, replicas = bokeh["metadata"]["name"], bokeh["spec"]["replicas"]
    assert service["spec"]["clusterIP"] == "None"
    assert bokeh["spec"]["serviceName"] == service["metadata"]["name"]
    port = container(bokeh)["ports"][0]["containerPort"]
    names = [f"{name}-{number}.{service['metadata']['name']}:{port}" for number in range(replicas)]
    flask = settings.read(config_vars(tiers, of_kind(tiers, "Deployment")))
    assert list(flask.bokeh_upstream) == names
    apart = settings.read(config_vars(tiers, bokeh))
    assert (apart.web_concurrency, apart.bokeh_upstream, apart.force_https) == (0, (), False)
    assert apart.bokeh_secret_key == flask.bokeh_secret_key


def test_flask_may_reach_bokeh_and_nobody_else_does(built: dict[str, list[Manifest]]) -> None:
    tiers = built["two-tiers"]
    flask, bokeh = (of_kind(tiers, "NetworkPolicy", name)["spec"] for name in ("web", "bokeh"))
    (who,) = bokeh["ingress"][0]["from"]
    assert who == {"podSelector": flask["podSelector"]}
    assert {"podSelector": bokeh["podSelector"]} in [to for rule in flask["egress"] for to in rule["to"]]


# --- the component ----------------------------------------------------------------------------------------------------


def test_it_scales_on_a_metric_that_there_is(built: dict[str, list[Manifest]]) -> None:
    metrics = of_kind(built["sessions"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [one["type"] for one in metrics] == ["Resource", "Pods"]
    name = metrics[1]["pods"]["metric"]["name"].removeprefix(collector.PREFIX)
    assert f'_gauge("{name}"' in Path(collector.__file__).read_text()
    # below what a dyno opens: BOKEH_MAX_SESSIONS of each worker
    most = int(SETTINGS["BOKEH_MAX_SESSIONS"].default) * int(SETTINGS["BOKEH_WORKERS"].default)
    assert int(metrics[1]["pods"]["target"]["averageValue"]) < most


# --- podman, which plays the Deployment with its ConfigMap and its Secret ---------------------------------------------


def podman(*arguments: str) -> str:
    """Return what podman prints. Raises AssertionError with its last words."""
    said = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def play(manifests: list[Manifest], folder: Path) -> None:
    """Have podman play manifests; skip where it may not make a pod. Up to 4.3 it takes no Secret, but one of its own."""
    path = folder / "played.yaml"
    path.write_text(yaml.safe_dump_all(manifests))
    try:
        podman("kube", "play", str(path))
    except AssertionError as error:
        if "cgroup" in str(error):
            pytest.skip(f"podman cannot make a pod here, nothing was played: {str(error).splitlines()[0]}")
        if "is not valid JSON" not in str(error):
            raise
        podman("kube", "down", str(path))
        secret = of_kind(manifests, "Secret")
        (folder / "secret.json").write_text(json.dumps(secret["data"]))
        subprocess.run(["podman", "secret", "rm", secret["metadata"]["name"]], capture_output=True, check=False)
        podman("secret", "create", secret["metadata"]["name"], str(folder / "secret.json"))
        path.write_text(yaml.safe_dump_all(one for one in manifests if one is not secret))
        podman("kube", "play", str(path))


def test_podman_plays_the_deployment_and_stops_it_under_load(
    built: dict[str, list[Manifest]], tmp_path: Path, record_property
) -> None:
    image = os.environ.get("TEST_IMAGE", "")
    if not image or not shutil.which("podman"):
        pytest.skip("TEST_IMAGE names no image, or there is no podman: no manifest was played")
    manifests = copy.deepcopy(
        [one for one in built["one-tier"] if one["kind"] in ("Deployment", "ConfigMap", "Secret")]
    )
    container(of_kind(manifests, "Deployment"))["image"] = image
    try:
        play(manifests, tmp_path)
        infra = podman("pod", "inspect", "--format", "{{.InfraContainerID}}", "web-pod-0")
        networks = json.loads(podman("inspect", "--format", "{{json .NetworkSettings.Networks}}", infra))
        (address,) = [network["IPAddress"] for network in networks.values()]

        def ask(path: str) -> int:
            connection = http.client.HTTPConnection(address, int(SETTINGS["PORT"].default), timeout=30)
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except OSError:
                return 0
            finally:
                connection.close()

        wait_for("the site", lambda: ask("/healthz") == 200, 60)
        answers: list[tuple[float, int]] = []  # when it was asked, and the status

        def ask_until_the_port_is_closed() -> None:
            while not answers or answers[-1][1]:
                answers.append((time.monotonic(), ask("/")))

        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(ask_until_the_port_is_closed)
            wait_for("some answers", lambda: len(answers) > 100)
            stopped = time.monotonic()
            podman("stop", "-t", "40", "web-pod-0-web")
        served = [status for began, status in answers if began < stopped + int(SETTINGS["STOP_LINGER"].default)]
        assert set(served) == {200}
        assert podman("inspect", "--format", "{{.State.ExitCode}}", "web-pod-0-web") == "0"
        record_property("figure", f"{len(served)} requests, none lost")
    finally:
        subprocess.run(["podman", "kube", "down", str(tmp_path / "played.yaml")], capture_output=True, check=False)
        name = of_kind(manifests, "Secret")["metadata"]["name"]
        subprocess.run(["podman", "secret", "rm", name], capture_output=True, check=False)
