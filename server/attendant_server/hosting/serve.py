"""The Ray Serve application: one Gateway ingress deployment, one Engine deployment a model.

``build_app`` is what ``serve run`` and a Kubernetes RayService name as import path; its arguments have the schema of
``attendant serve --config``. Serve's environment (``ray_environment.data_plane``) must be that of the whole cluster.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting.adapter_paths import assign_adapters
from attendant_server.hosting.autoscaling import autoscaling_config
from attendant_server.hosting.blueprint import Blueprint
from attendant_server.hosting.engine_names import engine_deployment_name
from attendant_server.hosting.engine_replica import EngineReplica
from attendant_server.hosting.gateway_replica import GatewayReplica
from attendant_server.hosting.model_directory import NOT_BY_BUILDER
from attendant_server.hosting.model_paths import resolve_model, resolve_models
from attendant_server.hosting.reservations import engine_resources, gateway_cpus, placement

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
    return _of_version(gateway(serve.ingress()(GatewayReplica)), blueprint.release).bind(settings, engines, blueprint, application_of)


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


def make_link_token() -> str:
    """Return the secret that gateways show to engines: derived from the cluster's own token, so that it outlives a redeployment."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    cluster_token = os.environ.get("RAY_AUTH_TOKEN") or (Path(path).read_text().strip() if path else "")
    if not cluster_token:
        return secrets.token_hex(32)
    return hmac.new(cluster_token.encode(), b"attendant link", hashlib.sha256).hexdigest()
