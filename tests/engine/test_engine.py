"""The same request gives the same tokens, whoever is in the batch and whatever the cache and the budget do."""

from typing import Any

import pytest

from attendant_engine.types import GenerationRequest, SequenceOutput
from tests.engine.fakes import EOS_ID, MAX_MODEL_LEN, Collected, fake_engine, generation, run_all

PROMPT = tuple(2 + (7 * i) % 50 for i in range(41))


def _others(count: int) -> list[GenerationRequest]:
    """Requests of all sorts of length, some sharing the beginning of ``PROMPT``, some drawn and some greedy."""
    return [
        generation(
            f"other-{i}",
            PROMPT[: 1 + i % 30] + tuple(2 + (i * k) % 50 for k in range(i % 17)),
            max_tokens=1 + (i * 13) % 40,
            temperature=float(i % 2),
            n=1 + i % 2,
        )
        for i in range(count)
    ]


def _alone(**params: Any) -> Collected:
    return run_all(fake_engine(), generation("a", PROMPT, **params))


def test_a_request_says_the_same_alone_and_among_63_others() -> None:
    expected = _alone(max_tokens=60).token_ids()
    for place in (0, 30, 63):
        others = _others(63)
        requests = [*others[:place], generation("a", PROMPT, max_tokens=60), *others[place:]]
        assert run_all(fake_engine(num_blocks=1024), *requests).token_ids() == expected


@pytest.mark.parametrize("max_batch_tokens", [1, 2, 3, 7, 16, 40, 41, 1000])
def test_a_prompt_says_the_same_in_chunks_of_any_size(max_batch_tokens: int) -> None:
    engine = fake_engine(max_batch_tokens=max_batch_tokens)
    collected = run_all(engine, generation("a", PROMPT, max_tokens=20))
    assert collected.token_ids() == _alone(max_tokens=20).token_ids()
    assert all(step.stats.num_tokens <= max_batch_tokens for step in collected.steps)
    assert len(collected.steps) == -(-len(PROMPT) // max_batch_tokens) + 19


def test_a_second_request_takes_all_full_blocks_but_the_last_token_from_the_cache() -> None:
    engine = fake_engine(block_size=4)
    cold = run_all(engine, generation("a", PROMPT, max_tokens=20))
    hot = run_all(engine, generation("a", PROMPT, max_tokens=20))
    assert hot.token_ids() == cold.token_ids()
    assert cold.by_sequence["a", 0][0].num_cached_tokens == 0
    assert hot.by_sequence["a", 0][0].num_cached_tokens == 40 == hot.steps[0].stats.num_cached_prompt_tokens
    assert hot.steps[0].stats.num_prompt_tokens == 1
    whole_blocks = run_all(engine, generation("b", PROMPT[:40], max_tokens=1))
    assert whole_blocks.last("b").num_cached_tokens == 36


def test_generated_tokens_are_a_prefix_for_the_next_turn() -> None:
    engine = fake_engine()
    first = run_all(engine, generation("a", PROMPT, max_tokens=20))
    next_turn = (*PROMPT, *first.token_ids(), 3, 4)
    second = run_all(engine, generation("a", next_turn, max_tokens=5))
    assert second.by_sequence["a", 0][0].num_cached_tokens == 60
    assert second.token_ids() == run_all(fake_engine(), generation("a", next_turn, max_tokens=5)).token_ids()


def test_tenants_with_different_salts_share_nothing() -> None:
    engine = fake_engine()
    run_all(engine, generation("a", PROMPT, cache_salt="one"))
    assert run_all(engine, generation("a", PROMPT, cache_salt="two")).by_sequence["a", 0][0].num_cached_tokens == 0
    assert run_all(engine, generation("a", PROMPT, cache_salt="one")).by_sequence["a", 0][0].num_cached_tokens == 40


def test_nothing_is_taken_from_the_cache_where_that_is_switched_off() -> None:
    engine = fake_engine(enable_prefix_caching=False)
    first = run_all(engine, generation("a", PROMPT))
    second = run_all(engine, generation("a", PROMPT))
    assert second.by_sequence["a", 0][0].num_cached_tokens == 0
    assert first.token_ids() == second.token_ids()


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_preempted_requests_say_the_same(enable_prefix_caching: bool) -> None:
    requests = [
        generation(f"r{i}", PROMPT[i : i + 20], max_tokens=30, temperature=float(i % 2), seed=i, frequency_penalty=0.5 * i)
        for i in range(6)
    ]
    tight = run_all(fake_engine(num_blocks=20, enable_prefix_caching=enable_prefix_caching), *requests)
    assert tight.num_preemptions > 3
    for i, request in enumerate(requests):
        assert tight.token_ids(f"r{i}") == run_all(fake_engine(), request).token_ids(f"r{i}")


def test_the_last_to_arrive_of_the_lowest_priority_is_preempted() -> None:
    requests = [
        generation("low", PROMPT[:16], max_tokens=12, priority=1),
        generation("first", PROMPT[1:17], max_tokens=12),
        generation("second", PROMPT[2:18], max_tokens=12),
    ]
    engine = fake_engine(num_blocks=14)
    collected = run_all(engine, *requests)
    assert collected.num_preemptions > 0
    ends = {request_id: _step_of_end(collected, request_id) for request_id in ("first", "second", "low")}
    assert ends["first"] <= ends["second"] < ends["low"]


def test_a_lower_priority_number_is_served_first_and_takes_the_seat_of_a_higher_one() -> None:
    engine = fake_engine(max_num_seqs=1)
    collected = Collected()
    engine.add_request(generation("patient", max_tokens=10, priority=5))
    collected.add(engine.step())
    for request in (generation("later", max_tokens=3, priority=1), generation("urgent", max_tokens=3, priority=-1)):
        engine.add_request(request)
    while engine.has_work:
        collected.add(engine.step())
        engine.check_integrity()
    assert _step_of_end(collected, "urgent") < _step_of_end(collected, "later") < _step_of_end(collected, "patient")
    assert collected.token_ids("patient") == run_all(fake_engine(), generation("a", max_tokens=10)).token_ids()


def _step_of_end(collected: Collected, request_id: str) -> int:
    return next(
        idx
        for idx, step in enumerate(collected.steps)
        if any(output.request_id == request_id and getattr(output, "finish_reason", None) for output in step.outputs)
    )


def test_a_long_prompt_leaves_every_running_stream_its_token_in_every_step() -> None:
    engine = fake_engine(max_batch_tokens=16)
    collected = Collected()
    for i in range(4):
        engine.add_request(generation(f"stream-{i}", max_tokens=40))
    collected.add(engine.step())
    engine.add_request(generation("long", PROMPT * 4, max_tokens=1, priority=-1))
    while engine.num_requests > 4:
        step = engine.step()
        collected.add(step)
        streams = [o for o in step.outputs if isinstance(o, SequenceOutput) and o.request_id.startswith("stream")]
        assert [len(output.token_ids) for output in streams] == [1] * 4


@pytest.mark.parametrize("prompt_length", [1, 7, 8, 9, 41])
@pytest.mark.parametrize("shape", ["roomy", "preempting", "few seats", "one seat", "small steps", "uncached"])
def test_siblings_say_what_each_would_say_in_any_circumstances(prompt_length: int, shape: str) -> None:
    request = generation("a", PROMPT[:prompt_length], n=4, temperature=1.0, seed=11, max_tokens=12)
    expected = run_all(fake_engine(), request)
    engine = {
        "roomy": fake_engine(block_size=8),
        "preempting": fake_engine(num_blocks=15),
        "few seats": fake_engine(max_num_seqs=3),
        "one seat": fake_engine(max_num_seqs=1),
        "small steps": fake_engine(max_batch_tokens=2),
        "uncached": fake_engine(num_blocks=15, enable_prefix_caching=False),
    }[shape]
    collected = run_all(engine, request)
    said = [collected.token_ids("a", index) for index in range(4)]
    assert said == [expected.token_ids("a", index) for index in range(4)]
    assert len({tuple(tokens) for tokens in said}) == 4


def test_sequence_0_of_many_says_what_a_single_one_says() -> None:
    many = run_all(fake_engine(), generation("a", PROMPT, n=3, temperature=1.0, seed=4))
    one = run_all(fake_engine(), generation("a", PROMPT, n=1, temperature=1.0, seed=4))
    assert many.token_ids("a", 0) == one.token_ids("a", 0)


def test_siblings_share_the_prompt_and_prefill_it_once() -> None:
    collected = run_all(fake_engine(block_size=4), generation("a", PROMPT[:40], n=5, temperature=1.0, max_tokens=4))
    assert collected.steps[0].stats.num_prompt_tokens == 40 == sum(step.stats.num_prompt_tokens for step in collected.steps)
    assert collected.steps[0].stats.num_running == 5
    assert collected.steps[0].stats.kv_cache_usage_ratio == 10 / 256
    assert collected.steps[1].stats.kv_cache_usage_ratio == 15 / 256  # one block of its own each


def test_prompts_that_arrive_together_compute_what_they_share_once() -> None:
    engine = fake_engine(block_size=4)
    requests = [generation(f"r{i}", (*PROMPT, 2 + i, 3), max_tokens=3) for i in range(8)]
    collected = run_all(engine, *requests)
    assert sum(step.stats.num_prompt_tokens for step in collected.steps) == 43 + 7 * 3
    for request in requests:
        assert collected.token_ids(request.request_id) == run_all(fake_engine(), request).token_ids(request.request_id)


def test_prompts_that_share_little_do_not_wait_for_one_another() -> None:
    collected = run_all(fake_engine(block_size=4), *(generation(f"r{i}", (*PROMPT[:4], *((5 + i,) * 5)), max_tokens=1) for i in range(6)))
    assert len(collected.steps) == 1


def test_a_seed_repeats_and_its_absence_is_reported_as_a_seed_that_repeats() -> None:
    unseeded = run_all(fake_engine(), generation("a", PROMPT, temperature=1.0, max_tokens=30))
    seed = unseeded.by_sequence["a", 0][0].seed
    assert seed is not None
    seeded = run_all(fake_engine(), generation("a", PROMPT, temperature=1.0, max_tokens=30, seed=seed))
    assert seeded.token_ids() == unseeded.token_ids()
    other = run_all(fake_engine(), generation("a", PROMPT, temperature=1.0, max_tokens=30, seed=seed ^ 1))
    assert other.token_ids() != seeded.token_ids()


def test_prompt_and_tokens_so_far_continue_a_seeded_sequence_elsewhere() -> None:
    whole = run_all(fake_engine(), generation("a", PROMPT, temperature=1.0, max_tokens=30, seed=9)).token_ids()
    rest = run_all(fake_engine(), generation("a", (*PROMPT, *whole[:13]), temperature=1.0, max_tokens=17, seed=9)).token_ids()
    assert rest == whole[13:]


def test_an_end_token_ends_is_reported_last_and_can_be_ignored() -> None:
    bias = ((EOS_ID, 1000.0),)
    ended = run_all(fake_engine(), generation(max_tokens=5, logit_bias=bias, ignore_eos=False))
    assert ended.token_ids() == [EOS_ID]
    assert (ended.last().finish_reason, ended.last().stop_token_id) == ("stop", EOS_ID)
    ignored = run_all(fake_engine(), generation(max_tokens=5, logit_bias=bias))
    assert ignored.token_ids() == [EOS_ID] * 5
    assert (ignored.last().finish_reason, ignored.last().stop_token_id) == ("length", None)


def test_stop_ids_end_a_sequence_but_not_before_its_minimum() -> None:
    bias = ((9, 1000.0), (EOS_ID, 900.0))
    stopped = run_all(fake_engine(), generation(max_tokens=9, logit_bias=bias, stop_token_ids=(9,)))
    assert stopped.token_ids() == [9] and stopped.last().stop_token_id == 9
    longer = run_all(fake_engine(), generation(max_tokens=9, logit_bias=bias, stop_token_ids=(9,), min_tokens=4, ignore_eos=False))
    assert len(longer.token_ids()) == 5 and longer.token_ids()[-1] == 9
    assert not {9, EOS_ID} & set(longer.token_ids()[:-1])


def test_a_sequence_ends_where_the_context_ends() -> None:
    prompt = tuple(2 + i % 50 for i in range(MAX_MODEL_LEN - 3))
    collected = run_all(fake_engine(), generation("a", prompt, max_tokens=100))
    assert len(collected.token_ids()) == 3 and collected.last().finish_reason == "length"


def test_stage_times_and_cached_tokens_stand_on_the_first_and_last_output_alone() -> None:
    outputs = run_all(fake_engine(), generation(max_tokens=4)).by_sequence["a", 0]
    assert outputs[0].prefill_s > 0 and outputs[0].decode_s == 0 and outputs[0].seed is not None
    assert outputs[-1].decode_s > 0 and outputs[-1].prefill_s == outputs[0].prefill_s
    assert all(output.queue_s == output.prefill_s == output.decode_s == 0 and output.seed is None for output in outputs[1:-1])


def test_step_numbers_add_up() -> None:
    collected = run_all(fake_engine(max_batch_tokens=32), *_others(20))
    stats = [step.stats for step in collected.steps]
    assert [s.step_index for s in stats] == list(range(len(stats)))
    assert sum(s.num_generated_tokens for s in stats) == sum(
        len(output.token_ids) for outputs in collected.by_sequence.values() for output in outputs
    )
    assert sum(s.num_prompt_tokens + s.num_cached_prompt_tokens for s in stats) == sum(
        len(request.prompt_token_ids) for request in _others(20)
    )
    assert (stats[-1].num_running, stats[-1].num_waiting, stats[-1].kv_cache_usage_ratio) == (0, 0, 0.0)
