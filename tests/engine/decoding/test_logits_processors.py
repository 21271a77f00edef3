"""Penalties, bias and minimum length, each against its formula written out, row by row."""

import math

import pytest
import torch

from attendant_engine.decoding.logits_processors import needs_processing, process_logits
from attendant_engine.sequence import GenerationState, Sequence
from attendant_engine.types import GenerationRequest, SamplingParams


def _sequence(prompt: tuple[int, ...], output: tuple[int, ...], params: SamplingParams, masked_ids: tuple[int, ...] = ()) -> Sequence:
    state = GenerationState(
        request=GenerationRequest(request_id="a", prompt_token_ids=prompt, params=params),
        arrival=0,
        arrival_s=0.0,
        seed=0,
        max_tokens=10,
        stop_ids=frozenset(),
        masked_ids=masked_ids,
    )
    sequence = Sequence(state, 0)
    for token_id in output:
        sequence.append(token_id, 0.0)
    return sequence


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_prompt_and_output() -> None:
    logits = torch.tensor([[2.0, -2.0, 3.0, -3.0, 1.0]])
    process_logits(logits, [_sequence((0, 1, 0), (3,), SamplingParams(repetition_penalty=2.0))])
    assert logits.tolist() == [[1.0, -4.0, 3.0, -6.0, 1.0]]


def test_presence_counts_once_and_frequency_each_time_and_neither_the_prompt() -> None:
    logits = torch.zeros(1, 4)
    process_logits(logits, [_sequence((0, 0), (1, 2, 2, 2), SamplingParams(presence_penalty=0.5, frequency_penalty=0.25))])
    assert logits.tolist() == [[0.0, -0.75, -1.25, 0.0]]


def test_bias_is_added_before_the_repetition_penalty_sees_the_sign() -> None:
    logits = torch.tensor([[1.0, 1.0]])
    process_logits(logits, [_sequence((0,), (), SamplingParams(logit_bias=((0, -3.0), (1, 4.0)), repetition_penalty=2.0))])
    assert logits.tolist() == [[-4.0, 5.0]]


def test_stop_ids_cannot_be_said_before_the_minimum_and_can_after() -> None:
    params = SamplingParams(min_tokens=2)
    early, late = _sequence((0,), (1,), params, (2, 3)), _sequence((0,), (1, 1), params, (2, 3))
    logits = torch.zeros(2, 4)
    process_logits(logits, [early, late])
    assert logits.tolist() == [[0.0, 0.0, -math.inf, -math.inf], [0.0] * 4]
    assert needs_processing(early) and not needs_processing(late)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_a_row_is_changed_by_its_own_parameters_alone(order: tuple[int, ...]) -> None:
    sequences = [
        _sequence((1, 2), (3, 3), SamplingParams(repetition_penalty=1.3)),
        _sequence((4,), (5, 6), SamplingParams()),
        _sequence((7,), (8, 8), SamplingParams(frequency_penalty=0.7, logit_bias=((9, 2.0),))),
        _sequence((7,), (), SamplingParams(min_tokens=3), (0, 1)),
    ]
    rows = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    together = rows[list(order)].clone()
    process_logits(together, [sequences[i] for i in order])
    for position, i in enumerate(order):
        alone = rows[i : i + 1].clone()
        process_logits(alone, [sequences[i]])
        assert torch.equal(together[position], alone[0])
    assert torch.equal(together[order.index(1)], rows[1])
