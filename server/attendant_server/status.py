"""The ONE table: what each error code is in HTTP, OpenAI and gRPC terms, and the one way from an exception to it.

Transports turn whatever they catch into an ``ErrorView`` here and write that down in their own shape. gRPC codes are
names, so that the gateway may import this without a transport; ``grpc.StatusCode[view.grpc_code]`` gives the code.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import BaseModel, ValidationError

from attendant_engine.errors import EngineError
from attendant_server.errors import ServingError
from attendant_server.violations import Violation, violations_of

DEFAULT_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One row of the table; ``is_retryable``: the same request may well succeed a little later."""

    http_status: int
    openai_type: str
    grpc_code: str
    is_retryable: bool = False


STATUS_TABLE: Mapping[str, Status] = MappingProxyType(
    {
        "invalid_value": Status(http_status=400, openai_type="invalid_request_error", grpc_code="INVALID_ARGUMENT"),
        "unsupported_parameter": Status(http_status=400, openai_type="invalid_request_error", grpc_code="INVALID_ARGUMENT"),
        "context_length_exceeded": Status(http_status=400, openai_type="invalid_request_error", grpc_code="INVALID_ARGUMENT"),
        "invalid_api_key": Status(http_status=401, openai_type="invalid_request_error", grpc_code="UNAUTHENTICATED"),
        "permission_denied": Status(http_status=403, openai_type="invalid_request_error", grpc_code="PERMISSION_DENIED"),
        "model_not_found": Status(http_status=404, openai_type="invalid_request_error", grpc_code="NOT_FOUND"),
        "not_found": Status(http_status=404, openai_type="invalid_request_error", grpc_code="NOT_FOUND"),
        "method_not_allowed": Status(http_status=405, openai_type="invalid_request_error", grpc_code="UNIMPLEMENTED"),
        "request_too_large": Status(http_status=413, openai_type="invalid_request_error", grpc_code="RESOURCE_EXHAUSTED"),
        "queue_full": Status(http_status=429, openai_type="rate_limit_error", grpc_code="RESOURCE_EXHAUSTED", is_retryable=True),
        # 499 is nginx's number for a caller who has gone; nobody is left to read it but the logs.
        "cancelled": Status(http_status=499, openai_type="invalid_request_error", grpc_code="CANCELLED"),
        "server_error": Status(http_status=500, openai_type="server_error", grpc_code="INTERNAL"),
        "not_ready": Status(http_status=503, openai_type="server_error", grpc_code="UNAVAILABLE", is_retryable=True),
        "deadline_exceeded": Status(http_status=504, openai_type="server_error", grpc_code="DEADLINE_EXCEEDED"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """An error as a caller may see it: plain, safe text and every transport's terms for it.

    ``violations`` has one entry a field at fault (for gRPC's ``BadRequest``); ``message`` and ``param`` are of the first.
    ``retry_after_s`` is set when ``is_retryable`` is, and where an error says of itself when to come back.
    """

    code: str
    message: str
    param: str | None
    http_status: int
    openai_type: str
    grpc_code: str
    is_retryable: bool
    retry_after_s: float | None
    violations: tuple[Violation, ...] = ()

    @property
    def forbids_retry(self) -> bool:
        """True where a client that retries 5xx by habit must be told not to (``x-should-retry: false``)."""
        return self.code == "deadline_exceeded"


def view_error(error: BaseException, *, request_type: type[BaseModel] | None = None, request_id: str = "") -> ErrorView:
    """Turn any exception into what its caller may see.

    ``request_type`` is the pydantic class that was being validated; with it an unknown field gets its "did you mean".
    An exception that is not ours becomes ``server_error`` and says nothing of itself but ``request_id``.
    """
    if isinstance(error, ServingError):
        return make_view(error.code, error.message, param=error.param, retry_after_s=error.retry_after_s)
    if isinstance(error, EngineError):
        return make_view(error.code, error.message, param=error.param, retry_after_s=error.retry_after_s)
    if isinstance(error, ValidationError):
        return view_violations(violations_of(error.errors(include_url=False), request_type))
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return make_view("cancelled", "the caller went away before the answer was ready")
    quote = f"; quote request id {request_id} when you report it" if request_id else ""
    return make_view("server_error", f"the server failed while answering this request{quote}")


def view_violations(violations: tuple[Violation, ...]) -> ErrorView:
    """Turn what validation found into one view. At least one violation is needed."""
    first = violations[0]
    more = len(violations) - 1
    message = first.message if not more else f"{first.message} (and {more} more field{'s' if more > 1 else ''} at fault)"
    return make_view(first.code, message, param=first.param or None, violations=violations)


def make_view(
    code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None, violations: tuple[Violation, ...] = ()
) -> ErrorView:
    """Look ``code`` up in the table; an unknown one is ``server_error``, its message kept to ourselves."""
    status = STATUS_TABLE.get(code)
    if status is None:
        code, message, param, status = "server_error", "the server failed while answering this request", None, STATUS_TABLE["server_error"]
    if param is not None and not violations and status.grpc_code == "INVALID_ARGUMENT":
        violations = (Violation(code=code, param=param, message=message),)
    return ErrorView(
        code=code,
        message=_as_sentence(message),
        param=param,
        http_status=status.http_status,
        openai_type=status.openai_type,
        grpc_code=status.grpc_code,
        is_retryable=status.is_retryable,
        retry_after_s=DEFAULT_RETRY_AFTER_S if retry_after_s is None and status.is_retryable else retry_after_s,
        violations=violations,
    )


def _as_sentence(message: str) -> str:
    """Capital letter first, full stop last, and no lone surrogate that would break the encoding of the answer."""
    message = message.encode("utf-8", "backslashreplace").decode("utf-8").strip()
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")
