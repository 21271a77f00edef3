"""The cache's memory: laid out as the backend wants it, zero, taken as it fills, and copied and erased by blocks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attendant_engine.cache.tensors import CacheTensors
from attendant_engine.weights.checkpoint import read_model_config

MODEL = read_model_config(Path(__file__).parents[3] / "models" / "stories260k")
CPU = torch.device("cpu")


def make(backend: str, *, num_blocks: int = 6, dtype: torch.dtype = torch.float32) -> CacheTensors:
    return CacheTensors(MODEL, num_blocks=num_blocks, block_size=32, dtype=dtype, device=CPU, attention_backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_blocks_have_the_shape_that_the_backend_reads(dtype: torch.dtype) -> None:
    plain, native = make("torch", dtype=dtype), make("native", dtype=dtype)
    assert len(plain.layers) == len(native.layers) == MODEL.num_layers
    assert plain.layers[0].key.shape == (6, 32, MODEL.num_kv_heads, MODEL.head_dim)
    # Heads of 8 dimensions take 16 there.
    assert native.layers[0].key.shape == native.layers[0].value.shape == (6, 32 * MODEL.num_kv_heads * 16)
    assert native.num_bytes == 2 * plain.num_bytes == MODEL.num_layers * 2 * 6 * 32 * MODEL.num_kv_heads * 16 * dtype.itemsize
    assert all(not bool(part.any()) for layer in native.layers for part in (layer.key, layer.value))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_blocks_are_copied_and_erased_whole_in_every_layer(backend: str) -> None:
    cache = make(backend)
    for layer in cache.layers:
        layer.key.normal_()
        layer.value.normal_()
    before = [(layer.key.clone(), layer.value.clone()) for layer in cache.layers]
    # Blocks that change places: all are read before any is written.
    cache.copy_blocks([(1, 4), (4, 1)])
    cache.zero_blocks([2])
    for layer, parts in zip(cache.layers, before, strict=True):
        for now, then in zip((layer.key, layer.value), parts, strict=True):
            assert torch.equal(now[[0, 3, 5, 1, 4]], then[[0, 3, 5, 4, 1]])
            assert not bool(now[2].any())


def test_a_large_cache_takes_no_memory_before_it_is_used() -> None:
    num_blocks = 2**28 // make("native", num_blocks=1).num_bytes
    before = _resident_bytes()
    cache = make("native", num_blocks=num_blocks)
    assert cache.num_bytes > 2**27
    assert _resident_bytes() - before < 2**25
    cache.layers[0].key[num_blocks // 2] = 1
    assert float(cache.layers[0].key[num_blocks // 2 : num_blocks // 2 + 2].sum()) == cache.layers[0].key.shape[1]


def test_models_with_more_layers_get_more_tensors() -> None:
    assert len(CacheTensors(replace(MODEL, num_layers=9), num_blocks=2, block_size=16, dtype=torch.float32, device=CPU).layers) == 9


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
