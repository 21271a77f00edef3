"""The kernels' arguments as ctypes structs: the mirror of ``src/calls.h``, field by field, where each is described.

Addresses are plain integers (``tensor.data_ptr()``); whoever fills a call keeps its tensors alive.
"""

from ctypes import Structure, c_bool, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from typing import ClassVar


class Format(IntEnum):
    """How the numbers of a matrix are held."""

    F32 = 0
    BF16 = 1
    U8 = 2
    I8 = 3


class WeightFormat(IntEnum):
    """How a packed weight is held."""

    F32 = 0
    BF16 = 1
    I8 = 2
    I4 = 3


class Activation(IntEnum):
    """What a linear layer applies to its sums."""

    NONE = 0
    GELU = 1
    GELU_TANH = 2
    QUICK_GELU = 3
    RELU = 4
    SQUARED_RELU = 5
    SILU = 6
    TANH = 7


class Rows(Structure):
    """A matrix by its first element; ``stride`` in elements."""

    _fields_: ClassVar = [("data", c_void_p), ("stride", c_int64), ("format", c_int32), ("scales", c_void_p)]


class WeightPart(Structure):
    """Some rows of a weight before packing."""

    _fields_: ClassVar = [("data", c_void_p), ("bias", c_void_p), ("num_rows", c_int64)]


class LinearCall(Structure):
    """A linear layer."""

    _fields_: ClassVar = [
        ("weight", c_void_p),
        ("x", Rows),
        ("row_ids", c_void_p),
        ("num_rows", c_int64),
        ("out", Rows),
        ("activation", c_int32),
        ("residual", c_void_p),
        ("residual_stride", c_int64),
        ("scratch", c_void_p),
        ("delta", c_void_p),
        ("delta_stride", c_int64),
        ("first_delta_row", c_int64),
    ]


class LowRankPair(Structure):
    """What one adapter adds to a linear layer."""

    _fields_: ClassVar = [("down", c_void_p), ("up", c_void_p)]


class LowRankCall(Structure):
    """What the adapters of a step add to a linear layer."""

    _fields_: ClassVar = [
        ("x", Rows),
        ("pairs", c_void_p),
        ("num_adapters", c_int64),
        ("adapter_bounds", c_void_p),
        ("width", c_int64),
        ("inner", Rows),
        ("delta", Rows),
        ("scratch", c_void_p),
    ]


class Table(Structure):
    """A table of embeddings."""

    _fields_: ClassVar = [("plain", Rows), ("packed", c_void_p)]


class EmbedCall(Structure):
    """A sum of embeddings."""

    _fields_: ClassVar = [
        ("tokens", Table),
        ("positions", Table),
        ("types", Table),
        ("has_positions", c_bool),
        ("has_types", c_bool),
        ("token_ids", c_void_p),
        ("position_ids", c_void_p),
        ("type_ids", c_void_p),
        ("num_rows", c_int64),
        ("width", c_int64),
        ("out", Rows),
    ]


class NormCall(Structure):
    """A normalisation of rows."""

    _fields_: ClassVar = [
        ("x", Rows),
        ("out", Rows),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("eps", c_float),
        ("is_rms", c_bool),
        ("num_rows", c_int64),
        ("width", c_int64),
        ("also", Rows),
    ]


class CacheView(Structure):
    """One layer's paged cache."""

    _fields_: ClassVar = [
        ("key", c_void_p),
        ("value", c_void_p),
        ("format", c_int32),
        ("block_size", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
    ]


class CacheWriteCall(Structure):
    """Rotary positions, and keys and values into the cache."""

    _fields_: ClassVar = [
        ("cache", CacheView),
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("q_stride", c_int64),
        ("kv_stride", c_int64),
        ("num_heads", c_int64),
        ("num_tokens", c_int64),
        ("slots", c_void_p),
        ("position_ids", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
    ]


class AttentionCall(Structure):
    """Attention of packed queries over a paged cache."""

    _fields_: ClassVar = [
        ("cache", CacheView),
        ("q", c_void_p),
        ("q_stride", c_int64),
        ("num_heads", c_int64),
        ("num_sequences", c_int64),
        ("cu_seqlens_q", c_void_p),
        ("seq_lens", c_void_p),
        ("block_table", c_void_p),
        ("block_table_stride", c_int64),
        ("is_causal", c_bool),
        ("window", c_int64),
        ("scale", c_float),
        ("out", Rows),
    ]


class PoolCall(Structure):
    """One vector a sequence."""

    _fields_: ClassVar = [
        ("hidden", Rows),
        ("cu_seqlens", c_void_p),
        ("modes", c_void_p),
        ("normalize", c_void_p),
        ("num_sequences", c_int64),
        ("width", c_int64),
        ("out", c_void_p),
    ]


class FiniteCall(Structure):
    """Which rows are finite."""

    _fields_: ClassVar = [("x", Rows), ("num_rows", c_int64), ("width", c_int64), ("is_finite", c_void_p)]


class SampleCall(Structure):
    """A token from each row of logits."""

    _fields_: ClassVar = [
        ("logits", c_void_p),
        ("stride", c_int64),
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("temperature", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("min_p", c_void_p),
        ("uniform", c_void_p),
        ("token_ids", c_void_p),
        ("is_finite", c_void_p),
        ("scratch", c_void_p),
    ]


class LogprobsCall(Structure):
    """Log-probabilities of each row of logits."""

    _fields_: ClassVar = [
        ("logits", c_void_p),
        ("stride", c_int64),
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("token_ids", c_void_p),
        ("num_top", c_void_p),
        ("max_top", c_int64),
        ("logprobs", c_void_p),
        ("ranks", c_void_p),
        ("top_ids", c_void_p),
        ("top_logprobs", c_void_p),
        ("scratch", c_void_p),
    ]


class OpKind(IntEnum):
    """The kernels that a program may call."""

    EMBED = 0
    NORM = 1
    LINEAR = 2
    WRITE_CACHE = 3
    ATTENTION = 4
    LOW_RANK = 5


class Op(Structure):
    """One operation of a program; see ``src/program.h``."""

    _fields_: ClassVar = [("kind", c_int32), ("has_barrier", c_bool), ("call", c_void_p)]


class Step(Structure):
    """What differs from one run of a program to the next; see ``src/program.h``."""

    _fields_: ClassVar = [
        ("num_tokens", c_int64),
        ("num_sequences", c_int64),
        ("token_ids", c_void_p),
        ("position_ids", c_void_p),
        ("type_ids", c_void_p),
        ("cu_seqlens_q", c_void_p),
        ("seq_lens", c_void_p),
        ("block_table", c_void_p),
        ("block_table_stride", c_int64),
        ("slots", c_void_p),
        ("is_causal", c_bool),
        ("window", c_int64),
        ("adapter_bounds", c_void_p),
    ]


STRUCTS: tuple[type[Structure], ...] = (
    Rows,
    WeightPart,
    LinearCall,
    LowRankPair,
    LowRankCall,
    Table,
    EmbedCall,
    NormCall,
    CacheView,
    CacheWriteCall,
    AttentionCall,
    PoolCall,
    FiniteCall,
    SampleCall,
    LogprobsCall,
    Op,
    Step,
)
