"""One call from admission to its end: what it holds, how long it may take, and how it is counted and logged.

However a call ends (answer, error, cancellation, a stream that is dropped), ``end`` gives everything back, once.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import cast

from attendant_engine.errors import EngineError
from attendant_server.errors import ErrorCode, ServingError
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.interface import CallContext
from attendant_server.gateway.results import Usage
from attendant_server.logging import bind_request_id, log_event
from attendant_server.metrics import GatewayMetrics
from attendant_server.status import view_error

_log = logging.getLogger(__name__)

_REJECTIONS = ("queue_full", "not_ready")


class ActiveCall:
    """A call that has begun. As a context manager it ends with the block; a stream ends it itself."""

    def __init__(self, call: CallContext, *, metrics: GatewayMetrics, request_timeout_s: float, on_end: Callable[[], None]) -> None:
        self.context = call
        self.deadline = Deadline(callers_s=call.deadline_s, request_timeout_s=request_timeout_s)
        self.usage = Usage()
        self.model = ""
        self.tenant_weight = 1.0
        self._metrics = metrics
        self._started_s = time.monotonic()
        self._held = ExitStack()
        self._held.callback(on_end)
        self._is_over = False

    def hold(self, release: Callable[[], None]) -> None:
        """Have ``release`` called when the call ends."""
        self._held.callback(release)

    def end(self, error: BaseException | None = None) -> BaseException | None:
        """End the call and return the error that its caller shall see (``ServingError``, or a cancellation as it is)."""
        if self._is_over:
            return error
        self._is_over = True
        self._held.close()
        shown = as_serving_error(error, self.context)
        code = "ok" if shown is None else view_error(shown).code
        seconds = time.monotonic() - self._started_s
        self._metrics.request_ended(self.context.endpoint, code, seconds)
        if code in _REJECTIONS:
            self._metrics.request_rejected(code)
        log_event(
            _log,
            logging.ERROR if code == "server_error" else logging.INFO,
            "request",
            request_id=self.context.request_id,
            endpoint=self.context.endpoint,
            model=self.model,
            tenant=self.context.tenant,
            code=code,
            duration_ms=round(seconds * 1000, 3),
            prompt_tokens=self.usage.prompt_tokens,
            cached_tokens=self.usage.cached_tokens,
            completion_tokens=self.usage.completion_tokens,
            exc_info=error if code == "server_error" and not isinstance(error, ServingError | EngineError) else None,
        )
        return shown

    def __enter__(self) -> "ActiveCall":
        self._held.enter_context(bind_request_id(self.context.request_id))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shown = self.end(error)
        if shown is not None and shown is not error:
            raise shown from None


def as_serving_error(error: BaseException | None, call: CallContext) -> BaseException | None:
    """Return the ``ServingError`` for anything that went wrong; cancellations and process exits stay what they are."""
    if isinstance(error, EngineError):
        return ServingError(cast(ErrorCode, error.code), error.message, param=error.param, retry_after_s=error.retry_after_s)
    if isinstance(error, Exception) and not isinstance(error, ServingError):
        return ServingError("server_error", view_error(error, request_id=call.request_id).message)
    return error
