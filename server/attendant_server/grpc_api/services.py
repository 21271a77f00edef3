"""Put the services on a gRPC server: our own with tolerant deserialisers, health, and reflection.

``add_inference_servicer`` and ``add_health_servicer`` also name the services to Ray Serve (``grpc_servicer_functions``),
which brings its own server and reflection; ``build_server`` is for one process.
"""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from attendant.v1 import inference_service_pb2
from attendant_server.config import Settings
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.grpc_api import health
from attendant_server.grpc_api.deserializer import tolerant_deserializer
from attendant_server.grpc_api.key_check import KeyCheck, MessageTimeLimit, process_gate
from attendant_server.grpc_api.servicer import InferenceHandlers

MAX_STREAMS_PER_CONNECTION = 4096
MAX_METADATA_BYTES = 16 * 1024

_INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"]
SERVICE_NAME = _INFERENCE.full_name


def build_server(gateway: GatewayTasks, settings: Settings) -> grpc.aio.Server:
    """Return a server with every service on it, without a port yet; it must be made on the loop that runs it."""
    server = grpc.aio.server(interceptors=(KeyCheck(gateway), MessageTimeLimit()), options=server_options(settings))
    add_services(server, gateway, settings)
    return server


def server_options(settings: Settings) -> list[tuple[str, Any]]:
    """Return grpc.aio options: grpc itself drops what is over twice our limit, so that ours is the one callers hear of."""
    return [
        ("grpc.max_receive_message_length", min(2 * settings.max_body_bytes + 4096, 2**31 - 1)),
        ("grpc.max_send_message_length", -1),
        # As many as Serve's HAProxy lets through: more than are ever admitted, and a bound on what one connection holds.
        ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # A peer that connects and then says nothing, or only part of what opens a connection.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # A peer that vanished closes nothing; its RPCs end when it answers no ping.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A port that another server has is an error, not shared by chance.
        ("grpc.so_reuseport", 0),
        # Callers may keep a quiet connection open with pings.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def add_services(server: grpc.aio.Server, gateway: GatewayTasks, settings: Settings) -> None:
    """Add the inference service, health and reflection of both."""
    _add(_INFERENCE, InferenceHandlers(gateway, max_body_bytes=settings.max_body_bytes), server)
    add_health_servicer(health.HealthHandlers(gateway), server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def add_inference_servicer(servicer: Any, server: Any) -> None:
    """Add the process's key gate, and ``attendant.v1.InferenceService``; ``servicer`` has a method an RPC. For Ray Serve."""
    # The way of the class above Serve's: its own would put its routing in the gate's place.
    super(type(server), server).add_generic_rpc_handlers((process_gate(),))
    _add(_INFERENCE, servicer, server)


def add_health_servicer(servicer: Any, server: Any) -> None:
    """Add ``grpc.health.v1.Health``; ``servicer`` has ``Check``, ``List`` and ``Watch``."""
    _add(health_pb2.DESCRIPTOR.services_by_name["Health"], servicer, server)


def _add(service: Any, servicer: Any, server: Any) -> None:
    """Do what generated ``add_..._to_server`` functions do, with our deserialisers."""
    handlers = {}
    for method in service.methods:
        make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = (
            grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        )
        handlers[method.name] = make(
            getattr(servicer, method.name),
            request_deserializer=tolerant_deserializer(GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
