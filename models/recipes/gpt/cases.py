"""The split as a file: few-shot cases on held-out items of tasks seen in training, and on tasks that are held out.

Same data and seed in, same bytes out. Measurement reads the file alone.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from models.recipes.gpt.measure.few_shot import SHOTS, Case
from models.recipes.gpt.synthetic import Maker, affix_maker, arithmetic_maker, label_maker, list_maker, recall_maker, word_maker
from models.recipes.gpt.tasks import Pair, Task, load_categories, load_classes, load_tasks

SETS_A_TASK = 3
SETS_A_MAKER = 6
NUM_EXAMPLES = max(SHOTS)
NUM_QUERIES = 10
MAX_LABELS = 12
"""Tasks with more different outputs than this are not scored by labels."""


def write_cases(data: Path, words: Sequence[str], path: Path, *, seed: int = 0) -> int:
    """Write the cases, one a line, and return how many they are."""
    lines = [json.dumps(_as_json(case), ensure_ascii=False) for case in make_cases(data, words, seed=seed)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def make_cases(data: Path, words: Sequence[str], *, seed: int) -> Iterator[Case]:
    """Yield the cases: tasks that are read, by name, then tasks that are made up."""
    tasks = load_tasks(data)
    for task in tasks:
        for number in range(SETS_A_TASK):
            yield _read_case(task, Random(f"{seed}/{task.name}/{number}"))
    seen, unseen = load_categories(tasks), load_categories(tasks, held_out=True)
    seen_classes, unseen_classes = load_classes(data), load_classes(data, held_out=True)
    makers: list[tuple[str, Maker, Maker]] = [
        ("made up: change a word", word_maker(words), word_maker(words)),
        ("made up: add to a word", affix_maker(words), affix_maker(words)),
        ("made up: choose from a list", list_maker(words, seen), list_maker(words, seen)),
        ("made up: numbers", arithmetic_maker(), arithmetic_maker()),
        ("made up: arbitrary map", recall_maker(words), recall_maker(words)),
        ("labels: categories of words", label_maker(seen, words), label_maker(unseen, words)),
    ]
    for name in sorted(seen_classes):
        makers.append((f"labels: {name}", label_maker(seen_classes[name], words), label_maker(unseen_classes[name], words)))
    for name, examples_maker, queries_maker in makers:
        for number in range(SETS_A_MAKER):
            yield _made_up_case(name, examples_maker, queries_maker, f"{seed}/{name}/{number}")


def _read_case(task: Task, rng: Random) -> Case:
    examples = rng.sample(task.training_pairs, min(NUM_EXAMPLES, len(task.training_pairs)))
    queries = rng.sample(task.held_out_pairs, min(NUM_QUERIES, len(task.held_out_pairs)))
    outputs = {pair.output for pair in task.pairs}
    labels = tuple(sorted(outputs)) if len(outputs) <= MAX_LABELS else None
    return _case(task.name, not task.is_held_out, examples, queries, labels)


def _made_up_case(name: str, examples_maker: Maker, queries_maker: Maker, seed: str) -> Case:
    if name.endswith("arbitrary map"):
        # Only what an example said can be asked; each query is in the table, and by eight examples most of it was told.
        pairs = examples_maker(Random(seed), NUM_EXAMPLES + 4 * NUM_QUERIES)
        examples = pairs[:NUM_EXAMPLES]
        told = {pair.input for pair in examples}
        queries = [pair for pair in pairs[NUM_EXAMPLES:] if pair.input in told][:NUM_QUERIES]
        return _case(name, True, examples, queries, None)
    examples = examples_maker(Random(seed), NUM_EXAMPLES)
    queries = queries_maker(Random(seed), NUM_QUERIES, held_out=True)
    labels = tuple(sorted({pair.output for pair in (*examples, *queries)})) if name.startswith("labels: ") else None
    return _case(name, True, examples, queries, labels)


def _case(name: str, is_seen: bool, examples: Sequence[Pair], queries: Sequence[Pair], labels: tuple[str, ...] | None) -> Case:
    return Case(
        task=name,
        is_seen=is_seen,
        examples=tuple((pair.input, pair.output) for pair in examples),
        queries=tuple((pair.input, pair.output) for pair in queries),
        labels=labels,
    )


def _as_json(case: Case) -> dict[str, object]:
    return {
        "task": case.task,
        "is_seen": case.is_seen,
        "labels": case.labels,
        "examples": case.examples,
        "queries": case.queries,
    }
