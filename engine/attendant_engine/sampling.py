"""From logits to tokens: greedy or drawn, each row by its own sequence's parameters and draw.

Row i of the result depends on row i of the logits and on sequence i alone. On a CPU one kernel call looks at each row once
and finds what is not finite on the way; the torch path beside it serves other devices and is the kernel's oracle.
"""

from collections.abc import Sequence

import numpy as np
import torch

from attendant_engine.decoding.draws import draw_uniform
from attendant_engine.decoding.finite import finite_rows
from attendant_engine.decoding.logits_processors import needs_processing, process_logits
from attendant_engine.decoding.logprobs import token_logprobs
from attendant_engine.decoding.truncation import truncate
from attendant_engine.kernels.cpu.rows import can_serve
from attendant_engine.kernels.cpu.sampling import Draws, load_sampling_kernels
from attendant_engine.sequence import SampledToken
from attendant_engine.sequence import Sequence as EngineSequence
from attendant_engine.types import SamplingParams, TokenLogprobs

MIN_TEMPERATURE = 1e-5
"""Below it sampling is greedy: dividing by less would overflow float32, and the draw could only be the best token."""

_MAX_FLOAT, _MAX_INT = 3e38, 2**31 - 1  # of the kernel's own numbers; what is larger means the same


def sample(logits: torch.Tensor, sequences: Sequence[EngineSequence], num_ahead: Sequence[int] | None = None) -> list[SampledToken | None]:
    """Choose the next token of every sequence from its row of raw ``logits`` ``[N, V]`` float32, which it may overwrite.

    None stands for a row that is not finite. ``num_ahead[i]`` tokens (0 if not given) are thought to follow the known ones
    of sequence i before row i's: its draw is that of the later position. Penalties know of no tokens ahead, so a sequence
    with one is not to have any (see ``can_look_ahead``).
    """
    ahead = num_ahead if num_ahead is not None else (0,) * len(sequences)
    kernels = load_sampling_kernels() if can_serve(logits) else None
    are_finite: list[bool] | None = None
    raw: dict[int, torch.Tensor] = {}
    processed = [row for row, (sequence, n) in enumerate(zip(sequences, ahead, strict=True)) if needs_processing(sequence, n)]
    if processed or kernels is None:
        are_finite = finite_rows(logits)
    if processed:
        raw = {row: logits[row].clone() for row in processed if sequences[row].state.request.params.logprobs is not None}
        process_logits(logits, sequences, ahead)
    if kernels is None:
        token_ids = _sample_in_torch(logits, sequences, ahead)
    else:
        token_ids, seem_finite = kernels.sample(logits, _gather_draws(sequences, ahead))
        are_finite = are_finite or seem_finite
    assert are_finite is not None
    logprobs = _logprobs(logits, raw, sequences, token_ids, are_finite)
    return [
        SampledToken(sequence, token_id, logprobs.get(row)) if is_finite else None
        for row, (sequence, token_id, is_finite) in enumerate(zip(sequences, token_ids, are_finite, strict=True))
    ]


def is_drawn(params: SamplingParams) -> bool:
    """Say whether tokens are drawn rather than the best taken."""
    return params.temperature >= MIN_TEMPERATURE


def _gather_draws(sequences: Sequence[EngineSequence], num_ahead: Sequence[int]) -> Draws | None:
    """Collect what the kernel is to know of each row; None where all are greedy."""
    params = [sequence.state.request.params for sequence in sequences]
    drawn = [is_drawn(p) for p in params]
    if not any(drawn):
        return None
    uniform = [
        draw_uniform(sequence.state.seed, sequence.index, len(sequence.token_ids) + ahead) if is_drawn_row else 0.0
        for sequence, ahead, is_drawn_row in zip(sequences, num_ahead, drawn, strict=True)
    ]
    return Draws(
        temperature=np.array([min(p.temperature, _MAX_FLOAT) if d else 0.0 for p, d in zip(params, drawn, strict=True)], dtype=np.float32),
        top_k=np.array([min(p.top_k, _MAX_INT) for p in params], dtype=np.int32),
        top_p=np.array([p.top_p for p in params], dtype=np.float32),
        min_p=np.array([p.min_p for p in params], dtype=np.float32),
        uniform=np.array(uniform, dtype=np.float64),
    )


def _sample_in_torch(logits: torch.Tensor, sequences: Sequence[EngineSequence], num_ahead: Sequence[int]) -> list[int]:
    token_ids: list[int] = logits.argmax(dim=-1).tolist()  # the lowest id of equals
    drawn = [row for row, sequence in enumerate(sequences) if is_drawn(sequence.state.request.params)]
    if drawn:
        chosen = logits if len(drawn) == len(sequences) else logits[drawn]
        for row, token_id in zip(drawn, _draw(chosen, [sequences[row] for row in drawn], [num_ahead[row] for row in drawn]), strict=True):
            token_ids[row] = token_id
    return token_ids


def _draw(logits: torch.Tensor, sequences: Sequence[EngineSequence], num_ahead: Sequence[int]) -> list[int]:
    """Invert each row's cumulative distribution at its sequence's own uniform number."""
    params = [sequence.state.request.params for sequence in sequences]
    temperatures = torch.tensor([p.temperature for p in params], dtype=torch.float32, device=logits.device)
    logits = truncate(logits / temperatures[:, None], params)
    # Double precision: a sum over the vocabulary then has no rounding that a draw could ever meet.
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)
    uniform = [
        draw_uniform(sequence.state.seed, sequence.index, len(sequence.token_ids) + ahead)
        for sequence, ahead in zip(sequences, num_ahead, strict=True)
    ]
    targets = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    token_ids: list[int] = torch.searchsorted(cumulative, targets, right=True).squeeze(-1).tolist()
    return token_ids


def _logprobs(
    logits: torch.Tensor,
    raw: dict[int, torch.Tensor],
    sequences: Sequence[EngineSequence],
    token_ids: Sequence[int],
    are_finite: Sequence[bool],
) -> dict[int, TokenLogprobs]:
    """Describe the tokens of those rows that ask for it, from ``raw`` where a processor has changed ``logits``."""
    num_top = {
        row: num
        for row, sequence in enumerate(sequences)
        if (num := sequence.state.request.params.logprobs) is not None and are_finite[row]
    }
    if not num_top:
        return {}
    if raw:
        chosen = torch.stack([raw.get(row, logits[row]) for row in num_top])
    else:
        chosen = logits if len(num_top) == len(sequences) else logits[list(num_top)]
    described = token_logprobs(chosen, [token_ids[row] for row in num_top], list(num_top.values()))
    return dict(zip(num_top, described, strict=True))
