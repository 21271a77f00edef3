"""Tokens come from the distribution that was asked for, and from a row's own parameters and draw alone.

Everything holds of the kernel and of the torch code beside it.
"""

import math

import pytest
import torch

from attendant_engine import sampling
from attendant_engine.kernels.cpu.sampling import load_sampling_kernels
from attendant_engine.sequence import GenerationState, SampledToken, Sequence
from attendant_engine.types import GenerationRequest, SamplingParams


def _sequence(params: SamplingParams, *, seed: int = 0, index: int = 0, num_prompt_tokens: int = 1) -> Sequence:
    request = GenerationRequest(request_id="a", prompt_token_ids=(0,) * num_prompt_tokens, params=params)
    state = GenerationState(request=request, arrival=0, arrival_s=0.0, seed=seed, max_tokens=10, stop_ids=frozenset())
    return Sequence(state, index)


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(sampling, "load_sampling_kernels", lambda: None)
    elif load_sampling_kernels() is None:
        pytest.skip("the CPU kernels are not built, or this processor has no instruction set for them")


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> list[SampledToken]:
    tokens = [token for token in sampling.sample(logits, sequences) if token is not None]
    assert len(tokens) == len(sequences)
    return tokens


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
    assert token.logprobs.logprob == pytest.approx(raw[4], rel=1e-6)
    assert token.logprobs.top[0][1] == pytest.approx(max(raw), rel=1e-6)


def test_a_vanishing_temperature_is_greedy_and_an_enormous_one_still_draws() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    best = int(logits.argmax())
    assert sample(logits.clone(), [_sequence(SamplingParams(temperature=1e-30))])[0].token_id == best
    drawn = {sample(logits.clone(), [_sequence(SamplingParams(temperature=1e30), seed=seed)])[0].token_id for seed in range(40)}
    assert len(drawn) > 20


@pytest.mark.parametrize("params", [SamplingParams(temperature=0.0), SamplingParams(), SamplingParams(temperature=0.0, min_tokens=5)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_yields_nothing_and_costs_no_other_row_anything(params: SamplingParams, bad: float) -> None:
    logits = torch.randn(5, 40)
    sequences = [_sequence(params, seed=seed) for seed in range(5)]
    healthy = [token.token_id for token in sample(logits.clone(), sequences)]
    for column in (0, 17, 39):
        broken = logits.clone()
        broken[3, column] = bad
        tokens = sampling.sample(broken, sequences)
        assert tokens[3] is None
        assert [token and token.token_id for token in tokens] == [*healthy[:3], None, healthy[4]]


def test_no_rows_yield_no_tokens() -> None:
    assert sampling.sample(torch.empty(0, 10), []) == []


def test_a_draw_ahead_is_that_of_the_same_position_without_looking_ahead() -> None:
    logits = torch.randn(30, 50)
    late = [_sequence(SamplingParams(temperature=2.0), seed=seed, num_prompt_tokens=4 + seed % 5) for seed in range(30)]
    early = [_sequence(SamplingParams(temperature=2.0), seed=seed, num_prompt_tokens=4) for seed in range(30)]
    expected = [token.token_id for token in sample(logits.clone(), late)]
    ahead = sampling.sample(logits.clone(), early, [seed % 5 for seed in range(30)])
    assert [token and token.token_id for token in ahead] == expected


def test_the_minimum_length_counts_the_tokens_ahead() -> None:
    request = GenerationRequest(request_id="a", prompt_token_ids=(0,), params=SamplingParams(temperature=0.0, min_tokens=2))
    state = GenerationState(request=request, arrival=0, arrival_s=0.0, seed=0, max_tokens=10, stop_ids=frozenset({1}), masked_ids=(1,))
    sequence = Sequence(state, 0)
    logits = torch.tensor([[0.0, 9.0, 1.0]]).repeat(3, 1)
    tokens = sampling.sample(logits, [sequence] * 3, [0, 1, 2])
    assert [token and token.token_id for token in tokens] == [2, 2, 1]


def test_any_temperature_and_any_top_k_are_taken() -> None:
    logits = torch.randn(3, 20)
    for params in (SamplingParams(temperature=1e300), SamplingParams(top_k=2**60), SamplingParams(top_p=1e-30), SamplingParams(min_p=1.0)):
        assert all(0 <= token.token_id < 20 for token in sample(logits.clone(), [_sequence(params)] * 3))
