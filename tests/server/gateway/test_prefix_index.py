"""One look-up a block tells who has it; what was sent counts until the digest must have it; a bit may stand for another later."""

import pytest

from attendant_server.gateway.prefix_index import DIGEST_DELAY_S, PrefixIndex
from attendant_server.link.prefix_digest import PrefixDigest


def _digest(*keys: int) -> PrefixDigest:
    digest = PrefixDigest(block_size=4)
    digest.update(dict.fromkeys(keys, True))
    return digest


def test_a_match_tells_how_much_each_replica_has_of_the_beginning() -> None:
    index = PrefixIndex()
    nothing, some, most, gap = (index.join(_digest(*keys)) for keys in ((), (1, 2), (1, 2, 3), (1, 3)))
    assert index.match([1, 2, 3, 4], -1) == [(gap, 1), (some, 2), (most, 3)]
    assert index.match([1, 2, 3, 4], some | nothing) == [(some, 2)]
    assert index.match([9, 1], -1) == index.match([], -1) == []


def test_what_a_digest_learns_and_loses_is_followed() -> None:
    index, digest = PrefixIndex(), _digest(1)
    bit = index.join(digest)
    digest.update({1: False, 2: True})
    assert index.match([1], -1) == []
    assert index.match([2], -1) == [(bit, 1)]
    digest.clear()
    assert index.match([2], -1) == []


def test_what_was_sent_counts_until_the_digest_has_had_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("attendant_server.gateway.prefix_index.monotonic", lambda: now_s)
    index, digest = PrefixIndex(), _digest(1)
    bit = index.join(digest)
    index.sent([2, 3], bit)
    assert index.match([1, 2, 3], -1) == [(bit, 3)]
    index.ended([2, 3], bit)
    digest.update({2: True})
    now_s += DIGEST_DELAY_S + 1
    index.sent([], bit)
    assert index.match([1, 2, 3], -1) == [(bit, 2)]


def test_two_replicas_may_be_sent_the_same_prompt() -> None:
    index = PrefixIndex()
    one, other = index.join(_digest()), index.join(_digest())
    index.sent([1, 2], one)
    index.sent([1, 3], other)
    assert index.match([1, 2], -1) == [(other, 1), (one, 2)]


def test_a_bit_that_stands_for_another_replica_has_nothing_of_the_one_before() -> None:
    index = PrefixIndex()
    digest = _digest(1)
    bit = index.join(digest)
    index.sent([1, 2], bit)
    index.ended([1, 2], bit)
    index.leave(bit)
    assert index.join(_digest(7)) == bit
    digest.update({3: True})
    assert index.match([1], -1) == index.match([2], -1) == index.match([3], -1) == []
    assert index.match([7], -1) == [(bit, 1)]
