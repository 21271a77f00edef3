"""Echoes are passages that come two or three times in a row, and count where they can be known."""

import numpy as np
import pytest

from models.recipes.gpt.echoes import MAX_LENGTH, MIN_LENGTH, RANDOM_WEIGHT, EchoSource

VOCAB_SIZE = 8192
TEXT = np.arange(2000, dtype=np.uint16)
LENGTH = 1025


def passages(ids: list[int]) -> list[tuple[list[int], int]]:
    """Cut a window into passages and how often each comes in a row; what the window's end cuts is left out."""
    found: list[tuple[list[int], int]] = []
    while True:
        sizes = range(MIN_LENGTH, MAX_LENGTH + 1)
        size = next((size for size in sizes if len(ids) >= 2 * size and ids[:size] == ids[size : 2 * size]), None)
        if size is None:
            return found
        times = 2
        while ids[times * size : (times + 1) * size] == ids[:size]:
            times += 1
        found.append((ids[:size], times))
        ids = ids[size * times :]


def test_a_window_is_passages_that_come_again_of_text_and_of_random_tokens() -> None:
    source = EchoSource(TEXT, vocab_size=VOCAB_SIZE, seed=1)
    windows = [source.window(number, LENGTH) for number in range(8)]
    found = [passage for window in windows for passage in passages(window.token_ids.tolist())]
    # Each window loses at most its last passage.
    assert sum(len(passage) * times for passage, times in found) > 8 * (LENGTH - 3 * MAX_LENGTH)
    assert {times for _, times in found} == {2, 3}
    is_text = [passage == list(range(passage[0], passage[0] + len(passage))) for passage, _ in found]
    assert 0.25 < np.mean(is_text) < 0.75
    assert max(max(passage) for passage, _ in found) < VOCAB_SIZE


def test_only_random_tokens_that_come_first_count_little() -> None:
    window = EchoSource(TEXT, vocab_size=VOCAB_SIZE, seed=1).window(3, LENGTH)
    at = 0
    for passage, times in passages(window.token_ids.tolist()):
        is_text = passage == list(range(passage[0], passage[0] + len(passage)))
        first, rest = np.split(window.weights[at : at + len(passage) * times], [len(passage)])
        assert (first == np.float32(1.0 if is_text else RANDOM_WEIGHT)).all()
        assert (rest == 1.0).all()
        at += len(passage) * times


def test_a_window_follows_from_the_seed_and_its_number() -> None:
    source, again, other = (EchoSource(TEXT, vocab_size=VOCAB_SIZE, seed=seed) for seed in (1, 1, 2))
    assert (source.window(5, LENGTH).token_ids == again.window(5, LENGTH).token_ids).all()
    assert (source.window(5, LENGTH).token_ids != other.window(5, LENGTH).token_ids).any()
    assert (source.window(5, LENGTH).token_ids != source.window(6, LENGTH).token_ids).any()


def test_a_text_shorter_than_a_passage_is_refused() -> None:
    with pytest.raises(ValueError, match=f"the text has 80 tokens, too few for passages of up to {MAX_LENGTH}"):
        EchoSource(TEXT[:80], vocab_size=VOCAB_SIZE, seed=1)
