"""The worker's thread loads, serves, drains, stops and fails without ever leaving a request unanswered or a caller waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch

from attendant_engine.engine import Engine
from attendant_engine.errors import CheckpointError
from attendant_engine.models.base import ModelInputs
from attendant_engine.stats import StepOutput
from attendant_engine.types import EngineOutput, GenerationRequest, PoolingRequest, SequenceOutput
from attendant_engine.worker import EngineWorker, WorkerState
from tests.engine.fakes import FakeTrunk, fake_engine, fake_model, generation, run_all

DEADLINE_S = 20.0


@dataclass
class Listener:
    """Collects what a worker says; ``wait_for`` wakes at each word of it."""

    outputs: list[EngineOutput] = field(default_factory=list)
    states: list[WorkerState] = field(default_factory=list)
    condition: threading.Condition = field(default_factory=threading.Condition)

    def on_step(self, step: StepOutput) -> None:
        """Take outputs in."""
        with self.condition:
            self.outputs += step.outputs
            self.condition.notify_all()

    def on_state(self, state: WorkerState) -> None:
        """Take a state in."""
        with self.condition:
            self.states.append(state)
            self.condition.notify_all()

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate`` holds, or fail."""
        with self.condition:
            assert self.condition.wait_for(predicate, DEADLINE_S), "the worker did not get there in time"

    def last(self, request_id: str, index: int = 0) -> SequenceOutput | None:
        """Return the final output of a sequence, or None so far."""
        for output in reversed(self.outputs):
            if isinstance(output, SequenceOutput) and (output.request_id, output.index) == (request_id, index) and output.finish_reason:
                return output
        return None

    def wait_for_end(self, request_id: str, index: int = 0) -> SequenceOutput:
        """Wait for a sequence's final output."""
        self.wait_for(lambda: self.last(request_id, index) is not None)
        last = self.last(request_id, index)
        assert last is not None
        return last

    def token_ids(self, request_id: str) -> list[int]:
        """Return what a request's sequence 0 has said."""
        mine = [o for o in self.outputs if isinstance(o, SequenceOutput) and (o.request_id, o.index) == (request_id, 0)]
        return [token_id for output in mine for token_id in output.token_ids]


class GatedTrunk(FakeTrunk):
    """Computes a step when ``gate`` is open, and says by ``entered`` that it has begun one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Wait, then compute."""
        self.entered.set()
        assert self.gate.wait(DEADLINE_S)
        return super().__call__(inputs)


@pytest.fixture
def listener() -> Listener:
    """Listen to one worker."""
    return Listener()


@pytest.fixture
def start(listener: Listener) -> Iterator[Callable[..., EngineWorker]]:
    """Start workers that are stopped after the test."""
    workers: list[EngineWorker] = []

    def begin(load: Callable[[], Engine] = fake_engine, *, until: WorkerState | None = "ready", max_inbox: int = 100) -> EngineWorker:
        worker = EngineWorker(load, on_step=listener.on_step, on_state=listener.on_state, max_inbox=max_inbox)
        workers.append(worker)
        worker.start()
        if until is not None:
            listener.wait_for(lambda: until in listener.states)
        return worker

    yield begin
    assert all(worker.stop(DEADLINE_S) for worker in workers)


def _gated() -> tuple[GatedTrunk, Engine]:
    trunk = GatedTrunk()
    return trunk, fake_engine(model=replace(fake_model(), trunk=trunk))


def test_requests_from_many_threads_are_answered_as_if_alone(start: Callable[..., EngineWorker], listener: Listener) -> None:
    worker = start()
    requests = [generation(f"r{i}", (2 + i, 3, 4), max_tokens=8) for i in range(24)]

    def submit_all(part: list[GenerationRequest]) -> None:
        for request in part:
            worker.submit(request)

    threads = [threading.Thread(target=submit_all, args=(requests[first::2],)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    for request in requests:
        listener.wait_for_end(request.request_id)
        assert listener.token_ids(request.request_id) == run_all(fake_engine(), request).token_ids(request.request_id)


def test_an_invalid_request_is_answered_with_its_error_for_every_sequence(start: Callable[..., EngineWorker], listener: Listener) -> None:
    worker = start()
    worker.submit(generation("bad", (), n=3))
    for index in range(3):
        error = listener.wait_for_end("bad", index).error
        assert error is not None and (error.code, error.param) == ("invalid_value", "prompt")
    worker.submit(PoolingRequest(request_id="pool", prompt_token_ids=(1,), task="embedding"))
    listener.wait_for(lambda: any(output.request_id == "pool" for output in listener.outputs))
    assert listener.outputs[-1].error is not None and listener.outputs[-1].error.code == "unsupported_parameter"
    worker.submit(generation("good"))
    assert listener.wait_for_end("good").finish_reason == "length"


def test_submit_and_abort_do_not_wait_for_a_step(start: Callable[..., EngineWorker], listener: Listener) -> None:
    trunk, engine = _gated()
    worker = start(lambda: engine)
    worker.submit(generation("slow", max_tokens=50))
    assert trunk.entered.wait(DEADLINE_S)
    worker.submit(generation("next", max_tokens=1))
    worker.abort("slow")
    assert not listener.outputs
    trunk.gate.set()
    assert listener.wait_for_end("slow").finish_reason == "abort"
    assert listener.wait_for_end("next").finish_reason == "length"
    engine.check_integrity()


def test_a_full_inbox_refuses_at_once(start: Callable[..., EngineWorker], listener: Listener) -> None:
    trunk, engine = _gated()
    worker = start(lambda: engine, max_inbox=2)
    worker.submit(generation("running", max_tokens=1))
    assert trunk.entered.wait(DEADLINE_S)
    for request_id in ("a", "b", "c"):
        worker.submit(generation(request_id, max_tokens=1))
    refused = listener.last("c")
    assert refused is not None and refused.error is not None and refused.error.code == "queue_full"
    trunk.gate.set()
    for request_id in ("running", "a", "b"):
        assert listener.wait_for_end(request_id).finish_reason == "length"


def test_before_loading_has_ended_requests_are_refused_as_not_ready(start: Callable[..., EngineWorker], listener: Listener) -> None:
    may_load = threading.Event()

    def load() -> Engine:
        assert may_load.wait(DEADLINE_S)
        return fake_engine()

    worker = start(load, until=None)
    assert worker.state == "loading"
    worker.submit(generation("early"))
    early = listener.last("early")
    assert early is not None and early.error is not None and early.error.code == "not_ready"
    may_load.set()
    listener.wait_for(lambda: "ready" in listener.states)
    worker.submit(generation("late"))
    assert listener.wait_for_end("late").error is None


@pytest.mark.parametrize("error", [CheckpointError("The weights are damaged."), RuntimeError("a secret path")])
def test_a_load_that_fails_is_said_without_its_insides(start: Callable[..., EngineWorker], listener: Listener, error: Exception) -> None:
    def load() -> Engine:
        raise error

    worker = start(load, until="failed")
    assert worker.state == "failed" and worker.load_error is not None
    assert "secret" not in worker.load_error.message
    worker.submit(generation())
    assert listener.last("a") is not None


def test_draining_finishes_what_runs_and_refuses_what_comes(start: Callable[..., EngineWorker], listener: Listener) -> None:
    trunk, engine = _gated()
    worker = start(lambda: engine)
    worker.submit(generation("running", max_tokens=20))
    assert trunk.entered.wait(DEADLINE_S)
    assert not worker.drain(0.0)
    assert worker.state == "draining"
    worker.submit(generation("late"))
    late = listener.last("late")
    assert late is not None and late.error is not None and late.error.code == "not_ready"
    trunk.gate.set()
    assert worker.drain(DEADLINE_S)
    running = listener.last("running")
    assert running is not None and running.finish_reason == "length" and len(listener.token_ids("running")) == 20


def test_stopping_answers_everything_that_is_open(start: Callable[..., EngineWorker], listener: Listener) -> None:
    trunk, engine = _gated()
    worker = start(lambda: engine)
    worker.submit(generation("running", max_tokens=100, n=2))
    assert trunk.entered.wait(DEADLINE_S)
    worker.submit(generation("inbox"))
    assert not worker.stop(0.0)
    trunk.gate.set()
    assert worker.stop(DEADLINE_S)
    assert worker.state == "stopped" and listener.states == ["ready", "stopped"]
    assert {listener.wait_for_end("running", index).finish_reason for index in range(2)} == {"abort"}
    inbox = listener.wait_for_end("inbox")
    assert inbox.error is not None and inbox.error.code == "not_ready"
    assert not engine.has_work and engine.num_requests == 0


def test_the_last_sign_of_life_is_recent_while_idle_and_grows_old_in_a_hanging_step(
    start: Callable[..., EngineWorker], listener: Listener
) -> None:
    trunk, engine = _gated()
    worker = start(lambda: engine)
    never, before_s = threading.Event(), worker.last_step_monotonic_s  # an event that nobody sets: nothing announces a tick
    for _ in range(200):
        if worker.last_step_monotonic_s > before_s:
            break
        never.wait(0.05)
    assert worker.last_step_monotonic_s > before_s
    worker.submit(generation(max_tokens=1))
    assert trunk.entered.wait(DEADLINE_S)
    since_s = worker.last_step_monotonic_s
    never.wait(0.3)
    assert worker.last_step_monotonic_s == since_s
    trunk.gate.set()
    listener.wait_for_end("a")
    assert worker.slowest_step_s >= 0.3


def test_a_load_that_takes_long_is_no_sign_of_a_hang() -> None:
    loaded_s: list[float] = []
    signs_s: list[float] = []
    is_ready = threading.Event()

    def load() -> Engine:
        engine = fake_engine()
        loaded_s.append(time.monotonic())
        return engine

    def on_state(state: WorkerState) -> None:
        if state == "ready":
            signs_s.append(worker.last_step_monotonic_s)
            is_ready.set()

    worker = EngineWorker(load, on_step=lambda step: None, on_state=on_state)
    worker.start()
    assert is_ready.wait(DEADLINE_S)
    assert worker.stop(DEADLINE_S)
    assert signs_s[0] >= loaded_s[0]


def test_an_engine_that_breaks_answers_every_request_and_takes_no_more(
    start: Callable[..., EngineWorker], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake_engine()
    worker = start(lambda: engine)

    def broken() -> StepOutput:
        raise AssertionError("a secret of the scheduler")

    monkeypatch.setattr(engine, "step", broken)
    worker.submit(generation("running", n=2))
    for index in range(2):
        error = listener.wait_for_end("running", index).error
        assert error is not None and error.code == "server_error" and "secret" not in error.message
    listener.wait_for(lambda: "failed" in listener.states)
    worker.submit(generation("late"))
    assert listener.wait_for_end("late").error is not None


def test_a_callback_that_raises_harms_nobody(listener: Listener) -> None:
    calls = 0

    def on_step(step: StepOutput) -> None:
        nonlocal calls
        calls += 1
        listener.on_step(step)
        if calls == 1:
            raise RuntimeError("the loop is closed")

    worker = EngineWorker(fake_engine, on_step=on_step, on_state=listener.on_state)
    worker.start()
    listener.wait_for(lambda: "ready" in listener.states)
    worker.submit(generation("a", max_tokens=5))
    assert len(listener.token_ids("a")) <= 5 and listener.wait_for_end("a").finish_reason == "length"
    assert worker.stop(DEADLINE_S)
