"""The measurements as Markdown tables for the card, and the plot of accuracy by shots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.svg_plot import Series, write_plot
from models.recipes.gpt.measure.continuation import Continuation, distinct_share, repeated_share
from models.recipes.gpt.measure.few_shot import CALIBRATED, FREE, SCORED, SHOTS, Score, accuracies, mean_by_shots

Rows = Mapping[str, Mapping[int, float]]


@dataclass(slots=True, kw_only=True)
class Measurements:
    """What was measured; parts that were not asked for are empty. Bits per byte by text, then by what predicted it."""

    model: str
    receipt: str
    bits_per_byte: dict[str, dict[str, float]] = field(default_factory=dict)
    continuations: tuple[Continuation, ...] = ()
    scores: list[Score] = field(default_factory=list)


def write_report(found: Measurements, folder: Path, *, command: str) -> None:
    """Write ``measured.md`` and, if few-shot was measured, ``few-shot.svg`` to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {found.model}, measured\n\nServed: {found.receipt}. Command: `{command}`"]
    if found.bits_per_byte:
        parts.append(_text_section(found.bits_per_byte))
    if found.scores:
        parts.append(_few_shot_section(found.scores))
        _plot(found.scores, folder / "few-shot.svg")
    if found.continuations:
        parts.append(_continuation_section(found.continuations))
    (folder / "measured.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _text_section(bits: Mapping[str, Mapping[str, float]]) -> str:
    texts = list(bits)
    names = list(bits[texts[0]])
    rows = [[name, *(f"{bits[text][name]:.3f}" for text in texts)] for name in names]
    return "## Bits per byte\n\n" + _table(["", *texts], rows)


def _few_shot_section(scores: Sequence[Score]) -> str:
    is_seen = {score.task: score.is_seen for score in scores}
    seen, unseen = ([task for task, flag in is_seen.items() if flag == kept] for kept in (True, False))
    free = accuracies(scores, way=FREE)
    parts = ["## Few-shot accuracy by examples shown", _table(["", *map(str, SHOTS)], _mean_rows(scores, seen, unseen))]
    parts += ["### Tasks seen in training, unseen items", _table(["task", *map(str, SHOTS)], _task_rows(free, seen))]
    parts += ["### Tasks never seen", _table(["task", *map(str, SHOTS)], _task_rows(free, unseen))]
    for way in (SCORED, CALIBRATED):
        rows = accuracies(scores, way=way)
        parts += [f"### By {way}", _table(["task", *map(str, SHOTS)], _task_rows(rows, list(rows)))]
    return "\n\n".join(parts)


def _mean_rows(scores: Sequence[Score], seen: Sequence[str], unseen: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, tasks, way in _lines(seen, unseen):
        means = mean_by_shots(accuracies(scores, way=way), tasks)
        if means:
            rows.append([name, *(f"{means[shots]:.1%}" for shots in SHOTS)])
    return rows


def _lines(seen: Sequence[str], unseen: Sequence[str]) -> list[tuple[str, Sequence[str], str]]:
    return [("seen tasks", seen, FREE), ("unseen tasks", unseen, FREE), ("labels", seen, SCORED), ("labels, calibrated", seen, CALIBRATED)]


def _task_rows(rows: Rows, tasks: Sequence[str]) -> list[list[str]]:
    return [[task, *(f"{rows[task][shots]:.0%}" for shots in SHOTS)] for task in tasks if task in rows]


def _plot(scores: Sequence[Score], path: Path) -> None:
    is_seen = {score.task: score.is_seen for score in scores}
    series = []
    for name, tasks, way in _lines([task for task in is_seen if is_seen[task]], [task for task in is_seen if not is_seen[task]]):
        means = mean_by_shots(accuracies(scores, way=way), tasks)
        if means:
            series.append(Series(name=name, points=tuple((float(shots), means[shots]) for shots in SHOTS)))
    title = "Accuracy by examples shown, unseen items"
    write_plot(path, series, title=title, x_label="examples in the prompt", y_label="accuracy", y_range=(0.0, 1.0))


def _continuation_section(continuations: Sequence[Continuation]) -> str:
    ways = {"greedy": [item.greedy for item in continuations], "sampled": [item.sampled for item in continuations]}
    rows = [[name, f"{distinct_share(texts):.3f}", f"{repeated_share(texts):.3f}"] for name, texts in ways.items()]
    parts = ["## Continuations", _table(["", "distinct-3", "repeated 4-grams"], rows)]
    for item in continuations:
        parts.append(f"**{item.opening}**\n\n{_quote('greedy', item.greedy)}\n\n{_quote('sampled', item.sampled)}")
    return "\n\n".join(parts)


def _quote(name: str, text: str) -> str:
    return f"> *{name}:* " + " / ".join(line.strip() for line in text.splitlines() if line.strip())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
