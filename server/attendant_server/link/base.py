"""How a gateway sees an engine replica, whether in the same process or across the network.

A link carries requests one way and outputs the other; what a request means is the gateway's business. Everything here
runs on the gateway's event loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from attendant_engine.types import EngineOutput, EngineRequest, ModelInfo
from attendant_server.link.prefix_digest import PrefixDigest

OutputSink = Callable[[EngineOutput], None]
"""Receives each output of one request, on the event loop; the last one of each sequence has a finish reason or an error."""

_LEAST_HANG_LIMIT_S = 3.5
_MOST_HANG_LIMIT_S = 30.0
_SLOW_STEPS = 4  # attention to a long context, or cores that others take too, make a step slower than any before it


ReplicaState = Literal["loading", "ready", "failed", "draining", "stopped", "hung"]


def hang_limit_s(slowest_step_s: float) -> float:
    """Return after how long without a sign of life an engine thread is taken for hung, given its slowest step so far."""
    return min(_LEAST_HANG_LIMIT_S + _SLOW_STEPS * slowest_step_s, _MOST_HANG_LIMIT_S)


NOT_READY_TEXTS: dict[str, str] = {
    "loading": "the model is still loading",
    "failed": "the model could not be loaded or its engine has failed",
    "draining": "the replica is draining",
    "stopped": "the replica has stopped",
    "hung": "the replica's engine has given no sign of life for too long",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a replica last said about its load.

    ``num_queued_tokens``: prompt tokens, but for cached ones, of requests that have not had their first output.
    """

    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage_ratio: float = 0.0
    num_queued_tokens: int = 0


class ReplicaLink(Protocol):
    """One engine replica of one model.

    When a replica is lost, every live sink gets an output with error code ``not_ready``: a request never just hangs.
    """

    @property
    def replica_id(self) -> str:
        """Unique in the application; the ``replica`` label of metrics."""
        ...

    @property
    def info(self) -> ModelInfo | None:
        """What it serves; None until it has loaded."""
        ...

    @property
    def is_ready(self) -> bool:
        """Loaded, not draining, and its engine thread seen alive within the heartbeat limit."""
        ...

    @property
    def status(self) -> str:
        """Return "ready", or a sentence that says why not."""
        ...

    @property
    def load(self) -> ReplicaLoad:
        """Its load, at most one heartbeat old."""
        ...

    @property
    def prefixes(self) -> PrefixDigest:
        """Which prompts its cache has the beginnings of, as far as it has told; the same object for the link's life."""
        ...

    @property
    def metrics_text(self) -> bytes:
        """Its last metrics in Prometheus text form, at most two seconds old."""
        ...

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        """Send a request; outputs (refusals too) come to ``sink``. Raises ``ServingError`` not_ready if the link is down."""
        ...

    def abort(self, request_id: str) -> None:
        """Stop a request; its sink is not called again. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """Leave; live sinks get ``not_ready``."""
        ...
