"""The one thread that an engine lives on, and the doors to it: submit, abort, drain, stop.

Callers never wait for a step: what they ask for goes into a bounded inbox, or is refused at once by the engine's ``door``,
and what comes of it goes to ``on_step``. Knows no asyncio; a server's callback hands over to its loop by ``call_soon_threadsafe``.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeVar

from attendant_engine.admission.door import Backlog
from attendant_engine.engine import Engine
from attendant_engine.errors import CheckpointError, EngineError, NotReadyError, QueueFullError, ReplicaFaultError, RequestFaultError
from attendant_engine.stats import StepOutput, StepStats
from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, OutputError, PooledOutput, SequenceOutput
from attendant_engine.validation import MAX_SEQUENCES
from attendant_engine.workload import Workload, work_of

WorkerState = Literal["loading", "ready", "failed", "draining", "stopped"]

MAX_INBOX = 4096
"""Requests that one step may let pile up; far more than an engine's queue takes, so the engine's own bound speaks first."""

IDLE_TICK_S = 0.1
"""How often an idle worker shows that it is alive; a watcher gives up after about a second."""

_logger = logging.getLogger(__name__)
_CRASHED = OutputError(code=RequestFaultError.code, message="The model's engine failed while it served this request.")
_NOT_READY: dict[WorkerState, str] = {
    "loading": "The model is loading; try again soon.",
    "failed": "The model's engine has failed; try again when it has been replaced.",
    "draining": "The model's engine is draining and takes no new requests; try again.",
    "stopped": "The model's engine has stopped; try again.",
}
_Argument = TypeVar("_Argument")


class EngineWorker:
    """Owns the thread that loads an engine and steps it.

    ``on_step`` receives every step's output, and refusals: mostly on the worker's thread, but a refusal at the door on
    the submitter's. ``on_state`` receives each new state. Both must be quick and thread-safe; what they raise is logged.
    ``last_step_monotonic_s`` moves with every step and every idle tick, so a watcher sees a thread that hangs;
    ``slowest_step_s`` is what a step has taken at most, or may be expected to.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        on_step: Callable[[StepOutput], None],
        on_state: Callable[[WorkerState], None] | None = None,
        max_inbox: int = MAX_INBOX,
    ) -> None:
        self._load = load
        self._on_step = on_step
        self._on_state = on_state
        self._max_inbox = max_inbox
        self._condition = threading.Condition()
        self._inbox: list[EngineRequest] = []
        self._aborts: list[str] = []  # no bound of its own: one entry a request that was let in, taken whole every step
        self._is_stopping = False
        self._is_busy = False
        self._state: WorkerState = "loading"
        self._thread = threading.Thread(target=self._run, name="attendant-engine", daemon=True)
        self._last_stats = StepStats(step_index=0)
        self._backlog = Backlog(Workload())
        self.engine: Engine | None = None
        self.load_error: EngineError | None = None
        self.slowest_step_s = 0.0
        self.last_step_monotonic_s = time.monotonic()

    @property
    def state(self) -> WorkerState:
        """Where the worker is: loading, then ready or failed; draining; stopped."""
        return self._state

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._thread.start()

    def submit(self, request: EngineRequest) -> None:
        """Hand ``request`` over; everything that comes of it, refusals too, comes to ``on_step``. Never waits for a step, never raises."""
        with self._condition:
            error = self._refusal(request)
            if error is None:
                self._inbox.append(request)
                self._count_in(request)
                self._condition.notify_all()
        if error is not None:
            self._deliver(tuple(_refused(request, error)))

    def abort(self, request_id: str) -> None:
        """Ask for the end of a request; its outputs end with finish reason "abort" unless it has ended. Never waits for a step."""
        with self._condition:
            self._aborts.append(request_id)
            self._condition.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait until those in flight have ended; return whether they did within ``timeout_s``."""
        with self._condition:
            is_ready = self._state == "ready"
        if is_ready:
            self._enter("draining")
        with self._condition:
            return self._condition.wait_for(lambda: not (self._inbox or self._is_busy), timeout_s)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Abort what is in flight and end the thread; return whether it ended within ``timeout_s``. A step or a load is not cut short."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.engine = self._load()
        except EngineError as error:
            self.load_error = error
        except Exception:
            _logger.exception("The model could not be loaded.")
            self.load_error = CheckpointError("The model could not be loaded; the server's log says why.")
        if self.engine is None:
            self._enter("failed")
            return
        self.slowest_step_s = self.engine.load_stats.full_step_s
        self._tick()  # or a load that took long would look like a thread that stands still
        self._enter("ready")
        try:
            while self._wait_for_work(self.engine):
                self._advance(self.engine)
        except ReplicaFaultError as error:
            _logger.error("The engine failed. %s", error)
            self.load_error = error
            self._close("failed", self.engine.fail_all(OutputError(code=error.code, message=_NOT_READY["failed"])))
        except Exception:
            _logger.exception("The engine failed.")
            self._close("failed", self.engine.fail_all(_CRASHED))
        else:
            self._close("stopped", self.engine.abort_all())
        finally:
            self.engine.close()

    def _wait_for_work(self, engine: Engine) -> bool:
        """Sleep until there is something to do, looking after the engine and showing that now and then; return False to stop."""
        while True:
            with self._condition:
                if not self._is_asked:
                    self._condition.wait(IDLE_TICK_S)
                if self._is_asked:
                    return not self._is_stopping
            engine.check()
            self._tick()

    @property
    def _is_asked(self) -> bool:
        """Whether there is something to do; under the lock."""
        return bool(self._is_stopping or self._is_busy or self._inbox or self._aborts)

    def _advance(self, engine: Engine) -> None:
        """Let in and abort what was asked for, and step."""
        with self._condition:
            requests, self._inbox = self._inbox, []
            aborts, self._aborts = self._aborts, []
            self._is_busy = True
        refusals: list[EngineOutput] = []
        for request in requests:
            error = _try_to_add(engine, request)
            if error is not None:
                refusals += _refused(request, error)
        for request_id in aborts:
            engine.abort(request_id)
        if requests or aborts:
            self._look_at_line(engine)
        if engine.has_work:
            step = engine.step()
            self._last_stats = step.stats
            self.slowest_step_s = max(self.slowest_step_s, step.stats.step_s)
            self._call(self._on_step, replace(step, outputs=(*refusals, *step.outputs)) if refusals else step)
            self._look_at_line(engine)
        elif refusals:
            self._deliver(tuple(refusals))
        self._tick()
        with self._condition:
            self._is_busy = engine.has_work
            if not self._is_busy:
                self._condition.notify_all()

    def _close(self, state: WorkerState, outputs: tuple[EngineOutput, ...]) -> None:
        """Enter a last state and answer everything that is still open."""
        self._enter(state)
        with self._condition:
            requests, self._inbox = self._inbox, []
            self._is_busy = False
            self._condition.notify_all()
        refusals = [output for request in requests for output in _refused(request, NotReadyError(_NOT_READY[state]))]
        if outputs or refusals:
            self._deliver((*outputs, *refusals))

    def _look_at_line(self, engine: Engine) -> None:
        """Take down how long the engine's line is, and what stands before its door."""
        with self._condition:
            self._backlog = engine.line.backlog
            for request in self._inbox:
                self._count_in(request)

    def _count_in(self, request: EngineRequest) -> None:
        assert self.engine is not None
        self._backlog.waiting.add(request.tenant, request.tenant_weight, work_of(request, self.engine.info.max_model_len))

    def _refusal(self, request: EngineRequest) -> EngineError | None:
        if self._state != "ready":
            return NotReadyError(_NOT_READY[self._state])
        if len(self._inbox) >= self._max_inbox:
            return QueueFullError(f"{len(self._inbox)} requests wait at the engine's door, which is the most; try again later.")
        assert self.engine is not None
        return self.engine.line.door.refusal(request, self._backlog, time.monotonic())

    def _enter(self, state: WorkerState) -> None:
        with self._condition:
            self._state = state
        if self._on_state is not None:
            self._call(self._on_state, state)

    def _tick(self) -> None:
        self.last_step_monotonic_s = time.monotonic()

    def _deliver(self, outputs: tuple[EngineOutput, ...]) -> None:
        """Report outside a step: the figures are the last step's state with nothing done."""
        last = self._last_stats
        stats = StepStats(
            step_index=last.step_index,
            num_running=last.num_running,
            num_waiting=last.num_waiting,
            kv_cache_usage_ratio=last.kv_cache_usage_ratio,
            kv_cache_bytes=last.kv_cache_bytes,
        )
        self._call(self._on_step, StepOutput(outputs=outputs, stats=stats))

    @staticmethod
    def _call(callback: Callable[[_Argument], None], argument: _Argument) -> None:
        """Call into the server; its trouble (a loop that has closed) must not become that of every other request."""
        try:
            callback(argument)
        except Exception:
            _logger.exception("A callback of the engine's worker failed.")


def _try_to_add(engine: Engine, request: EngineRequest) -> EngineError | None:
    try:
        engine.add_request(request, is_let_in=True)
    except EngineError as error:
        return error
    except Exception:
        _logger.exception("A request could not be read.")
        return RequestFaultError("The engine failed on this request.")
    return None


def _refused(request: EngineRequest, error: EngineError) -> list[EngineOutput]:
    """Answer every sequence of a request that never began."""
    reason = OutputError(code=error.code, message=error.message, param=error.param, retry_after_s=error.retry_after_s)
    if not isinstance(request, GenerationRequest):
        return [PooledOutput(request_id=request.request_id, error=reason)]
    indices = range(min(max(request.n, 1), MAX_SEQUENCES))
    return [SequenceOutput(request_id=request.request_id, index=index, finish_reason="error", error=reason) for index in indices]
