"""The Ray Serve application: one Gateway ingress deployment, one Engine deployment a model.

``build_app`` is what ``serve run`` and a Kubernetes RayService name as import path; its arguments have the schema of
``attendant serve --config``. Serve's environment (``ray_environment.data_plane``) must be that of the whole cluster.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from attendant_server.config import Settings
from attendant_server.hosting.engine_replica import EngineReplica
from attendant_server.hosting.gateway_replica import GatewayReplica

GATEWAY = "gateway"
GRPC_SERVICER_FUNCTIONS = [
    "attendant_server.grpc_api.services.add_inference_servicer",
    "attendant_server.grpc_api.services.add_health_servicer",
]
"""How Serve is told of our gRPC services; with our deserialisers, which the generated functions do not have."""

_ROUTER = "attendant_server.hosting.replica_watch:ReplicaWatch"
_GATEWAY_CPUS = 0.1
_MANY_REQUESTS = 1_000_000
"""Serve's own admission is out of the way: the gateway's permits decide, with an answer that says why."""
_STOP_MARGIN_S = 10.0
"""What stopping takes beside the requests' own time."""


def build_app(args: dict[str, Any]) -> Application:
    """Return the application for ``args``. Raises pydantic's ``ValidationError`` for settings that are none."""
    return make_application(Settings.model_validate(args))


def make_application(settings: Settings) -> Application:
    """Return the application for checked settings; must run where a Ray cluster is connected."""
    link_token = make_link_token()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    node_cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    num_cpus = cpus_per_engine(node_cpus, len(settings.models) * settings.replicas)
    engines = {}
    for model in settings.models:
        name = engine_deployment_name(model.name)
        deployment = serve.deployment(
            name=name,
            num_replicas=settings.replicas,
            ray_actor_options={"num_cpus": num_cpus, "num_gpus": 1 if settings.device == "cuda" else 0},
            request_router_config=RequestRouterConfig(request_router_class=_ROUTER),  # type: ignore[arg-type]
            **_lifecycle(settings),
        )(EngineReplica)
        engines[model.name] = (name, deployment.bind(model, settings, link_token))
    gateway = serve.deployment(name=GATEWAY, ray_actor_options={"num_cpus": _GATEWAY_CPUS}, **_lifecycle(settings))
    return gateway(serve.ingress()(GatewayReplica)).bind(settings, engines, link_token)


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


def engine_deployment_name(model: str) -> str:
    """Return a name that Serve's own names can hold, readable and different for different models."""
    slug = re.sub(r"[^A-Za-z0-9_.-]", "-", model)
    return f"engine-{slug}" if slug == model else f"engine-{slug}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def cpus_per_engine(node_cpus: list[float], num_engines: int) -> float:
    """Return the CPUs that each engine replica is to reserve: an even share, in steps of 0.01, that fits on every node.

    Less than one where the machine is small, so that every replica finds a place. A replica uses as many threads.
    """
    useful = [cpus for cpus in node_cpus if cpus > 0]
    if not useful:
        return 1.0
    share = (sum(useful) - _GATEWAY_CPUS) / max(1, num_engines)
    return max(0.01, int(100 * min(share, min(useful) - _GATEWAY_CPUS)) / 100)


def make_link_token() -> str:
    """Return the secret that gateways show to engines: derived from the cluster's own token, so that it outlives a redeployment."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    cluster_token = os.environ.get("RAY_AUTH_TOKEN") or (Path(path).read_text().strip() if path else "")
    if not cluster_token:
        return secrets.token_hex(32)
    return hmac.new(cluster_token.encode(), b"attendant link", hashlib.sha256).hexdigest()
