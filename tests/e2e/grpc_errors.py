"""An error as a gRPC caller can read it: the status, and the google.rpc details in its trailers."""

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcError:
    """``reason`` (the stable code) is None where the transport itself answered; ``retry_after_s`` where no retry is advised."""

    code: grpc.StatusCode
    message: str
    reason: str | None = None
    param: str | None = None
    violated_fields: tuple[str, ...] = ()
    retry_after_s: float | None = None
    request_id: str | None = None


def read_error(error: grpc.RpcError) -> GrpcError:
    """Read status and details of a failed call, sync or async."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    trailers = dict(error.trailing_metadata() or ())
    raw = trailers.get("grpc-status-details-bin")
    message = error.details() or ""
    if raw is None:
        return GrpcError(code=error.code(), message=message)
    assert isinstance(raw, bytes)
    status = status_pb2.Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], message)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    found = {kind.DESCRIPTOR.name for kind in (info, bad_request, retry, request) for detail in status.details if detail.Unpack(kind)}
    return GrpcError(
        code=error.code(),
        message=message,
        reason=info.reason,
        param=info.metadata.get("param"),
        violated_fields=tuple(violation.field for violation in bad_request.field_violations),
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if "RetryInfo" in found else None,
        request_id=request.request_id if "RequestInfo" in found else None,
    )
