"""Tenants share an engine by their weights; none starves, none pays for another, and no answer depends on it."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendant_engine.engine import Engine
from attendant_engine.errors import QueueFullError
from attendant_engine.scheduling.fair_share import CREDIT_TOKENS
from attendant_engine.service_order import PRIORITY_STEP_S
from attendant_engine.types import GenerationRequest, PoolingRequest, SequenceOutput
from tests.engine.clock import Clock
from tests.engine.fakes import Collected, fake_engine, fake_model, generation, run_all

PROMPT = tuple(2 + i % 50 for i in range(80))


def _of(tenant: str, request: GenerationRequest, weight: float = 1.0) -> GenerationRequest:
    return replace(request, tenant=tenant, tenant_weight=weight, cache_salt=tenant)


def _prompt(number: int, length: int = 20) -> tuple[int, ...]:
    return tuple(2 + (number * 7 + i * i) % 50 for i in range(length))


def _flood(engine: Engine, tenant: str, num_requests: int, *, weight: float = 1.0, max_tokens: int = 20) -> None:
    for number in range(num_requests):
        engine.add_request(_of(tenant, generation(f"{tenant}{number}", _prompt(number), max_tokens=max_tokens), weight))


def _step_of_first_token(engine: Engine, request_id: str) -> int:
    for num_steps in range(1, 1000):
        step = engine.step()
        engine.check_integrity()
        if any(isinstance(output, SequenceOutput) and output.request_id == request_id and output.token_ids for output in step.outputs):
            return num_steps
    raise AssertionError(f"{request_id} got no token")


@pytest.mark.parametrize("max_num_seqs", [8, 64])
def test_a_tenant_beside_a_flood_gets_its_first_token_as_soon_as_alone(max_num_seqs: int) -> None:
    alone = fake_engine(max_num_seqs=max_num_seqs, max_batch_tokens=32)
    alone.add_request(_of("quiet", generation("q", PROMPT, max_tokens=4)))
    num_alone = _step_of_first_token(alone, "q")
    engine = fake_engine(max_num_seqs=max_num_seqs, max_batch_tokens=32)
    _flood(engine, "flood", 300)
    for _ in range(100):
        engine.step()
    for turn in range(5):
        engine.add_request(_of("quiet", generation(f"q{turn}", _prompt(turn, 80), max_tokens=4)))
        assert _step_of_first_token(engine, f"q{turn}") <= num_alone + 2
        for _ in range(10):
            engine.step()


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_two_floods_get_tokens_by_weight(weight: float) -> None:
    engine = fake_engine(max_num_seqs=8, max_batch_tokens=32)
    _flood(engine, "a", 400, weight=weight)
    _flood(engine, "b", 400)
    used: Counter[str] = Counter()
    for _ in range(1200):
        for usage in engine.step().stats.usage:
            used[usage.tenant] += usage.num_prompt_tokens + usage.num_generated_tokens
    assert engine.num_requests > 0
    assert abs(used["a"] / weight - used["b"]) <= CREDIT_TOKENS + 8 * 40
    assert used["a"] + used["b"] > 10_000


def test_a_flood_of_one_tenant_leaves_room_in_the_queue_for_another() -> None:
    engine = fake_engine(max_queue=10, max_num_seqs=1)
    _flood(engine, "flood", 10)
    with pytest.raises(QueueFullError, match="10 requests are waiting and the queue takes at most 10"):
        engine.add_request(_of("flood", generation("one-more")))
    _flood(engine, "quiet", 5)
    with pytest.raises(QueueFullError):
        engine.add_request(_of("quiet", generation("one-more")))


def test_a_low_priority_is_served_under_a_stream_of_high_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock.replace(monkeypatch)
    engine = fake_engine(max_num_seqs=1)
    engine.add_request(generation("low", max_tokens=2, priority=2))
    for number in range(1000):
        engine.add_request(generation(f"high{number}", max_tokens=2))
        clock.now_s += 1
        outputs = [output for _ in range(2) for output in engine.step().outputs]
        engine.check_integrity()
        if any(output.request_id == "low" for output in outputs):
            break
    assert clock.now_s - 1000 == pytest.approx(2 * PRIORITY_STEP_S, abs=5)


def test_a_tenants_own_priorities_take_nothing_from_another() -> None:
    engine = fake_engine(max_num_seqs=4, max_batch_tokens=32)
    for number in range(200):
        engine.add_request(_of("pushy", generation(f"p{number}", _prompt(number), max_tokens=20, priority=-100)))
    for _ in range(100):
        engine.step()
    engine.add_request(_of("quiet", generation("q", _prompt(1), max_tokens=4, priority=100)))
    assert _step_of_first_token(engine, "q") <= 3


def test_texts_to_pool_take_turns_by_tenant() -> None:
    engine = fake_engine(model=fake_model(is_decoder=False), max_num_seqs=4)
    for number in range(200):
        engine.add_request(PoolingRequest(request_id=f"a{number}", prompt_token_ids=_prompt(number), task="embedding", tenant="a"))
    engine.step()
    engine.add_request(PoolingRequest(request_id="b", prompt_token_ids=_prompt(0), task="embedding", tenant="b"))
    step = engine.step()
    assert "b" in {output.request_id for output in step.outputs}
    assert {usage.tenant: usage.num_prompt_tokens for usage in step.stats.usage} == {"a": 40, "b": 20}
    engine.check_integrity()


_requests = st.builds(
    lambda tenant, start, length, max_tokens, n, priority, weight: _of(
        tenant,
        generation("", _prompt(start, length), max_tokens=max_tokens, n=n, priority=priority, temperature=1.0, seed=start),
        weight,
    ),
    tenant=st.sampled_from("abc"),
    start=st.integers(0, 3),
    length=st.integers(1, 30),
    max_tokens=st.integers(0, 18),
    n=st.integers(1, 3),
    priority=st.integers(-1, 1),
    weight=st.sampled_from([0.5, 1.0, 4.0]),
)


@settings(max_examples=100, deadline=None)
@given(
    actions=st.lists(st.one_of(_requests, _requests, st.integers(0, 40), st.none(), st.none()), max_size=40),
    num_blocks=st.integers(12, 30),
    max_batch_tokens=st.integers(1, 40),
    max_num_seqs=st.integers(1, 8),
    enable_prefix_caching=st.booleans(),
)
def test_usage_adds_up_to_the_token_and_answers_are_those_of_a_quiet_engine(
    actions: list[GenerationRequest | int | None], num_blocks: int, max_batch_tokens: int, max_num_seqs: int, enable_prefix_caching: bool
) -> None:
    engine = fake_engine(
        num_blocks=num_blocks,
        block_size=4,
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=enable_prefix_caching,
        speculation="ngram",
    )
    collected, requests, cancelled = Collected(), dict[str, GenerationRequest](), set[str]()
    for action in actions:  # a request arrives, a number cancels one of tenant c's, None is a step
        if isinstance(action, GenerationRequest):
            request_id = str(len(requests))
            requests[request_id] = replace(action, request_id=request_id)
            engine.add_request(requests[request_id])
        elif action is None:
            collected.add(engine.step())
        elif requests and requests[str(action % len(requests))].tenant == "c":
            cancelled.add(str(action % len(requests)))
            engine.abort(str(action % len(requests)))
        engine.check_integrity()
    for _ in range(10_000):
        if not engine.has_work:
            break
        collected.add(engine.step())
        engine.check_integrity()
    assert not engine.has_work and engine.num_requests == 0
    _check_usage(collected, requests)
    for request_id, request in requests.items():
        quiet = run_all(fake_engine(), request)
        for index in range(request.n):
            if collected.last(request_id, index).finish_reason != "abort":
                assert collected.token_ids(request_id, index) == quiet.token_ids(request_id, index)


def _check_usage(collected: Collected, requests: dict[str, GenerationRequest]) -> None:
    used = {name: Counter[str]() for name in ("prompt", "cached", "generated")}
    for step in collected.steps:
        stats = step.stats
        for usage in stats.usage:
            used["prompt"][usage.tenant] += usage.num_prompt_tokens
            used["cached"][usage.tenant] += usage.num_cached_prompt_tokens
            used["generated"][usage.tenant] += usage.num_generated_tokens
        assert stats.num_prompt_tokens == sum(usage.num_prompt_tokens for usage in stats.usage)
        assert stats.num_cached_prompt_tokens == sum(usage.num_cached_prompt_tokens for usage in stats.usage)
        assert stats.num_generated_tokens == sum(usage.num_generated_tokens for usage in stats.usage)
    for tenant in "abc":
        own = [request for request in requests.values() if request.tenant == tenant]
        said = sum(len(collected.token_ids(request.request_id, index)) for request in own for index in range(request.n))
        assert used["generated"][tenant] == said
        total, cached = sum(len(request.prompt_token_ids) for request in own), used["cached"][tenant]
        if tenant == "c":
            assert used["prompt"][tenant] + cached <= total
            continue
        assert used["prompt"][tenant] + cached == total
        assert cached == sum(collected.by_sequence[request.request_id, 0][0].num_cached_tokens for request in own)
