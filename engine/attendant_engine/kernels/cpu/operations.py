"""The operations of a program before it has memory: what each reads and writes, and how it fills its kernel's call.

``call`` is complete but for its buffers, which ``bind`` writes, and for what differs by step. ``wanted_format`` says in
which format an operation reads a value without having to convert it.
"""

import ctypes
from collections.abc import Sequence
from ctypes import Array
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from attendant_engine.kernels.cpu.arena import ITEM_BYTES, Arena, Value
from attendant_engine.kernels.cpu.calls import (
    Activation,
    AttentionCall,
    CacheView,
    CacheWriteCall,
    EmbedCall,
    Format,
    LinearCall,
    LowRankCall,
    LowRankPair,
    NormCall,
    OpKind,
    Rows,
    Table,
    WeightFormat,
)
from attendant_engine.kernels.cpu.weights import PackedWeight
from attendant_engine.rank_group import Ranks

INPUT_FORMATS = {WeightFormat.F32: Format.F32, WeightFormat.BF16: Format.BF16, WeightFormat.I8: Format.U8, WeightFormat.I4: Format.U8}
"""What the products with a weight are computed from."""

TABLE_FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}


def rows(arena: Arena, value: Value) -> Rows:
    """Describe a value's memory to a kernel."""
    return Rows(arena.address(value), value.stride, value.format, arena.scales_address(value))


@dataclass(slots=True, eq=False)
class EmbedOperation:
    """A sum of table rows; a table is a tensor ``[num, width]`` or the packed weight of a tied head."""

    out: Value
    tokens: torch.Tensor | PackedWeight
    positions: torch.Tensor | None
    types: torch.Tensor | None
    kind: ClassVar = OpKind.EMBED
    name: ClassVar = "embed"
    call: EmbedCall = field(default_factory=EmbedCall)

    def __post_init__(self) -> None:
        self.call.tokens = _table(self.tokens)
        self.call.has_positions, self.call.has_types = self.positions is not None, self.types is not None
        if self.positions is not None:
            self.call.positions = _table(self.positions)
        if self.types is not None:
            self.call.types = _table(self.types)
        self.call.width = self.out.width

    @property
    def reads(self) -> tuple[Value, ...]:
        """Nothing of the arena."""
        return ()

    @property
    def writes(self) -> tuple[Value, ...]:
        """The sum."""
        return (self.out,)

    def wanted_format(self, value: Value) -> Format:
        """Never asked."""
        return value.format

    def bind(self, arena: Arena) -> None:
        """Write the output's address."""
        self.call.out = rows(arena, self.out)


def _table(table: torch.Tensor | PackedWeight) -> Table:
    if isinstance(table, PackedWeight):
        return Table(Rows(), table.handle)
    return Table(Rows(table.data_ptr(), table.stride(0), TABLE_FORMATS[table.dtype], None), None)


@dataclass(slots=True, eq=False)
class NormOperation:
    """LayerNorm with a bias, RMSNorm without one; both tensors float32 ``[width]``. ``also`` is ``out`` in a second format."""

    x: Value
    out: Value
    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float
    also: Value | None = None
    kind: ClassVar = OpKind.NORM
    name: ClassVar = "norm"
    call: NormCall = field(default_factory=NormCall)

    def __post_init__(self) -> None:
        self.call.weight = self.weight.data_ptr()
        self.call.bias = None if self.bias is None else self.bias.data_ptr()
        self.call.is_rms = self.bias is None
        self.call.eps, self.call.width = self.eps, self.x.width

    @property
    def reads(self) -> tuple[Value, ...]:
        """Its input."""
        return (self.x,)

    @property
    def writes(self) -> tuple[Value, ...]:
        """Its output, once or twice."""
        return (self.out,) if self.also is None else (self.out, self.also)

    def wanted_format(self, value: Value) -> Format:
        """The residual stream is float32."""
        return Format.F32

    def bind(self, arena: Arena) -> None:
        """Write the addresses of input and outputs."""
        self.call.x, self.call.out = rows(arena, self.x), rows(arena, self.out)
        if self.also is not None:
            self.call.also = rows(arena, self.also)


@dataclass(slots=True, eq=False)
class LinearOperation:
    """activation(x W^T + b + delta) + residual; gated: activation(x W_gate^T) * (x W_up^T)."""

    x: Value
    out: Value
    weight: PackedWeight
    activation: Activation
    residual: Value | None
    delta: Value | None = None
    kind: ClassVar = OpKind.LINEAR
    call: LinearCall = field(default_factory=LinearCall)
    scratch: Value = field(init=False)

    def __post_init__(self) -> None:
        # Room for x in the weight's input format, for the kernel that converts it; in float32 because rows are.
        self.scratch = Value(-(-self.weight.scratch_row_bytes // 4))
        self.call.weight, self.call.activation = self.weight.handle, self.activation

    @property
    def name(self) -> str:
        """Its shape."""
        return f"linear {self.weight.num_inputs} x {self.weight.num_outputs}"

    @property
    def reads(self) -> tuple[Value, ...]:
        """Its input and what is added to its output."""
        return (self.x, *(value for value in (self.residual, self.delta) if value is not None))

    @property
    def writes(self) -> tuple[Value, ...]:
        """Its output, and the converted input where there has to be one."""
        return (self.out, self.scratch) if self._is_converted else (self.out,)

    @property
    def _is_converted(self) -> bool:
        """Kernels take the weight's own input format as it is, if rows are whole steps of four bytes; for int4 they group it."""
        row_bytes, weight_format = self.x.width * ITEM_BYTES[self.x.format], self.weight.weight_format
        return weight_format is WeightFormat.I4 or self.x.format is not INPUT_FORMATS[weight_format] or row_bytes % 4 != 0

    def wanted_format(self, value: Value) -> Format:
        """The weight's own, for the input alone."""
        return INPUT_FORMATS[self.weight.weight_format] if value is self.x and value is not self.residual else Format.F32

    def bind(self, arena: Arena) -> None:
        """Write the addresses of input, output, residual and scratch."""
        self.call.x, self.call.out = rows(arena, self.x), rows(arena, self.out)
        if self.residual is not None:
            self.call.residual, self.call.residual_stride = arena.address(self.residual), self.residual.stride
        if self.delta is not None:
            self.call.delta, self.call.delta_stride = arena.address(self.delta), self.delta.stride
        self.call.scratch = arena.address(self.scratch) if self._is_converted else None


@dataclass(frozen=True, slots=True)
class PackedPair:
    """What one adapter adds to a linear layer: x A^T B^T, A ``[rank, K]`` and B ``[N, rank]``, the rank even."""

    down: PackedWeight
    up: PackedWeight


@dataclass(slots=True, eq=False)
class LowRankOperation:
    """What each row's adapter adds to a linear layer: a pair an adapter, None where it leaves the layer alone."""

    x: Value
    delta: Value
    pairs: Sequence[PackedPair | None]
    kind: ClassVar = OpKind.LOW_RANK
    name: ClassVar = "low rank"
    call: LowRankCall = field(default_factory=LowRankCall)
    inner: Value = field(init=False)
    scratch: Value = field(init=False)
    _array: "Array[LowRankPair]" = field(init=False)

    def __post_init__(self) -> None:
        present = [pair for pair in self.pairs if pair is not None]
        inner_format = INPUT_FORMATS[present[0].up.weight_format]
        self.inner = Value(max(pair.up.num_inputs for pair in present), frozenset({inner_format}), inner_format)
        self.scratch = Value(max(-(-pair.down.scratch_row_bytes // 4) for pair in present))
        handles = [(None, None) if pair is None else (pair.down.handle, pair.up.handle) for pair in self.pairs]
        self._array = (LowRankPair * len(handles))(*(LowRankPair(down, up) for down, up in handles))
        self.call.pairs, self.call.num_adapters = ctypes.addressof(self._array), len(handles)
        self.call.width = self.delta.width

    @property
    def reads(self) -> tuple[Value, ...]:
        """The layer's input."""
        return (self.x,)

    @property
    def writes(self) -> tuple[Value, ...]:
        """What is to be added, and what lies between the two products."""
        return (self.delta, self.inner, self.scratch)

    def wanted_format(self, value: Value) -> Format:
        """That of the first product."""
        return next(INPUT_FORMATS[pair.down.weight_format] for pair in self.pairs if pair is not None)

    def bind(self, arena: Arena) -> None:
        """Write all addresses."""
        self.call.x, self.call.inner, self.call.delta = rows(arena, self.x), rows(arena, self.inner), rows(arena, self.delta)
        self.call.scratch = arena.address(self.scratch)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosines and sines of every position, float32 ``[positions, D / 2]``."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(slots=True, eq=False)
class CacheWriteOperation:
    """Rotates queries and keys where positions are rotary, and writes keys and values to the layer's cache."""

    qkv: Value
    num_heads: int
    cache: CacheView
    rotary: Rotary | None
    kind: ClassVar = OpKind.WRITE_CACHE
    name: ClassVar = "write cache"
    call: CacheWriteCall = field(default_factory=CacheWriteCall)

    def __post_init__(self) -> None:
        self.call.num_heads = self.num_heads
        if self.rotary is not None:
            self.call.cos, self.call.sin = self.rotary.cos.data_ptr(), self.rotary.sin.data_ptr()

    @property
    def reads(self) -> tuple[Value, ...]:
        """Queries, keys and values side by side."""
        return (self.qkv,)

    @property
    def writes(self) -> tuple[Value, ...]:
        """The queries, in place."""
        return (self.qkv,)

    def wanted_format(self, value: Value) -> Format:
        """Rotated in float32."""
        return Format.F32

    def bind(self, arena: Arena) -> None:
        """Write the addresses of the three parts, and the cache as it is now."""
        q_width, kv_width = self.num_heads * self.cache.head_dim, self.cache.num_kv_heads * self.cache.head_dim
        q = arena.address(self.qkv)
        self.call.q, self.call.k, self.call.v = q, q + 4 * q_width, q + 4 * (q_width + kv_width)
        self.call.q_stride = self.call.kv_stride = self.qkv.stride
        self.call.cache = self.cache


@dataclass(slots=True, eq=False)
class AttentionOperation:
    """Queries over the layer's cache."""

    qkv: Value
    out: Value
    num_heads: int
    cache: CacheView
    scale: float
    kind: ClassVar = OpKind.ATTENTION
    name: ClassVar = "attention"
    call: AttentionCall = field(default_factory=AttentionCall)

    def __post_init__(self) -> None:
        self.call.num_heads, self.call.scale = self.num_heads, self.scale

    @property
    def reads(self) -> tuple[Value, ...]:
        """The queries, which come first in each row."""
        return (self.qkv,)

    @property
    def writes(self) -> tuple[Value, ...]:
        """What was attended to."""
        return (self.out,)

    def wanted_format(self, value: Value) -> Format:
        """Scores are float32."""
        return Format.F32

    def bind(self, arena: Arena) -> None:
        """Write the addresses of queries and output, and the cache as it is now."""
        self.call.q, self.call.q_stride = arena.address(self.qkv), self.qkv.stride
        self.call.out, self.call.cache = rows(arena, self.out), self.cache


@dataclass(slots=True, eq=False)
class SumOperation:
    """The sum of every rank's ``x``, + residual. No kernel: the program stops for it, and goes on when all ranks have met."""

    x: Value
    out: Value
    residual: Value | None
    ranks: Ranks
    name: ClassVar = "sum over ranks"
    _tensors: dict[Value, torch.Tensor] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[Value, ...]:
        """Its input and what is added to the sum."""
        return (self.x,) if self.residual is None else (self.x, self.residual)

    @property
    def writes(self) -> tuple[Value, ...]:
        """The sum."""
        return (self.out,)

    def wanted_format(self, value: Value) -> Format:
        """Sums are float32."""
        return Format.F32

    def bind(self, arena: Arena) -> None:
        """Look at input, output and residual as tensors."""
        self._tensors = {value: arena.tensor(value) for value in (*self.reads, self.out)}

    def run(self, num_rows: int) -> None:
        """Compute the first ``num_rows``. Raises ``ReplicaFaultError`` when another rank is gone."""
        residual = None if self.residual is None else self._tensors[self.residual][:num_rows]
        self.ranks.add(self._tensors[self.x][:num_rows], residual, self._tensors[self.out][:num_rows])


NativeOperation = EmbedOperation | NormOperation | LinearOperation | LowRankOperation | CacheWriteOperation | AttentionOperation
"""What a kernel does."""

Operation = NativeOperation | SumOperation
