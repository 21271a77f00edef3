"""In-context tasks made up on the spot: on words, on lists of words, on numbers, and maps that only the examples tell.

A maker draws one task and returns pairs of it, either none of which ``split`` holds out or all of which it does. The task is
drawn before its pairs: with the same random source, both parts are of the same task.
"""

import operator
import string
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from random import Random
from typing import Protocol

from models.recipes.gpt.split import HELD_OUT_TASKS, is_held_out
from models.recipes.gpt.tasks import Pair

MAX_TRIES = 200


class Maker(Protocol):
    """Draws a task."""

    def __call__(self, rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        """Return at most ``count`` pairs with different inputs, of the part that is asked for."""


CASE_CHANGES: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.capitalize,
    lambda word: word[0],
    lambda word: word[0].upper(),
    lambda word: word[-1],
    lambda word: word[-1].upper(),
)
WORD_CHANGES: tuple[Callable[[str], str], ...] = (
    *CASE_CHANGES,
    lambda word: word[:2],
    lambda word: word[-2:],
    lambda word: word[1:],
    lambda word: word[:-1],
    lambda word: " ".join(word),
    lambda word: "-".join(word),
    lambda word: str(len(word)),
    lambda word: _following(word[0]).upper(),
    lambda word: _following(word[0]),
    lambda word: f"{word} {word}",
    lambda word: word,
    lambda word: word[0] + word[-1],
)

END_CHANGES: tuple[Callable[[Sequence[str]], str], ...] = (
    lambda items: items[0],
    lambda items: items[-1],
)
LIST_CHANGES: tuple[Callable[[Sequence[str]], str], ...] = (
    *END_CHANGES,
    lambda items: ", ".join(reversed(items)),
    lambda items: min(items),
    lambda items: max(items),
    lambda items: max(items, key=len),
    lambda items: min(items, key=len),
    lambda items: str(len(items)),
    lambda items: f"{items[0]} and {items[1]}",
)

TWO_NUMBERS: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    ("{} + {}", operator.add),
    ("{} plus {}", operator.add),
    ("{} - {}", operator.sub),
    ("{} minus {}", operator.sub),
    ("{}, {}", max),
    ("{}, {}", min),
    ("{} {}", operator.add),
)


def word_maker(words: Sequence[str], *, focus_share: float = 0.0) -> Maker:
    """Return a maker of tasks that change a word, ``focus_share`` of them its case or to one letter; a quarter with upper-case inputs."""

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        change = rng.choice(CASE_CHANGES if rng.random() < focus_share else WORD_CHANGES)
        is_upper = rng.random() < 0.25

        def one() -> Pair:
            word = _draw_word(rng, words)
            return Pair(word.upper() if is_upper else word, change(word))

        return _distinct(rng, count, one, held_out=held_out)

    return make


def affix_maker(words: Sequence[str]) -> Maker:
    """Return a maker of tasks that put the same text before or after every word."""

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        before, after = rng.choice((("", "s"), ("un", ""), ("the ", ""), ("", "!"), ("", "?"), ("a ", ""), ("", " " + rng.choice(words))))

        def one() -> Pair:
            word = _draw_word(rng, words)
            return Pair(word, f"{before}{word}{after}")

        return _distinct(rng, count, one, held_out=held_out)

    return make


def list_maker(words: Sequence[str], categories: Mapping[str, Sequence[str]], *, focus_share: float = 0.0) -> Maker:
    """Return a maker of tasks on lists of two to six words: pick by place, by order, by category, or turn the list round.

    ``focus_share`` of those without categories ask for the first or for the last.
    """
    category_pairs = [
        (chosen, others) for chosen, others in permutations(sorted(categories), 2) if f"{chosen}_v_{others}_3" not in HELD_OUT_TASKS
    ]

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        length = rng.choice((2, 3, 3, 3, 4, 5, 5, 6))
        if rng.random() < 0.3:
            chosen, others = rng.choice(category_pairs)

            def pick() -> Pair:
                return _pick_by_category(rng, categories[chosen], categories[others], length)

            return _distinct(rng, count, pick, held_out=held_out)

        change = rng.choice(END_CHANGES if rng.random() < focus_share else LIST_CHANGES)
        separator = rng.choice((", ", ", ", ", ", " ", "; "))

        def one() -> Pair:
            items = _draw_words(rng, words, length)
            return Pair(separator.join(items), change(items))

        return _distinct(rng, count, one, held_out=held_out)

    return make


def arithmetic_maker() -> Maker:
    """Return a maker of tasks on numbers: written sums, and rules that the examples must tell ("add 7")."""

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        limit = rng.choice((10, 10, 20, 50, 100))
        if rng.random() < 0.5:
            rule = rng.choice(_one_number_rules(limit=limit, constant=rng.randrange(1, 10)))

            def one() -> Pair:
                number = rng.randrange(1, limit + 1)
                return Pair(str(number), rule(number))

            return _distinct(rng, count, one, held_out=held_out)
        form, operation = rng.choice(TWO_NUMBERS)

        def two() -> Pair:
            first, second = rng.randrange(limit), rng.randrange(limit)
            return Pair(form.format(first, second), str(operation(first, second)))

        return _distinct(rng, count, two, held_out=held_out)

    return make


def recall_maker(words: Sequence[str]) -> Maker:
    """Return a maker of arbitrary maps from words to words, with inputs that come back: only the examples tell the answer."""

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        keys = _draw_words(rng, words, rng.randrange(2, 7))
        table = [Pair(key, rng.choice(words)) for key in keys]
        return [rng.choice(table) for _ in range(count)]

    return make


def label_maker(classes: Mapping[str, Sequence[str]], words: Sequence[str]) -> Maker:
    """Return a maker of two to five of ``classes`` under their own names or under arbitrary words, mixed evenly."""

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        names = sorted(classes)
        chosen = rng.sample(names, min(len(names), rng.choice((2, 2, 2, 3, 4, 5))))
        labels = chosen
        if rng.random() < 0.7:
            labels = _draw_labels(rng, words, len(chosen))
        place = list(range(len(chosen)))

        def one() -> Pair:
            at = rng.choice(place)
            return Pair(rng.choice(classes[chosen[at]]), labels[at])

        return _distinct(rng, count, one, held_out=held_out)

    return make


def _one_number_rules(*, limit: int, constant: int) -> tuple[Callable[[int], str], ...]:
    return (
        lambda number: str(number + constant),
        lambda number: str(number + 1),
        lambda number: str(2 * number),
        lambda number: "even" if number % 2 == 0 else "odd",
        lambda number: str(number % 10),
        lambda number: "yes" if number > limit // 2 else "no",
    )


def _draw_labels(rng: Random, words: Sequence[str], count: int) -> list[str]:
    kind = rng.random()
    if kind < 0.2:
        return rng.sample(string.ascii_uppercase, count)
    if kind < 0.3:
        return rng.sample(string.digits, count)
    return _draw_words(rng, words, count)


def _pick_by_category(rng: Random, chosen: Sequence[str], others: Sequence[str], length: int) -> Pair:
    answer = rng.choice(chosen)
    items = [answer, *rng.sample(others, min(length - 1, len(others)))]
    rng.shuffle(items)
    return Pair(", ".join(items), answer)


def _draw_word(rng: Random, words: Sequence[str]) -> str:
    # Frequent words come first: half of the draws are among them.
    limit = len(words) if rng.random() < 0.5 else min(len(words), 2000)
    return words[rng.randrange(limit)]


def _draw_words(rng: Random, words: Sequence[str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[_draw_word(rng, words)] = None
    return list(found)


def _distinct(rng: Random, count: int, one: Callable[[], Pair], *, held_out: bool) -> list[Pair]:
    """Draw pairs with different inputs, all of one part; fewer than ``count`` where there are no more."""
    found: dict[str, Pair] = {}
    for _ in range(count + MAX_TRIES):
        if len(found) == count:
            break
        pair = one()
        if is_held_out(pair.input) == held_out:
            found.setdefault(pair.input, pair)
    pairs = list(found.values())
    rng.shuffle(pairs)
    return pairs


def _following(letter: str) -> str:
    return "a" if letter == "z" else chr(ord(letter) + 1)
