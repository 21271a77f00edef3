"""What every model family looks like to the runner: packed tokens in, hidden states out, and the heads over them."""

from dataclasses import dataclass, field
from typing import Protocol

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.cache.tensors import CachePeers
from attendant_engine.config import ModelConfig
from attendant_engine.stats import LoadStats
from attendant_engine.types import PoolingMode


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """One packed step as a model sees it.

    ``token_ids`` and ``positions`` ``[T]`` int64; ``token_type_ids`` ``[T]`` int64 or None (all zero);
    ``layer_caches`` one a layer, or None without a cache. ``adapter_bounds`` of a model with A adapters: the last rows of
    the step are theirs, adapter i's from bound i to bound i + 1 of A + 1; None where no row has one.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    attention: AttentionMetadata
    layer_caches: tuple[LayerCache, ...] | None = None
    token_type_ids: torch.Tensor | None = None
    adapter_bounds: tuple[int, ...] | None = None

    def caches_by_layer(self, num_layers: int) -> tuple[LayerCache | None, ...]:
        """Return each layer's cache, or ``num_layers`` times None without one."""
        return (None,) * num_layers if self.layer_caches is None else self.layer_caches


class Trunk(Protocol):
    """The Transformer itself, without a head. Called under ``torch.inference_mode``."""

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Return the final hidden states ``[T, E]`` (after the final norm where the family has one).

        They may lie in a buffer that the next call overwrites.
        """
        ...


class LanguageModelHead(Protocol):
    """Hidden states to next-token logits."""

    def __call__(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, E]`` to raw logits ``[N, V]`` in float32: of every row, or of ``row_ids`` ``[N]`` int32.

        The logits may lie in a buffer that the next call overwrites.
        """
        ...


class PoolingHead(Protocol):
    """Hidden states of whole sequences to one embedding each. ``default_pooling`` None: the checkpoint names none."""

    default_pooling: PoolingMode | None
    default_normalize: bool

    def __call__(
        self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, pooling: tuple[PoolingMode, ...], normalize: tuple[bool, ...]
    ) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` int32 to ``[S, E]`` float32; one pooling and one normalize flag a sequence."""
        ...


class ClassificationHead(Protocol):
    """Hidden states of whole sequences to label logits."""

    def __call__(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` int32 to raw logits ``[S, num_labels]`` in float32."""
        ...


class ModelPeers(CachePeers, Protocol):
    """The processes that hold the other shares of a model."""

    def check(self) -> None:
        """Raise ``ReplicaFaultError`` when one is gone. For an engine that has nothing to do; waits for one that hangs."""
        ...

    def close(self) -> None:
        """End them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """An adapter in memory, its part of the trunk aside: its heads, which are the model's where it has none of its own.

    ``digest`` is sha256 over the model's digest and that of the adapter's file.
    """

    name: str
    digest: str
    rank: int
    num_parameters: int
    pooling_head: PoolingHead | None
    classification_head: ClassificationHead | None
    labels: tuple[str, ...] = ()
    multi_label: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A checkpoint in memory: the trunk and exactly the heads it has. ``digest`` is sha256 over the weight files.

    ``adapters`` are in the order of ``ModelInputs.adapter_bounds``. With ``peers`` this process has the first share of the
    trunk, and all heads; ``config`` is the whole model's.
    """

    config: ModelConfig
    trunk: Trunk
    dtype: torch.dtype
    device: torch.device
    digest: str
    num_parameters: int
    lm_head: LanguageModelHead | None = None
    pooling_head: PoolingHead | None = None
    classification_head: ClassificationHead | None = None
    adapters: tuple[LoadedAdapter, ...] = ()
    load_stats: LoadStats = field(default_factory=LoadStats)
    peers: ModelPeers | None = None
