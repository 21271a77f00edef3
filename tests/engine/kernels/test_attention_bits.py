"""A token's result has the same bits whatever else is computed, however its prompt is cut and wherever its blocks lie."""

import random

import pytest
import torch

from attendant_engine.kernels.cpu.library import KernelLibrary
from tests.engine.kernels.attention_cases import PagedCache, Shape, Tokens, random_shape, random_tokens, same_bits, whole
from tests.engine.kernels.linears import sow

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=["float32", "bfloat16", "int8"])
MIN_ROWS = 2000


def serve(kernels: KernelLibrary, shape: Shape, sequences: list[Tokens], block_size: int, choose: random.Random) -> list[torch.Tensor]:
    """Compute sequences as an engine does: in steps of chunks and single tokens, a random few of them at a time."""
    lengths = [tokens.k.shape[0] for tokens in sequences]
    cache = PagedCache(kernels, shape, lengths=lengths, block_size=block_size, choose=choose)
    done = [0] * len(sequences)
    parts: list[list[torch.Tensor]] = [[] for _ in sequences]
    while any(count < length for count, length in zip(done, lengths, strict=True)):
        kernels.set_num_threads(choose.randint(1, 4))
        open_ = [s for s, length in enumerate(lengths) if done[s] < length]
        step = choose.sample(open_, choose.randint(1, len(open_)))
        counts = [min(choose.choice([1, 1, 3, 16, 50, 200]), lengths[s] - done[s]) for s in step]
        ranges = [(s, done[s], done[s] + count) for s, count in zip(step, counts, strict=True)]
        cache.write(
            torch.cat([sequences[s].k[first:last] for s, first, last in ranges]),
            torch.cat([sequences[s].v[first:last] for s, first, last in ranges]),
            [slot for s, first, last in ranges for slot in cache.slots(s, first, last)],
        )
        outs = cache.attend([sequences[s].q[first:last] for s, first, last in ranges], [last for _, _, last in ranges], step)
        for (s, _, last), out in zip(ranges, outs, strict=True):
            parts[s].append(out)
            done[s] = last
    return [torch.cat(part) for part in parts]


@DTYPES
def test_any_company_chunks_blocks_and_threads_give_the_bits_of_a_sequence_alone(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    num_rows = 0
    while num_rows < MIN_ROWS:
        shape = random_shape(choose, dtype)
        lengths = [choose.choice([1, 5, 16, 33, 64, 65, 150, 290]) for _ in range(choose.randint(1, 6))]
        sequences = [random_tokens(shape, length, length) for length in lengths]
        block_size = choose.choice([16, 32, 48, 64])
        for tokens, out in zip(sequences, serve(kernels, shape, sequences, block_size, choose), strict=True):
            assert same_bits(out, whole(kernels, shape, tokens)), (shape, lengths, block_size)
            num_rows += out.shape[0] * shape.num_heads


@DTYPES
def test_texts_and_cross_attention_have_the_same_bits_in_any_batch(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    choose = random.Random(sow())
    num_rows = 0
    while num_rows < MIN_ROWS:
        num_kv_heads = choose.choice([1, 2, 3])
        shape = Shape(
            num_heads=num_kv_heads * choose.choice([1, 2]),
            num_kv_heads=num_kv_heads,
            head_dim=choose.choice([24, 32, 64]),
            dtype=dtype,
            is_causal=False,
        )
        sizes = [(choose.choice([1, 7, 32, 80]), choose.choice([1, 32, 63, 64, 100])) for _ in range(choose.randint(2, 12))]
        sequences = [random_tokens(shape, queries, keys) for queries, keys in sizes]
        cache = PagedCache(kernels, shape, lengths=[keys for _, keys in sizes], block_size=choose.choice([16, 32, 48, 64]), choose=choose)
        kernels.set_num_threads(choose.randint(1, 4))
        order = list(range(len(sizes)))
        choose.shuffle(order)
        for s in order:
            cache.write(sequences[s].k, sequences[s].v, cache.slots(s, 0, sizes[s][1]))
        # All queries at once, and then some of them: here a query's place among the others says nothing about what it sees.
        outs = cache.attend([sequences[s].q for s in order], [sizes[s][1] for s in order], order)
        firsts = [choose.randrange(sizes[s][0]) for s in order]
        some = cache.attend([sequences[s].q[first:] for s, first in zip(order, firsts, strict=True)], [sizes[s][1] for s in order], order)
        for s, first, out, part in zip(order, firsts, outs, some, strict=True):
            alone = whole(kernels, shape, sequences[s])
            assert same_bits(out, alone), (shape, sizes[s])
            assert same_bits(part, alone[first:]), (shape, sizes[s])
            num_rows += out.shape[0] * shape.num_heads


@DTYPES
def test_what_others_left_in_the_blocks_changes_nothing(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    """Slots past a sequence's end hold NaN, or another token's key and value that was rejected: bits are the same."""
    choose = random.Random(sow())
    for _ in range(10):
        shape = random_shape(choose, dtype)
        length = choose.randint(1, 200)
        tokens = random_tokens(shape, length + 20, length + 20)
        cache = PagedCache(kernels, shape, lengths=[length + 20], block_size=16, choose=choose)
        cache.write(tokens.k[:length], tokens.v[:length], cache.slots(0, 0, length))
        query = tokens.q[length - 1 : length]
        (among_nans,) = cache.attend([query], [length], [0])
        cache.write(tokens.k[length:], tokens.v[length:], cache.slots(0, length, length + 20))
        (among_others,) = cache.attend([query], [length], [0])
        assert bool(among_nans.isfinite().all())
        assert same_bits(among_nans, among_others)
