"""Configuration as data, resolved once.

``ModelConfig`` is all that the engine ever knows of a checkpoint's ``config.json``; ``EngineConfig`` is what an
operator chose. Nothing downstream asks for a raw key or for "auto".
"""

from dataclasses import dataclass
from typing import Literal

from attendant_engine.types import ModelKind, PoolingMode

Family = Literal["gpt2", "llama", "bert"]
HeadKind = Literal["language_model", "embedding", "sequence_classification"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape and conventions of one checkpoint. Sizes in elements, lengths in tokens.

    ``max_position_embeddings`` is the model's own context. ``rope_theta`` is None for learned positions.
    ``labels`` are in id order; ``multi_label`` means sigmoid a label instead of one softmax.
    ``pooling`` None: the checkpoint names none, and none is guessed.
    ``scale_attn_weights`` False leaves out the usual 1 / sqrt(head_dim); ``scale_attn_by_inverse_layer_idx`` divides
    the scores of layer i by i + 1 (both GPT-2's).
    """

    family: Family
    head: HeadKind
    kind: ModelKind
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    norm_eps: float
    activation: str
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_scaling: tuple[tuple[str, float | str], ...] = ()
    attention_bias: bool = False
    mlp_bias: bool = False
    type_vocab_size: int = 0
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    pooling: PoolingMode | None = None
    normalize: bool = False
    max_sequence_length: int | None = None
    checkpoint_dtype: str = "float32"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    @property
    def num_queries_per_kv(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def is_causal(self) -> bool:
        """Decoders look back only."""
        return self.kind == "decoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """An adapter to serve as ``name``, in PEFT layout in the directory ``path``."""

    name: str
    path: str


QUEUE_PER_CACHE = 4
"""Tokens that wait at most for each that the cache holds: beyond, a caller is better served by hearing so at once."""

QUEUE_PER_STEP = 256
"""The same for each token of a step, where that is more: a model that only pools has no cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """An operator's choices; None and "auto" are resolved by ``plan.resolve`` into a new object.

    ``max_batch_tokens`` bounds the packed tokens of one step (prefill chunks included), ``max_num_seqs`` the
    sequences of one step, ``max_queue`` the waiting sequences and ``max_queue_tokens`` their tokens, prompts and what may
    come of them, beyond which new requests are refused; None: ``QUEUE_PER_CACHE`` times what the cache holds, or
    ``QUEUE_PER_STEP`` full steps, whichever is more.
    ``block_size`` is P, positions a cache block. ``quantization`` packs float weights into fewer bits at load: int8 a
    scale an output channel, int4 a scale a group of 32 inputs (native CPU kernels only). ``kv_cache_dtype`` is what keys and
    values are kept in, "auto" the dtype; others take the native CPU kernels, int8 with a scale a position and head.
    ``num_torch_threads`` is for an engine that computes with torch, None: torch's own choice. The native kernels compute on
    one pool of the whole process, and beside them torch, which has little left to do, gets one thread.
    ``adapters`` are loaded beside the model, for requests that name one.
    ``speculation`` proposes tokens by an n-gram lookup in what the sequence already holds; the output is the same bits.
    ``faults`` are made on purpose, for tests (see ``faults``).
    ``tensor_parallel`` processes share the weights of the model's trunk and the heads of its cache (see ``parallel``).
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention_backend: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_batch_tokens: int | None = None
    kv_cache_memory_bytes: int | None = None
    block_size: int = 16
    max_queue: int = 1024
    enable_prefix_caching: bool = True
    quantization: Literal["none", "int8", "int4"] = "none"
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    speculation: Literal["none", "ngram"] = "ngram"
    num_torch_threads: int | None = None
    adapters: tuple[AdapterSource, ...] = ()
    faults: str = ""
    max_queue_tokens: int | None = None
    tensor_parallel: int = 1
