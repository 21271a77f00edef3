"""The attention kernel gives what the formula does in float64, and reads nothing but what it should."""

import random

import pytest
import torch

from attendant_engine.kernels.cpu.library import KernelLibrary
from tests.engine.kernels.attention_cases import (
    POISON,
    PagedCache,
    Shape,
    Tokens,
    as_cached,
    formula,
    random_shape,
    random_tokens,
    same_bits,
    whole,
)
from tests.engine.kernels.linears import sow

# By the norm of what the weights make of the values' magnitudes: values that cancel out leave their rounding. bfloat16:
# queries and weights are rounded to 8 bits where the instruction for it is used; int8: to 15 and 16 bits.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.int8: 2e-4}
DTYPES = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "bfloat16", "int8"])


def error_of(out: torch.Tensor, shape: Shape, tokens: Tokens) -> float:
    magnitudes = formula(shape, Tokens(tokens.q, tokens.k, tokens.v.abs()))
    return float(((out.double() - formula(shape, tokens)).norm(dim=-1) / magnitudes.norm(dim=-1)).max())


@DTYPES
def test_causal_attention_is_the_formula_for_chunks_with_any_past_and_window(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    for _ in range(30):
        shape = random_shape(choose, dtype)
        num_keys = choose.choice([1, 2, 15, 16, 17, 63, 64, 65, 130, 300])
        tokens = random_tokens(shape, choose.randint(1, num_keys), num_keys)
        assert error_of(whole(kernels, shape, tokens), shape, tokens) < BOUNDS[dtype], (shape, tokens.q.shape, num_keys)


@DTYPES
def test_bidirectional_and_cross_attention_are_the_formula(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    for num_queries, num_keys in [(1, 1), (32, 32), (130, 130), (1, 77), (9, 3), (50, 200)]:
        shape = Shape(
            num_heads=4, num_kv_heads=choose.choice([1, 2, 4]), head_dim=choose.choice([24, 32, 64]), dtype=dtype, is_causal=False
        )
        tokens = random_tokens(shape, num_queries, num_keys)
        assert error_of(whole(kernels, shape, tokens), shape, tokens) < BOUNDS[dtype], (shape, num_queries, num_keys)


@DTYPES
def test_heads_of_256_dimensions_and_many_query_heads_a_key_fit(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    sow()
    shape = Shape(num_heads=71, num_kv_heads=1, head_dim=256, dtype=dtype)
    tokens = random_tokens(shape, 2, 70)
    assert error_of(whole(kernels, shape, tokens), shape, tokens) < BOUNDS[dtype]


def test_one_key_is_returned_as_it_is(kernels: KernelLibrary) -> None:
    sow()
    shape = Shape(num_heads=2, num_kv_heads=2, head_dim=40)
    tokens = random_tokens(shape, 1, 1)
    assert torch.equal(whole(kernels, shape, tokens), tokens.v)


@DTYPES
def test_scores_far_apart_neither_overflow_nor_vanish(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    sow()
    shape = Shape(num_heads=1, num_kv_heads=1, head_dim=16, dtype=dtype)
    tokens = random_tokens(shape, 200, 200)
    large = Tokens(tokens.q * 1e4, tokens.k * 1e4, tokens.v)
    out = whole(kernels, shape, large)
    assert bool(out.isfinite().all())
    # A row whose best key is ahead of the others by far is that key's value.
    scores = torch.einsum("qhd,khd->qk", large.q.double(), as_cached(large.k, dtype).double()) * shape.scale
    best = scores.masked_fill(torch.ones(200, 200).triu(1).bool(), float("-inf")).topk(2, dim=-1)
    for row in range(2, 200):
        if float(best.values[row, 0] - best.values[row, 1]) > 0.02 * float(best.values[row].abs().max()) + 1e3:
            torch.testing.assert_close(out[row, 0], as_cached(large.v[best.indices[row, 0]], dtype)[0].float())


@DTYPES
def test_results_in_bfloat16_are_those_in_float32_rounded(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    for head_dim in (5, 64, 80):
        shape = Shape(num_heads=4, num_kv_heads=2, head_dim=head_dim, dtype=dtype)
        tokens = random_tokens(shape, 30, 90)
        cache = PagedCache(kernels, shape, lengths=[90], block_size=32, choose=choose)
        cache.write(tokens.k, tokens.v, cache.slots(0, 0, 90))
        (exact,) = cache.attend([tokens.q], [90], [0])
        (rounded,) = cache.attend([tokens.q], [90], [0], out_dtype=torch.bfloat16)
        assert same_bits(rounded, exact.bfloat16())


@DTYPES
def test_a_key_or_value_that_is_not_finite_shows_in_every_row_that_sees_it(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    shape = Shape(num_heads=2, num_kv_heads=1, head_dim=32, dtype=dtype)
    for poison in (POISON, float("inf")):
        for name in ("k", "v"):
            tokens = random_tokens(shape, 150, 150)
            position = choose.randrange(150)
            getattr(tokens, name)[position, 0, choose.randrange(32)] = poison
            out = whole(kernels, shape, tokens)
            # An infinite score of the right sign takes all the weight; its row is then not a number either, or finite.
            seen = out[position:] if (name, poison) != ("k", float("inf")) else out[position:][out[position:].isnan()]
            assert bool((~seen.isfinite()).any(dim=-1).all())
            # The rows of spans before are as if it were not there.
            assert bool(out[: position // 64 * 64 - 64].isfinite().all()) or position < 128


def test_a_sequence_without_queries_or_without_keys_is_no_trouble(kernels: KernelLibrary) -> None:
    choose = random.Random(sow())
    shape = Shape(num_heads=2, num_kv_heads=2, head_dim=16, is_causal=False)
    tokens = random_tokens(shape, 3, 20)
    cache = PagedCache(kernels, shape, lengths=[20, 20, 20], block_size=16, choose=choose)
    cache.write(tokens.k, tokens.v, cache.slots(1, 0, 20))
    none, some, keyless = cache.attend([tokens.q[:0], tokens.q, tokens.q], [20, 20, 0], [0, 1, 2])
    assert none.shape[0] == 0
    assert error_of(some, shape, tokens) < 1e-5
    assert torch.equal(keyless, torch.zeros_like(keyless))
