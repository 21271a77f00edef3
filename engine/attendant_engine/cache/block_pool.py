"""Who holds which cache block: ids, reference counts, and the names of contents worth keeping.

A block is in exactly one of three places. *Held*: its reference count says by how many sequences. *Cached*: nobody
holds it but its contents have a name, so a later prompt may take it up again; the least recently used goes first
when blocks run out. *Free*: neither. Knows no tensors and no sequences.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """The ids ``0 .. num_blocks - 1``, handed out and taken back. ``ref_counts`` (holders by block) is to be read alone."""

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0
        self.num_blocks = num_blocks
        self.ref_counts = [0] * num_blocks
        self._names: list[bytes | None] = [None] * num_blocks
        self._name_to_block: dict[bytes, int] = {}
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._changes: dict[bytes, bool] = {}

    @property
    def num_available(self) -> int:
        """Blocks that ``allocate`` can still give: the free ones and the cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def num_held(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.num_blocks - self.num_available

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds and whose contents are kept."""
        return len(self._cached)

    def is_shared(self, block_id: int) -> bool:
        """Say whether more than one sequence holds the block, so that none may write to it."""
        return self.ref_counts[block_id] > 1

    def allocate(self) -> int:
        """Hand a block of undefined contents to the caller, who then holds it alone; evict the stalest cached one if need be."""
        if self._free:
            block_id = self._free.pop()
        else:
            assert self._cached, "allocate was called on an exhausted pool"
            block_id, _ = self._cached.popitem(last=False)
            self._drop_name(block_id)
        self.ref_counts[block_id] = 1
        return block_id

    def share(self, block_ids: Iterable[int]) -> None:
        """Make the caller one more holder of each block, held or cached."""
        for block_id in block_ids:
            if self.ref_counts[block_id] == 0:
                del self._cached[block_id]
            self.ref_counts[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Take back one hold of each block, given in the order of their sequence.

        The last blocks of a sequence become evictable before its first, which more prompts have in common.
        """
        for block_id in reversed(block_ids):
            assert self.ref_counts[block_id] > 0, "a block was released more often than held"
            self.ref_counts[block_id] -= 1
            if self.ref_counts[block_id] == 0:
                if self._names[block_id] is None:
                    self._free.append(block_id)
                else:
                    self._cached[block_id] = None

    def match(self, names: Sequence[bytes], max_blocks: int) -> list[int]:
        """Return the blocks of the longest known prefix of ``names``, ``max_blocks`` at most. Nothing changes hands."""
        found: list[int] = []
        for name in names[:max_blocks]:
            block_id = self._name_to_block.get(name)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def num_unheld(self, block_ids: Iterable[int]) -> int:
        """Count the cached blocks among ``block_ids``: sharing them takes as many from ``num_available``."""
        return sum(1 for block_id in block_ids if self.ref_counts[block_id] == 0)

    def name(self, block_id: int, name: bytes) -> None:
        """Say that a held block is full and computed, so that others may share it; the first of equal blocks keeps the name."""
        assert self.ref_counts[block_id] > 0
        if self._names[block_id] is None and name not in self._name_to_block:
            self._names[block_id] = name
            self._name_to_block[name] = block_id
            self._changes[name] = True

    def forget(self, block_ids: Iterable[int]) -> None:
        """Drop the names of held blocks whose contents are not to be trusted."""
        for block_id in block_ids:
            assert self.ref_counts[block_id] > 0
            self._drop_name(block_id)

    def clear_cached(self) -> None:
        """Free every cached block."""
        for block_id in self._cached:
            self._drop_name(block_id)
            self._free.append(block_id)
        self._cached.clear()

    def take_changes(self) -> dict[bytes, bool]:
        """Return the names that came (True) or went (False) since the last call, each as it stands now."""
        changes, self._changes = self._changes, {}
        return changes

    def check_integrity(self, held_by: Iterable[Sequence[int]]) -> None:
        """Assert that free + cached + held = all, and that the holds are exactly those of ``held_by``, one list a holder."""
        holds = Counter(block_id for block_ids in held_by for block_id in block_ids)
        for block_id, ref_count in enumerate(self.ref_counts):
            assert ref_count == holds[block_id], f"block {block_id} counts {ref_count} holders but has {holds[block_id]}"
        free, cached, held = set(self._free), set(self._cached), set(holds)
        assert len(free) == len(self._free), "a block is free twice"
        assert not (free & cached or free & held or cached & held), "a block is in two places"
        assert len(free) + len(cached) + len(held) == self.num_blocks, "a block was lost"
        assert all(self._names[block_id] is not None for block_id in cached), "a cached block has no name"
        assert all(self._names[block_id] is None for block_id in free), "a free block has a name"
        named = {name: block_id for block_id, name in enumerate(self._names) if name is not None}
        assert named == self._name_to_block, "names and blocks disagree"

    def _drop_name(self, block_id: int) -> None:
        name = self._names[block_id]
        if name is not None:
            del self._name_to_block[name]
            self._names[block_id] = None
            self._changes[name] = False
