"""Readiness by ``grpc.health.v1``, without the package that has its stubs.

Its request is one string and its answer one enumeration, each field 1: on the wire exactly protobuf's ``StringValue`` and
``Int32Value``, which every installation has (grpc/health/v1/health.proto).
"""

import time
from typing import Any

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from attendant_client.errors import NotReadyError

_SERVING = 1
_MAX_PAUSE_S = 1.0


def check_method(channel: Any) -> Any:
    """Return ``Health.Check`` as a call of a blocking or an async channel."""
    return channel.unary_unary(
        "/grpc.health.v1.Health/Check", request_serializer=StringValue.SerializeToString, response_deserializer=Int32Value.FromString
    )


def request(model: str) -> StringValue:
    """Ask for a model, or for the whole server with ""."""
    return StringValue(value=model)


def is_serving(response: Int32Value) -> bool:
    """Read the answer."""
    return response.value == _SERVING


class Wait:
    """The pauses of a caller that waits for a server, until its time is up."""

    def __init__(self, address: str, model: str, timeout_s: float) -> None:
        self._subject = f"The model {model!r} at {address}" if model else f"The server at {address}"
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._next_pause_s = 0.05

    @property
    def check_timeout_s(self) -> float:
        """How long one check may take."""
        return max(0.1, min(5.0, self._deadline_s - time.monotonic()))

    def pause_s(self) -> float:
        """Return how long to pause before the next check; raise ``NotReadyError`` when time is up."""
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise NotReadyError(f"{self._subject} was not ready within {self._timeout_s:g} s.", code="not_ready")
        pause_s = min(self._next_pause_s, remaining_s)
        self._next_pause_s = min(_MAX_PAUSE_S, 2 * self._next_pause_s)
        return pause_s
