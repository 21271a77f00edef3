"""A replica in this very process: an engine's worker thread on one side, the event loop on the other.

One hand-over to the loop a step, whatever the number of sequences. It loads the model itself and, since the other kind
of link is served from it (``link.server``), also says what a heartbeat needs.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from attendant_engine.engine import Engine
from attendant_engine.machine import available_cores
from attendant_engine.prefix_names import key_of
from attendant_engine.stats import StepOutput, StepStats
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo
from attendant_engine.worker import EngineWorker, WorkerState
from attendant_server.errors import ServingError
from attendant_server.link.base import NOT_READY_TEXTS, OutputSink, ReplicaLoad, ReplicaState, hang_limit_s
from attendant_server.link.pacing import Pacer
from attendant_server.link.prefix_digest import PrefixDigest
from attendant_server.link.sinks import SinkTable
from attendant_server.metrics import ReplicaMetrics

WATCH_S = 0.25
"""Between two looks at the engine's thread."""


class Worker(Protocol):
    """What a link needs of ``EngineWorker``."""

    engine: Any
    load_error: Any
    slowest_step_s: float
    last_step_monotonic_s: float

    @property
    def state(self) -> WorkerState:
        """Where it is."""
        ...

    def start(self) -> None:
        """Begin to load."""
        ...

    def submit(self, request: EngineRequest) -> None:
        """Hand a request over."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request."""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Refuse new work and wait for the rest."""
        ...

    def stop(self, timeout_s: float) -> bool:
        """End the thread."""
        ...


class LocalLink:
    """A ``ReplicaLink`` over a worker of its own. To be made on the event loop that uses it."""

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        replica_id: str,
        metrics: ReplicaMetrics,
        make_worker: Callable[..., Worker] = EngineWorker,
    ) -> None:
        self._replica_id = replica_id
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._sinks = SinkTable()
        self._pacer = Pacer(self._sinks.dispatch, num_cores=available_cores())
        self._last_stats = StepStats(step_index=0)
        self._prefixes = PrefixDigest()
        self._is_loaded = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._worker = make_worker(load, on_step=self._hand_over_step, on_state=self._hand_over_state)

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._worker.start()
        self._keep_watch()

    async def wait_loaded(self) -> None:
        """Return when loading has ended, well or not; ``is_ready`` and ``status`` then say how."""
        await self._is_loaded.wait()

    @property
    def replica_id(self) -> str:
        """The name it was given."""
        return self._replica_id

    @property
    def info(self) -> ModelInfo | None:
        """What it serves; None until it has loaded."""
        info: ModelInfo | None = self._worker.engine.info if self._worker.engine is not None else None
        return info

    @property
    def state(self) -> ReplicaState:
        """The worker's state, or that its thread stands still."""
        since_s = time.monotonic() - self._worker.last_step_monotonic_s
        if self._worker.state == "ready" and since_s > hang_limit_s(self._worker.slowest_step_s):
            return "hung"
        return self._worker.state

    @property
    def detail(self) -> str:
        """Why loading failed, "" if it did not."""
        return str(self._worker.load_error) if self._worker.load_error is not None else ""

    @property
    def is_ready(self) -> bool:
        """Loaded, not draining, and its thread alive."""
        return not self._is_closed and self.state == "ready"

    @property
    def status(self) -> str:
        """Return "ready", or a sentence that says why not."""
        if self.is_ready:
            return "ready"
        if self._is_closed:
            return NOT_READY_TEXTS["stopped"]
        return NOT_READY_TEXTS[self.state] + (f": {self.detail}" if self.detail else "")

    @property
    def load(self) -> ReplicaLoad:
        """Its load after the last step, and what queues now."""
        stats = self._last_stats
        return ReplicaLoad(
            num_running=stats.num_running,
            num_waiting=stats.num_waiting,
            kv_cache_usage_ratio=stats.kv_cache_usage_ratio,
            num_queued_tokens=self._sinks.num_queued_tokens,
        )

    @property
    def prefixes(self) -> PrefixDigest:
        """What its cache had after the last step."""
        return self._prefixes

    @property
    def metrics_text(self) -> bytes:
        """Its metrics now."""
        return self._metrics.render()

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        """Send a request. Raises ``ServingError`` not_ready."""
        if not self.is_ready:
            raise ServingError("not_ready", self.status)
        self._sinks.add(request, sink, num_queued_tokens=self._num_uncached_tokens(request))
        self._worker.submit(request)

    def abort(self, request_id: str) -> None:
        """Stop a request; its sink is not called again."""
        if self._sinks.discard(request_id):
            self._worker.abort(request_id)

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those in flight; return whether they ended within ``timeout_s``."""
        return await asyncio.to_thread(self._worker.drain, timeout_s)

    async def close(self) -> None:
        """End the worker; live sinks get ``not_ready``."""
        self._is_closed = True
        if self._watch is not None:
            self._watch.cancel()
        self._pacer.flush()
        self._sinks.fail_all(NOT_READY_TEXTS["stopped"])
        if await asyncio.to_thread(self._worker.stop, 10.0):
            self._worker.engine = None  # its memory goes now, and not when a collector comes by

    def _num_uncached_tokens(self, request: EngineRequest) -> int:
        if not isinstance(request, GenerationRequest):
            return len(request.prompt_token_ids)
        num_tokens = len(request.prompt_token_ids) + len(request.output_token_ids)
        return num_tokens - self._prefixes.num_cached_tokens(request.cache_salt, request.prompt_token_ids)

    def _keep_watch(self) -> None:
        if self.state == "hung":
            self._pacer.flush()
            self._sinks.fail_all(self.status)
        self._watch = self._loop.call_later(WATCH_S, self._keep_watch)

    def _hand_over_step(self, step: StepOutput) -> None:
        """Runs on the worker's thread."""
        self._loop.call_soon_threadsafe(self._on_step, step)

    def _hand_over_state(self, state: WorkerState) -> None:
        """Runs on the worker's thread."""
        self._loop.call_soon_threadsafe(self._on_state, state)

    def _on_step(self, step: StepOutput) -> None:
        self._last_stats = step.stats
        if step.prefix_changes:
            self._prefixes.update({key_of(name): is_cached for name, is_cached in step.prefix_changes.items()})
        self._metrics.observe_step(step)
        self._pacer.add(step.outputs)

    def _on_state(self, state: WorkerState) -> None:
        if state == "ready":
            self._metrics.loaded(self._worker.engine.info, self._worker.engine.load_stats)
            self._prefixes.block_size = self._worker.engine.load_stats.block_size
        if state in ("failed", "stopped"):
            self._pacer.flush()
            self._sinks.fail_all(NOT_READY_TEXTS[state])
        if state != "loading":
            self._is_loaded.set()
