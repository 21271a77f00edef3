"""Keeping the unlikely from being drawn: min-p, top-k and top-p, each as one threshold a row.

Comparing with a threshold keeps ties together, so the result depends on no sorting order. The order is vLLM's: min-p
(Nguyen et al. 2024) on the full distribution, then top-k (Fan et al. 2018), then top-p (Holtzman et al. 2019) on what is left.
"""

from collections.abc import Sequence

import torch

from attendant_engine.types import SamplingParams

_NEVER = float("-inf")
_NUM_CANDIDATES = 256  # top-p looks at so many first; sorting a whole vocabulary costs tens of times more


def truncate(logits: torch.Tensor, params: Sequence[SamplingParams]) -> None:
    """Set to minus infinity, in place, what may not be drawn; ``logits`` ``[N, V]`` float32, divided by temperature already."""
    _apply_min_p(logits, params)
    _apply_top_k(logits, params)
    _apply_top_p(logits, params)


def _apply_min_p(logits: torch.Tensor, params: Sequence[SamplingParams]) -> None:
    rows = [row for row, p in enumerate(params) if p.min_p > 0.0]
    if not rows:
        return
    ratio = torch.tensor([params[row].min_p for row in rows], dtype=torch.float32, device=logits.device)
    chosen = logits[rows]
    threshold = chosen.amax(dim=-1) + ratio.log()
    logits[rows] = _keep_from(chosen, threshold)


def _apply_top_k(logits: torch.Tensor, params: Sequence[SamplingParams]) -> None:
    vocab_size = logits.shape[-1]
    rows = [row for row, p in enumerate(params) if 0 < p.top_k < vocab_size]
    if not rows:
        return
    top_k = torch.tensor([params[row].top_k for row in rows], device=logits.device)
    chosen = logits[rows]
    best = chosen.topk(max(params[row].top_k for row in rows), dim=-1).values
    threshold = best.gather(-1, top_k[:, None] - 1).squeeze(-1)
    logits[rows] = _keep_from(chosen, threshold)


def _apply_top_p(logits: torch.Tensor, params: Sequence[SamplingParams]) -> None:
    rows = [row for row, p in enumerate(params) if p.top_p < 1.0]
    if not rows:
        return
    chosen = logits[rows]
    top_p = torch.tensor([params[row].top_p for row in rows], dtype=torch.float64, device=logits.device)
    log_total = chosen.logsumexp(dim=-1, keepdim=True)
    threshold, is_reached = _nucleus_threshold(chosen, log_total, top_p, min(_NUM_CANDIDATES, chosen.shape[-1]))
    wide = (~is_reached).nonzero().squeeze(-1)
    if wide.numel() > 0:
        threshold[wide] = _nucleus_threshold(chosen[wide], log_total[wide], top_p[wide], chosen.shape[-1])[0]
    logits[rows] = _keep_from(chosen, threshold)


def _nucleus_threshold(
    logits: torch.Tensor, log_total: torch.Tensor, top_p: torch.Tensor, num_candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least logit among the fewest best tokens that reach ``top_p``, and whether ``num_candidates`` of them did."""
    best = logits.topk(num_candidates, dim=-1).values
    reached = (best - log_total).exp().cumsum(dim=-1, dtype=torch.float64)
    num_below = (reached < top_p[:, None]).sum(dim=-1)
    idx = num_below.clamp(max=num_candidates - 1)
    return best.gather(-1, idx[:, None]).squeeze(-1), num_below < num_candidates


def _keep_from(logits: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(logits < threshold[:, None], _NEVER)
