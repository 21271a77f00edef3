"""Blocks are in one place each, whatever is done with them, and come back in the right order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from attendant_engine.cache.block_pool import BlockPool


def test_a_released_block_without_a_name_is_free_and_one_with_a_name_is_cached() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(), pool.allocate()
    pool.name(first, b"first")
    pool.release([first, second])
    assert (pool.num_available, pool.num_held, pool.num_cached) == (3, 0, 1)
    assert pool.match([b"first"], 5) == [first]
    pool.check_integrity([])


def test_the_least_recently_released_block_is_evicted_first_and_a_sequence_loses_its_tail_before_its_head() -> None:
    pool = BlockPool(3)
    blocks = [pool.allocate() for _ in range(3)]
    for block_id, name in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.name(block_id, name)
    pool.release(blocks[:2])
    pool.release(blocks[2:])
    assert [pool.allocate() for _ in range(3)] == [blocks[1], blocks[0], blocks[2]]
    assert pool.match([b"a"], 1) == []


def test_taking_up_a_cached_block_protects_it_from_eviction() -> None:
    pool = BlockPool(2)
    kept = pool.allocate()
    pool.name(kept, b"kept")
    pool.release([kept])
    pool.share([kept])
    assert pool.allocate() != kept
    assert pool.num_available == 0


def test_a_shared_block_is_freed_by_its_last_holder() -> None:
    pool = BlockPool(1)
    block_id = pool.allocate()
    pool.share([block_id])
    assert pool.is_shared(block_id)
    pool.release([block_id])
    assert not pool.is_shared(block_id) and pool.num_available == 0
    pool.release([block_id])
    assert pool.num_available == 1


def test_the_first_of_equal_blocks_keeps_the_name() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.name(first, b"same")
    pool.name(second, b"same")
    pool.release([second])
    assert pool.num_cached == 0
    assert pool.match([b"same"], 1) == [first]
    pool.check_integrity([[first]])


def test_forgotten_contents_are_never_matched_again() -> None:
    pool = BlockPool(1)
    block_id = pool.allocate()
    pool.name(block_id, b"bad")
    pool.forget([block_id])
    pool.release([block_id])
    assert pool.match([b"bad"], 1) == [] and pool.num_cached == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["allocate", "share", "release", "name", "forget", "clear"]), st.integers(0, 30)), max_size=60))
def test_free_cached_and_held_make_all_after_any_history(history: list[tuple[str, int]]) -> None:
    pool = BlockPool(5)
    holders: list[list[int]] = []
    for action, number in history:
        holder = holders[number % len(holders)] if holders else None
        if action == "allocate" and pool.num_available:
            holders.append([pool.allocate()])
        elif action == "share":
            holders.append(pool.match([bytes([number % 4])], 1))
            pool.share(holders[-1])
        elif action == "clear":
            pool.clear_cached()
        elif holder:
            if action == "release":
                holders.remove(holder)
                pool.release(holder)
            elif action == "name":
                pool.name(holder[0], bytes([number % 4]))
            elif action == "forget":
                pool.forget(holder)
        pool.check_integrity(holders)
        assert pool.num_held == len({block_id for held in holders for block_id in held})


def test_changes_tell_how_each_name_stands_now_and_are_told_once() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.name(first, b"a")
    pool.name(second, b"b")
    assert pool.take_changes() == {b"a": True, b"b": True}
    pool.release([first, second])
    assert pool.take_changes() == {}
    evicted = pool.allocate()
    pool.name(evicted, b"c")
    pool.forget([evicted])
    assert pool.take_changes() == {b"b": False, b"c": False}
