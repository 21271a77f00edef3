"""Every registered backend agrees with the reference on ragged batches of every kind, and the reference with the formula."""

import importlib.util
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from attendant_engine.attention.base import AttentionBackend, AttentionMetadata, LayerCache
from attendant_engine.attention.reference import ReferenceAttention
from attendant_engine.attention.registry import BACKENDS, load_backend, resolve_backend_name
from attendant_engine.errors import InvalidRequestError
from attendant_engine.kernels.cpu.library import load_library
from tests.engine.attention.batches import Step, make_step
from tests.engine.attention.native_layout import from_native, to_native

HAS_TRITON = importlib.util.find_spec("triton") is not None
IN_INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
CPU = torch.device("cpu")
FAST_BACKENDS = [name for name in BACKENDS if name != "reference"]
HEADS = [(4, 4, 8), (4, 2, 8), (6, 1, 5), (2, 2, 16)]

# (queries, keys) a sequence: prefill alone, chunks with a past, decodes of far-apart lengths, and all of these together.
SHAPES = {
    "prefill": [(5, 5), (1, 1), (9, 9)],
    "chunks": [(3, 10), (4, 4), (2, 17)],
    "decodes": [(1, 1), (1, 4), (1, 5), (1, 33), (1, 18)],
    "mixed": [(1, 7), (6, 6), (1, 20), (3, 11), (1, 1)],
    "one decode": [(1, 9)],
}


def backend_named(name: str) -> tuple[AttentionBackend, str]:
    """Return the backend and the device to test it on, or skip with the reason."""
    if name == "native" and load_library() is None:
        pytest.skip("the CPU kernels are not built or this processor lacks AVX2")
    if name != "triton":
        return load_backend(name, torch.device("cpu")), "cpu"
    if not HAS_TRITON:
        pytest.skip("triton is not installed here")
    if torch.cuda.is_available() and not IN_INTERPRETER:
        return load_backend(name, torch.device("cuda")), "cuda"
    if not IN_INTERPRETER:
        pytest.skip("no CUDA device; the kernels run in Triton's interpreter, in a process of their own (the test below)")
    return load_backend(name, torch.device("cpu")), "cpu"


def block_size_for(name: str, wanted: int) -> int:
    """Return ``wanted`` blocks, or the native backend's smallest multiple of them."""
    return -(-wanted // 16) * 16 if name == "native" else wanted


def attend(
    backend: AttentionBackend, step: Step, cache: LayerCache | None, metadata: AttentionMetadata, scale: float
) -> tuple[torch.Tensor, LayerCache | None]:
    """Return the result and the plain cache that the step left, whatever layout the backend keeps it in."""
    own = to_native(cache) if backend.name == "native" and cache is not None else cache
    out = backend.forward(step.q, step.k, step.v, own, metadata, scale=scale)
    if own is cache or own is None or cache is None:
        return out, cache
    return out, from_native(own, cache.key.shape)


def check_against_reference(backend: AttentionBackend, step: Step, *, tolerance: float = 1e-5) -> None:
    ours, expected = step.with_own_cache(), step.with_own_cache()
    scale = step.q.shape[-1] ** -0.5
    out, ours = attend(backend, step, ours, step.metadata, scale)
    reference = ReferenceAttention().forward(step.q, step.k, step.v, expected, step.metadata, scale=scale)
    assert out.shape == step.q.shape
    assert out.dtype == step.q.dtype
    torch.testing.assert_close(out, reference, atol=tolerance, rtol=tolerance)
    if ours is not None and expected is not None:
        assert torch.equal(ours.key, expected.key)
        assert torch.equal(ours.value, expected.value)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_a_paged_step_agrees_with_the_reference(name: str, shape: str, heads: tuple[int, int, int]) -> None:
    backend, device = backend_named(name)
    num_heads, num_kv_heads, head_dim = heads
    for window in (None, 3):
        step = make_step(
            SHAPES[shape],
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            seed=len(shape),
            block_size=block_size_for(name, 4),
            window=window,
            device=device,
        )
        check_against_reference(backend, step)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_a_packed_step_without_a_cache_agrees_with_the_reference(name: str, heads: tuple[int, int, int], is_causal: bool) -> None:
    backend, device = backend_named(name)
    num_heads, num_kv_heads, head_dim = heads
    step = make_step(
        [(5, 5), (1, 1), (12, 12), (1, 1)],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        seed=7,
        block_size=None,
        is_causal=is_causal,
        device=device,
    )
    check_against_reference(backend, step)


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_random_ragged_batches_agree_with_the_reference(name: str) -> None:
    backend, device = backend_named(name)
    for seed in range(12):
        rng = random.Random(seed)
        lengths = [(queries, queries + rng.choice([0, rng.randint(0, 40)])) for queries in rng.choices([1, 1, 2, 7, 19], k=5)]
        num_kv_heads = rng.choice([1, 2, 3])
        step = make_step(
            lengths,
            num_heads=num_kv_heads * rng.choice([1, 2, 5]),
            num_kv_heads=num_kv_heads,
            head_dim=rng.choice([4, 7, 32]),
            seed=seed,
            block_size=block_size_for(name, rng.choice([1, 2, 16])),
            window=rng.choice([None, None, 1, 5]),
            device=device,
        )
        check_against_reference(backend, step)


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_many_rows_that_span_several_tiles_agree_with_the_reference(name: str) -> None:
    backend, device = backend_named(name)
    step = make_step(
        [(70, 90), (1, 75), (33, 33)], num_heads=2, num_kv_heads=1, head_dim=8, seed=3, block_size=16, window=40, device=device
    )
    check_against_reference(backend, step)


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_bfloat16_agrees_with_the_reference_within_its_precision(name: str) -> None:
    backend, device = backend_named(name)
    if name == "triton" and device == "cpu":
        pytest.skip("numpy, which Triton's interpreter computes with, has no bfloat16")
    step = make_step(
        SHAPES["mixed"],
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        seed=5,
        block_size=block_size_for(name, 4),
        dtype=torch.bfloat16,
        device=device,
    )
    check_against_reference(backend, step, tolerance=2e-2)


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_unused_slots_are_never_read_even_when_they_are_not_numbers(name: str) -> None:
    backend, device = backend_named(name)
    lengths = [(1, 5), (1, 8), (3, 11), (1, 6), (1, 2), (1, 1)]
    block_size = block_size_for(name, 4)
    step = make_step(lengths, num_heads=2, num_kv_heads=1, head_dim=8, seed=9, block_size=block_size, device=device)
    assert step.cache is not None
    assert step.metadata.block_table is not None
    used = torch.zeros(step.cache.key.shape[:2], dtype=torch.bool)
    for sequence, num_keys in enumerate(step.metadata.context_lens):
        for position in range(num_keys):
            used[int(step.metadata.block_table[sequence, position // block_size]), position % block_size] = True
    poisoned = LayerCache(*(torch.where(used[..., None, None].to(device), part, torch.nan) for part in (step.cache.key, step.cache.value)))
    clean, _ = attend(backend, step, step.with_own_cache(), step.metadata, 0.3)
    out, _ = attend(backend, step, poisoned, replace(step.metadata), 0.3)
    assert torch.equal(out, clean)


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_company_in_the_batch_changes_a_sequence_by_rounding_at_most(name: str) -> None:
    backend, device = backend_named(name)
    block_size = block_size_for(name, 4)
    step = make_step(SHAPES["mixed"], num_heads=4, num_kv_heads=2, head_dim=8, seed=2, block_size=block_size, device=device)
    metadata = step.metadata
    assert metadata.block_table is not None
    assert metadata.slot_mapping is not None
    cache = step.with_own_cache()
    together, _ = attend(backend, step, cache, metadata, 0.3)
    first_row = 0
    for sequence, (queries, keys) in enumerate(SHAPES["mixed"]):
        rows = slice(first_row, first_row + queries)
        alone, _ = attend(
            backend,
            replace(step, q=step.q[rows], k=step.k[rows], v=step.v[rows]),
            cache,
            replace(
                metadata,
                cu_seqlens_q=torch.tensor([0, queries], dtype=torch.int32, device=device),
                seq_lens=metadata.seq_lens[sequence : sequence + 1],
                query_lens=(queries,),
                context_lens=(keys,),
                block_table=metadata.block_table[sequence : sequence + 1],
                slot_mapping=metadata.slot_mapping[rows],
            ),
            0.3,
        )
        torch.testing.assert_close(alone, together[rows], atol=1e-6, rtol=1e-6)
        first_row += queries


def test_the_reference_is_the_formula() -> None:
    step = make_step([(6, 6)], num_heads=2, num_kv_heads=2, head_dim=4, seed=1, block_size=None)
    scores = torch.einsum("qhd,khd->hqk", step.q, step.k) * 0.5
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), step.v)
    out = ReferenceAttention().forward(step.q, step.k, step.v, None, step.metadata, scale=0.5)
    torch.testing.assert_close(out, expected)


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed here")
@pytest.mark.skipif(IN_INTERPRETER, reason="this is the process that the test starts")
def test_the_triton_kernels_agree_with_the_reference_in_tritons_interpreter() -> None:
    """In a process of its own, since Triton decides at import whether to interpret."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-k", "triton", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_auto_is_triton_on_cuda_and_torch_where_the_cache_is_not_described() -> None:
    assert resolve_backend_name("auto", torch.device("cuda")) == "triton"
    assert resolve_backend_name("auto", CPU) == "torch"
    assert load_backend("auto", CPU).name == "torch"


@pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built or this processor lacks AVX2")
def test_auto_is_native_on_a_cpu_for_a_cache_that_it_can_keep_and_torch_otherwise() -> None:
    def chosen(dtype: torch.dtype = torch.float32, block_size: int = 16, head_dim: int = 64) -> str:
        return resolve_backend_name("auto", CPU, dtype=dtype, block_size=block_size, head_dim=head_dim)

    assert chosen() == chosen(dtype=torch.bfloat16) == chosen(block_size=48) == chosen(head_dim=256) == "native"
    assert chosen(dtype=torch.float16) == chosen(block_size=8) == chosen(head_dim=512) == "torch"


@pytest.mark.parametrize(
    ("block_size", "dtype", "sentence"),
    [(20, torch.float32, "a multiple of 16 positions while block_size is 20"), (16, torch.float16, "while dtype is float16")],
)
@pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built or this processor lacks AVX2")
def test_native_is_refused_by_name_where_it_cannot_serve(block_size: int, dtype: torch.dtype, sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        resolve_backend_name("native", CPU, dtype=dtype, block_size=block_size, head_dim=64)


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match="choose one of auto, reference, torch, triton, native"):
        load_backend("flash", torch.device("cpu"))


def test_loading_the_cpu_backends_does_not_import_triton() -> None:
    program = (
        "import sys, torch; from attendant_engine.attention.registry import load_backend;"
        "load_backend('auto', torch.device('cpu')); sys.exit('attendant_engine.kernels.paged_attention' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
