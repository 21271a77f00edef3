"""Keys and values come to lie where the layout says, rotated and rounded, and nothing else in the cache changes."""

import random

import pytest
import torch

from attendant_engine.attention.base import LayerCache
from attendant_engine.kernels.cpu.library import InstructionSet, KernelLibrary
from attendant_engine.layers.rotary import RotaryEmbedding, rotate
from tests.engine.attention.native_layout import from_native
from tests.engine.kernels.attention_cases import PagedCache, Shape, as_cached, random_shape, random_tokens, same_bits
from tests.engine.kernels.linears import sow

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=["float32", "bfloat16", "int8"])


def plain(cache: PagedCache) -> LayerCache:
    """Return the cache as ``[B * P, K, D]``, numbers of int8 with their scales."""
    shape = cache.shape
    blocks = torch.Size((cache.key.shape[0], cache.block_size, shape.num_kv_heads, shape.head_dim))
    taken = from_native(LayerCache(cache.key, cache.value), blocks)
    return LayerCache(taken.key.flatten(0, 1), taken.value.flatten(0, 1))


@DTYPES
def test_tokens_of_many_sequences_land_in_their_slots_and_nowhere_else(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    for _ in range(25):
        shape = random_shape(choose, dtype)
        lengths = [choose.choice([1, 1, 3, 16, 40, 64]) for _ in range(choose.randint(1, 8))]
        cache = PagedCache(kernels, shape, lengths=lengths, block_size=choose.choice([16, 32, 48]), choose=choose)
        kernels.set_num_threads(choose.randint(1, 4))
        expected = plain(cache)
        # Some positions are written one at a time, as decoding does, and some in runs that start and end anywhere.
        ranges = [(s, first, choose.randint(first + 1, length)) for s, length in enumerate(lengths) for first in [choose.randrange(length)]]
        slots = [slot for s, first, last in ranges for slot in cache.slots(s, first, last)]
        tokens = random_tokens(shape, 0, len(slots))
        cache.write(tokens.k, tokens.v, slots)
        expected.key[slots] = as_cached(tokens.k, dtype)
        expected.value[slots] = as_cached(tokens.v, dtype)
        written = plain(cache)
        torch.testing.assert_close(written.key, expected.key, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(written.value, expected.value, rtol=0, atol=0, equal_nan=True)


@DTYPES
def test_slots_in_no_order_at_all_are_fine(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    shape = Shape(num_heads=2, num_kv_heads=2, head_dim=40, dtype=dtype)
    cache = PagedCache(kernels, shape, lengths=[100], block_size=32, choose=choose)
    slots = cache.slots(0, 0, 100)
    choose.shuffle(slots)
    tokens = random_tokens(shape, 0, 100)
    kernels.set_num_threads(3)
    cache.write(tokens.k, tokens.v, slots)
    written = plain(cache)
    assert same_bits(written.key[slots], as_cached(tokens.k, dtype))
    assert same_bits(written.value[slots], as_cached(tokens.v, dtype))


@DTYPES
@pytest.mark.parametrize("head_dim", [2, 16, 24, 64, 80, 128])
def test_keys_and_queries_are_rotated_by_their_positions(kernels: KernelLibrary, dtype: torch.dtype, head_dim: int) -> None:
    choose = random.Random(sow())
    num_tokens = choose.choice([1, 5, 40])
    shape = Shape(num_heads=6, num_kv_heads=2, head_dim=head_dim, dtype=dtype)
    tokens = random_tokens(shape, num_tokens, num_tokens)
    positions = torch.tensor([choose.randrange(300) for _ in range(num_tokens)])
    cos, sin = RotaryEmbedding(head_dim, theta=10000.0, scaling={})(torch.arange(300))
    cache = PagedCache(kernels, shape, lengths=[num_tokens], block_size=16, choose=choose)
    slots = cache.slots(0, 0, num_tokens)
    q = tokens.q.clone()
    kernels.set_num_threads(choose.randint(1, 4))
    cache.write(tokens.k, tokens.v, slots, q=q.view(num_tokens, -1), position_ids=positions, cos=cos[:, 0], sin=sin[:, 0])
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.int8: 0.03}[dtype]
    torch.testing.assert_close(q, rotate(tokens.q, cos[positions], sin[positions]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        plain(cache).key[slots].float(), rotate(tokens.k, cos[positions], sin[positions]), rtol=tolerance, atol=tolerance
    )
    assert same_bits(plain(cache).value[slots], as_cached(tokens.v, dtype))


@DTYPES
def test_every_instruction_set_writes_the_same_bits(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    shape = Shape(num_heads=3, num_kv_heads=3, head_dim=48, dtype=dtype)
    cos, sin = RotaryEmbedding(48, theta=10000.0, scaling={})(torch.arange(300))
    tokens = random_tokens(shape, 70, 70)
    tokens.k[3, 0, :4] = torch.tensor([1e-40, -1e-45, float("inf"), 3e38])  # subnormal and near the end of the range
    tokens.v[3, 0, :4] = torch.tensor([1e-40, -1e-45, float("inf"), 3e38])
    seed = choose.randrange(2**31)
    caches = []
    for instruction_set in (kernels.instruction_set, InstructionSet.AVX2):
        assert kernels.force_instruction_set(instruction_set)
        cache = PagedCache(kernels, shape, lengths=[70], block_size=16, choose=random.Random(seed))
        q = tokens.q.clone().view(70, -1)
        cache.write(tokens.k, tokens.v, cache.slots(0, 0, 70), q=q, position_ids=torch.arange(70), cos=cos[:, 0], sin=sin[:, 0])
        caches.append((cache.key, cache.value, q))
    for ours, theirs in zip(*caches, strict=True):
        assert same_bits(ours, theirs)
