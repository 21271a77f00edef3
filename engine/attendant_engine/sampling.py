"""From logits to tokens: greedy or drawn, each row by its own sequence's parameters and draw.

Row i of the result depends on row i of the logits and on sequence i alone.
"""

from collections.abc import Sequence

import torch

from attendant_engine.decoding.draws import draw_uniform
from attendant_engine.decoding.logits_processors import process_logits
from attendant_engine.decoding.logprobs import token_logprobs
from attendant_engine.decoding.truncation import truncate
from attendant_engine.sequence import SampledToken
from attendant_engine.sequence import Sequence as EngineSequence
from attendant_engine.types import TokenLogprobs

MIN_TEMPERATURE = 1e-5
"""Below it sampling is greedy: dividing by less would overflow float32, and the draw could only be the best token."""


def sample(logits: torch.Tensor, sequences: Sequence[EngineSequence]) -> list[SampledToken]:
    """Choose the next token of every sequence from its row of raw ``logits`` ``[N, V]`` float32, which it may overwrite."""
    raw = _raw_logits_for_logprobs(logits, sequences)
    process_logits(logits, sequences)
    token_ids: list[int] = logits.argmax(dim=-1).tolist()  # the lowest id of equals
    drawn = [row for row, sequence in enumerate(sequences) if sequence.state.request.params.temperature >= MIN_TEMPERATURE]
    if drawn:
        chosen = logits if len(drawn) == len(sequences) else logits[drawn]
        for row, token_id in zip(drawn, _draw(chosen, [sequences[row] for row in drawn]), strict=True):
            token_ids[row] = token_id
    logprobs = _logprobs(raw, sequences, token_ids)
    return [
        SampledToken(sequence, token_id, logprobs.get(row))
        for row, (sequence, token_id) in enumerate(zip(sequences, token_ids, strict=True))
    ]


def _draw(logits: torch.Tensor, sequences: Sequence[EngineSequence]) -> list[int]:
    """Invert each row's cumulative distribution at its sequence's own uniform number."""
    params = [sequence.state.request.params for sequence in sequences]
    temperatures = torch.tensor([p.temperature for p in params], dtype=torch.float32, device=logits.device)
    logits = logits / temperatures[:, None]
    logits = truncate(logits, params)
    # Double precision: a sum over the vocabulary then has no rounding that a draw could ever meet.
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)
    uniform = [draw_uniform(sequence.state.seed, sequence.index, len(sequence.token_ids)) for sequence in sequences]
    targets = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    token_ids: list[int] = torch.searchsorted(cumulative, targets, right=True).squeeze(-1).tolist()
    return token_ids


def _raw_logits_for_logprobs(logits: torch.Tensor, sequences: Sequence[EngineSequence]) -> dict[int, torch.Tensor]:
    """Keep a copy of the rows whose log-probabilities are asked for, before any processor changes them."""
    return {row: logits[row].clone() for row, s in enumerate(sequences) if s.state.request.params.logprobs is not None}


def _logprobs(raw: dict[int, torch.Tensor], sequences: Sequence[EngineSequence], token_ids: Sequence[int]) -> dict[int, TokenLogprobs]:
    if not raw:
        return {}
    num_top = [sequences[row].state.request.params.logprobs or 0 for row in raw]
    described = token_logprobs(torch.stack(list(raw.values())), [token_ids[row] for row in raw], num_top)
    return dict(zip(raw, described, strict=True))
