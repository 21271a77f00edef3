"""Runs one step on the model: packs it, computes only the rows whose logits are wanted, and samples.

A fault stays with its request (see ``fault_isolation``): an exception, or numbers that are not finite, in the hidden
states of its own rows or in its logits. Knows no queues; reads sequences and changes none.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, groupby

import torch

from attendant_engine.batch import SequencePacker, pack_pooling
from attendant_engine.cache.tensors import CacheTensors
from attendant_engine.decoding.finite import finite_rows
from attendant_engine.decoding.logprobs import token_logprobs
from attendant_engine.decoding.speculation import num_accepted
from attendant_engine.errors import RequestFaultError
from attendant_engine.fault_isolation import run_isolated
from attendant_engine.models.base import LoadedAdapter, LoadedModel
from attendant_engine.plan import NUM_SCORED_ROWS
from attendant_engine.sampling import sample
from attendant_engine.sequence import (
    PoolingResult,
    PoolingState,
    SampledToken,
    ScheduledSequence,
    ScheduledStep,
    SequenceResult,
    StepResult,
)
from attendant_engine.types import OutputError, TokenLogprobs

_NOT_FINITE = OutputError(code=RequestFaultError.code, message="The model's output for this request is not finite.")
_RAISED = OutputError(code=RequestFaultError.code, message="The model failed on this request.")


class Runner:
    """The model with its cache; ``cache`` is None for a model that only pools."""

    def __init__(self, model: LoadedModel, cache: CacheTensors | None, *, block_size: int) -> None:
        self._model = model
        self._adapter_numbers = {adapter.name: number for number, adapter in enumerate(model.adapters, start=1)}
        self._cache = cache
        self._packer = None if cache is None else SequencePacker(cache.layers, block_size=block_size, device=model.device)

    @torch.inference_mode()
    def run(self, step: ScheduledStep) -> StepResult:
        """Compute ``step`` and return one result for each of its sequences or pooling requests."""
        if step.pooled:
            pooled = run_isolated(step.pooled, self._run_pooled, lambda state: PoolingResult(state, error=_RAISED))
            return StepResult(pooled=tuple(pooled))
        if not step.sequences:
            return StepResult()
        assert self._cache is not None
        self._cache.copy_blocks([item.block_copy for item in step.sequences if item.block_copy is not None])
        results = run_isolated(step.sequences, self._run_sequences, _raised)
        return StepResult(sequences=tuple(results))

    @torch.inference_mode()
    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Erase what a failed request left in the cache."""
        assert self._cache is not None
        self._cache.zero_blocks(block_ids)

    def _run_sequences(self, scheduled: Sequence[ScheduledSequence]) -> list[SequenceResult]:
        assert self._packer is not None
        hidden = self._model.trunk(self._packer.pack(scheduled))
        num_tokens = hidden.shape[0]
        if num_tokens == len(scheduled) and all(item.sequence.decode_item is item for item in scheduled):
            tokens = sample(self._logits(hidden, None), [item.sequence for item in scheduled])
            return [_decoded(item, token) for item, token in zip(scheduled, tokens, strict=True)]
        ends = list(accumulate([item.num_tokens for item in scheduled]))
        # A decode's only row becomes logits, and is checked there.
        faulty = _faulty_sequences(hidden, ends) if any(item.num_tokens > 1 + len(item.draft_ids) for item in scheduled) else set()
        sampled = self._sample(hidden, scheduled, ends, faulty)
        scored = self._score_prompts(hidden, scheduled, ends, faulty)
        return [
            SequenceResult(item, error=_NOT_FINITE)
            if idx in faulty
            else _verified(item, sampled[idx])
            if item.draft_ids
            else SequenceResult(item, sampled=tuple(filter(None, sampled.get(idx, ()))), prompt_logprobs=tuple(scored.get(idx, ())))
            for idx, item in enumerate(scheduled)
        ]

    def _sample(
        self, hidden: torch.Tensor, scheduled: Sequence[ScheduledSequence], ends: Sequence[int], faulty: set[int]
    ) -> dict[int, list[SampledToken | None]]:
        """Choose a token for every sampler, and behind every draft; add to ``faulty`` those without finite logits.

        None stands where a draft left no finite logits.
        """
        wanted = [
            (ends[idx] - 1 - len(item.draft_ids) + ahead, idx, sampler, ahead)
            for idx, item in enumerate(scheduled)
            if item.samplers and idx not in faulty
            for ahead in range(1 + len(item.draft_ids))
            for sampler in item.samplers
        ]
        sampled: dict[int, list[SampledToken | None]] = {}
        if not wanted:
            return sampled
        rows, owners, sequences, num_ahead = zip(*wanted, strict=True)
        for idx, token in zip(owners, sample(self._logits(hidden, rows), sequences, num_ahead), strict=True):
            if token is None and not scheduled[idx].draft_ids:
                faulty.add(idx)
            sampled.setdefault(idx, []).append(token)
        return sampled

    def _score_prompts(
        self, hidden: torch.Tensor, scheduled: Sequence[ScheduledSequence], ends: Sequence[int], faulty: set[int]
    ) -> dict[int, list[TokenLogprobs]]:
        """Return the log-probabilities of the prompt positions that this step is to score."""
        wanted = [
            (idx, ends[idx] - item.num_tokens + position - 1 - item.sequence.num_computed_tokens, item.sequence.token_ids[position])
            for idx, item in enumerate(scheduled)
            if idx not in faulty
            for position in item.scored_positions
        ]
        scored: dict[int, list[TokenLogprobs]] = {}
        for start in range(0, len(wanted), NUM_SCORED_ROWS):
            some = wanted[start : start + NUM_SCORED_ROWS]
            num_top = [scheduled[idx].sequence.state.request.params.prompt_logprobs or 0 for idx, _, _ in some]
            logits = self._logits(hidden, [row for _, row, _ in some])
            for (idx, _, _), entry in zip(some, token_logprobs(logits, [token for _, _, token in some], num_top), strict=True):
                scored.setdefault(idx, []).append(entry)
                if not math.isfinite(entry.logprob):
                    faulty.add(idx)
        return scored

    def _logits(self, hidden: torch.Tensor, rows: Sequence[int] | None) -> torch.Tensor:
        assert self._model.lm_head is not None
        if rows is None:
            return self._model.lm_head(hidden)
        return self._model.lm_head(hidden, torch.tensor(rows, dtype=torch.int32, device=hidden.device))

    def _run_pooled(self, states: Sequence[PoolingState]) -> list[PoolingResult]:
        """Compute texts of any task and adapter together, each kind by its own head."""
        model = self._model
        ordered = sorted(states, key=self._kind)
        inputs = pack_pooling(
            ordered, is_causal=model.config.is_causal, device=model.device, adapter_names=tuple(adapter.name for adapter in model.adapters)
        )
        hidden = model.trunk(inputs)
        cu_seqlens = inputs.attention.cu_seqlens_q
        results: dict[str, PoolingResult] = {}
        first = 0
        for _, group in groupby(ordered, key=self._kind):
            alike = list(group)
            rows = _pool(self._heads(alike[0].request.adapter), hidden, cu_seqlens[first : first + len(alike) + 1], alike)
            for state, values in zip(alike, rows.tolist(), strict=True):
                is_good = all(map(math.isfinite, values))
                results[state.request_id] = PoolingResult(state, tuple(values)) if is_good else PoolingResult(state, error=_NOT_FINITE)
            first += len(alike)
        return [results[state.request_id] for state in states]

    def _kind(self, state: PoolingState) -> tuple[int, str]:
        """Say which texts share a head: those of the model itself first, then each adapter's."""
        adapter = state.request.adapter
        return (0 if adapter is None else self._adapter_numbers[adapter], state.request.task)

    def _heads(self, adapter: str | None) -> LoadedModel | LoadedAdapter:
        return self._model if adapter is None else self._model.adapters[self._adapter_numbers[adapter] - 1]


def _pool(
    heads: LoadedModel | LoadedAdapter, hidden: torch.Tensor, cu_seqlens: torch.Tensor, states: Sequence[PoolingState]
) -> torch.Tensor:
    """Return one row for each of ``states``, which are of one task."""
    if states[0].request.task == "classification":
        assert heads.classification_head is not None
        return heads.classification_head(hidden, cu_seqlens)
    head = heads.pooling_head
    assert head is not None
    modes = tuple(mode for state in states if (mode := state.request.pooling or head.default_pooling) is not None)
    normalize = tuple(head.default_normalize if state.request.normalize is None else state.request.normalize for state in states)
    return head(hidden, cu_seqlens, modes, normalize)


def _raised(item: ScheduledSequence) -> SequenceResult:
    """Blame the request for an exception only if no guess can have been what raised it."""
    return SequenceResult(item, is_tainted=True) if item.draft_ids else SequenceResult(item, error=_RAISED)


def _decoded(item: ScheduledSequence, token: SampledToken | None) -> SequenceResult:
    return SequenceResult(item, error=_NOT_FINITE) if token is None else SequenceResult(item, (token,))


def _verified(item: ScheduledSequence, tokens: Sequence[SampledToken | None]) -> SequenceResult:
    """Keep what plain decoding would have said: up to and including the first token that differs from its draft."""
    finite = [token for token in tokens if token is not None]
    if len(finite) < len(tokens):
        return SequenceResult(item, is_tainted=True)
    count = num_accepted(item.draft_ids, (token.token_id for token in finite))
    return SequenceResult(item, tuple(finite[: 1 + count]))


def _faulty_sequences(hidden: torch.Tensor, ends: Sequence[int]) -> set[int]:
    are_finite = finite_rows(hidden)
    if all(are_finite):
        return set()
    starts = [0, *ends[:-1]]
    return {idx for idx, (start, end) in enumerate(zip(starts, ends, strict=True)) if not all(are_finite[start:end])}
