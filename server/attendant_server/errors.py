"""Errors the server raises itself, beside the engine's own tree.

A ``ServingError`` carries one of the contract's stable codes; ``status`` (the one table) says what each code is in
HTTP, gRPC and OpenAI terms. Messages are sentences for the caller: the value, the bound and the fix.
"""

from typing import Literal

ErrorCode = Literal[
    "invalid_value",
    "unsupported_parameter",
    "context_length_exceeded",
    "model_not_found",
    "not_found",
    "method_not_allowed",
    "invalid_api_key",
    "permission_denied",
    "request_too_large",
    "queue_full",
    "not_ready",
    "deadline_exceeded",
    "cancelled",
    "server_error",
]


class ServingError(Exception):
    """A request that ends without an answer; ``retry_after_s`` is set where coming back later makes sense."""

    def __init__(self, code: ErrorCode, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
