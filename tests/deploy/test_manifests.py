"""The Kubernetes manifests against the schemas of what reads them: Kubernetes, KubeRay, Ray Serve and our own settings.

No cluster runs here; what only a cluster can show is listed in ``deploy/README.md``.
"""

import copy
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from attendant_server.config import Settings
from attendant_server.hosting.compute_threads import wait_policy
from attendant_server.hosting.ray_environment import data_plane
from tests.deploy.kustomize import Manifest, render

_ROOT = Path(__file__).resolve().parents[2]
_KUBERNETES = _ROOT / "deploy" / "kubernetes"
_SCHEMA = _ROOT / "tests" / "data" / "schemas" / "rayservice-v1.schema.json"
# Run in a process of its own: Ray must not be imported here before tests that start a cluster have set its environment.
_CHECK_BY_SERVE = """
import json, sys
from ray.serve.schema import ServeDeploySchema
for config in json.load(sys.stdin):
    try:
        print(ServeDeploySchema.model_validate(config).model_dump_json())
    except ValueError as error:
        print(json.dumps({"refused": str(error)}))
"""
_IMPORT_AS_SERVE_DOES = """
import json, sys
from ray._common.utils import import_attr
from attendant_server.hosting.serve import GRPC_SERVICER_FUNCTIONS
assert all(callable(import_attr(path)) for path in json.load(sys.stdin))
print(json.dumps(GRPC_SERVICER_FUNCTIONS))
"""
_FOLDERS = ["base", "overlays/cpu-small", "overlays/gpu"]


@pytest.fixture(params=_FOLDERS)
def manifests(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    """Manifests of one kustomization by kind."""
    return _render(request.param)


@pytest.fixture(scope="module")
def checked_by_serve() -> dict[str, dict[str, Any]]:
    """Each folder's Serve configuration as Serve understands it, and under "no port" what it says of one with a port that is none."""
    configs = {folder: _serve_config(_render(folder)) for folder in _FOLDERS}
    configs["no port"] = _serve_config(_render("base"))
    configs["no port"]["http_options"]["port"] = "eight thousand"
    lines = _run_apart(_CHECK_BY_SERVE, list(configs.values())).splitlines()
    return dict(zip(configs, map(json.loads, lines), strict=True))


@pytest.fixture(scope="module")
def kuberay() -> Validator:
    """KubeRay's schema, itself checked once: it is large."""
    schema = json.loads(_SCHEMA.read_text("utf-8"))
    validator = validator_for(schema)
    validator.check_schema(schema)
    return validator(schema)


@pytest.mark.parametrize("folder", _FOLDERS)
def test_our_renderer_gives_what_kubectl_kustomize_gives(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; our renderer is compared with it where it is")
    command = ["kubectl", "kustomize", str(_KUBERNETES / folder)]
    expected = yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert {item["kind"]: item for item in render(_KUBERNETES / folder)} == {item["kind"]: item for item in expected}


def test_every_kind_of_manifest_is_there_once(manifests: dict[str, Manifest]) -> None:
    assert set(manifests) == {"Namespace", "RayService", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"}


def test_kubernetes_accepts_its_own_kinds(manifests: dict[str, Manifest]) -> None:
    for kind in ("Namespace", "NetworkPolicy", "PodDisruptionBudget"):
        kubernetes_validate.validate(manifests[kind], kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_accepts_the_pods_that_kuberay_makes(manifests: dict[str, Manifest]) -> None:
    for group in _groups(manifests):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_kuberay_accepts_the_rayservice(kuberay: Validator, manifests: dict[str, Manifest]) -> None:
    kuberay.validate(manifests["RayService"])


def test_a_misspelt_key_of_the_rayservice_is_refused(kuberay: Validator, manifests: dict[str, Manifest]) -> None:
    manifests["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpec"] = []
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        kuberay.validate(manifests["RayService"])


@pytest.mark.parametrize("folder", _FOLDERS)
def test_serve_accepts_the_serve_configuration_and_we_accept_its_arguments(
    folder: str, checked_by_serve: dict[str, dict[str, Any]]
) -> None:
    checked = checked_by_serve[folder]
    [application] = checked["applications"]
    settings = Settings.model_validate(application["args"])
    assert settings.models
    assert (settings.http_port, settings.grpc_port) == (checked["http_options"]["port"], checked["grpc_options"]["port"])
    assert settings.host == checked["http_options"]["host"]


def test_serve_refuses_a_port_that_is_no_port(checked_by_serve: dict[str, dict[str, Any]]) -> None:
    assert "http_options.port" in checked_by_serve["no port"]["refused"]


def test_what_serve_is_told_to_import_exists_and_is_what_the_server_uses() -> None:
    config = _serve_config(_render("base"))
    functions = config["grpc_options"]["grpc_servicer_functions"]
    [application] = config["applications"]
    assert json.loads(_run_apart(_IMPORT_AS_SERVE_DOES, [application["import_path"], *functions])) == functions


def test_overlays_change_the_arguments_of_the_application_and_nothing_else_of_serve(manifests: dict[str, Manifest]) -> None:
    config, base = _serve_config(manifests), _serve_config(_render("base"))
    for each in (config, base):
        del each["applications"][0]["args"]
    assert config == base


def test_every_ray_process_gets_the_data_plane_that_the_server_chooses_for_its_own_cluster(manifests: dict[str, Manifest]) -> None:
    for group in _groups(manifests):
        environment = {item["name"]: item["value"] for item in _container(group)["env"]}
        assert (data_plane() | wait_policy()).items() <= environment.items()


def test_the_ports_that_serve_listens_on_have_the_names_that_kuberay_looks_for(manifests: dict[str, Manifest]) -> None:
    config = _serve_config(manifests)
    for group in _groups(manifests):
        ports = {port["name"]: port["containerPort"] for port in _container(group)["ports"]}
        assert (ports["serve"], ports["serve-grpc"]) == (config["http_options"]["port"], config["grpc_options"]["port"])


def test_only_the_two_serving_ports_are_open_to_everyone(manifests: dict[str, Manifest]) -> None:
    rules = manifests["NetworkPolicy"]["spec"]["ingress"]
    open_to_all = [port["port"] for rule in rules if "from" not in rule for port in rule["ports"]]
    assert open_to_all == [8000, 9000]
    # A rule for the pods themselves is the only one that names no port.
    assert [rule["from"] for rule in rules if "ports" not in rule] == [[{"podSelector": manifests["NetworkPolicy"]["spec"]["podSelector"]}]]


def test_selectors_find_the_pods_and_ports_that_they_are_for(manifests: dict[str, Manifest]) -> None:
    head, *workers = _groups(manifests)
    for kind, groups in (("NetworkPolicy", [head, *workers]), ("PodMonitor", [head, *workers]), ("PodDisruptionBudget", workers)):
        spec = manifests[kind]["spec"]
        wanted = (spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"])["matchLabels"]
        for group in groups:
            assert wanted.items() <= group["template"]["metadata"]["labels"].items(), kind
    scraped = {endpoint["port"] for endpoint in manifests["PodMonitor"]["spec"]["podMetricsEndpoints"]}
    for group in (head, *workers):
        assert scraped <= {port["name"] for port in _container(group)["ports"]}


def test_pods_run_without_root_and_without_privileges(manifests: dict[str, Manifest]) -> None:
    for group in _groups(manifests):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert _container(group)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_workers_are_given_longer_to_end_than_requests_are_given_to_finish(manifests: dict[str, Manifest]) -> None:
    [application] = _serve_config(manifests)["applications"]
    settings = Settings.model_validate(application["args"])
    spec = manifests["RayService"]["spec"]
    for group in spec["rayClusterConfig"]["workerGroupSpecs"]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > settings.drain_timeout_s
    assert spec["rayClusterDeletionDelaySeconds"] > settings.request_timeout_s


def _render(folder: str) -> dict[str, Manifest]:
    return copy.deepcopy(_rendered(folder))


@functools.cache
def _rendered(folder: str) -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in render(_KUBERNETES / folder)}


def _serve_config(manifests: dict[str, Manifest]) -> dict[str, Any]:
    return dict(yaml.safe_load(manifests["RayService"]["spec"]["serveConfigV2"]))


def _run_apart(program: str, data: Any) -> str:
    """Return what a program prints that reads ``data`` as JSON."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=json.dumps(data), check=True, capture_output=True, text=True, timeout=90).stdout


def _groups(manifests: dict[str, Manifest]) -> list[dict[str, Any]]:
    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _container(group: dict[str, Any]) -> dict[str, Any]:
    [container] = group["template"]["spec"]["containers"]
    return dict(container)
