"""Any history of arrivals, cancellations and steps keeps every block accounted for and every answer right."""

from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendant_engine.types import GenerationRequest
from tests.engine.fakes import Collected, fake_engine, generation, run_all

_MAX_TOKENS_IN_CACHE = 48

_requests = st.builds(
    lambda start, length, max_tokens, n, priority, temperature, seed, scored, penalty, salt, bias: generation(
        "",
        tuple(2 + (start + k * k) % 40 for k in range(length)),
        max_tokens=min(max_tokens, _MAX_TOKENS_IN_CACHE - length),
        n=n,
        priority=priority,
        temperature=temperature,
        seed=seed,
        prompt_logprobs=scored,
        presence_penalty=penalty,
        repetition_penalty=1.0 + penalty,
        frequency_penalty=penalty,
        min_tokens=int(penalty),
        cache_salt=salt,
        logit_bias=bias,
        ignore_eos=False,
    ),
    start=st.integers(0, 2),
    length=st.integers(1, 30),
    max_tokens=st.integers(0, 18),
    n=st.integers(1, 4),
    priority=st.integers(0, 2),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    scored=st.sampled_from([None, None, 1]),
    penalty=st.sampled_from([0.0, 0.0, 3.0]),
    salt=st.sampled_from(["", "", "tenant"]),
    bias=st.sampled_from([(), ((2, 1000.0), (3, 1000.0))]),  # a text of two words is often guessed
)
_actions = st.lists(st.one_of(_requests, st.integers(0, 40), st.none(), st.none(), st.none()), max_size=40)


def _renamed(request: GenerationRequest, request_id: str) -> GenerationRequest:
    return GenerationRequest(
        request_id=request_id,
        prompt_token_ids=request.prompt_token_ids,
        params=request.params,
        n=request.n,
        priority=request.priority,
        cache_salt=request.cache_salt,
    )


@settings(max_examples=120, deadline=None)
@given(
    actions=_actions,
    num_blocks=st.integers(12, 30),
    max_batch_tokens=st.integers(1, 40),
    max_num_seqs=st.integers(1, 8),
    enable_prefix_caching=st.booleans(),
    speculation=st.sampled_from(["none", "ngram", "ngram"]),
)
def test_whatever_happens_blocks_add_up_and_answers_are_those_of_a_quiet_engine(
    actions: list[GenerationRequest | int | None],
    num_blocks: int,
    max_batch_tokens: int,
    max_num_seqs: int,
    enable_prefix_caching: bool,
    speculation: Literal["none", "ngram"],
) -> None:
    engine = fake_engine(
        num_blocks=num_blocks,
        block_size=4,
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=enable_prefix_caching,
        speculation=speculation,
    )
    collected, requests, cancelled = Collected(), list[GenerationRequest](), set[str]()
    for action in actions:  # a request arrives, a number cancels one, None is a step
        if isinstance(action, GenerationRequest):
            requests.append(_renamed(action, str(len(requests))))
            engine.add_request(requests[-1])
        elif action is None:
            collected.add(engine.step())
        elif requests:
            cancelled.add(str(action % len(requests)))
            engine.abort(str(action % len(requests)))
        engine.check_integrity()
    for _ in range(10_000):
        if not engine.has_work:
            break
        step = engine.step()
        assert step.stats.num_tokens <= max_batch_tokens and step.stats.num_sequences <= max_num_seqs
        collected.add(step)
        engine.check_integrity()
    assert not engine.has_work and engine.num_requests == 0
    assert engine.step().stats.kv_cache_usage_ratio == 0.0
    for request in requests:
        quiet = run_all(fake_engine(), request)
        for index in range(request.n):
            _compare(collected, quiet, request.request_id, index, request.request_id in cancelled)


def _compare(collected: Collected, quiet: Collected, request_id: str, index: int, may_be_cut: bool) -> None:
    said, expected = collected.token_ids(request_id, index), quiet.token_ids(request_id, index)
    last = collected.last(request_id, index)
    if last.finish_reason == "abort":
        assert may_be_cut and said == expected[: len(said)]
        return
    assert said == expected and last.finish_reason == quiet.last(request_id, index).finish_reason
    if index == 0:
        assert collected.by_sequence[request_id, 0][0].prompt_logprobs == quiet.by_sequence[request_id, 0][0].prompt_logprobs


def _cancel_when(predicate: Callable[[int], bool], **engine_settings: int) -> None:
    """Start two requests, cancel the first when its number of outputs so far satisfies ``predicate``, and look what is left."""
    engine = fake_engine(**engine_settings)  # type: ignore[arg-type]
    prompt = tuple(range(2, 32))
    engine.add_request(generation("cut", prompt, max_tokens=10, n=3, temperature=1.0, seed=1))
    engine.add_request(generation("kept", prompt[:20], max_tokens=10))
    collected = Collected()
    while not predicate(len(collected.steps)):
        collected.add(engine.step())
    engine.abort("cut")
    engine.check_integrity()
    assert engine.num_requests == 1
    collected.add(engine.step())
    assert {collected.last("cut", index).finish_reason for index in range(3)} == {"abort"}
    while engine.has_work:
        collected.add(engine.step())
        engine.check_integrity()
    stats = collected.steps[-1].stats
    assert (stats.num_running, stats.num_waiting, stats.kv_cache_usage_ratio, engine.num_requests) == (0, 0, 0.0, 0)
    assert collected.token_ids("kept") == run_all(fake_engine(), generation("a", prompt[:20], max_tokens=10)).token_ids()


@pytest.mark.parametrize("num_steps", range(12))
def test_cancelling_before_any_step_of_a_chunked_prefill_or_of_decoding_leaves_nothing(num_steps: int) -> None:
    _cancel_when(lambda steps: steps == num_steps, max_batch_tokens=8)


def test_cancelling_a_queued_or_preempted_request_leaves_nothing() -> None:
    _cancel_when(lambda steps: steps == 4, max_num_seqs=1)
    _cancel_when(lambda steps: steps == 3, num_blocks=11)


def test_cancelling_twice_or_late_or_something_unknown_is_no_error() -> None:
    engine = fake_engine()
    run_all(engine, generation("done"))
    for request_id in ("done", "done", "unknown"):
        engine.abort(request_id)
    assert not engine.has_work


def test_an_aborted_id_is_free_at_once() -> None:
    engine = fake_engine()
    engine.add_request(generation("a"))
    engine.abort("a")
    engine.add_request(generation("a", max_tokens=2))
    outputs = [output for _ in range(3) for output in engine.step().outputs]
    assert [getattr(output, "finish_reason", None) for output in outputs] == ["abort", None, "length"]
