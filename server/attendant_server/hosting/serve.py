"""The Ray Serve application: one Gateway ingress deployment, one Engine deployment a model.

``build_app`` is what ``serve run`` and a Kubernetes RayService name as import path; its arguments have the schema of
``attendant serve --config``. Serve's environment (``ray_environment.data_plane``) must be that of the whole cluster.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting.adapter_paths import assign_adapters
from attendant_server.hosting.autoscaling import autoscaling_config
from attendant_server.hosting.cpus import server_cpus
from attendant_server.hosting.engine_names import engine_deployment_name
from attendant_server.hosting.engine_replica import EngineReplica
from attendant_server.hosting.gateway_replica import GatewayReplica
from attendant_server.hosting.model_directory import NOT_BY_BUILDER
from attendant_server.hosting.model_paths import resolve_model, resolve_models

GATEWAY = "gateway"
GRPC_SERVICER_FUNCTIONS = [
    "attendant_server.grpc_api.services.add_inference_servicer",
    "attendant_server.grpc_api.services.add_health_servicer",
]
"""How Serve is told of our gRPC services; with our deserialisers, which the generated functions do not have."""

_ROUTER = "attendant_server.hosting.replica_watch:ReplicaWatch"
_MANY_REQUESTS = 1_000_000
"""Serve's own admission is out of the way: the gateway's permits decide, with an answer that says why."""
_STOP_MARGIN_S = 10.0
"""What stopping takes beside the requests' own time."""
_TOLD_AT_ONCE = {"max_constructor_retry_count": 1}
"""Of a model that comes later: somebody waits for it to load, or for the reason why it does not."""


def build_app(args: dict[str, Any]) -> Application:
    """Return the application for ``args``; no models means the bundled ones, as on the command line.

    Raises pydantic's ``ValidationError`` for settings that are none, ``ValueError`` for TLS, which is not Serve's to end, and for
    a model directory, and ``ModelPathError`` for a model that is not found.
    """
    settings = Settings.model_validate(args)
    if settings.model_directory is not None:
        raise ValueError(NOT_BY_BUILDER)
    if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
        raise ValueError("Ray Serve's own ports speak no TLS; end it at the cluster's gateway or ingress and leave tls_* out here.")
    named = [model.model_copy(update={"path": str(resolve_model(model.path).path)}) for model in settings.models]
    found = named or [ModelSettings(name=model.name, path=str(model.path)) for model in resolve_models([])]
    return make_application(settings.model_copy(update={"models": assign_adapters(found, settings.adapter)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What an application keeps when its models change while it runs.

    A deployment of the same ``release`` and options is left as it is. ``engine_options`` are Ray's for the engines of the
    models in ``first``; those that come later reserve nothing. ``log_path``: see ``log_pipe``, for one machine.
    """

    release: str
    link_token: str
    log_path: str | None
    first: frozenset[str]
    engine_options: Mapping[str, float]
    gateway_cpus: float


def make_application(settings: Settings, *, log_path: str | None = None) -> Application:
    """Return the application for settings whose models are directories. ``log_path``: see ``log_pipe``, for one machine."""
    nodes = ray.nodes() if ray.is_initialized() else []  # type: ignore[no-untyped-call]
    available = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    options = engine_resources(
        available,
        num_engines=len(settings.models) * settings.most_replicas,
        device=settings.device,
        num_ranks=settings.tensor_parallel,
    )
    blueprint = Blueprint(
        release=secrets.token_hex(8),
        link_token=make_link_token(),
        log_path=log_path,
        first=frozenset(model.name for model in settings.models),
        engine_options=options,
        gateway_cpus=gateway_cpus(available),
    )
    return application_of(settings, blueprint)


def application_of(settings: Settings, blueprint: Blueprint) -> Application:
    """Return the application with the models of ``settings``."""
    engines = {}
    for model in settings.models:
        name, is_first = engine_deployment_name(model.name), model.name in blueprint.first
        deployment = serve.deployment(
            name=name,
            **_scale(settings),
            **(placement(dict(blueprint.engine_options), settings.tensor_parallel) if is_first else {"ray_actor_options": {"num_cpus": 0}}),
            request_router_config=RequestRouterConfig(request_router_class=_ROUTER),  # type: ignore[arg-type]
            **(_lifecycle(settings) if is_first else _lifecycle(settings) | _TOLD_AT_ONCE),
        )(EngineReplica)
        version = f"{blueprint.release}-{hashlib.sha256(model.model_dump_json().encode()).hexdigest()[:16]}"
        engines[model.name] = (name, _of_version(deployment, version).bind(model, settings, blueprint.link_token, blueprint.log_path))
    gateway = serve.deployment(name=GATEWAY, ray_actor_options={"num_cpus": blueprint.gateway_cpus}, **_lifecycle(settings))
    return _of_version(gateway(serve.ingress()(GatewayReplica)), blueprint.release).bind(settings, engines, blueprint)


def _of_version(deployment: serve.Deployment, version: str) -> serve.Deployment:
    """Name a deployment's version, which Serve else draws anew at each deployment; it restarts what has another one."""
    return deployment.options(version=version, _internal=True)


def _scale(settings: Settings) -> dict[str, Any]:
    """Return how many replicas an engine deployment has."""
    if settings.min_replicas is None or settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    config = autoscaling_config(
        min_replicas=settings.min_replicas,
        max_replicas=settings.max_replicas,
        initial_replicas=settings.replicas,
        downscale_delay_s=settings.downscale_delay_s,
    )
    return {"autoscaling_config": config}


def placement(resources: dict[str, float], num_ranks: int) -> dict[str, Any]:
    """Return what a replica reserves. With several ranks that is a placement group of one bundle, so of one node.

    One bundle and not one a rank: the ranks are the replica's children, and Ray shows a process the GPUs of its own bundle only.
    """
    if num_ranks == 1:
        return {"ray_actor_options": resources}
    bundle = {{"num_cpus": "CPU", "num_gpus": "GPU"}[name]: count for name, count in resources.items()}
    return {"ray_actor_options": resources, "placement_group_bundles": [bundle], "placement_group_strategy": "STRICT_PACK"}


def _lifecycle(settings: Settings) -> dict[str, Any]:
    """Options of every deployment: no limit of Serve's own, quick eyes, and time to finish."""
    return {
        "max_ongoing_requests": _MANY_REQUESTS,
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 5.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": settings.drain_timeout_s + _STOP_MARGIN_S,
        "max_constructor_retry_count": 3,
    }


def gateway_cpus(nodes: list[dict[str, float]]) -> float:
    """Return the CPUs that the gateway is to reserve on ``nodes`` (Ray's resources of each)."""
    return server_cpus(min((node["CPU"] for node in nodes), default=1.0))


def engine_resources(nodes: list[dict[str, float]], *, num_engines: int, device: str, num_ranks: int = 1) -> dict[str, float]:
    """Return the CPUs and GPUs that each engine replica is to reserve on ``nodes`` for all its ranks together.

    An even share in steps of 0.01, never more than a node has beside a gateway; less than one where there is little, so
    that every replica finds a place. One CPU, and for ``cuda`` one GPU, where nothing is known of the nodes yet.
    """
    gpus = [node["GPU"] for node in nodes if node.get("GPU", 0) > 0]
    for_engines = [node["CPU"] - gateway_cpus(nodes) for node in nodes]
    num_cpus = _share(for_engines, num_engines) if for_engines else 1.0
    if device == "cpu" or (device == "auto" and not gpus):
        return {"num_cpus": num_cpus}
    # Ray gives more than one GPU in whole ones only, and one is all that a rank uses.
    if num_ranks > 1:
        return {"num_cpus": num_cpus, "num_gpus": float(num_ranks)}
    return {"num_cpus": num_cpus, "num_gpus": min(1.0, _share(gpus, num_engines)) if gpus else 1.0}


def _share(counts: list[float], num_engines: int) -> float:
    """Return an even share of what all nodes have, at most what the smallest has."""
    return max(0.01, int(100 * min(sum(counts) / max(1, num_engines), *counts)) / 100)


def make_link_token() -> str:
    """Return the secret that gateways show to engines: derived from the cluster's own token, so that it outlives a redeployment."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    cluster_token = os.environ.get("RAY_AUTH_TOKEN") or (Path(path).read_text().strip() if path else "")
    if not cluster_token:
        return secrets.token_hex(32)
    return hmac.new(cluster_token.encode(), b"attendant link", hashlib.sha256).hexdigest()
