"""Figures of a load follow from when its tokens came; sizes of a model from transformers' own parameters."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.peers.agreement import agreement
from benchmarks.peers.engines.base import Answer
from benchmarks.peers.shapes import SHAPES
from benchmarks.peers.worker import decode_figures, draw_prompts


def answer(*at_s: float) -> Answer:
    return Answer(token_ids=[0] * len(at_s), at_s=list(at_s))


def test_decoding_counts_from_the_moment_when_every_sequence_has_its_first_token() -> None:
    figures = decode_figures([answer(11.0, 12.0, 13.0, 14.0), answer(12.0, 13.0, 14.0)], num_prompt_tokens=100, started_s=10.0)
    assert figures["decode"] == pytest.approx(4 / 2)
    assert figures["total"] == pytest.approx(7 / 4)
    assert figures["prefill"] == pytest.approx(50)
    assert figures["first_ms"] == pytest.approx(1500)
    assert figures["last_first_ms"] == pytest.approx(2000)


def test_one_token_a_sequence_has_no_decoding() -> None:
    assert "decode" not in decode_figures([answer(11.0)], num_prompt_tokens=1, started_s=10.0)


def test_prompts_are_the_same_for_a_seed_and_fresh_for_another() -> None:
    assert draw_prompts(3, 16, 5000, 1) == draw_prompts(3, 16, 5000, 1)
    drawn = [tuple(prompt) for seed in range(4) for prompt in draw_prompts(3, 16, 5000, seed)]
    assert len(set(drawn)) == len(drawn)


def test_a_step_of_gpt2_multiplies_all_matrices_of_transformers_model_but_the_positions() -> None:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    matrices = {name: tensor for name, tensor in model.named_parameters() if tensor.dim() == 2 and "wpe" not in name}
    assert SHAPES["gpt2"].step_weights == sum(tensor.numel() for tensor in matrices.values())


def test_agreement_is_the_least_cosine_or_the_equal_beginning() -> None:
    assert agreement("encode", [[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]]) == pytest.approx(0.5**0.5)
    assert agreement("decode", [[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 9.0, 4.0]]) == 0.5
