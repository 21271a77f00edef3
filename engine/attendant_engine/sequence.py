"""What the engine remembers of a request while it lives, and what one step is to do with it.

The scheduler moves a sequence and its blocks, the engine appends its tokens; the runner and the sampler only read it.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

from attendant_engine.prefix_names import PrefixNames
from attendant_engine.service_order import Key, order_key
from attendant_engine.types import GenerationRequest, OutputError, PoolingRequest, TokenLogprobs
from attendant_engine.workload import Work


class SequenceStatus(Enum):
    """Where a sequence is. ``UNFORKED``: it waits for the first of its request to prefill the prompt they share."""

    UNFORKED = auto()
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False, kw_only=True)
class GenerationState:
    """One generation request in flight.

    ``arrival`` orders requests of one priority; times are monotonic seconds. ``max_tokens`` is the request's own,
    clipped to the context. ``stop_ids`` end a sequence; ``masked_ids`` are those kept away until ``min_tokens``.
    ``prompt_logprobs`` fills up from ``prompt_logprobs_start`` on while the first sequence prefills.
    """

    request: GenerationRequest
    arrival: int
    arrival_s: float
    seed: int
    max_tokens: int
    stop_ids: frozenset[int]
    masked_ids: tuple[int, ...] = ()
    sequences: list["Sequence"] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        """The caller's name for it."""
        return self.request.request_id

    @property
    def next_scored_position(self) -> int:
        """The first prompt position that still needs its log-probability; the prompt's length when none does."""
        params = self.request.params
        num_prompt_tokens = len(self.request.prompt_token_ids)
        if params.prompt_logprobs is None:
            return num_prompt_tokens
        return min(params.prompt_logprobs_start + len(self.prompt_logprobs), num_prompt_tokens)

    @property
    def unfinished(self) -> list["Sequence"]:
        """Its sequences that have not ended."""
        return [sequence for sequence in self.sequences if sequence.status is not SequenceStatus.FINISHED]


class Sequence:
    """One completion of a request: the prompt and the tokens so far, and where their keys and values are.

    ``num_computed_tokens`` of ``token_ids`` are in the cache, in ``block_ids``, which this sequence holds: a list that is
    appended to, or else replaced by another. ``output_counts`` counts its output tokens by id where
    ``counts_output``, which is when a penalty asks for it.
    ``prefix`` names its full blocks as far as somebody asked.
    ``is_leader``: the first of its request, which prefills for all. ``num_served_tokens`` were computed once already, here
    or where it comes from: to compute them again is nobody's usage.
    ``decode_item`` is what a step that computes its last token is to do, the same at every such step.
    """

    __slots__ = (
        "block_ids",
        "counts_output",
        "decode_item",
        "first_scheduled_s",
        "first_token_s",
        "has_reported",
        "index",
        "is_leader",
        "key",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_prompt_tokens",
        "num_served_tokens",
        "output_counts",
        "prefix",
        "prompt_ids",
        "state",
        "status",
        "tenant",
        "token_ids",
    )

    def __init__(self, state: GenerationState, index: int) -> None:
        self.state = state
        self.index = index
        self.is_leader = index == state.request.index
        self.num_prompt_tokens = len(state.request.prompt_token_ids)
        self.token_ids = [*state.request.prompt_token_ids, *state.request.output_token_ids]
        self.prompt_ids = frozenset(self.token_ids) if state.request.params.repetition_penalty != 1.0 else frozenset()
        self.counts_output = _counts_output(state)
        self.output_counts = dict(Counter(state.request.output_token_ids)) if self.counts_output else {}
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_served_tokens = len(self.token_ids) if state.request.output_token_ids else 0
        self.block_ids: list[int] = []
        self.prefix = PrefixNames(state.request.cache_salt)
        self.status = SequenceStatus.WAITING if self.is_leader else SequenceStatus.UNFORKED
        self.first_scheduled_s: float | None = None
        self.first_token_s: float | None = None
        self.has_reported = False
        self.tenant = state.request.tenant
        self.key = order_key(state.arrival_s, state.request.priority, state.arrival, index)
        self.decode_item = ScheduledSequence(self, 1, (self,))

    @property
    def priority(self) -> int:
        """Lower is served first."""
        return self.state.request.priority

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that are known but not in the cache; 1 means that it decodes."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def work(self) -> Work:
        """What it takes while it waits: all its tokens, and those that it and siblings not yet forked may generate."""
        num_sequences = 1
        if self.is_leader:
            num_sequences += sum(1 for sibling in self.state.sequences if sibling.status is SequenceStatus.UNFORKED)
        return Work(num_sequences, len(self.token_ids), num_sequences * max(0, self.state.max_tokens - self.num_output_tokens))

    def append(self, token_id: int, now_s: float) -> None:
        """Add a token generated at ``now_s`` (monotonic)."""
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.token_ids.append(token_id)
        if self.counts_output:
            self.output_counts[token_id] = self.output_counts.get(token_id, 0) + 1


def _counts_output(state: GenerationState) -> bool:
    params = state.request.params
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


@dataclass(slots=True, eq=False, kw_only=True)
class PoolingState:
    """One pooling request in flight; it lives for a single step and needs no cache."""

    request: PoolingRequest
    arrival: int
    arrival_s: float
    first_scheduled_s: float | None = None

    @property
    def request_id(self) -> str:
        """The caller's name for it."""
        return self.request.request_id

    @property
    def key(self) -> Key:
        """Its place in its tenant's order of service."""
        return order_key(self.arrival_s, self.request.priority, self.arrival)

    @property
    def tenant(self) -> str:
        """For whom it is computed."""
        return self.request.tenant

    @property
    def work(self) -> Work:
        """What it takes."""
        return Work(1, self.num_tokens, 0)

    @property
    def num_tokens(self) -> int:
        """Its length, special tokens included."""
        return len(self.request.prompt_token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledSequence:
    """A sequence and how many tokens of it this step computes: uncomputed ones, then ``draft_ids``.

    ``block_copy`` (source, destination) comes first: its next slot was in a shared block. ``samplers`` are the
    sequences that draw a token from the last computed row: none within a prompt, several where siblings fork.
    ``scored_positions`` are the prompt positions whose log-probabilities this step yields. ``draft_ids`` are guesses at
    what follows its last token: the rows behind them yield tokens too, as far as the guesses turn out right.
    """

    sequence: Sequence
    num_tokens: int
    samplers: tuple[Sequence, ...] = ()
    scored_positions: range = range(0)
    block_copy: tuple[int, int] | None = None
    draft_ids: tuple[int, ...] = ()

    @property
    def request_id(self) -> str:
        """The caller's name for its request."""
        return self.sequence.state.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledStep:
    """What one step computes: sequences that generate, or pooling requests; never both.

    ``is_decode``: each sequence computes its last token, and drafts behind it, and nothing else.
    """

    sequences: tuple[ScheduledSequence, ...] = ()
    pooled: tuple[PoolingState, ...] = ()
    num_tokens: int = 0
    num_preemptions: int = 0
    num_draft_tokens: int = 0
    is_decode: bool = False


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token drawn for ``sequence``, with its log-probabilities where asked for."""

    sequence: Sequence
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What the runner found for one scheduled sequence; with ``error`` set its whole request has failed.

    ``sampled`` is one token a sampler; after drafts, one for its last token and one for each draft that was right.
    ``is_tainted``: with its drafts the step failed; whether without them too, only computing it all again can tell.
    """

    scheduled: ScheduledSequence
    sampled: tuple[SampledToken, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    error: OutputError | None = None
    is_tainted: bool = False


@dataclass(frozen=True, slots=True)
class PoolingResult:
    """What the runner found for one pooling request."""

    state: PoolingState
    values: tuple[float, ...] = ()
    error: OutputError | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Everything that the runner found in one step."""

    sequences: tuple[SequenceResult, ...] = ()
    pooled: tuple[PoolingResult, ...] = ()
