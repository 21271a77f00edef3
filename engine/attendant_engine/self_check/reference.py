"""Makes the record of a checkpoint: the formula in torch's float32, whole texts at once, without a cache.

Nothing of the fast path takes part: no packed weights, no kernels of ours, no scheduler, no sampling.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from attendant_engine import __version__
from attendant_engine.attention.registry import load_backend
from attendant_engine.batch import pack_pooling
from attendant_engine.config import ModelConfig
from attendant_engine.errors import CheckpointError
from attendant_engine.models.base import ModelInputs
from attendant_engine.models.registry import BuiltModel, build_model
from attendant_engine.self_check.record import LOGPROB_TOLERANCES, MAX_ENTRIES, VECTOR_TOLERANCES, Prediction, Record, VectorSample
from attendant_engine.sequence import PoolingState
from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import PoolingRequest
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.model_weights import ModelWeights
from attendant_engine.weights.safetensors_files import digest, weight_files

TEXT = (
    "One morning the old gardener found a small blue key under the third apple tree. She asked everyone in the house, but nobody "
    "had lost it, and it fitted none of the doors. In 1984 her brother would have known."
)
"""Plain words, a number and two sentences: a prompt that any tokenizer and any language model can do something with."""

MADE_BY = f"attendant {__version__}, plain torch in float32"

NUM_GENERATED = 4
_MAX_PROMPT_TOKENS = 32
_MAX_POOLED_TOKENS = 64
_NUM_TOP = 5
_LEAST_LOGPROB = -4.0
"""Less probable tokens are left out, but for the best: their log-probabilities say more of rounding than of the model."""

_EVERY = 4
"""Of the prompt's positions, each fourth is recorded."""


@torch.inference_mode()
def compute_record(path: Path, token_ids: Sequence[int] | None = None) -> Record:
    """Return the record of the checkpoint in ``path``, of ``token_ids`` in place of ``TEXT`` if they are given.

    Raises ``CheckpointError`` for one that cannot be loaded.
    """
    config = read_model_config(path)
    built = _load(path, config)
    token_ids = tuple(Tokenizer.load(path).encode(TEXT, add_special_tokens=True).ids if token_ids is None else token_ids)
    if built.lm_head is not None:
        num_prompt_tokens = min(len(token_ids), _MAX_PROMPT_TOKENS, config.max_position_embeddings - NUM_GENERATED)
        return _decoded(path, built, config, list(token_ids[: max(1, num_prompt_tokens)]))
    longest = min(_MAX_POOLED_TOKENS, config.max_sequence_length or config.max_position_embeddings)
    kept = token_ids[:longest]
    return Record(
        digest=digest(weight_files(path)),
        token_ids=kept,
        num_prompt_tokens=len(kept),
        vector=_vector(built, _inputs(kept, config)),
        tolerances=VECTOR_TOLERANCES,
    )


def _load(path: Path, config: ModelConfig) -> BuiltModel:
    cpu = torch.device("cpu")
    with torch.device("meta"):
        built = build_model(config, load_backend("reference", cpu))
    with ModelWeights(path, built, config, dtype=torch.float32, device=cpu) as weights:
        for module in built.modules_with_weights:
            weights.fill(module)
            module.eval()
        weights.check_complete()
    return built


def _decoded(path: Path, built: BuiltModel, config: ModelConfig, token_ids: list[int]) -> Record:
    num_prompt_tokens = len(token_ids)
    for _ in range(NUM_GENERATED):
        logprobs = _logprobs(built, token_ids, config)
        token_ids.append(int(logprobs[-1].argmax()))
    logprobs = _logprobs(built, token_ids[:-1], config)  # row p - 1 is of position p
    positions = [*range(_EVERY, num_prompt_tokens, _EVERY), *range(num_prompt_tokens, len(token_ids))]
    return Record(
        digest=digest(weight_files(path)),
        token_ids=tuple(token_ids),
        num_prompt_tokens=num_prompt_tokens,
        predictions=tuple(_prediction(position, logprobs[position - 1]) for position in positions),
        tolerances=LOGPROB_TOLERANCES,
    )


def _prediction(position: int, logprobs: torch.Tensor) -> Prediction:
    best = logprobs.topk(min(_NUM_TOP, len(logprobs)))
    num_kept = max(1, int((best.values >= _LEAST_LOGPROB).sum()))
    return Prediction(position=position, token_ids=tuple(best.indices.tolist()[:num_kept]), logprobs=tuple(best.values.tolist()[:num_kept]))


def _logprobs(built: BuiltModel, token_ids: list[int], config: ModelConfig) -> torch.Tensor:
    """Return ``[T, V]`` float64."""
    assert built.lm_head is not None
    logits = built.lm_head(built.trunk(_inputs(tuple(token_ids), config)))
    return logits.double().log_softmax(dim=-1)


def _vector(built: BuiltModel, inputs: ModelInputs) -> VectorSample:
    hidden, bounds = built.trunk(inputs), inputs.attention.cu_seqlens_q
    if built.pooling_head is not None:
        row = built.pooling_head(hidden, bounds, (built.pooling_head.default_pooling or "mean",), (True,))[0]
        return _sample("embedding", row)
    if built.classification_head is None:
        raise CheckpointError("The model has no head whose answer could be recorded.")
    return _sample("classification", built.classification_head(hidden, bounds)[0])


def _sample(task: str, row: torch.Tensor) -> VectorSample:
    stride = -(-len(row) // MAX_ENTRIES)
    components = tuple(range(0, len(row), stride))
    is_embedding = task == "embedding"
    return VectorSample(
        task="embedding" if is_embedding else "classification", components=components, values=tuple(row[list(components)].tolist())
    )


def _inputs(token_ids: tuple[int, ...], config: ModelConfig) -> ModelInputs:
    request = PoolingRequest(request_id="record", prompt_token_ids=token_ids, task="embedding")
    state = PoolingState(request=request, arrival=0, arrival_s=0.0)
    return pack_pooling([state], is_causal=config.is_causal, device=torch.device("cpu"))
