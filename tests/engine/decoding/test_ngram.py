"""Guesses are what followed the same tokens last time, and the table grows with the text."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from attendant_engine.decoding.ngram import NgramTable


def _continuation(token_ids: Sequence[int], max_tokens: int) -> tuple[int, ...]:
    """Look for the latest earlier place of the last three tokens, then of the last two, by reading everything."""
    for length in (3, 2):
        context = list(token_ids[-length:])
        for end in range(len(token_ids) - 1, length - 1, -1):
            if len(context) == length and list(token_ids[end - length : end]) == context:
                text = list(token_ids)
                for offset in range(max_tokens):
                    text.append(text[end + offset])
                return tuple(text[len(token_ids) :])
    return ()


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(1, 12), max_size=30), st.integers(1, 9))
def test_a_table_that_grows_by_any_steps_guesses_what_reading_it_all_again_would(
    text: list[int], steps: list[int], max_tokens: int
) -> None:
    table = NgramTable()
    length = 0
    for step in steps:
        length += step
        so_far = text[:length]
        assert table.propose(so_far, max_tokens) == _continuation(so_far, max_tokens)


def test_the_longer_context_is_believed_first() -> None:
    assert NgramTable().propose([7, 1, 2, 50, 9, 1, 2, 60, 7, 1, 2], 1) == (50,)
    assert NgramTable().propose([7, 1, 2, 50, 9, 1, 2, 60, 8, 1, 2], 1) == (60,)


def test_a_text_that_repeats_itself_is_guessed_beyond_its_end() -> None:
    assert NgramTable().propose([1, 2, 3, 1, 2, 3], 7) == (1, 2, 3, 1, 2, 3, 1)


def test_ids_of_any_size_are_guessed() -> None:
    large = [1 << 30, (1 << 31) - 1, 5]
    assert NgramTable().propose([*large, 8, *large], 1) == (8,)


def test_a_text_too_short_or_without_repetition_gives_none() -> None:
    for text in ([], [1], [1, 1], [1, 2, 3, 4]):
        assert NgramTable().propose(text, 4) == ()
