"""Plans a model's place on a machine before a weight is read: every "auto" resolved, and memory as factors with units.

The key/value cache is modest by default: enough for every sequence of a full step at ``TYPICAL_TOKENS``, and never more
than a share of the memory that the weights leave. Reads ``config.json`` and tensor headers alone.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch

from attendant_engine.attention.registry import cache_block_shape, load_backend, native_obstacle, resolve_backend_name
from attendant_engine.config import EngineConfig, ModelConfig
from attendant_engine.errors import InvalidRequestError
from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from attendant_engine.layers.packing import can_pack
from attendant_engine.machine import available_memory_bytes
from attendant_engine.models.native import NativeSize, compile_obstacle, measure_model
from attendant_engine.models.registry import build_model
from attendant_engine.models.sharding import check_ranks, shard_config
from attendant_engine.weights.checkpoint import read_model_config, read_tensor_headers

TYPICAL_TOKENS = 2048
"""Length of a sequence that the default cache has room for, ``max_num_seqs`` times over."""

_MAX_CACHE_SHARE = {"cpu": 0.25, "cuda": 0.75}  # a GPU is there for the model; a CPU's memory is everybody's
_MAX_NUM_SEQS = {"cpu": 64, "cuda": 256}
# A CPU's products are at full speed from 256 rows on, and the longest step is what a running stream and the first of several
# prompts wait for.
_MAX_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
_MIN_BLOCKS = 2
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
_BATCH_INVARIANT_BACKENDS = ("native",)  # speculation verifies several tokens in one step and promises the bits of one a step

NUM_SCORED_ROWS = 128
"""Rows of a prompt whose logits exist at one time: 128 x 50,257 x 4 bytes = 26 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a model will take on this machine. Sizes in bytes, lengths in tokens.

    Shared out among ranks, ``model`` and all sizes are those of the first, which has the heads beside its share.
    ``config`` has nothing left to resolve. ``available_bytes`` is what weights and steps leave of the device's free memory.
    ``num_blocks`` is 0 for a model that keeps no keys and values.
    ``packed_head_bytes`` is the tied head's own copy of the token embeddings, laid out for products; compiled for the native
    kernels the two are one. ``row_bytes`` is what a compiled model's buffers take for each token of a step, 0 without them.
    """

    model: ModelConfig
    config: EngineConfig
    max_model_len: int
    max_num_seqs: int
    max_batch_tokens: int
    weight_bytes: int
    available_bytes: int
    num_blocks: int
    packed_head_bytes: int = 0
    row_bytes: int = 0

    @property
    def bytes_per_token(self) -> int:
        """A key and a value in every layer for every key/value head."""
        return 2 * self.model.num_layers * self.model.num_kv_heads * self.cache_head_dim * self.cache_dtype.itemsize

    @property
    def cache_head_dim(self) -> int:
        """Elements of one key of one head in the cache: D, rounded up where the attention backend does so, and an int8 key's scale."""
        num_kv_heads, block_size = self.model.num_kv_heads, self.config.block_size
        block = cache_block_shape(
            self.config.attention_backend,
            block_size=block_size,
            num_kv_heads=num_kv_heads,
            head_dim=self.model.head_dim,
            dtype=self.cache_dtype,
        )
        return math.prod(block) // (num_kv_heads * block_size)

    @property
    def bytes_per_block(self) -> int:
        """``block_size`` positions."""
        return self.config.block_size * self.bytes_per_token

    @property
    def kv_cache_bytes(self) -> int:
        """The whole cache."""
        return self.num_blocks * self.bytes_per_block

    @property
    def num_cache_tokens(self) -> int:
        """Positions in the whole cache."""
        return self.num_blocks * self.config.block_size

    @property
    def step_bytes(self) -> int:
        """Buffers of the largest step, as far as they are planned: a compiled model's, and the logits of a decoder."""
        num_logits = self.num_logit_rows * self.model.vocab_size if self.model.head == "language_model" else 0
        return self.max_batch_tokens * self.row_bytes + (4 * num_logits if self.row_bytes > 0 else 0)

    @property
    def num_logit_rows(self) -> int:
        """Rows of logits that exist at one time: of every sequence of a step, or of a piece of a prompt that is scored."""
        return max(self.max_num_seqs, NUM_SCORED_ROWS)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, and of weights that are not quantised."""
        return torch_dtype(self.config)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values in the cache."""
        return cache_dtype(self.config, self.dtype)

    @property
    def number_classes(self) -> tuple[str, ...]:
        """What weights, activations and the cache are held in, for the self-check's tolerances."""
        dtypes = [str(dtype).removeprefix("torch.") for dtype in (self.dtype, self.cache_dtype)]
        return tuple(name for name in dict.fromkeys((*dtypes, self.config.quantization)) if name != "none")


def plan_model(path: Path, config: EngineConfig) -> Plan:
    """Plan the checkpoint in ``path``. Raises ``CheckpointError`` for the checkpoint, ``InvalidRequestError`` for the configuration."""
    whole = read_model_config(path)
    resolved = resolve(whole, config)
    headers = read_tensor_headers(path)
    num_ranks = resolved.tensor_parallel
    model = shard_config(whole, num_ranks)
    # On a host all ranks take of the same memory; a GPU is one rank's.
    free_bytes = available_memory_bytes(torch.device(resolved.device)) // (num_ranks if resolved.device == "cpu" else 1)
    size = _native_size(model, resolved)
    if size is not None:
        return plan_memory(model, resolved, weight_bytes=size.weight_bytes, row_bytes=size.row_bytes, free_bytes=free_bytes)
    num_parameters = sum(math.prod(shape) for _, shape in headers.values()) if num_ranks == 1 else _num_parameters(model, resolved)
    weight_bytes = num_parameters * torch_dtype(resolved).itemsize
    return plan_memory(
        model, resolved, weight_bytes=weight_bytes, packed_head_bytes=_packed_head_bytes(model, resolved), free_bytes=free_bytes
    )


def torch_dtype(config: EngineConfig) -> torch.dtype:
    """Return torch's name for a resolved configuration's dtype."""
    return _DTYPES[config.dtype]


def cache_dtype(config: EngineConfig, dtype: torch.dtype) -> torch.dtype:
    """Return torch's name for what the cache holds beside activations of ``dtype``."""
    return dtype if config.kv_cache_dtype == "auto" else _DTYPES[config.kv_cache_dtype]


def resolve(model: ModelConfig, config: EngineConfig) -> EngineConfig:
    """Return ``config`` with device, dtype, backend and limits chosen, all but the cache's size.

    Limits that exceed the model's own are lowered to them. A pooling model computes a text whole, so its steps hold at
    least one of full length. Raises ``InvalidRequestError`` for a choice that this machine does not have.
    """
    device: Literal["cpu", "cuda"] = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError("device is cuda and this machine has no usable CUDA device; use cpu or auto.", param="device")
    max_model_len = min(_positive("max_model_len", config.max_model_len) or _own_length(model), _own_length(model))
    max_num_seqs = _positive("max_num_seqs", config.max_num_seqs) or _MAX_NUM_SEQS[device]
    max_batch_tokens = _positive("max_batch_tokens", config.max_batch_tokens) or _MAX_BATCH_TOKENS[device]
    _positive("block_size", config.block_size)
    _positive("max_queue", config.max_queue)
    _positive("tensor_parallel", config.tensor_parallel)
    check_ranks(model, config, num_devices=torch.cuda.device_count() if device == "cuda" else None)
    with_dtype = replace(config, device=device, dtype=_own_dtype(model, config, device) if config.dtype == "auto" else config.dtype)
    attention_backend = _resolve_backend(model, with_dtype)
    _check_cache_dtype(with_dtype, attention_backend)
    return replace(
        with_dtype,
        attention_backend=attention_backend,
        speculation=config.speculation if attention_backend in _BATCH_INVARIANT_BACKENDS else "none",
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens if model.head == "language_model" else max(max_batch_tokens, max_model_len),
    )


def _own_dtype(model: ModelConfig, config: EngineConfig, device: str) -> Literal["float32", "bfloat16", "float16"]:
    """Return what "auto" means: a GPU computes as the checkpoint was written, a CPU in float32.

    Whoever has weights in a few bits wants speed: cache and activations are bfloat16 then, where the CPU multiplies it.
    """
    if device == "cuda":
        return cast(Literal["float32", "bfloat16", "float16"], model.checkpoint_dtype)
    library = load_library() if config.quantization != "none" else None
    return "bfloat16" if library is not None and library.instruction_set is InstructionSet.AVX512_BF16 else "float32"


def _resolve_backend(model: ModelConfig, config: EngineConfig) -> str:
    """Return the attention backend's name for a configuration with device and dtype; check that quantized weights can be had."""
    device, dtype, block_size = torch.device(config.device), torch_dtype(config), config.block_size
    if config.quantization != "none":
        obstacle = compile_obstacle(model, dtype)
        obstacle = obstacle or native_obstacle(device, dtype=dtype, block_size=block_size, head_dim=model.head_dim)
        if config.attention_backend not in ("auto", "native"):
            obstacle = f"attention_backend is {config.attention_backend}"
        if obstacle is not None:
            raise InvalidRequestError(
                f"quantization is {config.quantization}, which takes the native CPU kernels, and {obstacle}; serve without it.",
                param="quantization",
            )
    return resolve_backend_name(config.attention_backend, device, dtype=dtype, block_size=block_size, head_dim=model.head_dim)


def _check_cache_dtype(config: EngineConfig, attention_backend: str) -> None:
    if attention_backend != "native" and cache_dtype(config, torch_dtype(config)) is not torch_dtype(config):
        raise InvalidRequestError(
            f"kv_cache_dtype is {config.kv_cache_dtype}, which takes the native CPU kernels, and attention runs in {attention_backend} "
            "here; use auto.",
            param="kv_cache_dtype",
        )


def _native_size(model: ModelConfig, config: EngineConfig) -> NativeSize | None:
    """Return what the model takes compiled for the native kernels, or None where it is not."""
    if config.attention_backend != "native" or compile_obstacle(model, torch_dtype(config)) is not None:
        return None
    with torch.device("meta"):
        built = build_model(model, load_backend("native", torch.device(config.device)))
    return measure_model(built, dtype=torch_dtype(config), quantization=config.quantization)


def _num_parameters(model: ModelConfig, config: EngineConfig) -> int:
    with torch.device("meta"):
        built = build_model(model, load_backend(config.attention_backend, torch.device(config.device)))
    return sum(parameter.numel() for part in built.modules_with_weights for parameter in part.parameters())


def plan_memory(
    model: ModelConfig, config: EngineConfig, *, weight_bytes: int, free_bytes: int, packed_head_bytes: int = 0, row_bytes: int = 0
) -> Plan:
    """Size the cache of a resolved configuration; raise ``InvalidRequestError`` where too little is left for one to work."""
    assert config.max_model_len is not None and config.max_num_seqs is not None and config.max_batch_tokens is not None
    plan = Plan(
        model=model,
        config=config,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_batch_tokens=config.max_batch_tokens,
        weight_bytes=weight_bytes,
        available_bytes=0,
        num_blocks=0,
        packed_head_bytes=packed_head_bytes,
        row_bytes=row_bytes,
    )
    plan = replace(plan, available_bytes=max(0, free_bytes - weight_bytes - packed_head_bytes - plan.step_bytes))
    if model.head != "language_model":
        return plan
    num_blocks = _num_blocks(plan)
    if num_blocks < _MIN_BLOCKS:
        raise InvalidRequestError(
            f"There is room for {num_blocks} cache blocks of {_bytes(plan.bytes_per_block)}; it takes at least {_MIN_BLOCKS}. "
            "Free some memory or raise --kv-cache-memory.",
            param="kv_cache_memory_bytes",
        )
    return replace(plan, num_blocks=num_blocks)


def describe_plan(plan: Plan) -> str:
    """Write the plan's arithmetic out, one quantity a line."""
    return "\n".join(f"{name:<17}{value}" for name, value in _lines(plan))


def _lines(plan: Plan) -> list[tuple[str, str]]:
    model, config = plan.model, plan.config
    lines = [
        (
            "model",
            f"{model.family} {model.kind}, {model.head.replace('_', ' ')} head, {model.num_layers} layers, hidden {model.hidden_size}",
        ),
        ("runs on", f"{config.device}, {config.dtype}, attention {config.attention_backend}"),
        *_rank_lines(config),
        ("weights", _bytes(plan.weight_bytes) + ("" if config.quantization == "none" else f", {config.quantization} with its scales")),
        *_packed_head_lines(plan),
        *_step_lines(plan),
        ("left beside them", _bytes(plan.available_bytes)),
        ("longest sequence", f"{plan.max_model_len:,} tokens"),
        ("one step", f"at most {plan.max_num_seqs:,} sequences and {plan.max_batch_tokens:,} tokens"),
    ]
    if plan.num_blocks == 0:
        return [*lines, ("cache", "none: texts are computed whole")]
    return [
        *lines,
        (
            "cache a token",
            f"2 (key and value) x {model.num_layers} layers x {model.num_kv_heads} key/value heads x {plan.cache_head_dim} elements "
            f"x {plan.cache_dtype.itemsize} B = {plan.bytes_per_token:,} B"
            + (", a scale of 4 B a head with it" if plan.cache_dtype is torch.int8 else ""),
        ),
        ("cache a block", f"{config.block_size} tokens x {plan.bytes_per_token:,} B = {_bytes(plan.bytes_per_block)}"),
        *_cache_size_lines(plan),
        ("cache", f"{plan.num_blocks:,} blocks x {_bytes(plan.bytes_per_block)} = {_bytes(plan.kv_cache_bytes)}"),
        (
            "holds",
            f"{plan.num_cache_tokens:,} tokens = {plan.num_cache_tokens / plan.max_model_len:,.1f} sequences of {plan.max_model_len:,}",
        ),
    ]


def _rank_lines(config: EngineConfig) -> list[tuple[str, str]]:
    if config.tensor_parallel == 1:
        return []
    return [("ranks", f"{config.tensor_parallel} processes; what follows is of the first, which also has what is not shared out")]


def _step_lines(plan: Plan) -> list[tuple[str, str]]:
    if plan.row_bytes == 0:
        return []
    lines = [
        ("step buffers", f"{plan.max_batch_tokens:,} tokens x {plan.row_bytes:,} B = {_bytes(plan.max_batch_tokens * plan.row_bytes)}")
    ]
    if plan.model.head == "language_model":
        rows, vocab_size = plan.num_logit_rows, plan.model.vocab_size
        lines.append(("logits", f"{rows:,} rows x {vocab_size:,} tokens x 4 B = {_bytes(rows * vocab_size * 4)}"))
    return lines


def _packed_head_bytes(model: ModelConfig, config: EngineConfig) -> int:
    dtype = torch_dtype(config)
    if model.head != "language_model" or not model.tie_word_embeddings or not can_pack(dtype, torch.device(config.device)):
        return 0
    return model.vocab_size * model.hidden_size * dtype.itemsize


def _packed_head_lines(plan: Plan) -> list[tuple[str, str]]:
    if plan.packed_head_bytes == 0:
        return []
    model = plan.model
    return [
        (
            "packed head",
            f"{model.vocab_size:,} tokens x {model.hidden_size} elements x {plan.dtype.itemsize} B = {_bytes(plan.packed_head_bytes)}",
        )
    ]


def _cache_size_lines(plan: Plan) -> list[tuple[str, str]]:
    if plan.config.kv_cache_memory_bytes is not None:
        return [("cache asked for", f"--kv-cache-memory {_bytes(plan.config.kv_cache_memory_bytes)}")]
    length, share = _typical_length(plan), _MAX_CACHE_SHARE[plan.config.device]
    return [
        (
            "cache wanted",
            f"{plan.max_num_seqs:,} sequences x {length:,} tokens x {plan.bytes_per_token:,} B = {_bytes(_wanted_bytes(plan))}",
        ),
        ("cache at most", f"{share:g} x {_bytes(plan.available_bytes)} = {_bytes(_most_bytes(plan))}"),
    ]


def _num_blocks(plan: Plan) -> int:
    asked_bytes = plan.config.kv_cache_memory_bytes
    if asked_bytes is None:
        return min(_wanted_bytes(plan), _most_bytes(plan)) // plan.bytes_per_block
    if asked_bytes > plan.available_bytes:
        raise InvalidRequestError(
            f"--kv-cache-memory asks for {_bytes(asked_bytes)} and the weights leave {_bytes(plan.available_bytes)}; ask for less.",
            param="kv_cache_memory_bytes",
        )
    return asked_bytes // plan.bytes_per_block


def _wanted_bytes(plan: Plan) -> int:
    """Return the memory of all sequences of a full step, each a whole number of blocks long."""
    blocks_per_sequence = -(-_typical_length(plan) // plan.config.block_size)
    return max(plan.max_num_seqs * blocks_per_sequence, _MIN_BLOCKS) * plan.bytes_per_block


def _typical_length(plan: Plan) -> int:
    return min(plan.max_model_len, TYPICAL_TOKENS)


def _most_bytes(plan: Plan) -> int:
    return int(plan.available_bytes * _MAX_CACHE_SHARE[plan.config.device])


def _own_length(model: ModelConfig) -> int:
    return min(model.max_position_embeddings, model.max_sequence_length or model.max_position_embeddings)


def _positive(param: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise InvalidRequestError(f"{param} is {value}; it must be at least 1.", param=param)
    return value


def _bytes(count: int) -> str:
    """Write a size exactly and, from a kibibyte on, in the unit that people think in."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count:,} B ({count / size:.1f} {unit})"
    return f"{count:,} B"
