"""From a gRPC status to an exception of ``errors``: by the server's stable code where it sent one, else by the status.

A proxy in between, a refused connection or a killed replica send no code of ours, only a bare status.
"""

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from attendant_client.errors import (
    ERROR_BY_CODE,
    AttendantError,
    AuthenticationError,
    ConnectionFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    RequestCancelledError,
    RequestTooLargeError,
    ServerError,
)

ERROR_DOMAIN = "attendant"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"

# Without a code of ours these mean that something between us and an engine broke: Ray Serve ends a stream with CANCELLED
# or INTERNAL when its replica dies, and a proxy's HTTP error page becomes UNKNOWN.
_BROKEN_ON_THE_WAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
_NEVER_REACHED = ("failed to connect", "DNS", "resolution", "andshake")
_BY_STATUS: dict[grpc.StatusCode, tuple[type[AttendantError], str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidRequestError, "invalid_value"),
    grpc.StatusCode.OUT_OF_RANGE: (InvalidRequestError, "invalid_value"),
    grpc.StatusCode.UNAUTHENTICATED: (AuthenticationError, "invalid_api_key"),
    grpc.StatusCode.PERMISSION_DENIED: (AuthenticationError, "invalid_api_key"),
    grpc.StatusCode.NOT_FOUND: (NotFoundError, "not_found"),
    grpc.StatusCode.UNIMPLEMENTED: (NotFoundError, "method_not_allowed"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (QueueFullError, "queue_full"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceededError, "deadline_exceeded"),
    grpc.StatusCode.CANCELLED: (RequestCancelledError, "cancelled"),
}


def error_from_rpc(rpc_error: Any, *, address: str, request_id: str) -> AttendantError:
    """Return the exception for a failed call: ``rpc_error`` has ``code()``, ``details()`` and ``trailing_metadata()``."""
    status = rpc_error.code()
    message = rpc_error.details() or f"The call ended with {status.name}."
    trailers = dict(list(rpc_error.trailing_metadata() or ()))
    request_id = str(trailers.get(REQUEST_ID_KEY, request_id))
    info, retry_after_s = _read_details(trailers.get(STATUS_DETAILS_KEY))
    if info is not None:
        kind, _ = _BY_STATUS.get(status, (ServerError, ""))
        return ERROR_BY_CODE.get(info.reason, kind)(
            message, code=info.reason, param=info.metadata.get("param"), retry_after_s=retry_after_s, request_id=request_id
        )
    if _is_too_large(status, message):
        return RequestTooLargeError(message, code="request_too_large", request_id=request_id)
    if status in _BROKEN_ON_THE_WAY or _is_proxy_error(status, message):
        sentence = f"No answer from {address} ({message.rstrip('.')}); check that the server runs and the address is right."
        return ConnectionFailedError(sentence, code="not_ready", retry_after_s=retry_after_s, request_id=request_id)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"No answer from {address} before the call's deadline; give a longer timeout_s."
    kind, code = _BY_STATUS.get(status, (ServerError, "server_error"))
    return kind(message, code=code, retry_after_s=retry_after_s, request_id=request_id)


def is_worth_another_try(error: AttendantError) -> bool:
    """True for UNAVAILABLE and for what broke on the way; a full queue is the caller's to decide about."""
    return error.code == "not_ready"


def was_reached(rpc_error: Any) -> bool:
    """False where a call found nobody at the address; gRPC has one status for that and for a connection that broke."""
    return not any(sign in (rpc_error.details() or "") for sign in _NEVER_REACHED)


def _is_too_large(status: grpc.StatusCode, message: str) -> bool:
    return status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message


def _is_proxy_error(status: grpc.StatusCode, message: str) -> bool:
    return status is grpc.StatusCode.UNKNOWN and "http2 header with status: 5" in message


def _read_details(raw: Any) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """Our ``ErrorInfo`` and the seconds of ``RetryInfo``, each None where absent."""
    info, retry_after_s = None, None
    if not isinstance(raw, bytes):
        return info, retry_after_s
    try:
        packed_details = status_pb2.Status.FromString(raw).details
        for packed in packed_details:
            if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                candidate = error_details_pb2.ErrorInfo.FromString(packed.value)
                info = candidate if candidate.domain == ERROR_DOMAIN else info
            elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry_after_s = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay.ToMilliseconds() / 1000
    except DecodeError:
        # Details are a courtesy: broken ones must not hide the error itself.
        return None, None
    return info, retry_after_s
