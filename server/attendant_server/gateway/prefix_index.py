"""Which replicas have how much of a prompt cached: by their own digests, and by what was sent to them since.

A replica is a bit, so that one look-up a block answers for all of them. What was sent counts as cached from then on, so
that a burst of equal prompts keeps together before the first of them is in any digest; when the request has ended, the
digest alone knows. Knows keys and bits, no links.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic

from attendant_server.link.prefix_digest import PrefixDigest, Watcher

DIGEST_DELAY_S = 2.0
"""After a request has ended, its prompt is in its replica's digest within this: eight heartbeats."""


class PrefixIndex:
    """Replicas by the keys of the prefixes that they have."""

    def __init__(self) -> None:
        self._told: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._ended: deque[tuple[float, int, Sequence[int]]] = deque()
        self._free_bits: list[int] = []
        self._watched: dict[int, tuple[PrefixDigest, Watcher]] = {}

    def join(self, digest: PrefixDigest) -> int:
        """Follow a replica's digest from now on; return the replica's bit."""
        bit = self._free_bits.pop() if self._free_bits else 1 << len(self._watched)

        def watcher(changes: Mapping[int, bool]) -> None:
            _change(self._told, bit, changes)

        self._watched[bit] = (digest, watcher)
        digest.watch(watcher)
        return bit

    def leave(self, bit: int) -> None:
        """Forget a replica; its bit will stand for another."""
        digest, watcher = self._watched.pop(bit)
        digest.unwatch(watcher)
        _change(self._told, bit, dict.fromkeys(digest.keys, False))
        _clear(self._sent, bit, [key for key, bits in self._sent.items() if bits & bit])
        self._ended = deque(entry for entry in self._ended if entry[1] != bit)
        self._free_bits.append(bit)

    def match(self, keys: Iterable[int], bits: int) -> list[tuple[int, int]]:
        """Return who of ``bits`` has how many leading blocks, at least one: pairs of bits and blocks, the most blocks last."""
        told, sent = self._told, self._sent
        found: list[tuple[int, int]] = []
        num_blocks = 0
        for key in keys:
            still = bits & (told.get(key, 0) | sent.get(key, 0))
            if still != bits:
                if num_blocks:
                    found.append((bits & ~still, num_blocks))
                if not still:
                    return found
                bits = still
            num_blocks += 1
        if num_blocks:
            found.append((bits, num_blocks))
        return found

    def sent(self, keys: Sequence[int], bit: int) -> None:
        """Count blocks as cached where their prompt was sent, until it has ``ended``."""
        self._forget_ended()
        sent = self._sent
        if sent.keys().isdisjoint(keys):
            sent.update(dict.fromkeys(keys, bit))  # nearly always, and a prompt may have hundreds
        else:
            for key in keys:
                sent[key] = sent.get(key, 0) | bit

    def ended(self, keys: Sequence[int], bit: int) -> None:
        """Leave what was ``sent`` to the replica's digest, which will have it soon or never."""
        if keys:
            self._ended.append((monotonic() + DIGEST_DELAY_S, bit, keys))

    def _forget_ended(self) -> None:
        ended, now_s = self._ended, monotonic()
        while ended and ended[0][0] <= now_s:
            _, bit, keys = ended.popleft()
            _clear(self._sent, bit, keys)


def _change(index: dict[int, int], bit: int, changes: Mapping[int, bool]) -> None:
    _clear(index, bit, [key for key, is_cached in changes.items() if not is_cached])
    for key, is_cached in changes.items():
        if is_cached:
            index[key] = index.get(key, 0) | bit


def _clear(index: dict[int, int], bit: int, keys: Iterable[int]) -> None:
    for key in keys:
        left = index.get(key, 0) & ~bit
        if left:
            index[key] = left
        else:
            index.pop(key, None)
