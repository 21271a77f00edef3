"""The link inside one process: a worker thread on one side, the loop on the other."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from attendant_engine.engine import Engine
from attendant_engine.errors import CheckpointError
from attendant_engine.stats import LoadStats, StepOutput, StepStats
from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, SequenceOutput
from attendant_engine.worker import WorkerState
from attendant_server.errors import ServingError
from attendant_server.link.local import LocalLink
from attendant_server.metrics import ReplicaMetrics
from tests.server.fakes import model_info
from tests.server.link.replicas import until


class _Loaded:
    """What the link reads of an engine."""

    info = model_info()
    load_stats = LoadStats(phase_s={"weights": 0.5})


class FakeWorker:
    """A worker without a thread: the test plays the thread."""

    def __init__(
        self, load: Callable[[], Engine], *, on_step: Callable[[StepOutput], None], on_state: Callable[[WorkerState], None]
    ) -> None:
        self.engine: Any = None
        self.load_error: Any = None
        self.slowest_step_s = 0.01
        self.last_step_monotonic_s = time.monotonic()
        self.state: WorkerState = "loading"
        self.submitted: list[EngineRequest] = []
        self.aborted: list[str] = []
        self._on_step, self._on_state = on_step, on_state

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, request: EngineRequest) -> None:
        self.submitted.append(request)

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def drain(self, timeout_s: float) -> bool:
        return True

    def stop(self, timeout_s: float) -> bool:
        return True

    def enter(self, state: WorkerState) -> None:
        self.state = state
        self.engine = _Loaded() if state != "failed" else None
        self._on_state(state)

    def step(self, *outputs: EngineOutput, **stats: Any) -> None:
        """Report a step from another thread, as the real one does."""
        step = StepOutput(outputs=outputs, stats=StepStats(step_index=0, **stats))
        thread = threading.Thread(target=self._on_step, args=(step,))
        thread.start()
        thread.join()


def _no_load() -> Engine:
    raise AssertionError("the fake worker loads nothing")


def _link() -> tuple[LocalLink, FakeWorker, ReplicaMetrics]:
    workers: list[FakeWorker] = []

    def make(*args: Any, **kwargs: Any) -> FakeWorker:
        workers.append(FakeWorker(*args, **kwargs))
        return workers[-1]

    metrics = ReplicaMetrics(model="tiny", replica="r0")
    link = LocalLink(_no_load, replica_id="r0", metrics=metrics, make_worker=make)
    link.start()
    return link, workers[0], metrics


REQUEST = GenerationRequest(request_id="a", prompt_token_ids=(1,))


async def test_it_is_ready_when_loaded_and_says_what_it_waits_for_before() -> None:
    link, worker, _ = _link()
    assert (link.is_ready, link.info, link.status) == (False, None, "the model is still loading")
    with pytest.raises(ServingError) as caught:
        link.submit(REQUEST, lambda output: None)
    assert caught.value.code == "not_ready"
    worker.enter("ready")
    await link.wait_loaded()
    assert link.is_ready
    assert link.info == _Loaded.info
    assert b'attendant_model_load_seconds{model="tiny",phase="weights",replica="r0"} 0.5' in link.metrics_text
    await link.close()


async def test_a_model_that_cannot_be_loaded_says_why() -> None:
    link, worker, _ = _link()
    worker.load_error = CheckpointError("model.safetensors is missing.")
    worker.enter("failed")
    await link.wait_loaded()
    assert not link.is_ready
    assert link.status.endswith("model.safetensors is missing.")
    await link.close()


async def test_outputs_of_another_thread_arrive_on_the_loop_with_their_numbers_in_the_metrics() -> None:
    link, worker, _ = _link()
    worker.enter("ready")
    got: list[tuple[EngineOutput, asyncio.AbstractEventLoop]] = []
    link.submit(REQUEST, lambda output: got.append((output, asyncio.get_running_loop())))
    output = SequenceOutput(request_id="a", token_ids=(5,))
    worker.step(output, num_running=1, num_sequences=1, num_generated_tokens=1)
    assert got == []
    await until(lambda: bool(got))
    assert got == [(output, asyncio.get_running_loop())]
    assert link.load.num_running == 1
    assert b'attendant_generated_tokens_total{model="tiny",replica="r0"} 1.0' in link.metrics_text
    await link.close()


async def test_after_an_abort_nothing_more_comes_and_the_worker_knows() -> None:
    link, worker, _ = _link()
    worker.enter("ready")
    got: list[EngineOutput] = []
    link.submit(REQUEST, got.append)
    link.abort("a")
    link.abort("a")
    worker.step(SequenceOutput(request_id="a", finish_reason="abort"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert worker.aborted == ["a"]
    assert got == []
    await link.close()


@pytest.mark.parametrize("end", ["failed", "close", "hang"])
async def test_whatever_ends_the_engine_no_request_just_hangs(end: str) -> None:
    link, worker, _ = _link()
    worker.enter("ready")
    got: list[EngineOutput] = []
    link.submit(REQUEST, got.append)
    if end == "failed":
        worker.enter("failed")
    elif end == "close":
        await link.close()
    else:
        worker.last_step_monotonic_s -= 4.0
    await until(lambda: bool(got))
    assert [output.error.code for output in got if output.error is not None] == ["not_ready"]
    assert not link.is_ready
    await link.close()


async def test_a_replica_whose_steps_are_slow_is_given_longer() -> None:
    link, worker, _ = _link()
    worker.enter("ready")
    worker.slowest_step_s = 2.0
    worker.last_step_monotonic_s -= 4.0
    assert link.is_ready
    worker.last_step_monotonic_s -= 8.0
    assert (link.is_ready, link.state) == (False, "hung")
    assert "no sign of life" in link.status
    await link.close()
