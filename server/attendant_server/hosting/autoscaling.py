"""How many engine replicas a model is to have: Ray Serve asks, and this answers from what the replicas say of their load.

A replica more for each ``TARGET_WAITING_TOKENS`` that wait, and for each ``TARGET_CACHE_USAGE`` of a cache that is held. Serve
applies bounds and delays, and starts the first replica of a model that has none by itself when a call waits for one.
Serve pickles this module by value into its controller: no imports of ours in it.
"""

import math
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

TARGET_WAITING_TOKENS = 2048.0
"""Tokens that may wait at a replica: some steps of a CPU, a moment of a GPU."""

WAITING_SEQUENCE_TOKENS = 32.0
"""What a waiting request counts beside its prompt, as in routing: short prompts wait for places, not for prefill."""

TARGET_CACHE_USAGE = 0.8
"""Share of a cache that may be held: above it sequences are soon put back for want of blocks."""

WAITING, CACHE, SEQUENCES = "waiting_tokens", "kv_cache_usage", "num_sequences"
"""What ``record_autoscaling_stats`` of a replica reports."""

_UPSCALE_DELAY_S = 3.0
_LOOK_BACK_S = 12.0  # above an interval of ten seconds that Serve still compares it with and no longer uses
_POLICY = "attendant_server.hosting.autoscaling:wanted_replicas"


def autoscaling_config(*, min_replicas: int, max_replicas: int, initial_replicas: int, downscale_delay_s: float) -> AutoscalingConfig:
    """Return Serve's configuration. A model begins with a replica at least, so that gateways learn what it is."""
    return AutoscalingConfig(
        min_replicas=min_replicas,
        initial_replicas=min(max(1, min_replicas, initial_replicas), max_replicas),
        max_replicas=max_replicas,
        upscale_delay_s=_UPSCALE_DELAY_S,
        downscale_delay_s=downscale_delay_s,
        look_back_period_s=_LOOK_BACK_S,
        policy=AutoscalingPolicy(policy_function=_POLICY),  # type: ignore[no-untyped-call]
    )


def wanted_replicas(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return how many replicas are wanted, and no state: Serve's custom policy."""
    metrics = ctx.aggregated_metrics or {}
    values = {name: list((metrics.get(name) or {}).values()) for name in (WAITING, CACHE, SEQUENCES)}
    if not values[SEQUENCES]:
        return ctx.target_num_replicas, {}  # none has reported yet, or none is there
    return wanted(values, num_replicas=ctx.current_num_replicas), {}


def wanted(values: Mapping[str, list[float]], *, num_replicas: int) -> int:
    """Return how many replicas this load wants: none where nothing runs, and never one fewer that would soon be one more."""
    is_idle = not any(value > 0 for name in (WAITING, SEQUENCES) for value in values[name])
    if is_idle:
        return 0
    by_load = max(sum(values[WAITING]) / TARGET_WAITING_TOKENS, sum(values[CACHE]) / TARGET_CACHE_USAGE)
    more = math.ceil(by_load)
    # What is just enough now would be too little as soon as one is gone.
    fewer = math.ceil(2 * by_load)
    return max(1, more if more > num_replicas else min(num_replicas, fewer))
