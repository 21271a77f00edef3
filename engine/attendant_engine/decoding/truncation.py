"""Keeping the unlikely from being drawn: min-p, top-k and top-p, as one threshold a row.

Comparing with a threshold keeps ties together, so the result depends on no sorting order. The order is vLLM's: min-p
(Nguyen et al. 2024) on the full distribution, then top-k (Fan et al. 2018), then top-p (Holtzman et al. 2019) on what is left.
"""

from collections.abc import Sequence

import torch

from attendant_engine.types import SamplingParams

_NEVER = float("-inf")
_NUM_CANDIDATES = 256  # top-p looks at so many first; sorting a whole vocabulary costs tens of times more


def truncate(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return ``logits`` ``[N, V]`` float32, divided by temperature already, with minus infinity where nothing may be drawn.

    The result may be ``logits`` itself, changed in place.
    """
    rows = [row for row, p in enumerate(params) if p.min_p > 0.0 or 0 < p.top_k < logits.shape[-1] or p.top_p < 1.0]
    if not rows:
        return logits
    if len(rows) == len(params):
        return _truncate_all(logits, params)
    logits[rows] = _truncate_all(logits[rows], [params[row] for row in rows])
    return logits


def _truncate_all(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    vocab_size = logits.shape[-1]
    has_min_p, has_top_p = any(p.min_p > 0.0 for p in params), any(p.top_p < 1.0 for p in params)
    top_k = [p.top_k if 0 < p.top_k < vocab_size else vocab_size for p in params]
    most = max((k for k in top_k if k < vocab_size), default=0)
    threshold = torch.full((len(params),), _NEVER, device=logits.device)
    if has_min_p:
        ratio = torch.tensor([p.min_p for p in params], dtype=torch.float32, device=logits.device)
        threshold = logits.amax(dim=-1) + ratio.log()
    # Where every row has a top-k, top-p never looks beyond the largest of them.
    num_candidates = most if most and all(k < vocab_size for k in top_k) else max(most, _NUM_CANDIDATES if has_top_p else 0)
    if num_candidates == 0:
        return _keep_from(logits, threshold)
    best = logits.topk(min(num_candidates, vocab_size), dim=-1).values
    if most:
        threshold = torch.maximum(threshold, _top_k_threshold(best, top_k, vocab_size))
    logits = _keep_from(logits, threshold)
    return _apply_top_p(logits, _keep_from(best, threshold), params) if has_top_p else logits


def _top_k_threshold(best: torch.Tensor, top_k: Sequence[int], vocab_size: int) -> torch.Tensor:
    last = torch.tensor([0 if k == vocab_size else k - 1 for k in top_k], device=best.device)
    is_off = torch.tensor([k == vocab_size for k in top_k], device=best.device)
    return best.gather(-1, last[:, None]).squeeze(-1).masked_fill(is_off, _NEVER)


def _apply_top_p(logits: torch.Tensor, best: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Cut each row at the least logit of the fewest best tokens that reach top-p; ``best`` ``[N, C]`` are the first to look at."""
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=logits.device)
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    threshold, is_reached = _nucleus_threshold(best, log_total, top_p)
    # A row whose first candidates hold everything that is left (a top-k) has nothing further to look at.
    wide = (~is_reached & (top_p < 1.0) & (best[:, -1] > _NEVER)).nonzero().squeeze(-1)
    if wide.numel() > 0 and best.shape[-1] < logits.shape[-1]:
        everything = logits[wide].sort(dim=-1, descending=True).values
        threshold[wide] = _nucleus_threshold(everything, log_total[wide], top_p[wide])[0]
    return _keep_from(logits, threshold.masked_fill(top_p >= 1.0, _NEVER))


def _nucleus_threshold(best: torch.Tensor, log_total: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logit at which each row of ``best`` reaches its share, or its last one, and whether it did reach it."""
    reached = (best - log_total).exp().cumsum(dim=-1, dtype=torch.float64)
    num_below = (reached < top_p[:, None]).sum(dim=-1)
    idx = num_below.clamp(max=best.shape[-1] - 1)
    return best.gather(-1, idx[:, None]).squeeze(-1), num_below < best.shape[-1]


def _keep_from(logits: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(logits < threshold[:, None], _NEVER)
