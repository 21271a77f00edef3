"""Builds a forward pass as one native program: a model family says its operations, this packs the weights and plans memory.

Weights are packed as they come and their float originals let go of at once, so peak memory is the packed model and one
layer. Knows tensors and modules that have a ``weight`` and perhaps a ``bias``; no model family, no checkpoint.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

import torch
from torch import nn

from attendant_engine.kernels.cpu.arena import Lifetime, Value, place
from attendant_engine.kernels.cpu.calls import Activation, CacheView, Format, WeightFormat
from attendant_engine.kernels.cpu.executor import Program
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.low_rank import LowRankDeltas, pack_pair
from attendant_engine.kernels.cpu.operations import (
    AttentionOperation,
    CacheWriteOperation,
    EmbedOperation,
    LinearOperation,
    LowRankOperation,
    NormOperation,
    Operation,
    Rotary,
    SumOperation,
)
from attendant_engine.kernels.cpu.weights import PackedWeight
from attendant_engine.rank_group import Ranks

_AnyOperation = TypeVar(
    "_AnyOperation",
    EmbedOperation,
    NormOperation,
    LinearOperation,
    LowRankOperation,
    CacheWriteOperation,
    AttentionOperation,
    SumOperation,
)

_ALL_FORMATS = frozenset({Format.F32, Format.BF16, Format.U8})
_FLOAT_FORMATS = frozenset({Format.F32, Format.BF16})


class Fill(Protocol):
    """Materialises the parameters of a module, in the element type asked for, just before they are packed."""

    def __call__(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Give every parameter of ``module`` memory and its values."""
        ...


class Heads(Protocol):
    """How a layer attends: H query heads, K key/value heads of size D, scores multiplied by ``scale``."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float


class ProgramBuilder:
    """Takes operations in order and returns the program.

    ``weight_format`` is that of linear layers; ``dtype`` that of embeddings and of the keys and values of whole sequences.
    ``shared_table`` is the module of token embeddings that a tied head shares, packed once for both in ``shared_format``.
    ``adapters``: what each adds to which modules.
    """

    def __init__(
        self,
        library: KernelLibrary,
        *,
        dtype: torch.dtype,
        weight_format: WeightFormat,
        fill: Fill,
        shared_table: nn.Module | None = None,
        shared_format: WeightFormat | None = None,
        adapters: Sequence[LowRankDeltas] = (),
    ) -> None:
        self._library = library
        self._adapters = adapters
        self._dtype = dtype
        self._weight_format = weight_format
        self._fill = fill
        self._shared_table = shared_table
        self._shared_format = shared_format
        self._operations: list[Operation] = []
        self._caches: list[CacheView] = []
        self._output: Value | None = None
        self.packed_table: PackedWeight | None = None
        self.weight_bytes = 0

    def embed(self, tokens: nn.Module, positions: nn.Module | None = None, types: nn.Module | None = None) -> Value:
        """Sum the rows of each table for each token."""
        table: torch.Tensor | PackedWeight
        if tokens is self._shared_table:
            table = self.packed_table = self.pack([tokens], weight_format=self._shared_format)
            width = table.num_inputs
        else:
            table = self._table(tokens)
            width = table.shape[1]
        added = [None if module is None else self._table(module) for module in (positions, types)]
        return self._append(EmbedOperation(Value(width), table, added[0], added[1])).out

    def norm(self, x: Value, module: nn.Module) -> Value:
        """Normalise rows: LayerNorm where the module has a bias, RMSNorm where it has none."""
        self._fill(module, torch.float32)
        weight, bias = self._vector(module, "weight"), self._vector(module, "bias")
        assert weight is not None, "a norm has a weight"
        _release(module)
        return self._append(NormOperation(x, Value(x.width, _ALL_FORMATS), weight, bias, cast(float, module.eps))).out

    def linear(
        self,
        x: Value,
        modules: Sequence[nn.Module],
        *,
        activation: Activation = Activation.NONE,
        residual: Value | None = None,
        is_gated: bool = False,
    ) -> Value:
        """activation(x W^T + b) + residual, outputs of several modules side by side.

        Gated takes two modules: activation(x W_0^T) * (x W_1^T). What adapters add comes before the activation. A module that
        has but a part of the inputs takes neither: its outputs are summed over its ranks.
        """
        ranks = cast(Ranks | None, getattr(modules[0], "ranks", None))
        if ranks is not None:
            part = self._linear_part(x, modules)
            return self._append(SumOperation(part, Value(part.width), residual, ranks)).out
        delta = self._low_rank(x, modules)
        assert delta is None or not is_gated, "no gated family takes adapters"
        weight = self.pack(modules, is_gated=is_gated)
        formats = _FLOAT_FORMATS if residual is None else frozenset({Format.F32})
        return self._append(LinearOperation(x, Value(weight.num_outputs, formats), weight, activation, residual, delta)).out

    def _linear_part(self, x: Value, modules: Sequence[nn.Module]) -> Value:
        weight = self.pack(modules)
        return self._append(LinearOperation(x, Value(weight.num_outputs, is_contiguous=True), weight, Activation.NONE, None)).out

    def attention(self, qkv: Value, heads: Heads, *, rotary: Rotary | None = None) -> Value:
        """Attend over the next layer's cache, to which the keys and values of ``qkv`` ``[T, (H + 2 K) * D]`` are written first."""
        cache = CacheView(num_kv_heads=heads.num_kv_heads, head_dim=heads.head_dim)
        self._caches.append(cache)
        self._append(CacheWriteOperation(qkv, heads.num_heads, cache, rotary))
        out = Value(heads.num_heads * heads.head_dim, _FLOAT_FORMATS)
        return self._append(AttentionOperation(qkv, out, heads.num_heads, cache, heads.scale)).out

    def output(self, x: Value) -> None:
        """Say that ``x`` is what the program computes."""
        x.formats, x.is_contiguous = frozenset({Format.F32}), True
        self._output = x

    def finish(self) -> Program:
        """Choose formats, share memory and return the program."""
        assert self._output is not None, "a program has an output"
        self._choose_formats()
        offsets, row_bytes = self._place_values()
        return Program(self._library, self._operations, self._caches, self._dtype, self._output, offsets, row_bytes)

    def pack(self, modules: Sequence[nn.Module], *, is_gated: bool = False, weight_format: WeightFormat | None = None) -> PackedWeight:
        """Pack the modules' weights and biases, one below the other, and let go of the originals."""
        for module in modules:
            self._fill(module, torch.float32)
        packed = self._packed(modules, self._weight_format if weight_format is None else weight_format, is_gated=is_gated)
        for module in modules:
            _release(module)
        self.weight_bytes += packed.num_bytes
        return packed

    def _packed(self, modules: Sequence[nn.Module], weight_format: WeightFormat, *, is_gated: bool) -> PackedWeight:
        parts = [(cast(torch.Tensor, module.weight), cast(torch.Tensor | None, getattr(module, "bias", None))) for module in modules]
        return PackedWeight(self._library, weight_format, parts, is_gated=is_gated)

    def _low_rank(self, x: Value, modules: Sequence[nn.Module]) -> Value | None:
        """Append what adapters add to the product of ``modules``; None where none adds anything."""
        sizes = [cast(torch.Tensor, module.weight).shape[0] for module in modules]
        weight_format = WeightFormat.BF16 if self._weight_format is WeightFormat.BF16 else WeightFormat.F32
        pairs = [pack_pair(self._library, weight_format, [deltas.get(module) for module in modules], sizes) for deltas in self._adapters]
        found = [pair for pair in pairs if pair is not None]
        if not found:
            return None
        self.weight_bytes += sum(pair.down.num_bytes + pair.up.num_bytes for pair in found)
        return self._append(LowRankOperation(x, Value(sum(sizes)), pairs)).delta

    def _table(self, module: nn.Module) -> torch.Tensor:
        self._fill(module, self._dtype)
        table = cast(torch.Tensor, module.weight).detach().to(self._dtype).contiguous()
        _release(module)
        self.weight_bytes += table.nbytes
        return table

    def _vector(self, module: nn.Module, name: str) -> torch.Tensor | None:
        vector = getattr(module, name, None)
        if vector is None:
            return None
        held = cast(torch.Tensor, vector).detach().float().contiguous()
        self.weight_bytes += held.nbytes
        return held

    def _append(self, operation: _AnyOperation) -> _AnyOperation:
        self._operations.append(operation)
        return operation

    def _choose_formats(self) -> None:
        """Write a value in the format that all its readers want, if its writer can; in float32 otherwise.

        A norm writes a second time for linear layers that read its output otherwise than as float32.
        """
        wanted: dict[Value, set[Format]] = {}
        for operation in self._operations:
            for value in operation.reads:
                wanted.setdefault(value, set()).add(operation.wanted_format(value))
        for value, formats in wanted.items():
            if len(formats) == 1 and formats <= value.formats:
                (value.format,) = formats
        for operation in self._operations:
            if isinstance(operation, NormOperation):
                self._write_twice(operation, wanted.get(operation.out, set()) - {Format.F32})

    def _write_twice(self, norm: NormOperation, wanted: set[Format]) -> None:
        if norm.out.format is not Format.F32 or len(wanted) != 1:
            return
        (second,) = wanted
        norm.also = Value(norm.out.width, frozenset({second}), second)
        for operation in self._operations:
            if not isinstance(operation, LinearOperation | LowRankOperation):
                continue
            if operation.x is norm.out and operation.wanted_format(norm.out) is second:
                operation.x = norm.also

    def _place_values(self) -> tuple[dict[Value, int], int]:
        """Return every value's offset in bytes a row and the row bytes of all together.

        A linear layer writes over the residual that it adds where nobody reads that afterwards.
        """
        last_use: dict[Value, int] = {}
        for index, operation in enumerate(self._operations):
            for value in (*operation.reads, *operation.writes):
                last_use[value] = index
        assert self._output is not None
        last_use[self._output] = len(self._operations)
        lifetimes: list[Lifetime] = []
        slots: dict[Value, int] = {}
        for index, operation in enumerate(self._operations):
            for value in operation.writes:
                if value in slots:
                    continue
                reused = _overwritten(operation, value) if isinstance(operation, LinearOperation) else None
                if reused is not None and last_use[reused] == index:
                    slots[value] = slots[reused]
                    lifetimes[slots[value]].last = last_use[value]
                else:
                    slots[value] = len(lifetimes)
                    lifetimes.append(Lifetime(value.row_bytes, index, last_use[value]))
        offsets, row_bytes = place(lifetimes)
        return {value: offsets[slot] for value, slot in slots.items()}, row_bytes


def _overwritten(operation: LinearOperation, value: Value) -> Value | None:
    residual = operation.residual
    if residual is None or value is not operation.out or residual is operation.x or value.is_contiguous != residual.is_contiguous:
        return None
    return residual


def _release(module: nn.Module) -> None:
    for name, _ in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, None)
