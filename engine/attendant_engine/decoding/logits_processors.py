"""Changes to raw logits before a token is chosen, in the order of vLLM: minimum length, bias, penalties.

Each works on flat (row, token) pairs of those rows alone that ask for it, so a request that does not ask pays nothing.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from attendant_engine.sequence import Sequence as EngineSequence

MIN_REPETITION_PENALTY = 1e-5
"""A smaller one counts as this: dividing by less could overflow float32, and seen tokens are certain long before."""

_NEVER = float("-inf")


def needs_processing(sequence: EngineSequence, num_ahead: int = 0) -> bool:
    """Say whether any processor would change the logits of ``sequence`` when ``num_ahead`` more tokens are thought to follow."""
    params = sequence.state.request.params
    return (
        params.min_tokens > len(sequence.token_ids) - sequence.num_prompt_tokens + num_ahead
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or bool(params.logit_bias)
    )


def can_look_ahead(sequence: EngineSequence) -> bool:
    """Say whether logits beyond the known tokens can be processed: a penalty would have to know the tokens in between."""
    params = sequence.state.request.params
    return params.repetition_penalty == 1.0 and params.presence_penalty == 0.0 and params.frequency_penalty == 0.0


def process_logits(logits: torch.Tensor, sequences: Sequence[EngineSequence], num_ahead: Sequence[int] | None = None) -> None:
    """Apply every processor, in place, to ``logits`` ``[N, V]`` float32; row i belongs to ``sequences[i]``.

    Row i stands ``num_ahead[i]`` tokens beyond the known ones (0 if not given), of which only the minimum length takes note.
    """
    ahead = num_ahead if num_ahead is not None else (0,) * len(sequences)
    rows = [(row, sequence) for row, (sequence, n) in enumerate(zip(sequences, ahead, strict=True)) if needs_processing(sequence, n)]
    if not rows:
        return
    _mask_until_min_tokens(logits, rows, ahead)
    _add_bias(logits, rows)
    _penalise_repetition(logits, rows)
    _penalise_output(logits, rows)


_Rows = list[tuple[int, EngineSequence]]


def _mask_until_min_tokens(logits: torch.Tensor, rows: _Rows, num_ahead: Sequence[int]) -> None:
    pairs = [
        (row, token_id)
        for row, sequence in rows
        if sequence.num_output_tokens + num_ahead[row] < sequence.state.request.params.min_tokens
        for token_id in sequence.state.masked_ids
    ]
    if pairs:
        row_ids, token_ids = _indices(pairs, logits.device)
        logits[row_ids, token_ids] = _NEVER


def _add_bias(logits: torch.Tensor, rows: _Rows) -> None:
    biases = [(row, token_id, bias) for row, sequence in rows for token_id, bias in sequence.state.request.params.logit_bias]
    if biases:
        row_ids, token_ids = _indices([(row, token_id) for row, token_id, _ in biases], logits.device)
        logits[row_ids, token_ids] += _floats([bias for *_, bias in biases], logits.device)


def _penalise_repetition(logits: torch.Tensor, rows: _Rows) -> None:
    """Divide positive and multiply negative logits of tokens seen in prompt or output (Keskar et al. 2019)."""
    pairs: list[tuple[int, int]] = []
    penalties: list[float] = []
    for row, sequence in rows:
        penalty = sequence.state.request.params.repetition_penalty
        if penalty != 1.0:
            seen = sequence.prompt_ids.union(sequence.output_counts)
            pairs.extend((row, token_id) for token_id in seen)
            penalties.extend([max(penalty, MIN_REPETITION_PENALTY)] * len(seen))
    if pairs:
        row_ids, token_ids = _indices(pairs, logits.device)
        chosen, penalty_of = logits[row_ids, token_ids], _floats(penalties, logits.device)
        logits[row_ids, token_ids] = torch.where(chosen > 0, chosen / penalty_of, chosen * penalty_of)


def _penalise_output(logits: torch.Tensor, rows: _Rows) -> None:
    """Subtract presence once, and frequency once an occurrence, for tokens of the output (OpenAI)."""
    pairs: list[tuple[int, int]] = []
    amounts: list[float] = []
    for row, sequence in rows:
        params = sequence.state.request.params
        if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
            for token_id, count in sequence.output_counts.items():
                pairs.append((row, token_id))
                amounts.append(params.presence_penalty + params.frequency_penalty * count)
    if pairs:
        row_ids, token_ids = _indices(pairs, logits.device)
        logits[row_ids, token_ids] -= _floats(amounts, logits.device)


def _indices(pairs: Iterable[tuple[int, int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    columns = torch.from_numpy(np.array(list(pairs), dtype=np.int64).T.copy()).to(device)
    return columns[0], columns[1]


def _floats(values: list[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
