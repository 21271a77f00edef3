"""The line in front of an engine: what waits and how fast it goes, and what follows from both for whoever comes and is next.

Measures the engine's pace by its own steps and asks the ``door``. Decides on no order: that is the scheduler's.
"""

from attendant_engine.admission.door import Backlog, Door
from attendant_engine.admission.pace import PaceMeter
from attendant_engine.config import QUEUE_PER_CACHE, QUEUE_PER_STEP, EngineConfig
from attendant_engine.scheduling.scheduler import Scheduler
from attendant_engine.sequence import ScheduledStep, Sequence
from attendant_engine.stats import TenantUsage


class Line:
    """The line of one engine with a cache of ``num_blocks`` blocks; ``config`` has every choice resolved."""

    def __init__(self, scheduler: Scheduler, config: EngineConfig, *, num_blocks: int, max_model_len: int) -> None:
        assert config.max_num_seqs is not None and config.max_batch_tokens is not None, "the configuration is not resolved"
        num_tokens = max(QUEUE_PER_CACHE * num_blocks * config.block_size, QUEUE_PER_STEP * config.max_batch_tokens)
        self.door = Door(
            max_queue=config.max_queue,
            max_queue_tokens=num_tokens if config.max_queue_tokens is None else config.max_queue_tokens,
            max_num_seqs=config.max_num_seqs,
            max_model_len=max_model_len,
        )
        self._scheduler = scheduler
        self._meter = PaceMeter()
        self._busy_since_s: float | None = None

    @property
    def backlog(self) -> Backlog:
        """What waits and how fast it goes; a copy that stays as it is, for any thread."""
        return Backlog(waiting=self._scheduler.waiting.copy(), num_running=self._scheduler.num_running, pace=self._meter.pace)

    def next_hopeless(self, now_s: float) -> Sequence | None:
        """Return whose turn it is if it has not begun and could not be done in time even if it began now; else None."""
        head = self._scheduler.next_in_line()
        if head is None or head.state.request.deadline_s is None:
            return None
        request = head.state.request
        deadline_s = head.state.request.deadline_s
        backlog = Backlog(waiting=self._scheduler.waiting, num_running=self._scheduler.num_running, pace=self._meter.pace)
        is_fixed_length = request.params.ignore_eos
        is_hopeless = self.door.is_hopeless(head.work, is_fixed_length=is_fixed_length, deadline_s=deadline_s, backlog=backlog, now_s=now_s)
        return head if is_hopeless else None

    def note_step(self, scheduled: ScheduledStep, started_s: float, ended_s: float, usage: tuple[TenantUsage, ...]) -> None:
        """Take in a step that is over: what it computed, from when until when, and what tenants used.

        What passes between two steps of a busy engine (outputs on their way, others' turns at the interpreter) is part of its pace.
        """
        step_s = ended_s - (started_s if self._busy_since_s is None else self._busy_since_s)
        self._busy_since_s = ended_s if self._scheduler.has_work else None
        num_decodes = len(scheduled.sequences) if scheduled.is_decode else sum(1 for item in scheduled.sequences if item.num_tokens == 1)
        num_prefilled = sum([state.num_tokens for state in scheduled.pooled])
        if not scheduled.is_decode:
            num_prefilled += scheduled.num_tokens - num_decodes
        self._meter.note_step(step_s, num_decodes=num_decodes, num_prefilled=num_prefilled)
        self._meter.note_line(self._scheduler.num_running, self._scheduler.num_waiting)
        for used in usage:
            self._meter.note_prompts(used.num_prompt_tokens, used.num_cached_prompt_tokens)

    def note_output(self, sequence: Sequence) -> None:
        """Take in the length of an output that ended by itself or at its limit."""
        self._meter.note_output(sequence.num_output_tokens)

    def forget_pace(self) -> None:
        """Measure anew, after steps that are like no others."""
        self._busy_since_s = None
        self._meter = PaceMeter()
