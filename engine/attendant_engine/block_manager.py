"""Gives sequences their cache blocks: finds cached prefixes, reserves slots, copies on write, shares on a fork.

Every change of hands between a sequence and the pool is here. Knows no queues and no priorities.
"""

from collections.abc import Iterable

from attendant_engine.cache.block_pool import BlockPool
from attendant_engine.sequence import Sequence


class BlockManager:
    """The blocks of all running sequences, ``block_size`` positions each."""

    def __init__(self, *, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self._enable_prefix_caching = enable_prefix_caching

    @property
    def max_tokens(self) -> int:
        """Tokens that the whole cache can hold."""
        return self.pool.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Return the number of blocks that ``num_tokens`` positions take."""
        return -(-num_tokens // self.block_size)

    def names_to_come(self, sequence: Sequence) -> list[bytes]:
        """Return the names of the full blocks that ``sequence``, which is in its prompt, has yet to compute."""
        return sequence.prefix.names[sequence.num_computed_tokens // self.block_size :]

    def should_wait_for(self, sequence: Sequence, names: set[bytes]) -> bool:
        """Say whether others are computing, under ``names``, at least half of what ``sequence`` would have to compute itself now."""
        if not names or not self._enable_prefix_caching:
            return False
        num_cached = len(self._cached_prefix(sequence))
        num_to_come = 0
        for name in sequence.prefix.names[num_cached : self._max_cached_blocks(sequence)]:
            if name not in names:
                break
            num_to_come += 1
        return num_to_come > 0 and 2 * num_to_come * self.block_size >= len(sequence.token_ids) - num_cached * self.block_size

    def try_admit(self, sequence: Sequence) -> bool:
        """Give ``sequence`` the cached blocks of its prefix if all its tokens could be computed with what is available now.

        At least its last token stays to be computed: its logits are wanted, and the cache keeps only keys and values.
        """
        prefix = self._cached_prefix(sequence)
        missing = self.blocks_for(len(sequence.token_ids)) - len(prefix)
        if missing > self.pool.num_available - self.pool.num_unheld(prefix):
            return False
        self.pool.share(prefix)
        sequence.block_ids = prefix
        sequence.num_computed_tokens = len(prefix) * self.block_size
        return True

    def without_slot(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Return those of ``sequences`` whose next token takes a new block, or a copy of a shared one."""
        ref_counts, block_size = self.pool.ref_counts, self.block_size
        found = []
        for sequence in sequences:
            block_idx, block_ids = sequence.num_computed_tokens // block_size, sequence.block_ids
            if block_idx >= len(block_ids) or ref_counts[block_ids[block_idx]] > 1:
                found.append(sequence)
        return found

    def num_blocks_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Return how many more blocks computing the next ``num_tokens`` tokens takes, one for a copy on write included."""
        missing = self.blocks_for(sequence.num_computed_tokens + num_tokens) - len(sequence.block_ids)
        return missing + (1 if self._writes_to_shared_block(sequence) else 0)

    def reserve(self, sequence: Sequence, num_tokens: int) -> tuple[int, int] | None:
        """Allocate the blocks of the next ``num_tokens`` tokens; return the copy ``(source, destination)`` to make first, if any."""
        block_copy = None
        if self._writes_to_shared_block(sequence):
            block_idx = sequence.num_computed_tokens // self.block_size
            source, destination = sequence.block_ids[block_idx], self.pool.allocate()
            sequence.block_ids = [*sequence.block_ids[:block_idx], destination, *sequence.block_ids[block_idx + 1 :]]
            self.pool.release([source])
            block_copy = (source, destination)
        for _ in range(self.blocks_for(sequence.num_computed_tokens + num_tokens) - len(sequence.block_ids)):
            sequence.block_ids.append(self.pool.allocate())
        return block_copy

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let ``child`` hold all blocks of ``parent`` too, the partial last one included; who writes first copies it."""
        self.pool.share(parent.block_ids)
        child.block_ids = list(parent.block_ids)
        child.prefix = parent.prefix.copy()
        child.num_computed_tokens = parent.num_computed_tokens

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """Count ``num_tokens`` more tokens as computed, and name the blocks which that filled, for others to share."""
        first = sequence.num_computed_tokens // self.block_size
        sequence.num_computed_tokens += num_tokens
        last = sequence.num_computed_tokens // self.block_size
        if self._enable_prefix_caching and last > first:
            sequence.prefix.extend(sequence.token_ids, sequence.num_computed_tokens, self.block_size)
            for block_idx in range(first, last):
                self.pool.name(sequence.block_ids[block_idx], sequence.prefix.names[block_idx])

    def release(self, sequence: Sequence) -> None:
        """Take all blocks of ``sequence`` back; nothing of it counts as computed any more."""
        self.pool.release(sequence.block_ids)
        sequence.block_ids = []
        sequence.num_computed_tokens = 0

    def discard(self, sequence: Sequence) -> list[int]:
        """Release a sequence whose keys and values are not to be trusted; return the blocks nobody holds now, to be zeroed."""
        block_ids = sequence.block_ids
        own = [block_id for block_id in block_ids if not self.pool.is_shared(block_id)]
        self.pool.forget(own)
        self.release(sequence)
        return own

    def _writes_to_shared_block(self, sequence: Sequence) -> bool:
        block_idx = sequence.num_computed_tokens // self.block_size
        return block_idx < len(sequence.block_ids) and self.pool.is_shared(sequence.block_ids[block_idx])

    def _cached_prefix(self, sequence: Sequence) -> list[int]:
        if not self._enable_prefix_caching:
            return []
        sequence.prefix.extend(sequence.token_ids, len(sequence.token_ids), self.block_size)
        return self.pool.match(sequence.prefix.names, self._max_cached_blocks(sequence))

    def _max_cached_blocks(self, sequence: Sequence) -> int:
        max_cached = len(sequence.token_ids) - 1
        next_scored = sequence.state.next_scored_position
        if sequence.is_leader and next_scored < sequence.num_prompt_tokens:
            max_cached = min(max_cached, next_scored - 1)  # the row before a scored position must be computed
        return max_cached // self.block_size
