"""Log-probabilities of prompts: the same numbers however the prompt is cut, cached or preempted."""

import pytest
import torch

from attendant_engine.types import TokenLogprobs
from tests.engine.fakes import VOCAB_SIZE, fake_engine, generation, run_all

PROMPT = tuple(2 + (7 * i) % 50 for i in range(30))


def _scores(**engine: int | bool) -> tuple[TokenLogprobs | None, ...]:
    scored = run_all(fake_engine(**engine), generation("a", PROMPT, max_tokens=0, prompt_logprobs=3)).last().prompt_logprobs  # type: ignore[arg-type]
    assert scored is not None
    return scored


def test_only_scoring_generates_nothing_and_ends_by_length() -> None:
    collected = run_all(fake_engine(), generation("a", PROMPT, max_tokens=0, n=2, prompt_logprobs=0))
    for index in range(2):
        (only,) = collected.by_sequence["a", index]
        assert only.token_ids == () and only.finish_reason == "length"
        assert (only.prompt_logprobs is not None) == (index == 0)


def test_every_position_but_the_first_is_scored_by_the_distribution_before_it() -> None:
    scores = _scores()
    assert len(scores) == len(PROMPT) and scores[0] is None
    for position in range(1, len(PROMPT)):
        entry = scores[position]
        greedy = run_all(fake_engine(), generation("a", PROMPT[:position], max_tokens=1, logprobs=VOCAB_SIZE)).last().logprobs
        assert entry is not None and greedy is not None
        assert entry.token_id == PROMPT[position]
        assert entry.top == greedy[0].top[:3]
        assert dict(greedy[0].top)[entry.token_id] == entry.logprob
        assert greedy[0].top[entry.rank - 1][0] == entry.token_id
        assert torch.tensor([value for _, value in greedy[0].top]).exp().sum().isclose(torch.tensor(1.0))


@pytest.mark.parametrize("max_batch_tokens", [1, 3, 8, 29])
def test_chunks_change_no_score(max_batch_tokens: int) -> None:
    assert _scores(max_batch_tokens=max_batch_tokens) == _scores()


def test_scores_come_once_with_the_first_output() -> None:
    outputs = run_all(fake_engine(), generation("a", PROMPT, max_tokens=5, prompt_logprobs=3, logprobs=1)).by_sequence["a", 0]
    assert outputs[0].prompt_logprobs == _scores()
    assert all(output.prompt_logprobs is None for output in outputs[1:])
    assert all(output.logprobs is not None and len(output.logprobs) == 1 for output in outputs)


@pytest.mark.parametrize("start", [0, 1, 2, 12, 13, 16, 17, 29, 30])
def test_scores_may_begin_late_and_then_earlier_tokens_come_from_the_cache(start: int) -> None:
    engine = fake_engine(block_size=4)
    run_all(engine, generation("warm", PROMPT))
    outputs = run_all(engine, generation("a", PROMPT, max_tokens=2, prompt_logprobs=3, prompt_logprobs_start=start)).by_sequence["a", 0]
    assert outputs[0].prompt_logprobs == _scores()[start:]
    assert outputs[0].num_cached_tokens == max(0, min(start, len(PROMPT)) - 1) // 4 * 4


def test_preemption_changes_no_score_and_loses_none() -> None:
    requests = [
        generation(f"r{i}", tuple(2 + (i + k) % 50 for k in range(24)), max_tokens=20, prompt_logprobs=2, n=2, temperature=1.0, seed=i)
        for i in range(4)
    ]
    tight = run_all(fake_engine(num_blocks=16, max_batch_tokens=10), *requests)
    assert tight.num_preemptions > 0
    for i, request in enumerate(requests):
        alone = run_all(fake_engine(), request)
        assert tight.by_sequence[f"r{i}", 0][0].prompt_logprobs == alone.by_sequence[f"r{i}", 0][0].prompt_logprobs
        assert [o.logprobs for o in tight.by_sequence[f"r{i}", 1]] == [o.logprobs for o in alone.by_sequence[f"r{i}", 1]]
