"""What loading takes at its peak: the weights as they will be held, and one layer's floats; never a float copy of the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attendant_engine.config import EngineConfig
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.plan import plan_model

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or this processor lacks AVX2")

WIDTH, LAYERS, VOCABULARY = 768, 6, 8192
LARGEST_LAYER_BYTES = 4 * VOCABULARY * WIDTH
SLACK_BYTES = 24 << 20

LOAD = """
import sys, torch
from pathlib import Path
from attendant_engine.weights.loader import load_model
def peak(): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
tiny, path, dtype, quantization = sys.argv[1:]
wanted = dict(dtype=getattr(torch, dtype), device=torch.device("cpu"), attention_backend="native", quantization=quantization)
def load(path): return load_model(Path(path), **wanted)
load(tiny)
before = peak()
model = load(path)
print(peak() - before, model.load_stats.weight_bytes)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a GPT-2 of 49.6 million parameters, all of them one number, in bfloat16."""
    return write_gpt2(tmp_path_factory.mktemp("model"), WIDTH, LAYERS, VOCABULARY)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one so small that loading it only brings in what is loaded once."""
    return write_gpt2(tmp_path_factory.mktemp("tiny"), 64, 1, 64)


def write_gpt2(directory: Path, width: int, num_layers: int, vocab_size: int) -> Path:
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": width, "n_layer": num_layers, "n_head": width // 64, "n_positions": 128}
    config |= {"vocab_size": vocab_size, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocab_size, width), "wpe.weight": (128, width)}
    for layer in range(num_layers):
        for name, fan_in, fan_out in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):
            shapes[f"h.{layer}.{name}.weight"] = (fan_in * width, fan_out * width)
            shapes[f"h.{layer}.{name}.bias"] = (fan_out * width,)
        shapes |= {f"h.{layer}.{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    shapes |= {f"ln_f.{kind}": (width,) for kind in ("weight", "bias")}
    save_file({name: torch.full(shape, 0.5, dtype=torch.bfloat16) for name, shape in shapes.items()}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(
    ("dtype", "quantization", "bytes_per_parameter"),
    [("float32", "none", 4.05), ("bfloat16", "none", 2.05), ("bfloat16", "int8", 1.05), ("bfloat16", "int4", 0.7)],
)
def test_a_load_takes_the_packed_weights_and_one_layer_of_floats(
    dtype: str, quantization: str, bytes_per_parameter: float, checkpoint: Path, tiny: Path
) -> None:
    command = [sys.executable, "-c", LOAD, str(tiny), str(checkpoint), dtype, quantization]
    # Left to itself, glibc raises this threshold as buffers are freed, and then keeps some of them or not as luck has it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peak_bytes, weight_bytes = map(int, finished.stdout.split())
    num_parameters = VOCABULARY * WIDTH + 128 * WIDTH + LAYERS * (12 * WIDTH**2 + 13 * WIDTH) + 2 * WIDTH
    assert weight_bytes < bytes_per_parameter * num_parameters
    assert peak_bytes < weight_bytes + LARGEST_LAYER_BYTES + SLACK_BYTES


def test_the_plan_says_what_a_load_takes(checkpoint: Path) -> None:
    plan = plan_model(checkpoint, EngineConfig(device="cpu", quantization="int8", kv_cache_memory_bytes=64 << 20))
    assert (
        plan.model.num_layers * 12 * WIDTH**2 < plan.weight_bytes < 1.05 * (plan.model.num_layers * 12 * WIDTH**2 + LARGEST_LAYER_BYTES / 4)
    )
