"""What the card states of a classifier, from labels and the probability of each answer; nothing is averaged over batches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NUM_BINS = 15


@dataclass(frozen=True, slots=True)
class Judgement:
    """The true label of a text, the one that was answered, and the probability that came with it."""

    truth: str
    answer: str
    score: float


def accuracy(judgements: Sequence[Judgement]) -> float:
    """Return the share of right answers."""
    return sum(one.truth == one.answer for one in judgements) / len(judgements)


def f1(judgements: Sequence[Judgement], label: str) -> float:
    """Return the harmonic mean of precision and recall of one label; 0 where it is never right."""
    right = sum(one.truth == one.answer == label for one in judgements)
    said, there = sum(one.answer == label for one in judgements), sum(one.truth == label for one in judgements)
    return 2 * right / (said + there) if right else 0.0


def macro_f1(judgements: Sequence[Judgement]) -> float:
    """Return the mean F1 of the labels that occur."""
    labels = {one.truth for one in judgements}
    return sum(f1(judgements, label) for label in labels) / len(labels)


def calibration_error(judgements: Sequence[Judgement]) -> float:
    """Return the expected calibration error (Guo et al. 2017): over bins of equal width, the gap of confidence and accuracy."""
    bins: dict[int, list[Judgement]] = {}
    for one in judgements:
        bins.setdefault(min(int(one.score * NUM_BINS), NUM_BINS - 1), []).append(one)
    gaps = [abs(sum(one.score for one in group) - sum(one.truth == one.answer for one in group)) for group in bins.values()]
    return sum(gaps) / len(judgements)


def confusion(judgements: Sequence[Judgement], labels: Sequence[str]) -> list[list[int]]:
    """Return how often each label (row) was answered as each (column)."""
    counts = Counter((one.truth, one.answer) for one in judgements)
    return [[counts[truth, answer] for answer in labels] for truth in labels]
