"""``grpc.health.v1``: whether the whole server (service "") or one model (its name) answers.

Like the tasks, these methods serve grpc.aio and a Ray Serve ingress. Probes carry no key, so ``Check`` and ``Watch`` ask
for none; ``List`` names the models, so it does.
"""

import asyncio
from collections.abc import AsyncGenerator

import grpc
from grpc_health.v1 import health_pb2

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.grpc_api.call import GrpcCall, GrpcContext
from attendant_server.grpc_api.deserializer import MalformedMessage
from attendant_server.status import view_error

SERVICE_NAME = "grpc.health.v1.Health"

MAX_WATCHES = 1024
"""Nobody asks for a key here, so what a stranger can keep open is bounded."""


class HealthHandlers:
    """Answer ``Check`` and ``List`` at once, and ``Watch`` whenever the status changes, seen within ``poll_interval_s``."""

    def __init__(self, gateway: GatewayTasks, *, poll_interval_s: float = 0.5, max_watches: int = MAX_WATCHES) -> None:
        self._gateway = gateway
        self._poll_interval_s = poll_interval_s
        self._max_watches = max_watches
        self._num_watches = 0

    async def Check(self, request: health_pb2.HealthCheckRequest, grpc_context: GrpcContext) -> health_pb2.HealthCheckResponse:
        """Return the status now; NOT_FOUND for a name that is not served."""
        if _refuse_malformed(request, grpc_context):
            return health_pb2.HealthCheckResponse()
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
            grpc_context.set_details("no model of this name is served; ListModels says which are")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: GrpcContext
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Send the status now and after every change, until the caller leaves."""
        if _refuse_malformed(request, grpc_context):
            return
        if self._num_watches >= self._max_watches:
            grpc_context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            grpc_context.set_details(f"{self._max_watches} callers watch already; use Check now and then")
            return
        self._num_watches += 1
        try:
            last = None
            while True:
                status = self._status(request.service)
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await asyncio.sleep(self._poll_interval_s)
        finally:
            self._num_watches -= 1

    async def List(self, request: health_pb2.HealthListRequest, grpc_context: GrpcContext) -> health_pb2.HealthListResponse:
        """Return the status of the whole server and of every model; UNAUTHENTICATED without a key where keys are asked."""
        call = GrpcCall(grpc_context)
        try:
            self._gateway.authenticate(call.authorization)
        except ServingError as error:
            call.fail(view_error(error, request_id=call.request_id))
            return health_pb2.HealthListResponse()
        names = ["", *(card.id for card in self._gateway.list_models())]
        return health_pb2.HealthListResponse(statuses={name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names})

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        try:
            is_ready = self._gateway.get_model(service).is_ready if service else self._gateway.is_ready()
        except ServingError as error:
            if error.code == "model_not_found":
                return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            return health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING


def _refuse_malformed(request: health_pb2.HealthCheckRequest | MalformedMessage, grpc_context: GrpcContext) -> bool:
    if not isinstance(request, MalformedMessage):
        return False
    grpc_context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
    grpc_context.set_details(f"the {request.num_bytes} bytes of the request are not a valid {request.type_name} message")
    return True
