"""The queue is bounded in requests and in tokens, and what cannot be done in time hears so at once with a time to come back."""

from dataclasses import replace

import pytest

from attendant_engine.admission.door import Backlog, Door
from attendant_engine.admission.pace import Pace, PaceMeter
from attendant_engine.engine import Engine
from attendant_engine.errors import DeadlineError, EngineError, QueueFullError
from attendant_engine.sequence import ScheduledStep, StepResult
from attendant_engine.types import EngineRequest, GenerationRequest, PoolingRequest, SequenceOutput
from attendant_engine.workload import Work, Workload, work_of
from tests.engine.clock import Clock
from tests.engine.fakes import Collected, fake_engine, generation

NOW_S = 1000.0
PACE = Pace(prompt_token_s=0.01, decode_base_s=0.06, decode_each_s=0.01, output_tokens=10.0, full_batch=4.0)
DOOR = Door(max_queue=10, max_queue_tokens=1000, max_num_seqs=4, max_model_len=256)


def _waiting(**works: Work) -> Workload:
    workload = Workload()
    for tenant, work in works.items():
        workload.add("" if tenant == "nobody" else tenant, 1.0, work)
    return workload


def _request(tenant: str = "", *, num_tokens: int = 20, max_tokens: int = 10, left_s: float | None = None) -> GenerationRequest:
    request = generation("a", (5,) * num_tokens, max_tokens=max_tokens)
    return replace(request, tenant=tenant, deadline_s=None if left_s is None else NOW_S + left_s)


def _refusal(request: EngineRequest, workload: Workload, *, num_running: int = 4, pace: Pace = PACE) -> EngineError | None:
    return DOOR.refusal(request, Backlog(workload, num_running, pace), NOW_S)


def test_the_queue_is_bounded_in_requests_and_in_tokens_and_says_when_to_come_back() -> None:
    assert _refusal(_request(), _waiting(nobody=Work(9, 90, 880))) is None
    full = _refusal(_request(), _waiting(nobody=Work(10, 100, 100)))
    assert isinstance(full, QueueFullError) and "10 requests are waiting and the queue takes at most 10" in full.message
    # 100 prompt tokens at 10 ms, and 100 tokens in decode steps of 100 ms for four: a tenth of that until one has begun.
    assert full.retry_after_s == pytest.approx((1.0 + 2.5) / 10)
    over = _refusal(_request(), _waiting(nobody=Work(2, 800, 180)))
    assert (
        isinstance(over, QueueFullError) and "980 tokens are waiting, this request has 30 and the queue takes at most 1000" in over.message
    )
    assert over.retry_after_s == pytest.approx((8.0 + 20 * 0.1 / 4) / 2)


def test_one_request_larger_than_the_bound_is_taken_when_nothing_waits() -> None:
    assert _refusal(_request(num_tokens=200, max_tokens=50), _waiting()) is None
    assert DOOR.refusal(_request(num_tokens=200, max_tokens=50), Backlog(_waiting()), NOW_S) is None


def test_a_tenant_below_its_share_of_a_full_queue_is_let_in() -> None:
    crowd = _waiting(flood=Work(10, 500, 500))
    assert _refusal(_request("flood"), crowd) is not None
    assert _refusal(_request("quiet"), crowd) is None
    assert _refusal(replace(_request("quiet", num_tokens=250, max_tokens=6), tenant_weight=0.1), crowd) is not None
    crowd.add("quiet", 1.0, Work(5, 100, 100))
    assert isinstance(_refusal(_request("quiet"), crowd), QueueFullError)


@pytest.mark.parametrize("pace", [PACE, Pace()])
def test_nothing_is_refused_for_its_deadline_where_nothing_is_in_line_or_was_measured(pace: Pace) -> None:
    impossible = _request(left_s=0.001)
    assert _refusal(impossible, _waiting(), num_running=0, pace=pace) is None
    assert (_refusal(impossible, _waiting(nobody=Work(1, 10, 10)), pace=pace) is None) == (pace is not PACE)


def test_a_deadline_is_refused_from_where_it_cannot_be_met() -> None:
    # 20 prompt tokens at 10 ms; nine steps of 100 ms for four, and the prompts of four: 1.9 s, stretched by a tenth.
    assert _refusal(_request(left_s=2.1), _waiting(), num_running=3) is None
    assert isinstance(_refusal(_request(left_s=2.08), _waiting(), num_running=3), DeadlineError)
    # With one that runs a step takes 80 ms.
    assert _refusal(_request(left_s=1.46), _waiting(), num_running=1) is None
    assert isinstance(_refusal(_request(left_s=1.44), _waiting(), num_running=1), DeadlineError)
    # Beside it 300 prompt tokens, and 4 outputs of 10 tokens, four of them a step.
    crowd = _waiting(nobody=Work(4, 300, 400))
    assert _refusal(_request(left_s=6.55), crowd) is None
    late = _refusal(_request(left_s=6.0), crowd)
    assert isinstance(late, DeadlineError) and "cannot be met" in late.message
    assert late.retry_after_s == pytest.approx(1.1 * (4.0 + 1.9) - 6.0)


def test_only_what_goes_before_it_counts_against_a_tenants_deadline() -> None:
    crowd = _waiting(flood=Work(100, 9000, 1000))
    assert isinstance(_refusal(_request("flood", left_s=5.0), crowd), QueueFullError)
    assert _refusal(_request("quiet", left_s=5.0), crowd) is None
    assert isinstance(_refusal(_request("quiet", left_s=2.2), crowd), DeadlineError)


def test_texts_to_pool_have_a_place_in_the_estimate_too() -> None:
    text = PoolingRequest(request_id="a", prompt_token_ids=(1,) * 50, task="embedding", deadline_s=NOW_S + 1)
    assert _refusal(text, _waiting(nobody=Work(1, 30, 0)), num_running=0, pace=Pace(prompt_token_s=0.01)) is None
    assert _refusal(text, _waiting(nobody=Work(1, 60, 0)), num_running=0, pace=Pace(prompt_token_s=0.01)) is not None


def test_work_is_never_negative_and_counts_every_sibling() -> None:
    assert work_of(generation("a", (1,) * 300, max_tokens=50), 256) == Work(1, 300, 0)
    assert work_of(generation("a", (1,) * 250, max_tokens=50, n=3), 256) == Work(3, 250, 18)
    moved = replace(generation("a", (1,) * 10, max_tokens=50), output_token_ids=(2,) * 20)
    assert work_of(moved, 256) == Work(1, 30, 30)


def test_pace_follows_the_steps() -> None:
    meter = PaceMeter()
    for _ in range(100):
        meter.note_step(0.1, num_decodes=4, num_prefilled=0)
        meter.note_step(0.3, num_decodes=4, num_prefilled=100)
        meter.note_line(4, 1)
        meter.note_output(7)
        meter.note_prompts(30, 10)
    pace = meter.pace
    assert pace.decode_step_s(4) == pytest.approx(0.1)
    assert pace.prompt_token_s == pytest.approx(0.002)
    assert (pace.output_tokens, pace.full_batch, pace.computed_share) == (7, 4, 0.75)
    for num_decodes in [1, 2, 4, 8] * 100:
        meter.note_step(0.05 + 0.02 * num_decodes, num_decodes=num_decodes, num_prefilled=0)
    assert meter.pace.decode_step_s(16) == pytest.approx(0.37, abs=0.005)


def test_steps_that_grow_with_the_batch_are_foreseen_and_those_of_one_size_taken_as_they_are() -> None:
    meter = PaceMeter()
    assert meter.pace.decode_step_s(3) is None
    meter.note_step(0.1, num_decodes=5, num_prefilled=0)
    assert meter.pace.decode_step_s(5) == meter.pace.decode_step_s(50) == pytest.approx(0.1)
    for num_decodes in (5, 6, 7):
        meter.note_step(0.3 / num_decodes, num_decodes=num_decodes, num_prefilled=0)  # noise, not a law
    pace = meter.pace
    assert pace.decode_base_s is not None and pace.decode_base_s > 0 and pace.decode_each_s == 0


def _overload(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, capacity: float, deadline_s: float
) -> tuple[Collected, list[float]]:
    """Offer, for 15 s, ``capacity`` times what the engine can do; return hints too.

    A step of eight takes 10 ms, one of one 3 ms, and 2 ms pass between two.
    """
    run = engine._runner.run

    def slow_run(step: ScheduledStep) -> StepResult:
        clock.now_s += 0.002 + 0.001 * len(step.sequences)
        return run(step)

    monkeypatch.setattr(engine._runner, "run", slow_run)
    collected, hints, number = Collected(), list[float](), 0
    start_s = clock.now_s
    while clock.now_s < start_s + 15:
        while number < (clock.now_s - start_s) * capacity * 8 / (20 * 0.012):
            request = generation(f"r{number}", tuple(2 + (number * k) % 50 for k in range(10)), max_tokens=20)
            number += 1
            try:
                engine.add_request(replace(request, deadline_s=clock.now_s + deadline_s))
            except EngineError as error:
                hints.append(error.retry_after_s or 0.0)
        collected.add(engine.step())
        clock.now_s += 0.002
    engine.check_integrity()
    return collected, hints


@pytest.mark.parametrize(("capacity", "deadline_s"), [(2.0, 3.0), (10.0, 3.0), (10.0, 0.5)])
def test_under_overload_what_is_let_in_is_done_in_time_and_the_engine_stays_busy(
    capacity: float, deadline_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock.replace(monkeypatch)
    engine = fake_engine(max_num_seqs=8, max_batch_tokens=128, enable_prefix_caching=False)
    collected, hints = _overload(engine, clock, monkeypatch, capacity=capacity, deadline_s=deadline_s)
    steps = collected.steps[300:]  # the pace is known then
    outputs = [output for step in steps for output in step.outputs if isinstance(output, SequenceOutput)]
    num_done = sum(1 for output in outputs if output.finish_reason == "length")
    num_late = sum(1 for output in outputs if output.error is not None)
    assert num_late <= 0.02 * num_done
    assert hints and all(0 < hint < 5 for hint in hints)
    seconds = len(steps) * 0.012  # at least: prompts take their time too
    assert num_done * 20 >= 0.9 * seconds * 8 / 0.012, "nine tenths of what the engine can do became answers"
