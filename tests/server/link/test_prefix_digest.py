"""What a replica has cached, told once and in pieces, and never more than the bound."""

import pytest

from attendant_engine.prefix_names import prefix_keys
from attendant_server.link import prefix_digest
from attendant_server.link.prefix_digest import DigestFeed, PrefixDigest


def test_a_feed_tells_all_there_is_and_then_what_changes_each_as_it_stands() -> None:
    digest = PrefixDigest()
    digest.update({1: True, 2: True, 3: True})
    feed = DigestFeed(digest)
    digest.update({2: False, 4: True})
    assert feed.take(3) == ([1, 3], [2])
    assert feed.take(3) == ([4], [])
    digest.update({4: False})
    digest.update({4: True})
    digest.update({1: True, 9: False})
    assert feed.take(3) == ([4], [])
    feed.close()
    digest.update({5: True})
    assert feed.take(3) == ([], [])


def test_a_mirror_fed_in_pieces_becomes_equal() -> None:
    digest, mirror = PrefixDigest(), PrefixDigest()
    feed = DigestFeed(digest)
    for number in range(200):
        digest.update({number: True, number // 2: number % 3 == 0})
        if number % 7 == 0:
            cached, dropped = feed.take(5)
            assert len(cached) + len(dropped) <= 5
            mirror.update({**dict.fromkeys(cached, True), **dict.fromkeys(dropped, False)})
    while (told := feed.take(5)) != ([], []):
        mirror.update({**dict.fromkeys(told[0], True), **dict.fromkeys(told[1], False)})
    assert mirror.keys == digest.keys and digest.keys


def test_a_full_digest_takes_no_more_keys_until_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_digest, "MAX_KEYS", 2)
    digest = PrefixDigest()
    digest.update({1: True, 2: True, 3: True})
    assert digest.keys == {1, 2}
    digest.update({1: False, 4: True})
    assert digest.keys == {2, 4}


def test_the_cached_part_of_a_prompt_ends_at_the_first_block_that_is_missing() -> None:
    tokens = list(range(50))
    digest = PrefixDigest(block_size=16)
    assert digest.num_cached_tokens("", tokens) == 0
    first, _, third = prefix_keys("", tokens, 16)
    digest.update({first: True, third: True})
    assert digest.num_cached_tokens("", tokens) == 16
    assert digest.num_cached_tokens("salt", tokens) == 0
