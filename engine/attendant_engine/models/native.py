"""A model compiled to one native program a step, with the heads that go with it; see ``kernels.cpu.program``.

A family takes part by a method ``lower`` beside its ``forward``, which says the same in native operations.
"""

import logging
from collections.abc import Sequence
from ctypes import Array, addressof, c_int64
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from attendant_engine.config import ModelConfig
from attendant_engine.heads.classification import (
    LastTokenClassification,
    NativeLastTokenClassification,
    NativePooledClassification,
    NativePoolerClassification,
    PooledClassification,
    PoolerClassification,
)
from attendant_engine.heads.language_model import LanguageModel, TiedLanguageModel
from attendant_engine.kernels.cpu.calls import Activation, Step, WeightFormat
from attendant_engine.kernels.cpu.executor import Program
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.kernels.cpu.low_rank import LowRankDeltas
from attendant_engine.kernels.cpu.operations import Operation
from attendant_engine.kernels.cpu.program import Fill, ProgramBuilder
from attendant_engine.kernels.cpu.sketch import ProgramSketch
from attendant_engine.layers.activations import ACTIVATIONS, NATIVE_ACTIVATIONS
from attendant_engine.models.base import ClassificationHead, LanguageModelHead, ModelInputs, PoolingHead
from attendant_engine.models.registry import BuiltModel

Quantization = Literal["none", "int8", "int4"]

_log = logging.getLogger(__name__)

_PLAIN_FORMATS = {torch.float32: WeightFormat.F32, torch.bfloat16: WeightFormat.BF16}
_QUANTIZED_FORMATS: dict[Quantization, WeightFormat] = {"int8": WeightFormat.I8, "int4": WeightFormat.I4}


@runtime_checkable
class Lowerable(Protocol):
    """A trunk that can say itself in native operations."""

    def lower(self, program: ProgramBuilder) -> None:
        """Append every operation, the output included."""
        ...


class NativeTrunk:
    """Runs a program over packed steps, with a paged cache or, for whole sequences, without one."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._step = Step()
        self._adapter_bounds: Array[c_int64] = (c_int64 * 0)()  # of the step that runs

    @property
    def num_bytes(self) -> int:
        """Memory beside the weights and the paged cache, as far as it has been needed."""
        return self._program.num_bytes

    def reserve(self, num_tokens: int) -> None:
        """Have memory for steps of ``num_tokens``, so that no step has to ask for it."""
        self._program.reserve(num_tokens)

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Return the final hidden states ``[T, E]`` float32, which the next call overwrites."""
        return self._program.run(self._prepare(inputs))

    def profile(self, inputs: ModelInputs) -> list[tuple[Operation, float]]:
        """Run a step; return each operation in order, and the seconds that it took."""
        return self._program.run_timed(self._prepare(inputs))

    def hidden(self, num_tokens: int) -> torch.Tensor:
        """Return the first ``num_tokens`` rows of the last step's hidden states."""
        return self._program.hidden[:num_tokens]

    def _prepare(self, inputs: ModelInputs) -> Step:
        metadata, step = inputs.attention, self._step
        step.num_tokens, step.num_sequences = inputs.token_ids.shape[0], metadata.num_sequences
        step.token_ids, step.position_ids = inputs.token_ids.data_ptr(), inputs.positions.data_ptr()
        step.type_ids = None if inputs.token_type_ids is None else inputs.token_type_ids.data_ptr()
        step.cu_seqlens_q, step.seq_lens = metadata.cu_seqlens_q.data_ptr(), metadata.seq_lens.data_ptr()
        step.is_causal, step.window = metadata.is_causal, metadata.window or 0
        step.adapter_bounds = None
        if inputs.adapter_bounds is not None:
            self._adapter_bounds = (c_int64 * len(inputs.adapter_bounds))(*inputs.adapter_bounds)
            step.adapter_bounds = addressof(self._adapter_bounds)
        self._program.reserve(step.num_tokens)
        if inputs.layer_caches is None:
            step.slots = step.block_table = None
            self._program.attach_own(step.num_tokens, step.num_sequences)
            return step
        assert metadata.slot_mapping is not None and metadata.block_table is not None, "a cache needs slots and a block table"
        step.slots, step.block_table = metadata.slot_mapping.data_ptr(), metadata.block_table.data_ptr()
        step.block_table_stride = metadata.block_table.stride(0)
        self._program.attach([(cache.key, cache.value) for cache in inputs.layer_caches], inputs.layer_caches)
        return step


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeModel:
    """A model ready to run: the trunk, and the head that its checkpoint has. ``weight_bytes`` is what its weights take as packed."""

    trunk: NativeTrunk
    weight_bytes: int
    lm_head: LanguageModelHead | None = None
    pooling_head: PoolingHead | None = None
    classification_head: ClassificationHead | None = None
    adapter_heads: tuple[ClassificationHead | None, ...] = ()


def can_compile(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Say whether the native kernels exist on this machine and do all that the model asks; if not, log why."""
    reason = compile_obstacle(config, dtype)
    if reason is not None:
        _log.warning("The model runs in torch, which is slower: %s.", reason)
    return reason is None


def compile_obstacle(config: ModelConfig, dtype: torch.dtype) -> str | None:
    """Return why the native kernels cannot serve this model, as the end of a sentence, or None."""
    if load_library() is None:
        return "the CPU kernels are not built or this processor lacks AVX2"
    if dtype not in _PLAIN_FORMATS:
        return f"the CPU kernels compute in float32 and bfloat16 while dtype is {str(dtype).removeprefix('torch.')}"
    if ACTIVATIONS[config.activation] not in NATIVE_ACTIVATIONS:
        return f"the CPU kernels have no activation {config.activation}"
    return None


def compile_model(
    built: BuiltModel,
    *,
    dtype: torch.dtype,
    quantization: Quantization,
    fill: Fill,
    adapters: Sequence[LowRankDeltas] = (),
    adapter_heads: Sequence[ClassificationHead | None] = (),
) -> NativeModel:
    """Pack the weights of a laid-out model, each module's as ``fill`` materialises it, and return what runs them.

    ``adapters`` add to the trunk's products; ``adapter_heads``, filled already, are those of their own.
    """
    library = load_library()
    assert library is not None, "asked for a model that can_compile refuses"
    formats = _formats(built, dtype, quantization)
    builder = ProgramBuilder(
        library,
        dtype=dtype,
        fill=fill,
        weight_format=formats.linear,
        shared_table=formats.shared_table,
        shared_format=formats.head,
        adapters=adapters,
    )
    lm_head, classification_head = _lower(library, builder, built, formats)
    own_heads = tuple(_classification(library, builder, head, formats.plain) for head in adapter_heads)
    return NativeModel(
        trunk=NativeTrunk(builder.finish()),
        weight_bytes=builder.weight_bytes,
        lm_head=lm_head,
        pooling_head=built.pooling_head,
        classification_head=classification_head,
        adapter_heads=own_heads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSize:
    """What a compiled model takes: its weights as packed, and the buffers of a step for each packed token."""

    weight_bytes: int
    row_bytes: int


def measure_model(built: BuiltModel, *, dtype: torch.dtype, quantization: Quantization) -> NativeSize:
    """Return what ``compile_model`` would take. ``built`` is on the meta device, and of no use afterwards."""
    library = load_library()
    assert library is not None, "asked for a model that can_compile refuses"
    formats = _formats(built, dtype, quantization)
    sketch = ProgramSketch(
        library, dtype=dtype, weight_format=formats.linear, shared_table=formats.shared_table, shared_format=formats.head
    )
    _lower(library, sketch, built, formats)
    return NativeSize(weight_bytes=sketch.weight_bytes, row_bytes=sketch.row_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Formats:
    """How the weights of one model are held; ``shared_table`` is the module of embeddings that a tied head shares."""

    plain: WeightFormat
    linear: WeightFormat
    head: WeightFormat
    shared_table: nn.Module | None


def _formats(built: BuiltModel, dtype: torch.dtype, quantization: Quantization) -> _Formats:
    plain = _PLAIN_FORMATS[dtype]
    linear = _QUANTIZED_FORMATS.get(quantization, plain)
    return _Formats(
        plain=plain,
        linear=linear,
        # The head decides between near-equal tokens: four bits are too few for it.
        head=WeightFormat.I8 if quantization == "int4" else linear,
        shared_table=built.lm_head.token_embedding if isinstance(built.lm_head, TiedLanguageModel) else None,
    )


def _lower(
    library: KernelLibrary, builder: ProgramBuilder, built: BuiltModel, formats: _Formats
) -> tuple[LanguageModelHead | None, ClassificationHead | None]:
    """Say the trunk's operations to ``builder``; return the heads over what it packs."""
    trunk, lm_head = built.trunk, built.lm_head
    assert isinstance(trunk, Lowerable), "asked for a model that can_compile refuses"
    trunk.lower(builder)
    head: LanguageModelHead | None = None
    if builder.packed_table is not None:
        head = NativeLinear(library, builder.packed_table)
    elif isinstance(lm_head, LanguageModel):
        head = NativeLinear(library, builder.pack([lm_head.lm_head], weight_format=formats.head))
    return head, _classification(library, builder, built.classification_head, formats.plain)


def _classification(
    library: KernelLibrary, builder: ProgramBuilder, head: ClassificationHead | None, weight_format: WeightFormat
) -> ClassificationHead | None:
    """A few labels are no burden, so their weights are not quantised."""

    def product(module: nn.Module, activation: Activation = Activation.NONE) -> NativeLinear:
        return NativeLinear(library, builder.pack([module], weight_format=weight_format), activation)

    if isinstance(head, PoolerClassification):
        return NativePoolerClassification(product(head.pooler.dense, Activation.TANH), product(head.classifier))
    if isinstance(head, PooledClassification):
        return NativePooledClassification(head.pooling, product(head.classifier))
    if isinstance(head, LastTokenClassification):
        return NativeLastTokenClassification(product(head.score))
    return None
