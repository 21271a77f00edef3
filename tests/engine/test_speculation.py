"""Guessing changes how many steps an answer takes, and nothing else about it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendant_engine.decoding.ngram import NgramTable
from attendant_engine.engine import Engine
from attendant_engine.types import GenerationRequest, TokenLogprobs
from tests.engine.fakes import EOS_ID, NOT_FINITE_ID, RAISING_ID, Collected, fake_engine, generation, run_all

TWO_WORDS = ((2, 1000.0), (3, 1000.0))
ONE_WORD = ((7, 1000.0),)
PROMPT = (2, 3, 2, 3, 3, 2)


def _speculating(**settings: Any) -> Engine:
    return fake_engine(speculation="ngram", **settings)


def _logprobs(collected: Collected, key: tuple[str, int]) -> list[TokenLogprobs]:
    return [entry for output in collected.by_sequence[key] for entry in output.logprobs or ()]


def _assert_same_answers(collected: Collected, expected: Collected) -> None:
    assert collected.by_sequence.keys() == expected.by_sequence.keys()
    for key in expected.by_sequence:
        assert collected.token_ids(*key) == expected.token_ids(*key)
        assert _logprobs(collected, key) == _logprobs(expected, key)
        last, expected_last = collected.last(*key), expected.last(*key)
        assert (last.finish_reason, last.stop_token_id) == (expected_last.finish_reason, expected_last.stop_token_id)


_requests = st.lists(
    st.builds(
        lambda prompt, max_tokens, min_tokens, temperature, n, logprobs, stops, bias, seed: generation(
            "",
            tuple(prompt),
            max_tokens=max_tokens,
            min_tokens=min(min_tokens, max_tokens),
            temperature=temperature,
            n=n,
            logprobs=logprobs,
            stop_token_ids=stops,
            logit_bias=(*TWO_WORDS, *bias),
            seed=seed,
        ),
        prompt=st.lists(st.integers(2, 4), min_size=1, max_size=24),
        max_tokens=st.integers(1, 40),
        min_tokens=st.sampled_from([0, 0, 7, 20]),
        temperature=st.sampled_from([0.0, 0.0, 0.5]),
        n=st.sampled_from([1, 1, 3]),
        logprobs=st.sampled_from([None, None, 2]),
        stops=st.sampled_from([(), (4,)]),
        bias=st.sampled_from([(), ((4, 998.0),)]),
        seed=st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
)


def _named(requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    return [
        GenerationRequest(request_id=str(idx), prompt_token_ids=request.prompt_token_ids, params=request.params, n=request.n)
        for idx, request in enumerate(requests)
    ]


@settings(max_examples=80, deadline=None)
@given(requests=_requests, num_blocks=st.integers(20, 60), max_batch_tokens=st.integers(2, 64), max_num_seqs=st.integers(1, 8))
def test_answers_are_those_of_plain_decoding(
    requests: list[GenerationRequest], num_blocks: int, max_batch_tokens: int, max_num_seqs: int
) -> None:
    engine = _speculating(num_blocks=num_blocks, max_batch_tokens=max_batch_tokens, max_num_seqs=max_num_seqs)
    _assert_same_answers(run_all(engine, *_named(requests)), run_all(fake_engine(), *_named(requests)))


def test_a_text_that_repeats_itself_takes_far_fewer_steps() -> None:
    request = generation("a", max_tokens=100, logit_bias=ONE_WORD)
    collected = run_all(_speculating(), request)
    assert collected.token_ids() == [7] * 100
    assert len(collected.steps) < 25
    assert collected.num_accepted_tokens == 100 - len(collected.steps)
    assert len(run_all(fake_engine(), request).steps) == 100


def test_drawn_tokens_are_guessed_too() -> None:
    request = generation("a", PROMPT, max_tokens=200, temperature=0.7, seed=3, logit_bias=TWO_WORDS)
    collected = run_all(_speculating(), request)
    _assert_same_answers(collected, run_all(fake_engine(), request))
    assert collected.num_accepted_tokens > 20


def test_sequences_preempted_between_guesses_say_the_same() -> None:
    requests = [generation(str(i), PROMPT[i % 3 :], max_tokens=36, logit_bias=TWO_WORDS, seed=i, temperature=i % 2) for i in range(5)]
    collected = run_all(_speculating(num_blocks=22), *requests)
    assert collected.num_preemptions > 0 and collected.num_accepted_tokens > 0
    _assert_same_answers(collected, run_all(fake_engine(), *requests))


def test_siblings_guess_each_for_itself() -> None:
    request = generation("a", PROMPT, max_tokens=60, n=3, temperature=0.5, seed=5, logit_bias=TWO_WORDS)
    collected = run_all(_speculating(), request)
    assert collected.num_accepted_tokens > 0
    _assert_same_answers(collected, run_all(fake_engine(), request))


@pytest.mark.parametrize("max_tokens", range(1, 24))
def test_a_run_of_right_guesses_ends_at_the_maximum(max_tokens: int) -> None:
    collected = run_all(_speculating(), generation("a", max_tokens=max_tokens, logit_bias=ONE_WORD))
    assert collected.token_ids() == [7] * max_tokens
    assert collected.last().finish_reason == "length"


@pytest.mark.parametrize("stop", [{"stop_token_ids": (3,)}, {"stop_token_ids": (), "ignore_eos": False}])
@pytest.mark.parametrize("seed", range(6))
def test_a_run_of_right_guesses_ends_at_a_stop_token(stop: dict[str, Any], seed: int) -> None:
    """Every prompt says the stop word often, so guesses go beyond it."""
    stop_id = 3 if stop["stop_token_ids"] else EOS_ID
    prompt = (2, 2, 2, stop_id, 2, 2, 2, stop_id, 2, 2)
    bias = ((2, 1000.0), (stop_id, 996.0))
    request = generation("a", prompt, max_tokens=80, temperature=1.0, seed=seed, logit_bias=bias, **stop)
    collected = run_all(_speculating(), request)
    _assert_same_answers(collected, run_all(fake_engine(), request))
    assert (collected.last().stop_token_id == stop_id) == (collected.token_ids()[-1] == stop_id)
    assert stop_id not in collected.token_ids()[:-1]


def test_a_stop_token_in_the_middle_of_right_guesses_takes_the_rest_back(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _speculating()
    request = generation("a", PROMPT, max_tokens=30, logit_bias=TWO_WORDS)
    said = run_all(fake_engine(), request).token_ids()
    stop_at = said.index(3, 6)
    _guess_rightly(monkeypatch, said, len(PROMPT))
    stopping = generation("a", PROMPT, max_tokens=30, logit_bias=TWO_WORDS, stop_token_ids=(3,), min_tokens=stop_at)
    plain = run_all(fake_engine(), stopping)
    collected = run_all(engine, stopping)
    _assert_same_answers(collected, plain)
    assert collected.last().finish_reason == "stop"
    again = run_all(engine, generation("a", (*PROMPT, *plain.token_ids()[:-1], 5), max_tokens=8))
    _assert_same_answers(again, run_all(fake_engine(), generation("a", (*PROMPT, *plain.token_ids()[:-1], 5), max_tokens=8)))


def _guess_rightly(monkeypatch: pytest.MonkeyPatch, said: Sequence[int], num_prompt_tokens: int) -> None:
    def propose(self: object, token_ids: Sequence[int], max_tokens: int) -> tuple[int, ...]:
        start = len(token_ids) - num_prompt_tokens
        return tuple(said[start : start + max_tokens])

    monkeypatch.setattr(NgramTable, "propose", propose)


def test_wrong_guesses_leave_nothing_in_the_prefix_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NgramTable, "propose", lambda self, token_ids, max_tokens: (5,) * max_tokens)
    engine = _speculating()
    said = run_all(engine, generation("a", PROMPT, max_tokens=30, logit_bias=TWO_WORDS)).token_ids()
    assert said == run_all(fake_engine(), generation("a", PROMPT, max_tokens=30, logit_bias=TWO_WORDS)).token_ids()
    for length in range(1, 30):
        for tail in ((5, 5, 5, 5), (2,)):
            follow_up = generation("b", (*PROMPT, *said[:length], *tail), max_tokens=2)
            assert run_all(engine, follow_up).token_ids("b") == run_all(fake_engine(), follow_up).token_ids("b")


@pytest.mark.parametrize("bad_id", [NOT_FINITE_ID, RAISING_ID])
def test_guesses_that_break_the_model_are_erased_and_harm_nobody(bad_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NgramTable, "propose", lambda self, token_ids, max_tokens: ((2, bad_id) * max_tokens)[:max_tokens])
    engine = _speculating(num_blocks=40)
    requests = [generation(str(i), PROMPT[i:], max_tokens=20, logit_bias=TWO_WORDS) for i in range(3)]
    collected = run_all(engine, *requests)
    assert sum(step.stats.num_draft_tokens for step in collected.steps) > 0
    _assert_same_answers(collected, run_all(fake_engine(), *requests))
    fresh = generation("fresh", tuple(range(2, 40)), max_tokens=100)
    _assert_same_answers(run_all(engine, fresh), run_all(fake_engine(), fresh))


@pytest.mark.parametrize("params", [{"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"repetition_penalty": 1.2}])
def test_requests_whose_choice_depends_on_what_was_said_are_not_guessed_at(params: dict[str, Any]) -> None:
    request = generation("a", PROMPT, max_tokens=30, logit_bias=ONE_WORD, **params)
    collected = run_all(_speculating(), request)
    assert all(step.stats.num_draft_tokens == 0 for step in collected.steps)
    _assert_same_answers(collected, run_all(fake_engine(), request))


def test_no_step_is_larger_than_its_budget_and_steps_count_their_guesses() -> None:
    requests = [generation(str(i), max_tokens=40, logit_bias=ONE_WORD) for i in range(3)]
    collected = run_all(_speculating(max_batch_tokens=5), *requests)
    decodes = [step.stats for step in collected.steps if step.stats.num_prompt_tokens == 0]
    assert max(stats.num_tokens for stats in decodes) == 5
    assert all(stats.num_tokens == stats.num_sequences + stats.num_draft_tokens for stats in decodes)
    assert sum(stats.num_accepted_tokens for stats in decodes) == collected.num_accepted_tokens > 0


def test_a_request_cancelled_between_guesses_leaves_nothing() -> None:
    engine = _speculating()
    engine.add_request(generation("a", max_tokens=100, logit_bias=ONE_WORD))
    for _ in range(6):
        engine.step()
        engine.check_integrity()
    engine.abort("a")
    assert engine.step().stats.kv_cache_usage_ratio == 0.0
    engine.check_integrity()


def test_sequences_that_have_ended_are_forgotten() -> None:
    engine = _speculating()
    run_all(engine, *(generation(str(i), max_tokens=9, logit_bias=ONE_WORD) for i in range(4)))
    assert not vars(vars(engine)["_speculator"])["_drafters"]
