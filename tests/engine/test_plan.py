"""The plan's arithmetic is what it prints, its limits are the model's, and what cannot work is refused before a weight is read."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from attendant_engine.config import EngineConfig, ModelConfig
from attendant_engine.engine import load_engine
from attendant_engine.errors import InvalidRequestError
from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from attendant_engine.layers.packing import can_pack
from attendant_engine.plan import Plan, describe_plan, plan_memory, plan_model, resolve
from tests.engine.fakes import model_config

MODELS = Path(__file__).parents[2] / "models"
GIB = 1 << 30

GPT2 = replace(
    model_config(),
    vocab_size=50257,
    hidden_size=768,
    num_layers=12,
    num_heads=12,
    num_kv_heads=12,
    head_dim=64,
    max_position_embeddings=1024,
)
CPU = EngineConfig(device="cpu")

native = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or this processor lacks AVX2")


def _plan(model: ModelConfig, config: EngineConfig = CPU, *, available_bytes: int = 64 * GIB) -> Plan:
    return plan_memory(model, resolve(model, config), weight_bytes=0, free_bytes=available_bytes)


def test_gpt2_small_takes_73728_bytes_a_token_and_room_for_every_sequence_of_a_step() -> None:
    plan = _plan(GPT2)
    assert plan.bytes_per_token == 2 * 12 * 12 * 64 * 4 == 73_728
    assert plan.num_cache_tokens == 64 * 1024
    assert plan.kv_cache_bytes == 64 * 1024 * 73_728


def test_the_default_cache_takes_no_more_than_a_quarter_of_what_the_weights_leave() -> None:
    plan = _plan(GPT2, available_bytes=4 * GIB)
    assert GIB - plan.bytes_per_block < plan.kv_cache_bytes <= GIB


def test_long_contexts_do_not_blow_the_default_cache_up() -> None:
    plan = _plan(replace(GPT2, max_position_embeddings=131_072), available_bytes=4096 * GIB)
    assert plan.num_cache_tokens == 64 * 2048 and plan.max_model_len == 131_072


def test_an_explicit_cache_size_is_used_to_the_last_whole_block() -> None:
    plan = _plan(GPT2, replace(CPU, kv_cache_memory_bytes=3 * 16 * 73_728 + 5))
    assert plan.num_blocks == 3


@pytest.mark.parametrize("num_bytes", [0, 2 * 16 * 73_728 - 1, 65 * GIB])
def test_a_cache_that_is_too_small_or_larger_than_the_machine_is_refused(num_bytes: int) -> None:
    with pytest.raises(InvalidRequestError, match="kv-cache-memory"):
        _plan(GPT2, replace(CPU, kv_cache_memory_bytes=num_bytes))


def test_a_machine_without_room_for_two_blocks_is_told_so() -> None:
    with pytest.raises(InvalidRequestError, match="at least 2"):
        _plan(GPT2, available_bytes=1_000_000)


def test_a_pooling_model_has_no_cache_and_steps_that_hold_its_longest_text() -> None:
    encoder = replace(model_config(is_decoder=False), max_position_embeddings=8192, max_sequence_length=4096)
    plan = _plan(encoder, replace(CPU, max_batch_tokens=100))
    assert plan.num_blocks == 0 and plan.max_model_len == 4096 and plan.max_batch_tokens == 4096


def test_limits_are_lowered_to_the_models_own() -> None:
    assert _plan(GPT2, replace(CPU, max_model_len=100)).max_model_len == 100
    assert _plan(GPT2, replace(CPU, max_model_len=5000)).max_model_len == 1024


@pytest.mark.parametrize("field", ["max_model_len", "max_num_seqs", "max_batch_tokens", "block_size", "max_queue"])
def test_limits_below_one_are_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{field} is 0"):
        resolve(GPT2, replace(CPU, **{field: 0}))  # type: ignore[arg-type]


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    model = replace(GPT2, checkpoint_dtype="bfloat16")
    assert resolve(model, CPU).dtype == "float32"
    assert resolve(model, replace(CPU, dtype="bfloat16")).dtype == "bfloat16"
    assert _plan(model, replace(CPU, dtype="bfloat16")).bytes_per_token == 36_864


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no usable CUDA"):
        resolve(GPT2, replace(CPU, device="cuda"))


def test_every_product_that_a_plan_prints_is_right() -> None:
    assert _check_products(describe_plan(_plan(GPT2, available_bytes=10 * GIB))) == 5


def _check_products(text: str) -> int:
    """Multiply out every line of factors; return how many there were."""
    checked = 0
    for line in text.splitlines():
        factors, equals, product = line.partition(" = ")
        if not equals or "holds" in line:
            continue
        numbers = [re.findall(r"[\d,.]+", factor)[0] for factor in re.split(r" x ", factors[17:])]
        result = 1.0
        for number in numbers:
            result *= float(number.replace(",", ""))
        assert int(result) == int(re.findall(r"[\d,]+", product)[0].replace(",", "")), line
        checked += 1
    return checked


def test_the_weights_of_a_real_checkpoint_are_counted_from_its_headers() -> None:
    plan = plan_model(MODELS / "stories260k", replace(CPU, attention_backend="torch"))
    stored = (MODELS / "stories260k" / "model.safetensors").stat().st_size
    assert stored - 20_000 < plan.weight_bytes < stored
    assert plan.max_model_len == json.loads((MODELS / "stories260k" / "config.json").read_text())["max_position_embeddings"]
    assert "llama decoder" in describe_plan(plan)


def test_a_tied_head_in_torch_counts_the_copy_of_the_embeddings_that_packing_makes() -> None:
    path = MODELS / "stories260k"
    config = json.loads((path / "config.json").read_text())
    assert config["tie_word_embeddings"] and can_pack(torch.float32, torch.device("cpu"))
    plan = plan_model(path, replace(CPU, attention_backend="torch"))
    assert plan.packed_head_bytes == config["vocab_size"] * config["hidden_size"] * 4
    assert "packed head" in describe_plan(plan)


def test_a_model_without_a_language_model_head_packs_no_copy() -> None:
    plan = plan_model(MODELS / "tiny-encoder", CPU)
    assert plan.packed_head_bytes == 0
    assert "packed head" not in describe_plan(plan)


@native
def test_a_compiled_model_has_one_copy_of_its_embeddings_and_every_printed_product_is_right() -> None:
    plan = plan_model(MODELS / "stories260k", CPU)
    config = json.loads((MODELS / "stories260k" / "config.json").read_text())
    in_torch = plan_model(MODELS / "stories260k", replace(CPU, attention_backend="torch"))
    assert plan.packed_head_bytes == 0 and plan.config.attention_backend == "native"
    assert plan.weight_bytes < in_torch.weight_bytes + in_torch.packed_head_bytes
    assert plan.step_bytes == plan.max_batch_tokens * plan.row_bytes + 128 * config["vocab_size"] * 4 > 0
    text = describe_plan(plan)
    assert "step buffers" in text and "logits" in text and "packed head" not in text
    assert _check_products(text) == 7


@native
@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.36), ("int4", 0.25)])
def test_quantized_weights_are_counted_as_they_will_be_held(quantization: Literal["int8", "int4"], most: float) -> None:
    whole = plan_model(MODELS / "stories260k", CPU)
    packed = plan_model(MODELS / "stories260k", replace(CPU, quantization=quantization))
    assert packed.weight_bytes < most * whole.weight_bytes
    assert f"{quantization} with its scales" in describe_plan(packed)


@native
def test_quantized_weights_take_a_cache_in_bfloat16_where_the_cpu_multiplies_it() -> None:
    library = load_library()
    assert library is not None
    expected = "bfloat16" if library.instruction_set is InstructionSet.AVX512_BF16 else "float32"
    for quantization in ("int8", "int4"):
        resolved = resolve(GPT2, replace(CPU, quantization=quantization))
        assert (resolved.dtype, resolved.attention_backend) == (expected, "native")
        assert resolve(GPT2, replace(CPU, quantization=quantization, dtype="float32")).dtype == "float32"
    before = library.instruction_set
    try:
        assert library.force_instruction_set(InstructionSet.AVX2)
        assert resolve(GPT2, replace(CPU, quantization="int8")).dtype == "float32"
    finally:
        library.force_instruction_set(before)


@native
@pytest.mark.parametrize(
    ("model", "config", "reason"),
    [
        (GPT2, replace(CPU, dtype="float16"), "dtype is float16"),
        (GPT2, replace(CPU, block_size=8), "block_size is 8"),
        (GPT2, replace(CPU, attention_backend="torch"), "attention_backend is torch"),
    ],
)
def test_quantization_without_the_native_kernels_is_refused_with_the_reason(model: ModelConfig, config: EngineConfig, reason: str) -> None:
    resolve(model, config)
    with pytest.raises(InvalidRequestError, match=f"^quantization is int8, which takes the native CPU kernels, and .*{reason}") as caught:
        resolve(model, replace(config, quantization="int8"))
    assert caught.value.param == "quantization" and str(caught.value).endswith("; serve without it.")


def test_without_kernels_torch_serves_and_quantization_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("attention.registry", "models.native", "plan"):
        monkeypatch.setattr(f"attendant_engine.{module}.load_library", lambda: None)
    assert resolve(GPT2, CPU).attention_backend == "torch"
    with pytest.raises(InvalidRequestError, match="the CPU kernels are not built or this processor lacks AVX2"):
        resolve(GPT2, replace(CPU, quantization="int4"))


@native
@pytest.mark.parametrize(("dtype", "block_size"), [("float16", 16), ("float32", 8), ("bfloat16", 24)])
def test_what_the_native_kernels_cannot_keep_runs_in_torch(dtype: Literal["float32", "bfloat16", "float16"], block_size: int) -> None:
    assert resolve(GPT2, replace(CPU, dtype=dtype, block_size=block_size)).attention_backend == "torch"
    assert resolve(GPT2, CPU).attention_backend == "native"


@native
def test_an_int8_cache_is_counted_with_its_scales() -> None:
    plan = plan_model(MODELS / "stories260k", replace(CPU, kv_cache_dtype="int8", kv_cache_memory_bytes=1 << 20))
    model = plan.model
    assert plan.bytes_per_token == 2 * model.num_layers * model.num_kv_heads * (16 + 4)  # 8 dimensions, padded to 16
    assert (plan.dtype, plan.cache_dtype) == (torch.float32, torch.int8)
    engine = load_engine(MODELS / "stories260k", "m", replace(CPU, kv_cache_dtype="int8", kv_cache_memory_bytes=1 << 20))
    assert engine.load_stats.kv_cache_bytes == plan.kv_cache_bytes == plan.num_blocks * 16 * plan.bytes_per_token
    assert engine.info.kernels.endswith(", int8 cache")


def test_a_cache_of_another_type_takes_the_native_kernels() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"^kv_cache_dtype is int8, which takes the native CPU kernels, .* in torch here; use auto"
    ):
        resolve(GPT2, replace(CPU, kv_cache_dtype="int8", attention_backend="torch"))
    assert resolve(GPT2, replace(CPU, kv_cache_dtype="float32", attention_backend="torch")).kv_cache_dtype == "float32"
