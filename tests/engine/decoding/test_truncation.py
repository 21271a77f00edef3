"""Each truncation keeps exactly what its paper says, judged by the plainest code for it."""

import math

import pytest
import torch

from attendant_engine.decoding.truncation import truncate
from attendant_engine.types import SamplingParams


def _kept(logits: list[float], params: SamplingParams) -> set[int]:
    rows = torch.tensor([logits])
    rows = truncate(rows, [params])
    return {token_id for token_id, value in enumerate(rows[0].tolist()) if value > -math.inf}


def _expected(logits: list[float], params: SamplingParams) -> set[int]:
    """Min-p on the full distribution, top-k on what is left, top-p on what is left then; ties stay together."""
    kept = dict(enumerate(logits))
    if params.min_p > 0:
        best = max(kept.values())
        kept = {i: x for i, x in kept.items() if math.exp(x - best) >= params.min_p}
    if 0 < params.top_k < len(kept):
        least = sorted(kept.values(), reverse=True)[params.top_k - 1]
        kept = {i: x for i, x in kept.items() if x >= least}
    total = sum(math.exp(x) for x in kept.values())
    reached = 0.0
    least = math.inf
    for value in sorted(kept.values(), reverse=True):
        if reached >= params.top_p and params.top_p < 1.0:
            break
        least = value
        reached += math.exp(value) / total
    return {i for i, x in kept.items() if x >= least}


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_keeps_what_the_plain_definition_keeps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(40, generator=generator) * 2).tolist()
    draw = torch.rand(3, generator=generator).tolist()
    params = SamplingParams(top_k=int(draw[0] * 30), top_p=0.05 + 0.95 * draw[1], min_p=draw[2] * 0.2 if seed % 2 else 0.0)
    assert _kept(logits, params) == _expected(logits, params)


def test_rows_with_different_parameters_do_not_meet() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 30, generator=generator)
    params = [
        SamplingParams(),
        SamplingParams(top_k=3),
        SamplingParams(top_p=0.5),
        SamplingParams(min_p=0.3),
        SamplingParams(top_k=10, top_p=0.4, min_p=0.01),
    ]
    together = rows.clone()
    together = truncate(together, params)
    for row, one in enumerate(params):
        alone = rows[row : row + 1].clone()
        alone = truncate(alone, [one])
        assert torch.equal(together[row], alone[0])
    assert torch.equal(together[0], rows[0])


def test_ties_at_the_edge_stay_together() -> None:
    assert _kept([1.0, 2.0, 2.0, 2.0], SamplingParams(top_k=2)) == {1, 2, 3}
    assert _kept([0.0, 0.0, 0.0, 0.0], SamplingParams(top_p=0.3)) == {0, 1, 2, 3}


def test_a_flat_distribution_wider_than_the_first_look_is_cut_at_the_right_place() -> None:
    logits = (torch.arange(4000) * 1e-4).tolist()
    params = SamplingParams(top_p=0.6)
    kept = _kept(logits, params)
    assert abs(len(kept) - len(_expected(logits, params))) <= 1  # one token is 2e-4 of the mass, near float32's rounding
    assert max(kept) == 3999


def test_the_best_token_always_survives() -> None:
    assert _kept([0.0, 5.0, 1.0], SamplingParams(top_p=1e-9)) == {1}
    assert _kept([0.0, 5.0, 1.0], SamplingParams(min_p=1.0)) == {1}
    assert _kept([0.0, 5.0, 1.0], SamplingParams(top_k=1)) == {1}
