"""Decides what each step computes: continuous batching with chunked prefill under a token budget.

Whose turn it is, between tenants and within one, is the same for what runs and what waits (``waiting_queue``). Blocks run
out: the last in line of who holds most is preempted and later recomputed (``giving_way``). Owns every transition of a
sequence; knows no tensors. After Yu et al. 2022 (Orca), Kwon et al. 2023 (PagedAttention), Agrawal et al. 2024 (chunked
prefill) and Sheng et al. 2024 (fairness in tokens).
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter

from attendant_engine.block_manager import BlockManager
from attendant_engine.decoding.speculation import Speculator
from attendant_engine.scheduling.fair_share import FairShares
from attendant_engine.scheduling.giving_way import gives_way_to, last_in_line
from attendant_engine.scheduling.usage import UsageLedger
from attendant_engine.scheduling.waiting_queue import WaitingQueue
from attendant_engine.sequence import (
    GenerationState,
    PoolingState,
    ScheduledSequence,
    ScheduledStep,
    Sequence,
    SequenceStatus,
)
from attendant_engine.workload import Workload

_SHARED_STEPS = 4
"""Between tenants a step's prompts are cut to this part, for whoever comes waits out the step that another's prompts have filled."""

_MIN_SHARED_PREFILL = 64

_BY_KEY = attrgetter("key")


class Scheduler:
    """The waiting and the running sequences.

    ``max_batch_tokens`` bounds the tokens of a step, ``max_num_seqs`` its sequences; the queue's bound is the ``door``'s
    business. ``blocks`` is None for a model that only pools, ``speculator`` where nothing is guessed; ``usage`` takes note
    of prompt tokens.
    """

    def __init__(
        self,
        blocks: BlockManager | None,
        *,
        max_batch_tokens: int,
        max_num_seqs: int,
        speculator: Speculator | None = None,
        usage: UsageLedger | None = None,
    ) -> None:
        self._blocks = blocks
        self._speculator = speculator
        self._max_batch_tokens = max_batch_tokens
        self._max_num_seqs = max_num_seqs
        self._usage = usage or UsageLedger()
        self._shares = FairShares()
        self._workload = Workload()
        self._waiting = WaitingQueue[Sequence](self._shares, self._workload)
        self._pooling = WaitingQueue[PoolingState](self._shares, self._workload)
        self._running: list[Sequence] = []  # by key
        self._num_running_of: Counter[str] = Counter()
        self._last_was_pooling = False
        self._num_preemptions = 0

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences and pooling requests in the queue."""
        return len(self._waiting) + len(self._pooling)

    @property
    def waiting(self) -> Workload:
        """The work that waits, by tenant."""
        return self._workload

    def next_in_line(self) -> Sequence | None:
        """Return whose turn it is among the sequences that wait, if it has not begun yet."""
        head = self._waiting.head()
        return head if head is not None and head.first_scheduled_s is None else None

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self._running or self._waiting or self._pooling)

    def add(self, state: GenerationState | PoolingState) -> None:
        """Put a request at its place in the queue."""
        self._shares.enter(state.request.tenant, state.request.tenant_weight)
        if isinstance(state, PoolingState):
            self._pooling.push(state)
        else:
            self._waiting.push(state.sequences[0])

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
        self._num_preemptions = 0
        sequences = tuple(self._schedule_sequences(now_s))
        return ScheduledStep(
            sequences=sequences, num_tokens=sum(item.num_tokens for item in sequences), num_preemptions=self._num_preemptions
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
        self._shares.charge(sequence.tenant, num_tokens - 1)  # one was charged before it was known how many come

    def finish(self, sequence: Sequence) -> None:
        """End one sequence, wherever it is; its blocks are free at once."""
        if sequence.status is not SequenceStatus.UNFORKED:
            self._take_out(sequence)
            self._shares.leave(sequence.tenant)
        sequence.status = SequenceStatus.FINISHED
        if self._speculator is not None:
            self._speculator.forget(sequence)

    def finish_pooling(self, state: PoolingState) -> None:
        """Forget a pooling request that nobody waits for any more."""
        if state.first_scheduled_s is None:
            self._pooling.remove(state)
            self._shares.leave(state.tenant)

    def discard(self, sequence: Sequence) -> list[int]:
        """End a sequence whose cache contents are not to be trusted; return the blocks to zero."""
        assert self._blocks is not None
        block_ids = self._blocks.discard(sequence)
        self.finish(sequence)
        return block_ids

    def recompute(self, sequence: Sequence) -> list[int]:
        """Send a running sequence back to the queue without its cache contents; return the blocks to zero."""
        assert self._blocks is not None
        _note_served(sequence)
        block_ids = self._blocks.discard(sequence)
        self._preempt(sequence)
        return block_ids

    def check_integrity(self) -> None:
        """Assert that queues, statuses and blocks agree."""
        assert all(sequence.status is SequenceStatus.RUNNING for sequence in self._running)
        assert all(sequence.status is SequenceStatus.WAITING and not sequence.block_ids for sequence in self._waiting)
        assert len(self._running) <= self._max_num_seqs
        keys = [sequence.key for sequence in self._running]
        assert keys == sorted(set(keys)), "what runs is out of order"
        assert Counter(sequence.tenant for sequence in self._running) == self._num_running_of
        assert self._workload.total == self._waiting.work.plus(self._pooling.work), "the workload is not that of what waits"
        self._waiting.check_integrity()
        self._pooling.check_integrity()
        assert self._shares.num_active == len({item.tenant for items in (self._running, self._waiting, self._pooling) for item in items})
        if self._blocks is not None:
            self._blocks.pool.check_integrity(sequence.block_ids for sequence in self._running)
            size = self._blocks.block_size
            assert all(s.num_computed_tokens <= len(s.block_ids) * size for s in self._running), "computed tokens without blocks"

    def _runs_decodes_alone(self) -> bool:
        """Say whether every running sequence decodes, all fit a step, and nobody who waits can take a seat."""
        running = self._running
        if not 0 < len(running) <= self._max_batch_tokens:
            return False
        if not all(len(s.token_ids) - s.num_computed_tokens == 1 and s.num_computed_tokens >= s.num_prompt_tokens for s in running):
            return False
        head = self._waiting.head()
        return head is None or (
            len(running) == self._max_num_seqs and gives_way_to(head, running, self._num_running_of, self._shares) is None
        )

    def _schedule_decodes(self) -> ScheduledStep | None:
        """Give every running sequence its next token, and some of them guesses; None where that takes a preemption."""
        assert self._blocks is not None
        in_need = self._blocks.without_slot(self._running)
        if len(in_need) > self._blocks.pool.num_available:
            return None
        copies = {sequence: self._blocks.reserve(sequence, 1) for sequence in in_need}
        for tenant, num_sequences in self._num_running_of.items():
            self._shares.charge(tenant, num_sequences)
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
        to_come = self._running_in_turn()  # last first
        num_decodes_to_come = sum(1 for sequence in to_come if sequence.num_uncomputed_tokens == 1)
        budget = self._max_batch_tokens
        if self._shares.is_shared:
            budget = min(budget, num_decodes_to_come + max(_MIN_SHARED_PREFILL, budget // _SHARED_STEPS))
        may_admit = True
        names_to_come: set[bytes] = set()
        num_deferred: Counter[str] = Counter()
        while budget > 0:
            running = to_come[-1] if to_come else None
            waiting = self._waiting.head(num_deferred) if may_admit and num_deferred.total() < self._max_num_seqs else None
            if waiting is not None and (running is None or self._goes_before(waiting, running)):
                if self._blocks.should_wait_for(waiting, names_to_come):
                    num_deferred[waiting.tenant] += 1  # in the next step it finds in the cache what this one computes for another
                    continue
                may_admit = self._admit(waiting, to_come, now_s)
                if not may_admit:
                    continue
                sequence = waiting
            elif running is None:
                return
            else:
                sequence = to_come.pop()
                if sequence.num_uncomputed_tokens == 1:
                    num_decodes_to_come -= 1
            # A prefill leaves a token to every later decode, so that a long prompt never stalls the streams that run.
            num_tokens = min(sequence.num_uncomputed_tokens, max(1, budget - num_decodes_to_come))
            is_kept, num_preempted = self._make_room(sequence, num_tokens, to_come)
            may_admit = may_admit and num_preempted == 0
            if is_kept:
                if num_tokens > 1:
                    names_to_come.update(self._blocks.names_to_come(sequence))
                yield self._reserve(sequence, num_tokens)
                budget -= num_tokens

    def _running_in_turn(self) -> list[Sequence]:
        """Return what runs in the order of turns, last first."""
        if len(self._num_running_of) < 2:
            return self._running[::-1]
        return sorted(self._running, key=lambda sequence: (self._shares.service(sequence.tenant), sequence.key), reverse=True)

    def _goes_before(self, one: Sequence, other: Sequence) -> bool:
        if one.tenant == other.tenant:
            return one.key < other.key
        return self._shares.service(one.tenant) < self._shares.service(other.tenant)

    def _admit(self, sequence: Sequence, to_come: list[Sequence], now_s: float) -> bool:
        """Give a waiting sequence a seat and the blocks it can share, at the cost of some that are yet to come; say if it could."""
        assert self._blocks is not None
        while len(self._running) >= self._max_num_seqs or not self._blocks.try_admit(sequence):
            victim = gives_way_to(sequence, to_come, self._num_running_of, self._shares)
            if victim is None:
                return False
            to_come.remove(victim)
            self._preempt(victim)
        self._waiting.remove(sequence)
        self._seat(sequence)
        num_spared = max(0, sequence.num_computed_tokens - sequence.num_served_tokens)
        if sequence.first_scheduled_s is None:
            sequence.first_scheduled_s = now_s
            sequence.num_cached_tokens = sequence.num_computed_tokens
        else:
            sequence.num_cached_tokens += num_spared  # another has computed more of its prompt since it was preempted
        if num_spared:
            self._usage.add_cached(sequence.tenant, num_spared)
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int, to_come: list[Sequence]) -> tuple[bool, int]:
        """Preempt ``sequence`` or some that are yet to come until ``num_tokens`` fit; return whether it is left, and how many went."""
        assert self._blocks is not None
        num_preempted = 0
        while self._blocks.num_blocks_missing(sequence, num_tokens) > self._blocks.pool.num_available:
            victim = last_in_line([sequence, *to_come], self._shares)
            self._preempt(victim)
            num_preempted += 1
            if victim is sequence:
                return False, num_preempted
            to_come.remove(victim)
        return True, num_preempted

    def _reserve(self, sequence: Sequence, num_tokens: int) -> ScheduledSequence:
        assert self._blocks is not None
        start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + num_tokens
        state = sequence.state
        self._charge(sequence, start, end)
        samplers: tuple[Sequence, ...] = ()
        if end == len(sequence.token_ids) and state.max_tokens > 0:
            unforked = [s for s in state.sequences if s.status is SequenceStatus.UNFORKED] if sequence.is_leader else []
            samplers = (sequence, *unforked)
        scored = range(0)
        if sequence.is_leader and state.next_scored_position < sequence.num_prompt_tokens:
            scored = range(max(state.next_scored_position, start + 1), min(sequence.num_prompt_tokens, end + 1))
        return ScheduledSequence(sequence, num_tokens, samplers, scored, self._blocks.reserve(sequence, num_tokens))

    def _charge(self, sequence: Sequence, start: int, end: int) -> None:
        """Count the tokens from ``start`` to ``end`` that are computed for the first time."""
        start = max(start, sequence.num_served_tokens)
        if end > start:
            self._shares.charge(sequence.tenant, end - start)
        if min(end, sequence.num_prompt_tokens) > start:
            self._usage.add_prompt(sequence.tenant, min(end, sequence.num_prompt_tokens) - start)

    def _fork(self, leader: Sequence, sibling: Sequence) -> None:
        """Let a sibling run on the leader's blocks; without a seat it waits and recomputes like any preempted one."""
        assert self._blocks is not None
        sibling.num_cached_tokens = leader.num_cached_tokens
        sibling.first_scheduled_s = leader.first_scheduled_s
        sibling.num_served_tokens = leader.num_computed_tokens
        self._shares.enter(sibling.tenant, sibling.state.request.tenant_weight)
        if len(self._running) < self._max_num_seqs:
            self._blocks.fork(leader, sibling)
            self._seat(sibling)
        else:
            sibling.status = SequenceStatus.WAITING
            self._waiting.push(sibling)

    def _preempt(self, sequence: Sequence) -> None:
        self._take_out(sequence)
        sequence.status = SequenceStatus.WAITING
        self._waiting.push(sequence)
        self._num_preemptions += 1

    def _seat(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.RUNNING
        insort(self._running, sequence, key=_BY_KEY)
        self._num_running_of[sequence.tenant] += 1

    def _take_out(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            assert self._blocks is not None
            self._running.remove(sequence)
            self._num_running_of[sequence.tenant] -= 1
            if not self._num_running_of[sequence.tenant]:
                del self._num_running_of[sequence.tenant]
            _note_served(sequence)
            self._blocks.release(sequence)
        elif sequence.status is SequenceStatus.WAITING:
            self._waiting.remove(sequence)

    def _take_pooling(self, now_s: float) -> Iterator[PoolingState]:
        """Take from the queue, in turn, what fits one step."""
        budget = self._max_batch_tokens
        for _ in range(self._max_num_seqs):
            state = self._pooling.head()
            if state is None or state.num_tokens > budget:
                break
            budget -= state.num_tokens
            state.first_scheduled_s = now_s
            self._pooling.remove(state)
            self._shares.charge(state.tenant, state.num_tokens)
            self._shares.leave(state.tenant)
            self._usage.add_prompt(state.tenant, state.num_tokens)
            yield state
        assert budget < self._max_batch_tokens, "a pooling request longer than a step was let in"


def _note_served(sequence: Sequence) -> None:
    """Remember what of a running sequence was computed, before its blocks go."""
    sequence.num_served_tokens = max(sequence.num_served_tokens, sequence.num_computed_tokens)
