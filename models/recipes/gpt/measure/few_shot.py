"""Accuracy of the served few-shot task by the number of examples, on cases from a file that training wrote its split into.

A case is one task with its examples and queries; for more shots the same queries get more of the same examples. Free
answers count when they are the output exactly; with labels, when the most probable label is the output.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attendant_client import Client, FewShotExample

SHOTS = (0, 1, 2, 4, 8)
MAX_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Examples and queries (input and right output) of a task; ``labels`` where the outputs are few and known."""

    task: str
    is_seen: bool
    examples: tuple[tuple[str, str], ...]
    queries: tuple[tuple[str, str], ...]
    labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Right answers of a way of asking, at a number of shots."""

    task: str
    is_seen: bool
    way: str
    shots: int
    num_right: int
    num_queries: int


FREE, SCORED, CALIBRATED = "generated", "labels", "labels, calibrated"


def read_cases(path: Path) -> tuple[Case, ...]:
    """Return the cases of a file of JSON lines."""
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        cases.append(
            Case(
                task=value["task"],
                is_seen=value["is_seen"],
                examples=tuple((first, second) for first, second in value["examples"]),
                queries=tuple((first, second) for first, second in value["queries"]),
                labels=tuple(value["labels"]) if value["labels"] is not None else None,
            )
        )
    return tuple(cases)


def measure_case(client: Client, model: str, case: Case, *, shots: Sequence[int] = SHOTS) -> list[Score]:
    """Ask a case at each number of shots: freely, and by labels with and without calibration where it has them."""
    scores = []
    questions = [question for question, _ in case.queries]
    for num_shots in shots:
        examples = [FewShotExample(first, second) for first, second in case.examples[:num_shots]]
        free = client.few_shot(model, queries=questions, examples=examples, max_tokens=MAX_TOKENS, temperature=0.0)
        answers = {FREE: [answer.text for answer in free.answers]}
        if case.labels is not None:
            for way, calibrate in ((SCORED, False), (CALIBRATED, True)):
                scored = client.few_shot(model, queries=questions, examples=examples, labels=case.labels, calibrate=calibrate)
                answers[way] = [answer.label or "" for answer in scored.answers]
        for way, texts in answers.items():
            num_right = sum(text == right for text, (_, right) in zip(texts, case.queries, strict=True))
            scores.append(
                Score(task=case.task, is_seen=case.is_seen, way=way, shots=num_shots, num_right=num_right, num_queries=len(texts))
            )
    return scores


def accuracies(scores: Sequence[Score], *, way: str) -> dict[str, dict[int, float]]:
    """Return the accuracy of each task by the number of shots."""
    right: dict[str, dict[int, list[int]]] = {}
    for score in scores:
        if score.way == way:
            total = right.setdefault(score.task, {}).setdefault(score.shots, [0, 0])
            total[0] += score.num_right
            total[1] += score.num_queries
    return {task: {shots: hits / asked for shots, (hits, asked) in row.items()} for task, row in right.items()}


def mean_by_shots(rows: Mapping[str, Mapping[int, float]], tasks: Sequence[str]) -> dict[int, float]:
    """Return the mean accuracy over tasks, each task counting the same, by the number of shots."""
    kept = [rows[task] for task in tasks if task in rows]
    return {shots: sum(row[shots] for row in kept) / len(kept) for shots in (kept[0] if kept else ())}
