"""Log-probabilities for the caller: of the token that is there and of the most probable ones, from one float32 softmax.

Both come from the same numbers, so a chosen token that is the best equals the best to the last bit. Equal values
stand in the order of their ids, whatever order the device's selection returned. A kernel serves the CPU; the torch code
serves other devices and is its oracle.
"""

from collections.abc import Sequence

import torch

from attendant_engine.kernels.cpu.rows import can_serve
from attendant_engine.kernels.cpu.sampling import SamplingKernels, load_sampling_kernels
from attendant_engine.types import TokenLogprobs


def token_logprobs(logits: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    """Describe, row by row, ``token_ids[i]`` and the ``num_top[i]`` best under raw ``logits`` ``[N, V]`` float32."""
    kernels = load_sampling_kernels() if can_serve(logits) else None
    return _describe_natively(kernels, logits, token_ids, num_top) if kernels is not None else describe_in_torch(logits, token_ids, num_top)


def _describe_natively(
    kernels: SamplingKernels, logits: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprobs]:
    rows = kernels.logprobs(logits, token_ids, num_top)
    return [
        TokenLogprobs(token_id=token_id, logprob=value, rank=rank, top=tuple(zip(ids[:num], values[:num], strict=True)))
        for token_id, value, rank, ids, values, num in zip(
            token_ids, rows.values, rows.ranks, rows.top_ids, rows.top_values, num_top, strict=True
        )
    ]


def describe_in_torch(logits: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    """Do what ``token_logprobs`` does, on any device."""
    logprobs = logits.log_softmax(dim=-1)
    ids = torch.tensor(token_ids, device=logits.device)[:, None]
    chosen = logprobs.gather(-1, ids)
    is_before = (logprobs > chosen) | ((logprobs == chosen) & (torch.arange(logits.shape[-1], device=logits.device) < ids))
    ranks: list[int] = (is_before.sum(dim=-1) + 1).tolist()
    values: list[float] = chosen.squeeze(-1).tolist()
    tops = _best(logprobs, num_top)
    return [
        TokenLogprobs(token_id=token_id, logprob=value, rank=rank, top=top)
        for token_id, value, rank, top in zip(token_ids, values, ranks, tops, strict=True)
    ]


def _best(logprobs: torch.Tensor, num_top: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    vocab_size = logprobs.shape[-1]
    most = min(max(num_top, default=0), vocab_size)
    if most == 0:
        return [() for _ in num_top]
    # One more than wanted shows whether a tie crosses the edge, where the selection's choice would be arbitrary.
    values, ids = logprobs.topk(min(most + 1, vocab_size), dim=-1)
    best: list[tuple[tuple[int, float], ...]] = []
    for row, (row_values, row_ids, wanted) in enumerate(zip(values.tolist(), ids.tolist(), num_top, strict=True)):
        count = min(wanted, vocab_size)
        if 0 < count < len(row_values) and row_values[count - 1] == row_values[count]:
            order = logprobs[row].sort(descending=True, stable=True)
            row_values, row_ids = order.values[:count].tolist(), order.indices[:count].tolist()
        pairs = sorted(zip(row_ids, row_values, strict=True), key=lambda pair: (-pair[1], pair[0]))
        best.append(tuple(pairs[:count]))
    return best
