"""Tokens come from the distribution that was asked for, and from a row's own parameters and draw alone."""

import torch

from attendant_engine.sampling import sample
from attendant_engine.sequence import GenerationState, Sequence
from attendant_engine.types import GenerationRequest, SamplingParams


def _sequence(params: SamplingParams, *, seed: int = 0, index: int = 0, num_prompt_tokens: int = 1) -> Sequence:
    request = GenerationRequest(request_id="a", prompt_token_ids=(0,) * num_prompt_tokens, params=params)
    state = GenerationState(request=request, arrival=0, arrival_s=0.0, seed=seed, max_tokens=10, stop_ids=frozenset())
    return Sequence(state, index)


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    greedy = _sequence(SamplingParams(temperature=0.0))
    assert [token.token_id for token in sample(logits, [greedy] * 3)] == [1, 0, 2]


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    num_draws = 20_000
    sequences = [_sequence(SamplingParams(temperature=0.7), seed=seed) for seed in range(num_draws)]
    drawn = torch.tensor([token.token_id for token in sample(logits.repeat(num_draws, 1), sequences)])
    expected = (logits / 0.7).softmax(dim=-1) * num_draws
    counts = torch.bincount(drawn, minlength=4)
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # the 99.9th percentile for 3 degrees of freedom


def test_what_is_truncated_away_is_never_drawn() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).repeat(500, 1)
    best = set(logits[0].topk(5).indices.tolist())
    sequences = [_sequence(SamplingParams(temperature=5.0, top_k=5), seed=seed) for seed in range(500)]
    assert {token.token_id for token in sample(logits, sequences)} == best


def test_a_row_is_the_same_alone_and_among_others_of_every_kind() -> None:
    kinds = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.5, top_p=0.8, logprobs=3),
        SamplingParams(temperature=0.8, top_k=7, repetition_penalty=1.2),
        SamplingParams(temperature=1.0, min_p=0.05, logit_bias=((3, 5.0),), logprobs=0),
        SamplingParams(temperature=0.0, presence_penalty=1.0, logprobs=1),
    ]
    sequences = [_sequence(kinds[i % 6], seed=i, index=i % 3, num_prompt_tokens=1 + i % 4) for i in range(60)]
    logits = torch.randn(60, 300, generator=torch.Generator().manual_seed(0)) * 3
    together = sample(logits.clone(), sequences)
    for row, sequence in enumerate(sequences):
        alone = sample(logits[row : row + 1].clone(), [sequence])[0]
        assert (alone.token_id, alone.logprobs) == (together[row].token_id, together[row].logprobs)


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(temperature=0.5, top_k=2, logit_bias=((4, 100.0),), logprobs=2)
    token = sample(logits.clone(), [_sequence(params)])[0]
    raw = logits[0].log_softmax(dim=-1).tolist()
    assert token.token_id == 4 and token.logprobs is not None
    assert token.logprobs.logprob == raw[4]
    assert token.logprobs.top[0][1] == max(raw)


def test_a_vanishing_temperature_is_greedy_and_an_enormous_one_still_draws() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    best = int(logits.argmax())
    assert sample(logits.clone(), [_sequence(SamplingParams(temperature=1e-30))])[0].token_id == best
    drawn = {sample(logits.clone(), [_sequence(SamplingParams(temperature=1e30), seed=seed)])[0].token_id for seed in range(40)}
    assert len(drawn) > 20
