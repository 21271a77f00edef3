"""Which prefixes one replica has cached, as keys of their blocks: kept where the engine runs, and mirrored in each gateway.

A key costs eight bytes on the wire and stands for a block's tokens and all before them (``prefix_names``). What a digest
does not know is merely not routed by. Knows no wire and no replica.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice

from attendant_engine.prefix_names import prefix_keys

MAX_KEYS = 131_072
"""Keys that a digest holds: two million tokens of cache in blocks of 16. What comes beyond waits until others go."""

Watcher = Callable[[Mapping[int, bool]], None]
"""Hears of keys that came (True) and went (False)."""


class PrefixDigest:
    """The keys of one replica's cached blocks. ``block_size`` is 0 until it is known. One event loop."""

    def __init__(self, block_size: int = 0) -> None:
        self.block_size = block_size
        self._keys: set[int] = set()
        self._watchers: list[Watcher] = []

    @property
    def keys(self) -> AbstractSet[int]:
        """The keys, to be read alone."""
        return self._keys

    def update(self, changes: Mapping[int, bool]) -> None:
        """Take in keys that came (True) and went (False), and tell who watches."""
        keys = self._keys
        told: dict[int, bool] = {}
        for key, is_cached in changes.items():
            if is_cached and key not in keys and len(keys) < MAX_KEYS:
                keys.add(key)
                told[key] = True
            elif not is_cached and key in keys:
                keys.discard(key)
                told[key] = False
        if told:
            for watcher in self._watchers:
                watcher(told)

    def clear(self) -> None:
        """Forget every key, and tell who watches."""
        self.update(dict.fromkeys(self._keys, False))

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` all keys now, and what changes from now on."""
        self._watchers.append(watcher)
        if self._keys:
            watcher(dict.fromkeys(self._keys, True))

    def unwatch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` nothing any more."""
        self._watchers.remove(watcher)

    def num_cached_tokens(self, salt: str, token_ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt the cache has."""
        if not self._keys:
            return 0
        num_blocks = 0
        for key in prefix_keys(salt, token_ids, self.block_size):
            if key not in self._keys:
                break
            num_blocks += 1
        return num_blocks * self.block_size


class DigestFeed:
    """What one gateway has yet to hear of a digest, each key as it stands now: no more than the digest and what left it."""

    def __init__(self, digest: PrefixDigest) -> None:
        self._digest = digest
        self._pending: dict[int, bool] = {}
        self._watcher: Watcher = self._pending.update
        digest.watch(self._watcher)

    def take(self, max_keys: int) -> tuple[list[int], list[int]]:
        """Return the keys to be told as cached and those as gone, ``max_keys`` together at most, those that wait longest first."""
        cached: list[int] = []
        dropped: list[int] = []
        for key in list(islice(self._pending, max_keys)):
            (cached if self._pending.pop(key) else dropped).append(key)
        return cached, dropped

    def close(self) -> None:
        """Hear no more."""
        self._digest.unwatch(self._watcher)
