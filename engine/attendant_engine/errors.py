"""Every error the engine raises or reports, as one tree.

``code`` is the stable, public name of an error; the server's one status table turns it into HTTP, gRPC and OpenAI
terms. A message is a sentence for the caller: the value, the bound and the fix, never a path, trace or class name.
"""

from typing import ClassVar


class EngineError(Exception):
    """Any error of ours. ``str(error)`` is safe to show to a caller."""

    code: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequestError(EngineError):
    """The caller's request cannot be served as it is; ``param`` names the field at fault."""

    code = "invalid_value"


class UnsupportedError(InvalidRequestError):
    """The request is well formed but this model or build does not do it."""

    code = "unsupported_parameter"


class ContextLengthError(InvalidRequestError):
    """The prompt, or prompt plus completion, is longer than the model's context."""

    code = "context_length_exceeded"


class QueueFullError(EngineError):
    """The engine's bounded queue is full; try again later."""

    code = "queue_full"


class DeadlineError(EngineError):
    """The request's deadline has passed, or would before it could be answered."""

    code = "deadline_exceeded"


class NotReadyError(EngineError):
    """The engine is loading, draining or gone."""

    code = "not_ready"


class CheckpointError(EngineError):
    """A model directory cannot be loaded: says what is wrong with which file, and what to do."""

    code = "not_ready"


class ReplicaFaultError(EngineError):
    """The engine itself cannot go on, whatever the request: it fails, and its replica is replaced."""

    code = "not_ready"


class RequestFaultError(EngineError):
    """A step failed because of this one request (non-finite logits, out of memory); bystanders go on."""

    code = "server_error"
