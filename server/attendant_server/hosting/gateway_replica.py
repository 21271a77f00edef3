"""The ingress deployment's class: gateway, gRPC methods and HTTP application in one replica.

Serve's own servers of the replica call it: a method an RPC, and the ASGI application. It hears from Serve which engine
replicas there are and keeps a link to each. Plain here; ``serve`` makes a deployment of it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from ray import serve
from ray.serve.handle import DeploymentHandle

from attendant_server.auth import ApiKeys
from attendant_server.config import Settings
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.results import ModelCard
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.tenants import Tenants
from attendant_server.grpc_api.call import GrpcCall, GrpcContext
from attendant_server.grpc_api.deserializer import MalformedMessage
from attendant_server.grpc_api.health import HealthHandlers
from attendant_server.grpc_api.key_check import process_gate
from attendant_server.grpc_api.servicer import InferenceHandlers
from attendant_server.hosting.adapter_paths import with_adapters
from attendant_server.hosting.blueprint import Blueprint
from attendant_server.hosting.engine_names import engine_deployment_name
from attendant_server.hosting.garbage import spare_what_is_loaded
from attendant_server.hosting.link_pool import LinkPool
from attendant_server.hosting.log_pipe import open_log
from attendant_server.hosting.one_request_id import OneRequestId
from attendant_server.hosting.ray_models import ApplicationOf, RayModels, handle_of, stored_models
from attendant_server.hosting.replica_directory import process_directory
from attendant_server.http_api.app import create_app
from attendant_server.link.client import LinkClient
from attendant_server.logging import configure_logging, log_event

_log = logging.getLogger(__name__)

_REPLACEMENT_S = 30.0  # Serve has replaced a dead replica of a small model long before
_PING_PAUSE_S = 1.0  # between two calls that are to wake a model's engines
_COLD_START_S = 120.0  # for a model without replicas: a process, its imports, and the weights of a large model


class GatewayReplica(InferenceHandlers, HealthHandlers):
    """One gateway of the application. ``engines`` has each model's deployment name and handle, in the order served."""

    def __init__(
        self,
        settings: Settings,
        engines: Mapping[str, tuple[str, DeploymentHandle[Any]]],
        blueprint: Blueprint,
        application_of: ApplicationOf,
    ) -> None:
        configure_logging(log_format=settings.log_format, level=settings.log_level, stream=open_log(blueprint.log_path))
        settings = settings.model_copy(update={"models": stored_models(settings, blueprint)})
        self._settings = settings
        models = {model.name: ServedModel.load(model.name, model.path, max_queue=settings.max_queue) for model in settings.models}
        self._pings: dict[str, asyncio.Task[None]] = {}
        self._link_token = blueprint.link_token
        self._links = LinkPool({engine_deployment_name(name): model for name, model in models.items()}, self._open_link)
        # A log file is shared on one machine alone; there Serve's gRPC port listens on every address, whatever its host says.
        self._is_behind_loopback = blueprint.log_path is not None and settings.host == "127.0.0.1"
        api_keys = ApiKeys.load(settings.api_key_file)
        self._core = Gateway(
            with_adapters(models, settings),
            api_keys=api_keys,
            tenants=Tenants(settings.tenants, api_keys.tenants),
            request_timeout_s=settings.request_timeout_s,
            host=None
            if settings.model_directory is None
            else RayModels(settings, blueprint, self._links, application_of=application_of, adopt=self._adopt, abandon=self._abandon),
            drain_timeout_s=settings.drain_timeout_s,
            trusts_all=self._is_behind_loopback,
        )
        InferenceHandlers.__init__(self, self._core, max_body_bytes=settings.max_body_bytes)
        HealthHandlers.__init__(self, self._core)
        process_gate().guard(self._core)
        self._drains = asyncio.Event()
        process_directory().listen(self._links.update)
        app = serve.get_replica_context().app_name
        for name, model in models.items():
            self._adopt(model, engines[name][1] if name in engines else handle_of(name, app))
        spare_what_is_loaded()

    def _open_link(self, replica_id: str, address: str) -> LinkClient:
        gateway_id: str = serve.get_replica_context().replica_id.unique_id
        return LinkClient(address, token=self._link_token, replica_id=replica_id, gateway_id=gateway_id)

    def _adopt(self, model: ServedModel, handle: DeploymentHandle[Any]) -> None:
        """Have a model's engines started when they are wanted."""
        model.replicas.may_sleep = self._settings.min_replicas == 0
        model.replicas.replacement_s = _COLD_START_S if model.replicas.may_sleep else _REPLACEMENT_S
        model.replicas.on_wanted = partial(self._wake, model.name, handle)
        # Serve makes a handle's router, and so tells of replicas, at the handle's first call.
        self._wake(model.name, handle)

    def _wake(self, model: str, handle: DeploymentHandle[Any]) -> None:
        """Call a model's engines once; Serve starts a replica where there is none and one is allowed."""
        if model not in self._pings:
            task = self._pings[model] = asyncio.ensure_future(self._call_once(handle))
            task.add_done_callback(partial(self._has_called, model))

    def _has_called(self, model: str, task: asyncio.Task[None]) -> None:
        if self._pings.get(model) is task:
            del self._pings[model]

    def _abandon(self, model: ServedModel) -> None:
        """Call a model's engines no more: a call may wait for ever for what is gone."""
        if (task := self._pings.pop(model.name, None)) is not None:
            task.cancel()

    @staticmethod
    async def _call_once(handle: DeploymentHandle[Any]) -> None:
        try:
            await handle.ping.remote()
        except Exception as error:
            # The router exists all the same, and it tells of the replacement.
            log_event(_log, logging.WARNING, "an engine replica did not answer a call", error=type(error).__name__)
        await asyncio.sleep(_PING_PAUSE_S)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Serve the HTTP application."""
        app = create_app(self._core, self._settings)
        app.add_middleware(OneRequestId)
        return app

    def _let_in(self, call: GrpcCall, endpoint: str, request: Message | MalformedMessage) -> None:
        """Let in as everywhere, but on a machine of our own only what came through its front: Serve's port is open to all."""
        if self._is_behind_loopback and not call.is_from_loopback:
            raise ServingError("invalid_api_key", "this port is the server's own; call the address that the server printed at its start")
        super()._let_in(call, endpoint, request)

    async def models(self) -> tuple[ModelCard, ...]:
        """Describe the served models, for the driver's ready text."""
        return self._core.list_models()

    async def drain(self) -> None:
        """Refuse new calls at once; return when none is left. The caller sets the limit."""
        self._core.start_draining()
        self._drains.set()
        await self._core.wait_idle()

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: GrpcContext
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Watch as everywhere, but not past the drain: Serve would wait for this stream."""
        pieces = super().Watch(request, grpc_context)
        drains = asyncio.ensure_future(self._drains.wait())
        try:
            while True:
                piece = asyncio.ensure_future(anext(pieces, None))
                await asyncio.wait((piece, drains), return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    piece.cancel()
                    return
                if (status := piece.result()) is None:
                    return
                yield status
        finally:
            drains.cancel()
            await pieces.aclose()

    async def __del__(self) -> None:
        """Leave the engines, after Serve has waited for the calls."""
        for task in self._pings.values():
            task.cancel()
        await self._core.stop_changes()
        await self._links.close()
        self._core.close()
