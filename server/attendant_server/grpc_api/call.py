"""One RPC as the handlers see it, the same on grpc.aio and behind Ray Serve.

Both contexts share ``invocation_metadata`` and three setters; Ray's has no abort, deadline or initial metadata. So an
error is set on the context and the handler returns an empty message, which either server throws away: on Ray that is also
the only way that keeps trailing metadata. A deadline is grpc.aio's, or that of the ``x-request-timeout-s`` metadata.
"""

import math
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import CallContext
from attendant_server.status import ErrorView

ERROR_DOMAIN = "attendant"
REQUEST_ID_KEY = "x-request-id"
TIMEOUT_KEY = "x-request-timeout-s"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

# Trailers are limited to 8 KiB, and a message travels in them three times, once percent-encoded.
MAX_MESSAGE_BYTES = 1000
_LOOPBACK_PEER = re.compile(r"ipv4:127\.|ipv6:(\[|%5B)(::1|::ffff:127\.[0-9.]+)(\]|%5D):")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class GrpcContext(Protocol):
    """What grpc.aio's ``ServicerContext`` and Ray's ``RayServegRPCContext`` have in common."""

    def invocation_metadata(self) -> Any:
        """Return the caller's metadata as pairs."""
        ...

    def set_code(self, code: grpc.StatusCode) -> Any:
        """Set the status code of the answer."""
        ...

    def set_details(self, details: str) -> Any:
        """Set the status message of the answer."""
        ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> Any:
        """Set the metadata that follows the answer."""
        ...


class GrpcCall:
    """What the metadata of one RPC says, and how it is answered."""

    def __init__(self, context: GrpcContext) -> None:
        self._context = context
        self._metadata = _as_dict(context.invocation_metadata() or ())
        self.request_id = take_request_id(self._metadata.get(REQUEST_ID_KEY))
        self.is_handed_over = False
        self._call_context: CallContext | None = None
        context.set_trailing_metadata([(REQUEST_ID_KEY, self.request_id)])

    @property
    def authorization(self) -> str | None:
        """The caller's ``authorization`` metadata, if any."""
        return self._metadata.get("authorization")

    @property
    def is_from_loopback(self) -> bool:
        """True where the connection comes from this machine's loopback, as far as the server can say who is at its end."""
        peer = getattr(self._context, "peer", None)
        return peer is not None and _LOOPBACK_PEER.match(peer() or "") is not None

    def let_in(self, endpoint: str, tenant: str) -> None:
        """Note who calls what, and until when. Raises ``ServingError`` for a timeout that is no number."""
        timeouts_s = [timeout_s for timeout_s in (self._grpc_timeout_s(), self._metadata_timeout_s()) if timeout_s is not None]
        deadline_s = time.monotonic() + min(timeouts_s) if timeouts_s else None
        self._call_context = CallContext(request_id=self.request_id, endpoint=endpoint, tenant=tenant, deadline_s=deadline_s)

    def hand_over(self) -> CallContext:
        """Return what the gateway may know of this RPC, which is the gateway's to count from here on: ask for it last."""
        assert self._call_context is not None, "nobody is handed over who was not let in"
        self.is_handed_over = True
        return self._call_context

    def fail(self, view: ErrorView) -> None:
        """Set status, message and google.rpc details; the handler returns an empty message afterwards."""
        message = shorten(view.message)
        self._context.set_code(grpc.StatusCode[view.grpc_code])
        self._context.set_details(message)
        details = rich_status(view, message, self.request_id).SerializeToString()
        self._context.set_trailing_metadata([(REQUEST_ID_KEY, self.request_id), (STATUS_DETAILS_KEY, details)])

    def _grpc_timeout_s(self) -> float | None:
        time_remaining = getattr(self._context, "time_remaining", None)
        return None if time_remaining is None else time_remaining()

    def _metadata_timeout_s(self) -> float | None:
        value = self._metadata.get(TIMEOUT_KEY)
        if value is None:
            return None
        try:
            timeout_s = float(value)
        except ValueError:
            timeout_s = math.nan
        if not timeout_s > 0:
            raise ServingError(
                "invalid_value",
                f"the metadata {TIMEOUT_KEY} is {value[:40]!r}; send a number of seconds above 0, for example 30",
                param=TIMEOUT_KEY,
            )
        return timeout_s if math.isfinite(timeout_s) else None


def take_request_id(given: str | None) -> str:
    """Return the caller's request id if it is 1 to 128 printable ASCII characters without spaces, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def rich_status(view: ErrorView, message: str, request_id: str) -> status_pb2.Status:
    """Build the ``google.rpc.Status`` of an error (google/rpc/error_details.proto)."""
    info = error_details_pb2.ErrorInfo(reason=view.code, domain=ERROR_DOMAIN)
    if view.param is not None:
        info.metadata["param"] = view.param
    details: list[Message] = [info, error_details_pb2.RequestInfo(request_id=request_id)]
    if view.violations:
        first, *others = view.violations
        bad_request = error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field=first.param, description=message)]
        )
        # The others are named only: their sentences together might be longer than trailers may be.
        bad_request.field_violations.extend(error_details_pb2.BadRequest.FieldViolation(field=other.param) for other in others[:16])
        details.append(bad_request)
    if view.retry_after_s is not None:
        retry_info = error_details_pb2.RetryInfo()
        retry_info.retry_delay.FromMilliseconds(round(view.retry_after_s * 1000))
        details.append(retry_info)
    status = status_pb2.Status(code=grpc.StatusCode[view.grpc_code].value[0], message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def shorten(message: str) -> str:
    """Cut a message to what trailers can carry, at a whole character."""
    raw = message.encode("utf-8", "backslashreplace")
    if len(raw) <= MAX_MESSAGE_BYTES:
        return raw.decode()
    return raw[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."


def _as_dict(pairs: Iterable[Any]) -> dict[str, str]:
    """Metadata with text values as a dictionary; of a repeated key the last value counts."""
    return {key.lower(): value for key, value in pairs if isinstance(value, str)}
