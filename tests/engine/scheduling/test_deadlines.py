"""At its deadline a request ends within a step, wherever it stands, and a late one never begins."""

from dataclasses import replace

import pytest

from attendant_engine.engine import Engine
from attendant_engine.errors import DeadlineError
from attendant_engine.scheduling.deadlines import Deadlines
from attendant_engine.sequence import PoolingState
from attendant_engine.types import PooledOutput, PoolingRequest, SequenceOutput
from tests.engine.clock import Clock
from tests.engine.fakes import Collected, fake_engine, fake_model, generation, run_all

PROMPT = tuple(range(2, 42))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.replace(monkeypatch)


def _run_on(engine: Engine, collected: Collected) -> None:
    while engine.has_work:
        collected.add(engine.step())
        engine.check_integrity()


@pytest.mark.parametrize("num_steps", range(10))
def test_a_request_ends_in_the_step_after_its_deadline_wherever_it_stands(clock: Clock, num_steps: int) -> None:
    engine = fake_engine(max_batch_tokens=12)
    engine.add_request(replace(generation("late", PROMPT, n=2, max_tokens=30), deadline_s=clock.now_s + 10))
    engine.add_request(generation("kept", PROMPT[:9], max_tokens=20))
    collected = Collected()
    for _ in range(num_steps):
        collected.add(engine.step())
    clock.now_s += 10
    step = engine.step()
    collected.add(step)
    ended = [output for output in step.outputs if output.request_id == "late"]
    assert {output.index for output in ended if isinstance(output, SequenceOutput)} == {0, 1}
    assert {output.error.code if output.error else None for output in ended} == {"deadline_exceeded"}
    assert step.stats.num_running + step.stats.num_waiting == engine.num_requests == 1
    _run_on(engine, collected)
    assert collected.token_ids("kept") == run_all(fake_engine(), generation("a", PROMPT[:9], max_tokens=20)).token_ids()
    assert engine.step().stats.kv_cache_usage_ratio == 0.0


def test_what_waited_until_its_deadline_is_never_started(clock: Clock) -> None:
    engine = fake_engine(max_num_seqs=1)
    engine.add_request(generation("runs", max_tokens=8))
    engine.step()
    engine.add_request(replace(generation("waits", PROMPT), deadline_s=clock.now_s + 1))
    engine.step()
    clock.now_s += 2
    step = engine.step()
    assert [output.error.code for output in step.outputs if output.error is not None] == ["deadline_exceeded"]
    assert step.stats.num_prompt_tokens == 0 and step.stats.num_waiting == 0


def test_a_request_that_comes_too_late_is_refused(clock: Clock) -> None:
    engine = fake_engine()
    with pytest.raises(DeadlineError, match="deadline"):
        engine.add_request(replace(generation("a"), deadline_s=clock.now_s))
    assert not engine.has_work and engine.num_requests == 0


def test_a_text_to_pool_ends_at_its_deadline_too(clock: Clock) -> None:
    engine = fake_engine(model=fake_model(is_decoder=False))
    engine.add_request(PoolingRequest(request_id="a", prompt_token_ids=(1, 2), task="embedding", deadline_s=clock.now_s + 1))
    clock.now_s += 1
    (output,) = engine.step().outputs
    assert isinstance(output, PooledOutput) and output.error is not None and output.error.code == "deadline_exceeded"
    assert not engine.has_work and engine.num_requests == 0


def test_a_deadline_that_is_met_says_nothing_later_even_to_another_request_of_that_name(clock: Clock) -> None:
    engine = fake_engine()
    first = run_all(engine, replace(generation("a", max_tokens=3), deadline_s=clock.now_s + 1))
    assert first.last().finish_reason == "length"
    engine.add_request(generation("a", max_tokens=5))
    clock.now_s += 2
    collected = Collected()
    _run_on(engine, collected)
    assert len(collected.token_ids()) == 5


def test_deadlines_of_what_has_ended_do_not_pile_up() -> None:
    deadlines = Deadlines()
    live: dict[str, PoolingState] = {}
    for arrival in range(5000):
        request = PoolingRequest(request_id=str(arrival), prompt_token_ids=(1,), task="embedding", deadline_s=1e9 + arrival)
        state = PoolingState(request=request, arrival=arrival, arrival_s=0.0)
        deadlines.add(state)
        live = {request.request_id: state}
        assert deadlines.pop_due(0.0, live) == []
        assert len(deadlines) < 100
    assert deadlines.pop_due(2e9, live) == list(live.values())
