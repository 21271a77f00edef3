"""Equal names mean equal prefixes under one salt, however the names came about, and keys are the same in every process."""

from attendant_engine.prefix_names import PrefixNames, key_of, prefix_keys

TOKENS = list(range(12))


def _names(salt: str, token_ids: list[int], *num_tokens: int) -> list[bytes]:
    prefix = PrefixNames(salt)
    for count in num_tokens:
        prefix.extend(token_ids, count, 4)
    return prefix.names


def test_names_depend_on_the_whole_prefix_and_the_salt_but_not_on_how_they_were_built() -> None:
    at_once = _names("salt", TOKENS, 12)
    assert at_once == _names("salt", TOKENS, 3, 4, 9, 12) and len(at_once) == 3
    assert not set(at_once) & set(_names("pepper", TOKENS, 12))
    assert not set(at_once) & set(_names("salt", [99, *TOKENS[1:]], 12))
    assert not set(at_once) & set(_names("salt", TOKENS[4:], 8))


def test_a_fork_goes_its_own_way() -> None:
    parent = PrefixNames("")
    parent.extend(TOKENS, 8, 4)
    child = parent.copy()
    parent.extend(TOKENS, 12, 4)
    child.extend([*TOKENS[:8], 1, 2, 3, 4], 12, 4)
    assert parent.names[:2] == child.names[:2]
    assert parent.names == _names("", TOKENS, 12)
    assert child.names == _names("", [*TOKENS[:8], 1, 2, 3, 4], 12)


def test_a_prompts_keys_are_those_of_its_names_but_for_a_block_that_ends_it() -> None:
    assert prefix_keys("salt", tuple(TOKENS), 4) == [key_of(name) for name in _names("salt", TOKENS, 8)]
    assert prefix_keys("salt", tuple(TOKENS), 5) == [key_of(name) for name in _wider("salt", 5)]
    assert prefix_keys("salt", TOKENS[:4], 4) == []


def test_a_key_is_the_same_in_every_process() -> None:
    assert prefix_keys("", (1, 2, 3), 2) == [17686264244050064502]


def _wider(salt: str, block_size: int) -> list[bytes]:
    prefix = PrefixNames(salt)
    prefix.extend(TOKENS, 12, block_size)
    return prefix.names
