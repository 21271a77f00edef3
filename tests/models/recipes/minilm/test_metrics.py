"""The card's figures are what scikit-learn would say."""

import random

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score  # type: ignore[import-untyped]

from models.recipes.minilm.figures import confusion_svg
from models.recipes.minilm.metrics import Judgement, accuracy, calibration_error, confusion, f1, macro_f1

LABELS = ["a", "b", "c"]


def random_judgements(seed: int) -> list[Judgement]:
    rng = random.Random(seed)
    return [Judgement(rng.choice(LABELS), rng.choice(LABELS), rng.uniform(0.34, 1.0)) for _ in range(200)]


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_those_of_scikit_learn(seed: int) -> None:
    judgements = random_judgements(seed)
    truth, answers = [one.truth for one in judgements], [one.answer for one in judgements]
    assert accuracy(judgements) == pytest.approx(accuracy_score(truth, answers))
    assert macro_f1(judgements) == pytest.approx(f1_score(truth, answers, average="macro"))
    assert f1(judgements, "b") == pytest.approx(f1_score(truth, answers, labels=["b"], average="macro"))
    assert confusion(judgements, LABELS) == confusion_matrix(truth, answers, labels=LABELS).tolist()


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = [Judgement("a", "a" if index < 60 else "b", 0.9) for index in range(100)]
    assert calibration_error(sure) == pytest.approx(0.3)
    assert calibration_error([Judgement("a", "a", 1.0)] * 5) == 0.0


def test_a_picture_shows_every_answer_and_few_names_alone() -> None:
    counts = confusion(random_judgements(0), LABELS)
    picture = confusion_svg("t", LABELS, counts)
    assert all(f">{count}<" in picture for row in counts for count in row)
    many = confusion_svg("t", [f"label {index}" for index in range(30)], [[index == column for column in range(30)] for index in range(30)])
    assert "label 3" not in many and many.count("<rect") == 32
