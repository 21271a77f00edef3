"""Plain numbers about the engine, for whoever watches it; only the server knows Prometheus."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from attendant_engine.types import EngineOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """What one tenant used in a step; what was computed again after a preemption is in none of these."""

    tenant: str
    num_prompt_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    num_generated_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What one step did. Times in seconds, memory in bytes.

    ``num_*`` counts are of this step, but for ``num_running``, ``num_waiting`` and the cache figures, which are the
    state after it. ``num_accepted_tokens`` of ``num_draft_tokens`` guesses (part of ``num_tokens``) were right.
    ``usage`` has an entry a tenant that used anything; prompt, cached and generated tokens are the sums over it.
    """

    step_index: int
    step_s: float = 0.0
    num_sequences: int = 0
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_preemptions: int = 0
    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage_ratio: float = 0.0
    kv_cache_bytes: int = 0
    usage: tuple[TenantUsage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """All that one step produced: one output a sequence that advanced or ended, and the step's numbers.

    ``prefix_changes``: names of prefixes that are in the cache since then (True), or no longer (False).
    """

    outputs: tuple[EngineOutput, ...]
    stats: StepStats
    prefix_changes: Mapping[bytes, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStats:
    """Seconds each phase of loading took (``config``, ``weights``, ``warmup``), and what it planned.

    ``full_step_s``: what a step of all the tokens that one may take costs, in seconds, as the first requests let expect. A cache
    block has ``block_size`` tokens.
    """

    phase_s: dict[str, float] = field(default_factory=dict)
    weight_bytes: int = 0
    kv_cache_bytes: int = 0
    num_blocks: int = 0
    full_step_s: float = 0.0
    block_size: int = 0
