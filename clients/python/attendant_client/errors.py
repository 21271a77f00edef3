"""Everything a call can end with, as one tree.

The inverse of the server's table: its stable codes (carried by google.rpc's ``ErrorInfo``) become exception classes. ::

    AttendantError
    ├── InvalidRequestError          the request cannot be served as it is; ``param`` names the field
    │   ├── UnsupportedParameterError
    │   ├── ContextLengthError
    │   └── RequestTooLargeError
    ├── AuthenticationError
    │   └── PermissionDeniedError
    ├── NotFoundError
    │   └── ModelNotFoundError
    ├── UnavailableError             worth another try, after ``retry_after_s``
    │   ├── QueueFullError
    │   ├── NotReadyError
    │   └── ConnectionFailedError    nothing answered at the address, or the connection broke
    │       └── StreamTruncatedError
    ├── DeadlineExceededError
    ├── RequestCancelledError
    └── ServerError                  the server's own fault; quote ``request_id`` when you report it
"""

from collections.abc import Mapping
from types import MappingProxyType


class AttendantError(Exception):
    """Any error of a call. ``code`` is the server's stable code, ``message`` a sentence for people."""

    def __init__(
        self, message: str, *, code: str, param: str | None = None, retry_after_s: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class InvalidRequestError(AttendantError):
    """The request cannot be served as it is; the same request will fail again."""


class UnsupportedParameterError(InvalidRequestError):
    """This model or task does not do what a field asks for."""


class ContextLengthError(InvalidRequestError):
    """The prompt is longer than the model's context."""


class RequestTooLargeError(InvalidRequestError):
    """The request has more bytes than the server takes."""


class AuthenticationError(AttendantError):
    """The server asks for a key, and there was none or a wrong one."""


class PermissionDeniedError(AuthenticationError):
    """The key is known and may not do this."""


class NotFoundError(AttendantError):
    """What was named does not exist on this server."""


class ModelNotFoundError(NotFoundError):
    """No model or adapter of this name is served."""


class UnavailableError(AttendantError):
    """The request was not served but may be, a little later."""


class QueueFullError(UnavailableError):
    """The server has more requests waiting than it admits."""


class NotReadyError(UnavailableError):
    """The server is loading or draining, or lost the replica."""


class ConnectionFailedError(UnavailableError):
    """Nothing answered at the address, or the connection broke before the answer was complete."""


class StreamTruncatedError(ConnectionFailedError):
    """A stream ended without its last message; what came before it is only a part of the answer."""


class DeadlineExceededError(AttendantError):
    """The answer was not ready within ``timeout_s``, or could not have been."""


class RequestCancelledError(AttendantError):
    """The server gave the request up."""


class ServerError(AttendantError):
    """The server failed while answering."""


ERROR_BY_CODE: Mapping[str, type[AttendantError]] = MappingProxyType(
    {
        "invalid_value": InvalidRequestError,
        "unsupported_parameter": UnsupportedParameterError,
        "context_length_exceeded": ContextLengthError,
        "request_too_large": RequestTooLargeError,
        "invalid_api_key": AuthenticationError,
        "permission_denied": PermissionDeniedError,
        "not_found": NotFoundError,
        "model_not_found": ModelNotFoundError,
        "method_not_allowed": NotFoundError,
        "queue_full": QueueFullError,
        "not_ready": NotReadyError,
        "deadline_exceeded": DeadlineExceededError,
        "cancelled": RequestCancelledError,
        "server_error": ServerError,
    }
)
"""What each of the server's codes is raised as. A code of a newer server falls back on its gRPC status."""
