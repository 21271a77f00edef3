"""Log-probabilities are a plain log-softmax, and equal values stand in the order of their ids."""

import math

import pytest
import torch

from attendant_engine.decoding.logprobs import token_logprobs


def test_values_ranks_and_order_are_those_of_a_sorted_log_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 50, generator=generator)
    chosen = [3, 7, 49, 0, 12, 30]
    entries = token_logprobs(logits, chosen, [0, 1, 5, 20, 50, 99])
    for row, (entry, token_id, wanted) in enumerate(zip(entries, chosen, [0, 1, 5, 20, 50, 50], strict=True)):
        expected = logits[row].log_softmax(dim=-1).tolist()
        order = sorted(range(50), key=lambda i: (-expected[i], i))
        assert entry.token_id == token_id and entry.logprob == pytest.approx(expected[token_id], rel=1e-6)
        assert entry.rank == order.index(token_id) + 1
        assert [i for i, _ in entry.top] == order[:wanted]
        assert [value for _, value in entry.top] == pytest.approx([expected[i] for i in order[:wanted]], rel=1e-6)


def test_a_greedy_token_equals_the_best_of_the_top_to_the_last_bit() -> None:
    logits = torch.randn(20, 1000, generator=torch.Generator().manual_seed(1)) * 7
    best = logits.argmax(dim=-1).tolist()
    for entry in token_logprobs(logits, best, [1] * 20):
        assert entry.top == ((entry.token_id, entry.logprob),)
        assert entry.rank == 1


def test_ties_across_the_edge_are_settled_by_the_lower_id() -> None:
    logits = torch.zeros(3, 100)
    logits[1, 90] = 1.0
    logits[2, 50:] = 2.0
    entries = token_logprobs(logits, [99, 99, 99], [3, 3, 2])
    assert [[token_id for token_id, _ in entry.top] for entry in entries] == [[0, 1, 2], [90, 0, 1], [50, 51]]
    assert [entry.rank for entry in entries] == [100, 100, 50]
    assert math.isclose(entries[0].logprob, -math.log(100), rel_tol=1e-6)
