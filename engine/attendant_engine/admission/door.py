"""Who is let into an engine's queue: as many tokens as it takes, and nothing whose deadline has clearly gone before its turn.

A tenant below its share of the queue is let in though others have filled it, so the queue holds at most twice its bound.
The estimates are of the engine's own measured pace; an engine with nothing in line refuses nothing for its deadline,
which is how it learns. Holds no state: what waits and how fast it goes is given.
"""

from dataclasses import dataclass, field

from attendant_engine.admission.pace import Pace
from attendant_engine.errors import DeadlineError, EngineError, QueueFullError
from attendant_engine.types import EngineRequest, GenerationRequest
from attendant_engine.workload import Work, Workload, work_of

_MARGIN = 1.1
"""By how much an estimate is stretched: what is let in shall be done in time, though no two steps take the same."""

_MIN_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Backlog:
    """An engine's line at one moment: what waits, how many sequences run, and its pace."""

    waiting: Workload
    num_running: int = 0
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The bounds of one engine's queue, and of a request's context."""

    max_queue: int
    max_queue_tokens: int
    max_num_seqs: int
    max_model_len: int

    def refusal(self, request: EngineRequest, backlog: Backlog, now_s: float) -> EngineError | None:
        """Return why ``request`` is not let in at ``now_s`` (monotonic), None when it is."""
        work = work_of(request, self.max_model_len)
        return self._full(request, work, backlog) or self._late(request, work, backlog, now_s)

    def is_hopeless(self, work: Work, *, is_fixed_length: bool, deadline_s: float, backlog: Backlog, now_s: float) -> bool:
        """Say whether what is next in line could not be done by its deadline, though it began now beside what runs."""
        own_s = self._own_s(work, backlog, is_fixed_length=is_fixed_length)
        return own_s is not None and backlog.num_running > 0 and now_s + own_s > deadline_s

    def _full(self, request: EngineRequest, work: Work, backlog: Backlog) -> EngineError | None:
        waiting = backlog.waiting
        total = waiting.total
        if not total.num_sequences:
            return None
        excess = total.num_tokens + work.num_tokens - self.max_queue_tokens
        if total.num_sequences < self.max_queue and excess <= 0:
            return None
        own = waiting.of(request.tenant)
        share = request.tenant_weight / (request.tenant_weight + sum(weight for weight, _ in waiting.others(request.tenant)))
        if own.num_sequences < share * self.max_queue and own.num_tokens + work.num_tokens <= share * self.max_queue_tokens:
            return None
        wait_s = self._seconds(total, backlog)
        part = max(excess / total.num_tokens if total.num_tokens else 0.0, 1 / total.num_sequences)
        if excess <= 0:
            what = f"{total.num_sequences} requests are waiting and the queue takes at most {self.max_queue}"
        else:
            what = (
                f"{total.num_tokens} tokens are waiting, this request has {work.num_tokens} and the queue takes at most "
                f"{self.max_queue_tokens}"
            )
        return QueueFullError(
            f"{what}; try again later.", retry_after_s=None if wait_s is None else max(_MIN_RETRY_S, min(part, 1.0) * wait_s)
        )

    def _late(self, request: EngineRequest, work: Work, backlog: Backlog, now_s: float) -> EngineError | None:
        if request.deadline_s is None or not (backlog.num_running or backlog.waiting.total.num_sequences):
            return None
        is_fixed_length = isinstance(request, GenerationRequest) and request.params.ignore_eos
        own_s = self._own_s(work, backlog, is_fixed_length=is_fixed_length)
        wait_s = self._wait_s(request, work, backlog)
        left_s = request.deadline_s - now_s
        if own_s is None or wait_s is None or _MARGIN * (wait_s + own_s) <= left_s:
            return None
        return DeadlineError(
            f"The deadline, in {max(left_s, 0.0):.3g} s, cannot be met: what waits takes about {wait_s:.3g} s and this request about "
            f"{own_s:.3g} s; allow more time, or try again when less waits.",
            retry_after_s=max(_MIN_RETRY_S, min(wait_s, _MARGIN * (wait_s + own_s) - left_s)),
        )

    def _wait_s(self, request: EngineRequest, work: Work, backlog: Backlog) -> float | None:
        """Estimate the seconds until ``request`` gets its seat: its tenant's line, and of others' lines what goes between."""
        waiting = backlog.waiting
        if not waiting.total.num_sequences and backlog.num_running < self.max_num_seqs:
            return 0.0
        before_s, own_s = self._seconds(waiting.of(request.tenant), backlog), self._seconds(work, backlog)
        if before_s is None or own_s is None:
            return None
        wait_s = before_s
        for weight, others in waiting.others(request.tenant):
            others_s = self._seconds(others, backlog)
            wait_s += min(others_s or 0.0, (before_s + own_s) * weight / request.tenant_weight)
        return wait_s

    def _seconds(self, work: Work, backlog: Backlog) -> float | None:
        """Estimate how long the engine takes for work in a full batch, where the sequences of a decode step share its time."""
        pace = backlog.pace
        prompt_s = _prompt_s(work, pace)
        if prompt_s is None or not work.num_sequences:
            return prompt_s
        batch = self._batch(backlog)
        return prompt_s + _output_tokens(work, pace) * (pace.decode_step_s(batch) or 0.0) / batch

    def _own_s(self, work: Work, backlog: Backlog, *, is_fixed_length: bool) -> float | None:
        """Estimate how long a request takes from its first step to its end; it generates a token a step.

        Its steps decode for all that are let in with it, and compute the prompts of those that come meanwhile, as much as if
        all were like this one. What was let in before it is then in time too: it has come further when steps grow longer.
        """
        pace = backlog.pace
        prompt_s = _prompt_s(work, pace)
        if prompt_s is None:
            return None
        num_tokens = work.num_output_tokens if is_fixed_length else _output_tokens(work, pace)
        num_steps = num_tokens / work.num_sequences - 1  # the first token comes with the prompt's last step
        if num_steps <= 0:
            return prompt_s
        batch = self._batch(backlog)
        return prompt_s + num_steps * (pace.decode_step_s(batch) or 0.0) + batch * prompt_s

    def _batch(self, backlog: Backlog) -> float:
        """Estimate how many sequences share a step when what comes now is one of them."""
        full_batch = self.max_num_seqs if backlog.pace.full_batch is None else backlog.pace.full_batch
        return max(1.0, min(full_batch, backlog.num_running + backlog.waiting.total.num_sequences + 1))


def _prompt_s(work: Work, pace: Pace) -> float | None:
    if pace.prompt_token_s is None:
        return None
    return work.num_prompt_tokens * pace.prompt_token_s * (1.0 if pace.computed_share is None else pace.computed_share)


def _output_tokens(work: Work, pace: Pace) -> float:
    """Estimate the tokens that come of work: as long as outputs were lately, and no longer than was asked for."""
    typical = 1.0 if pace.output_tokens is None else pace.output_tokens
    return min(work.num_output_tokens, work.num_sequences * typical)
