"""A model that costs nothing and forgives nothing: what it says depends on every key it reads through the block table.

All arithmetic is on small integers, exact in float32 in any order, so two runs that should agree agree to the last bit,
and one wrong slot, position or block changes the answer.
"""

import itertools
from typing import Any, Literal

import torch

from attendant_engine.attention.base import LayerCache
from attendant_engine.config import EngineConfig, ModelConfig
from attendant_engine.engine import Engine
from attendant_engine.heads.pooling import Pooling
from attendant_engine.models.base import LoadedModel, ModelInputs
from attendant_engine.stats import StepOutput
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo, PooledOutput, SamplingParams, SequenceOutput

VOCAB_SIZE = 61
EOS_ID = 1
RAISING_ID = 59
NOT_FINITE_ID = 60
HEAD_DIM = 4
MAX_MODEL_LEN = 256


class FakeTrunk:
    """Each row is a weighted sum of what the tokens up to it wrote to the cache.

    ``RAISING_ID`` anywhere in a step raises; ``NOT_FINITE_ID`` writes NaN to the cache. ``num_tokens_by_step`` records the calls.
    """

    def __init__(self) -> None:
        self.num_tokens_by_step: list[int] = []

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, HEAD_DIM]``."""
        self.num_tokens_by_step.append(len(inputs.token_ids))
        if bool((inputs.token_ids == RAISING_ID).any()):
            raise RuntimeError("a secret of the model's insides")
        token_ids = inputs.token_ids[:, None]
        values = (token_ids * torch.tensor([3, 5, 7, 11]) + inputs.positions[:, None] * torch.tensor([1, 2, 3, 5])) % 97
        values = values.float().masked_fill(token_ids == NOT_FINITE_ID, float("nan"))
        if inputs.layer_caches is None:
            return values
        return _attend(values, inputs.layer_caches[0], inputs)


class FakeHead:
    """Turns sums into scores that no two tokens are likely to share."""

    def __call__(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, HEAD_DIM]``, or the rows ``row_ids`` of it, to ``[N, VOCAB_SIZE]``."""
        if row_ids is not None:
            hidden = hidden[row_ids]
        mixed = (hidden % 101) @ torch.tensor([1.0, 101.0, 7.0, 13.0])
        ids = torch.arange(VOCAB_SIZE)
        scores = (mixed[:, None] * (ids * ids + 3 * ids + 1)) % 1009
        scores[:, RAISING_ID:] -= 2000  # the ids that make trouble are never said
        return scores / 100


class FakeClassifier:
    """Two labels: the sums of the first two columns."""

    def __call__(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[S, 2]``."""
        bounds = cu_seqlens.tolist()
        return torch.stack([hidden[first:last, :2].sum(dim=0) for first, last in itertools.pairwise(bounds)])


def _attend(values: torch.Tensor, cache: LayerCache, inputs: ModelInputs) -> torch.Tensor:
    metadata = inputs.attention
    assert metadata.slot_mapping is not None and metadata.block_table is not None
    cache.value.view(-1, HEAD_DIM)[metadata.slot_mapping] = values
    cache.key.view(-1, HEAD_DIM)[metadata.slot_mapping] = -values
    rows = []
    for s, (num_queries, num_keys) in enumerate(zip(metadata.query_lens, metadata.context_lens, strict=True)):
        # The whole row of the table, padding included: masked keys count nothing, but nothing times NaN is NaN.
        kept = (cache.value[metadata.block_table[s].long()] - cache.key[metadata.block_table[s].long()]).view(-1, HEAD_DIM) / 2
        distance = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(len(kept))[None, :]
        rows.append((distance.float() % 7 + 1).masked_fill(distance < 0, 0.0) @ kept)
    return torch.cat(rows)


def model_config(*, is_decoder: bool = True) -> ModelConfig:
    """Describe the fake to the engine."""
    return ModelConfig(
        family="gpt2" if is_decoder else "bert",
        head="language_model" if is_decoder else "embedding",
        kind="decoder" if is_decoder else "encoder",
        vocab_size=VOCAB_SIZE,
        hidden_size=HEAD_DIM,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=HEAD_DIM,
        intermediate_size=HEAD_DIM,
        max_position_embeddings=MAX_MODEL_LEN,
        norm_eps=1e-5,
        activation="gelu",
        type_vocab_size=2,
        eos_token_ids=(EOS_ID,),
    )


def fake_model(*, is_decoder: bool = True) -> LoadedModel:
    """Make a decoder, or an encoder that embeds and classifies."""
    return LoadedModel(
        config=model_config(is_decoder=is_decoder),
        trunk=FakeTrunk(),
        dtype=torch.float32,
        device=torch.device("cpu"),
        digest="0" * 64,
        num_parameters=0,
        lm_head=FakeHead() if is_decoder else None,
        pooling_head=None if is_decoder else Pooling("mean", False),
        classification_head=None if is_decoder else FakeClassifier(),
    )


def model_info() -> ModelInfo:
    """Describe the fake to a gateway."""
    return ModelInfo(
        name="fake",
        path="",
        family="gpt2",
        kind="decoder",
        tasks=("completion",),
        digest="0" * 64,
        engine_version="0",
        dtype="float32",
        device_kind="cpu",
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=(EOS_ID,),
    )


def fake_engine(
    *,
    num_blocks: int = 256,
    block_size: int = 4,
    max_batch_tokens: int = 64,
    max_num_seqs: int = 64,
    max_queue: int = 1000,
    max_queue_tokens: int | None = 10**9,
    enable_prefix_caching: bool = True,
    speculation: Literal["none", "ngram"] = "none",
    model: LoadedModel | None = None,
) -> Engine:
    """Make an engine around the fake, which computes the same bits in any batch and so may speculate."""
    model = model or fake_model()
    config = EngineConfig(
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=max_num_seqs,
        block_size=block_size,
        max_queue=max_queue,
        max_queue_tokens=max_queue_tokens,
        enable_prefix_caching=enable_prefix_caching,
        speculation=speculation,
    )
    return Engine(model, model_info(), config, num_blocks=0 if model.lm_head is None else num_blocks)


def generation(
    request_id: str = "a", prompt: tuple[int, ...] = (5, 6, 7), *, n: int = 1, priority: int = 0, cache_salt: str = "", **params: Any
) -> GenerationRequest:
    """Make a request, greedy and without an end token where ``params`` says nothing else."""
    return GenerationRequest(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params}),
        n=n,
        priority=priority,
        cache_salt=cache_salt,
    )


class Collected:
    """Everything that an engine said, by request and sequence; fed step by step."""

    def __init__(self) -> None:
        self.by_sequence: dict[tuple[str, int], list[SequenceOutput]] = {}
        self.pooled: dict[str, PooledOutput] = {}
        self.steps: list[StepOutput] = []

    def add(self, step: StepOutput) -> None:
        """Take in one step's outputs; nothing may follow the end of a sequence."""
        self.steps.append(step)
        for output in step.outputs:
            if isinstance(output, PooledOutput):
                assert output.request_id not in self.pooled
                self.pooled[output.request_id] = output
            else:
                said = self.by_sequence.setdefault((output.request_id, output.index), [])
                assert not said or said[-1].finish_reason is None, "a sequence spoke after its end"
                said.append(output)

    def token_ids(self, request_id: str = "a", index: int = 0) -> list[int]:
        """Return all tokens of a sequence."""
        return [token_id for output in self.by_sequence[request_id, index] for token_id in output.token_ids]

    def last(self, request_id: str = "a", index: int = 0) -> SequenceOutput:
        """Return the final output of a sequence."""
        return self.by_sequence[request_id, index][-1]

    @property
    def num_accepted_tokens(self) -> int:
        """Guesses of all steps that were right."""
        return sum(step.stats.num_accepted_tokens for step in self.steps)

    @property
    def num_preemptions(self) -> int:
        """Preemptions of all steps."""
        return sum(step.stats.num_preemptions for step in self.steps)


def run_all(engine: Engine, *requests: EngineRequest, max_steps: int = 5000) -> Collected:
    """Add ``requests`` and step until nothing is left, checking the engine's integrity after every step."""
    collected = Collected()
    for request in requests:
        engine.add_request(request)
    for _ in range(max_steps):
        if not engine.has_work:
            assert engine.num_requests == 0
            return collected
        collected.add(engine.step())
        engine.check_integrity()
    raise AssertionError(f"the engine still has work after {max_steps} steps")
