"""Decides what each step computes: continuous batching with chunked prefill under a token budget.

Sequences are served in one order, priority and then arrival, whether they run or wait. Blocks run out: the last of
that order is preempted and later recomputed. Owns every transition of a sequence; knows no tensors.
After Yu et al. 2022 (Orca), Kwon et al. 2023 (PagedAttention) and Agrawal et al. 2024 (chunked prefill).
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter

from attendant_engine.block_manager import BlockManager
from attendant_engine.decoding.speculation import Speculator
from attendant_engine.errors import QueueFullError
from attendant_engine.sequence import (
    GenerationState,
    PoolingState,
    ScheduledSequence,
    ScheduledStep,
    Sequence,
    SequenceStatus,
)

_BY_KEY = attrgetter("key")


class Scheduler:
    """The waiting and the running sequences.

    ``max_batch_tokens`` bounds the tokens of a step, ``max_num_seqs`` its sequences, ``max_queue`` the length of the
    queue beyond which new requests are refused. ``blocks`` is None for a model that only pools, ``speculator`` where
    nothing is guessed.
    """

    def __init__(
        self,
        blocks: BlockManager | None,
        *,
        max_batch_tokens: int,
        max_num_seqs: int,
        max_queue: int,
        speculator: Speculator | None = None,
    ) -> None:
        self._blocks = blocks
        self._speculator = speculator
        self._max_batch_tokens = max_batch_tokens
        self._max_num_seqs = max_num_seqs
        self._max_queue = max_queue
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._pooling: list[PoolingState] = []
        self._last_was_pooling = False
        self._num_preemptions = 0
        self._num_cached_prompt_tokens = 0

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences and pooling requests in the queue."""
        return len(self._waiting) + len(self._pooling)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self._running or self._waiting or self._pooling)

    def add(self, state: GenerationState | PoolingState) -> None:
        """Put a request at its place in the queue; raise ``QueueFullError`` when that is full."""
        if self.num_waiting >= self._max_queue:
            raise QueueFullError(f"{self.num_waiting} requests are waiting and the queue takes at most {self._max_queue}; try again later.")
        if isinstance(state, PoolingState):
            insort(self._pooling, state, key=_BY_KEY)
        else:
            insort(self._waiting, state.sequences[0], key=_BY_KEY)

    def schedule(self, now_s: float) -> ScheduledStep:
        """Choose the step that begins at ``now_s`` (monotonic). Pooling and generation take turns where both have work."""
        if self._pooling and not (self._last_was_pooling and (self._running or self._waiting)):
            self._last_was_pooling = True
            return ScheduledStep(pooled=tuple(self._take_pooling(now_s)))
        self._last_was_pooling = False
        if self._runs_decodes_alone():
            step = self._schedule_decodes()
            if step is not None:
                return step
        self._num_preemptions = self._num_cached_prompt_tokens = 0
        sequences = tuple(self._schedule_sequences(now_s))
        return ScheduledStep(
            sequences=sequences,
            num_tokens=sum(item.num_tokens for item in sequences),
            num_preemptions=self._num_preemptions,
            num_cached_prompt_tokens=self._num_cached_prompt_tokens,
            num_prompt_tokens=sum(_num_prompt_tokens(item) for item in sequences),
        )

    def commit(self, scheduled: ScheduledSequence) -> None:
        """Count the tokens of a step that went well as computed, and fork the siblings that share them."""
        assert self._blocks is not None and not scheduled.draft_ids
        leader = scheduled.sequence
        self._blocks.commit(leader, scheduled.num_tokens)
        if len(scheduled.samplers) > 1:
            for sibling in scheduled.samplers:
                if sibling.status is SequenceStatus.UNFORKED:
                    self._fork(leader, sibling)

    def commit_drafted(self, sequence: Sequence, num_tokens: int) -> None:
        """Count the last token and the guesses that were right, which ``sequence`` has appended already, as computed."""
        assert self._blocks is not None
        self._blocks.commit(sequence, num_tokens)

    def finish(self, sequence: Sequence) -> None:
        """End one sequence, wherever it is; its blocks are free at once."""
        self._take_out(sequence)
        sequence.status = SequenceStatus.FINISHED
        if self._speculator is not None:
            self._speculator.forget(sequence)

    def finish_pooling(self, state: PoolingState) -> None:
        """Forget a pooling request that nobody waits for any more."""
        if state in self._pooling:
            self._pooling.remove(state)

    def discard(self, sequence: Sequence) -> list[int]:
        """End a sequence whose cache contents are not to be trusted; return the blocks to zero."""
        assert self._blocks is not None
        block_ids = self._blocks.discard(sequence)
        self.finish(sequence)
        return block_ids

    def recompute(self, sequence: Sequence) -> list[int]:
        """Send a running sequence back to the queue without its cache contents; return the blocks to zero."""
        assert self._blocks is not None
        block_ids = self._blocks.discard(sequence)
        self._preempt(sequence)
        return block_ids

    def check_integrity(self) -> None:
        """Assert that queues, statuses and blocks agree."""
        assert all(sequence.status is SequenceStatus.RUNNING for sequence in self._running)
        assert all(sequence.status is SequenceStatus.WAITING and not sequence.block_ids for sequence in self._waiting)
        assert len(self._running) <= self._max_num_seqs
        for queue in (self._running, self._waiting):
            keys = [sequence.key for sequence in queue]
            assert keys == sorted(set(keys)), "a queue is out of order"
        if self._blocks is not None:
            self._blocks.pool.check_integrity(sequence.block_ids for sequence in self._running)
            size = self._blocks.block_size
            assert all(s.num_computed_tokens <= len(s.block_ids) * size for s in self._running), "computed tokens without blocks"

    def _runs_decodes_alone(self) -> bool:
        """Say whether every running sequence decodes, all fit a step, and nobody who waits can take a seat."""
        running, waiting = self._running, self._waiting
        if not 0 < len(running) <= self._max_batch_tokens:
            return False
        if waiting and (len(running) < self._max_num_seqs or waiting[0].priority < running[-1].priority):
            return False
        return all(len(s.token_ids) - s.num_computed_tokens == 1 and s.num_computed_tokens >= s.num_prompt_tokens for s in running)

    def _schedule_decodes(self) -> ScheduledStep | None:
        """Give every running sequence its next token, and some of them guesses; None where that takes a preemption."""
        assert self._blocks is not None
        in_need = self._blocks.without_slot(self._running)
        if len(in_need) > self._blocks.pool.num_available:
            return None
        copies = {sequence: self._blocks.reserve(sequence, 1) for sequence in in_need}
        proposals = {} if self._speculator is None else self._propose(self._speculator)
        if not proposals and not any(copies.values()):
            decodes = tuple([sequence.decode_item for sequence in self._running])
            return ScheduledStep(sequences=decodes, num_tokens=len(decodes), is_decode=True)
        items = [sequence.decode_item for sequence in self._running]
        for idx, sequence in enumerate(self._running):
            drafts, block_copy = proposals.get(sequence, ()), copies.get(sequence)
            if drafts or block_copy is not None:
                items[idx] = replace(items[idx], num_tokens=1 + len(drafts), draft_ids=drafts, block_copy=block_copy)
        num_drafts = sum(map(len, proposals.values()))
        return ScheduledStep(sequences=tuple(items), num_tokens=len(items) + num_drafts, num_draft_tokens=num_drafts, is_decode=True)

    def _propose(self, speculator: Speculator) -> dict[Sequence, tuple[int, ...]]:
        """Ask for guesses and reserve their blocks, of those that nobody is likely to miss soon."""
        assert self._blocks is not None
        proposals = speculator.propose(self._running, self._max_batch_tokens - len(self._running))
        for sequence, drafts in list(proposals.items()):
            missing = self._blocks.num_blocks_missing(sequence, 1 + len(drafts))
            if missing + len(self._running) > self._blocks.pool.num_available:
                del proposals[sequence]
            elif missing > 0:
                self._blocks.reserve(sequence, 1 + len(drafts))
        return proposals

    def _schedule_sequences(self, now_s: float) -> Iterator[ScheduledSequence]:
        if self._blocks is None:
            return
        budget = self._max_batch_tokens
        num_decodes_to_come = sum(1 for sequence in self._running if sequence.num_uncomputed_tokens == 1)
        may_admit = True
        names_to_come: set[bytes] = set()
        idx = num_deferred = 0
        while budget > 0:
            running = self._running[idx] if idx < len(self._running) else None
            waiting = self._waiting[num_deferred] if may_admit and num_deferred < min(len(self._waiting), self._max_num_seqs) else None
            if waiting is not None and (running is None or waiting.key < running.key):
                if self._blocks.should_wait_for(waiting, names_to_come):
                    num_deferred += 1  # in the next step it finds in the cache what this one computes for another
                    continue
                may_admit = self._admit(waiting, now_s)
                if may_admit and waiting.num_uncomputed_tokens == 1:
                    num_decodes_to_come += 1
                continue  # admitted, it stands at ``idx`` now: everything before it has a smaller key
            if running is None:
                return
            num_uncomputed = running.num_uncomputed_tokens
            if num_uncomputed == 1:
                num_decodes_to_come -= 1
            # A prefill leaves a token to every later decode, so that a long prompt never stalls the streams that run.
            num_tokens = min(num_uncomputed, max(1, budget - num_decodes_to_come))
            is_kept, num_preempted = self._make_room(running, num_tokens)
            may_admit = may_admit and num_preempted == 0
            if is_kept:
                if num_tokens > 1:
                    names_to_come.update(self._blocks.names_to_come(running))
                yield self._reserve(running, num_tokens)
                budget -= num_tokens
                idx += 1

    def _admit(self, sequence: Sequence, now_s: float) -> bool:
        """Move a waiting sequence to its place among the running, preempting lower priorities alone; say if it could."""
        assert self._blocks is not None
        while len(self._running) >= self._max_num_seqs or not self._blocks.try_admit(sequence):
            if not self._running or self._running[-1].priority <= sequence.priority:
                return False
            self._preempt(self._running[-1])
        self._waiting.remove(sequence)
        sequence.status = SequenceStatus.RUNNING
        insort(self._running, sequence, key=_BY_KEY)
        if sequence.first_scheduled_s is None:
            sequence.first_scheduled_s = now_s
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self._num_cached_prompt_tokens += sequence.num_computed_tokens
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int) -> tuple[bool, int]:
        """Preempt from the end of the order until ``num_tokens`` fit; return whether ``sequence`` itself is left, and how many went."""
        assert self._blocks is not None
        num_preempted = 0
        while self._blocks.num_blocks_missing(sequence, num_tokens) > self._blocks.pool.num_available:
            victim = self._running[-1]
            self._preempt(victim)
            num_preempted += 1
            if victim is sequence:
                return False, num_preempted
        return True, num_preempted

    def _reserve(self, sequence: Sequence, num_tokens: int) -> ScheduledSequence:
        assert self._blocks is not None
        start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + num_tokens
        state = sequence.state
        samplers: tuple[Sequence, ...] = ()
        if end == len(sequence.token_ids) and state.max_tokens > 0:
            unforked = [s for s in state.sequences if s.status is SequenceStatus.UNFORKED] if sequence.is_leader else []
            samplers = (sequence, *unforked)
        scored = range(0)
        if sequence.is_leader and state.next_scored_position < sequence.num_prompt_tokens:
            scored = range(max(state.next_scored_position, start + 1), min(sequence.num_prompt_tokens, end + 1))
        return ScheduledSequence(sequence, num_tokens, samplers, scored, self._blocks.reserve(sequence, num_tokens))

    def _fork(self, leader: Sequence, sibling: Sequence) -> None:
        """Let a sibling run on the leader's blocks; without a seat it waits and recomputes like any preempted one."""
        assert self._blocks is not None
        sibling.num_cached_tokens = leader.num_cached_tokens
        sibling.first_scheduled_s = leader.first_scheduled_s
        if len(self._running) < self._max_num_seqs:
            self._blocks.fork(leader, sibling)
            sibling.status = SequenceStatus.RUNNING
            insort(self._running, sibling, key=_BY_KEY)
        else:
            sibling.status = SequenceStatus.WAITING
            insort(self._waiting, sibling, key=_BY_KEY)

    def _preempt(self, sequence: Sequence) -> None:
        self._take_out(sequence)
        sequence.status = SequenceStatus.WAITING
        insort(self._waiting, sequence, key=_BY_KEY)
        self._num_preemptions += 1

    def _take_out(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            assert self._blocks is not None
            self._running.remove(sequence)
            self._blocks.release(sequence)
        elif sequence.status is SequenceStatus.WAITING:
            self._waiting.remove(sequence)

    def _take_pooling(self, now_s: float) -> Iterator[PoolingState]:
        """Take from the queue, in order, what fits one step."""
        budget = self._max_batch_tokens
        taken = 0
        for state in self._pooling:
            if taken == self._max_num_seqs or state.num_tokens > budget:
                break
            budget -= state.num_tokens
            taken += 1
            state.first_scheduled_s = now_s
            yield state
        assert taken > 0, "a pooling request longer than a step was let in"
        del self._pooling[:taken]


def _num_prompt_tokens(item: ScheduledSequence) -> int:
    return max(0, min(item.num_tokens, item.sequence.num_prompt_tokens - item.sequence.num_computed_tokens))
