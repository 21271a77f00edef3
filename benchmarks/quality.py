"""How far a way of computing is from float32: a decoder's logits and perplexity on a text, an encoder's vectors on sentences.

The oracle is the ``reference`` backend in float32. Measured on the model itself, in whole windows and without a cache.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from attendant_engine.attention.base import AttentionMetadata
from attendant_engine.cache.tensors import CacheTensors
from attendant_engine.models.base import LoadedModel, ModelInputs
from attendant_engine.types import PoolingMode
from attendant_engine.weights.loader import load_model

WINDOW = 256
"""Tokens of a piece of text that are predicted from one another, the begin token included."""

_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of computing: its name, the type of activations, what the weights are packed into, and what a paged cache holds.

    Without ``cache_dtype`` keys and values are those of the activations' type.
    """

    name: str
    dtype: torch.dtype
    quantization: Literal["none", "int8", "int4"] = "none"
    cache_dtype: torch.dtype | None = None


WAYS = (
    Way(name="float32", dtype=torch.float32),
    Way(name="bfloat16", dtype=torch.bfloat16),
    Way(name="int8", dtype=torch.bfloat16, quantization="int8"),
    Way(name="int8 over float32", dtype=torch.float32, quantization="int8"),
    Way(name="int4", dtype=torch.bfloat16, quantization="int4"),
)
CACHE_WAYS = (
    Way(name="float32, int8 cache", dtype=torch.float32, cache_dtype=torch.int8),
    Way(name="bfloat16, int8 cache", dtype=torch.bfloat16, cache_dtype=torch.int8),
    Way(name="int8, int8 cache", dtype=torch.bfloat16, quantization="int8", cache_dtype=torch.int8),
)
"""For decoders, which keep keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderError:
    """Against the oracle's logits, over every position of the text.

    ``relative`` is the root of the summed squares of the differences over that of the logits about their mean;
    ``largest`` the largest difference in units of the logits' standard deviation; ``divergence`` the mean of
    KL(oracle || this) in nats; ``agreement`` how often the most probable token is the same.
    """

    perplexity: float
    oracle_perplexity: float
    relative: float
    largest: float
    divergence: float
    agreement: float

    @property
    def perplexity_change(self) -> float:
        """Relative to the oracle's."""
        return self.perplexity / self.oracle_perplexity - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderError:
    """Cosines between this and the oracle's vectors of the same sentences."""

    least_cosine: float
    mean_cosine: float


def load_oracle(path: Path) -> LoadedModel:
    """Load the checkpoint as what is compared with."""
    return load_model(path, dtype=torch.float32, device=torch.device("cpu"), attention_backend="reference")


def load_way(path: Path, way: Way) -> LoadedModel:
    """Load the checkpoint on the native kernels."""
    return load_model(path, dtype=way.dtype, device=torch.device("cpu"), attention_backend="native", quantization=way.quantization)


def windows_of(token_ids: Sequence[int], begin_id: int) -> list[list[int]]:
    """Cut a text into windows that each start with the begin token; the last may be short."""
    step = WINDOW - 1
    return [[begin_id, *token_ids[start : start + step]] for start in range(0, len(token_ids), step)]


@torch.inference_mode()
def logits_of(model: LoadedModel, windows: Sequence[Sequence[int]], cache_dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the logits that predict each window's second to last tokens, ``[N, V]`` float32.

    With ``cache_dtype`` keys and values go through a paged cache that holds that, of the native backend.
    """
    assert model.lm_head is not None
    num_blocks = -(-WINDOW // _BLOCK_SIZE)
    cache = None
    if cache_dtype is not None:
        cache = CacheTensors(
            model.config,
            num_blocks=num_blocks,
            block_size=_BLOCK_SIZE,
            dtype=cache_dtype,
            device=torch.device("cpu"),
            attention_backend="native",
        )
    rows = []
    for window in windows:
        inputs = _pack([window], is_causal=True)
        if cache is not None:
            places = replace(
                inputs.attention,
                block_table=torch.arange(num_blocks, dtype=torch.int32)[None],
                slot_mapping=torch.arange(len(window)),
            )
            inputs = replace(inputs, layer_caches=cache.layers, attention=places)
        hidden = model.trunk(inputs)
        rows.append(model.lm_head(hidden[: len(window) - 1]).clone())
    return torch.cat(rows)


@torch.inference_mode()
def vectors_of(model: LoadedModel, sentences: Sequence[Sequence[int]], pooling: PoolingMode = "mean") -> torch.Tensor:
    """Return one unit vector a sentence, ``[N, E]`` float32."""
    assert model.pooling_head is not None
    rows = []
    for start in range(0, len(sentences), 20):
        inputs = _pack(sentences[start : start + 20], is_causal=False)
        count = inputs.attention.num_sequences
        hidden = model.trunk(inputs)
        rows.append(model.pooling_head(hidden, inputs.attention.cu_seqlens_q, (pooling,) * count, (True,) * count).clone())
    return torch.cat(rows)


def compare_logits(ours: torch.Tensor, oracle: torch.Tensor, windows: Sequence[Sequence[int]]) -> DecoderError:
    """Compare logits of the same windows."""
    targets = torch.tensor([token_id for window in windows for token_id in window[1:]])
    ours_log, oracle_log = ours.double().log_softmax(-1), oracle.double().log_softmax(-1)
    # A constant added to all logits of a row changes nothing.
    ours_centred, oracle_centred = (logits.double() - logits.double().mean(-1, keepdim=True) for logits in (ours, oracle))
    difference = ours_centred - oracle_centred
    return DecoderError(
        perplexity=_perplexity(ours_log, targets),
        oracle_perplexity=_perplexity(oracle_log, targets),
        relative=float(difference.norm() / oracle_centred.norm()),
        largest=float(difference.abs().max() / oracle_centred.std()),
        divergence=float((oracle_log.exp() * (oracle_log - ours_log)).sum(-1).mean()),
        agreement=float((ours.argmax(-1) == oracle.argmax(-1)).double().mean()),
    )


def compare_vectors(ours: torch.Tensor, oracle: torch.Tensor) -> EncoderError:
    """Compare vectors of the same sentences."""
    cosines = torch.nn.functional.cosine_similarity(ours.double(), oracle.double())
    return EncoderError(least_cosine=float(cosines.min()), mean_cosine=float(cosines.mean()))


def _perplexity(log_probs: torch.Tensor, targets: torch.Tensor) -> float:
    return math.exp(-float(log_probs.gather(1, targets[:, None]).mean()))


def _pack(windows: Sequence[Sequence[int]], *, is_causal: bool) -> ModelInputs:
    lengths = tuple(len(window) for window in windows)
    return ModelInputs(
        token_ids=torch.tensor([token_id for window in windows for token_id in window]),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        attention=AttentionMetadata(
            cu_seqlens_q=torch.tensor([0, *lengths]).cumsum(0).int(),
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            query_lens=lengths,
            context_lens=lengths,
            is_causal=is_causal,
        ),
    )
