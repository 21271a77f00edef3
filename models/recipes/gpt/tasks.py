"""In-context tasks that are read from the data pack: ``fewshot/`` and, for labels, ``classification/``.

Every task here is a list of pairs; which of them may be trained on is ``split``'s to say.
"""

import csv
import io
import json
import lzma
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.recipes.gpt.split import HELD_OUT_TASKS, is_held_out

MAX_CHARACTERS = 120
"""Longer inputs are left out: sixteen of them would not fit the context."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An input and the output that the task gives it."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A named task with all the pairs that are known of it."""

    name: str
    pairs: tuple[Pair, ...]

    @property
    def is_held_out(self) -> bool:
        """True when nothing of the task is trained on."""
        return self.name in HELD_OUT_TASKS

    @property
    def training_pairs(self) -> tuple[Pair, ...]:
        """The pairs that may be trained on or shown as examples; of a task that is held out, as examples only."""
        return tuple(pair for pair in self.pairs if not is_held_out(pair.input))

    @property
    def held_out_pairs(self) -> tuple[Pair, ...]:
        """The pairs that are asked about."""
        return tuple(pair for pair in self.pairs if is_held_out(pair.input))


def load_tasks(data: Path) -> tuple[Task, ...]:
    """Return the tasks of ``data/fewshot``, by name. Of several outputs of one input the first counts."""
    folder = data / "fewshot"
    tasks = [_task(path.stem, _json_pairs(path)) for path in sorted((folder / "function_vectors").glob("*.json"))]
    tasks.append(_task("antonym", _antonyms(folder / "antonym_cc0.tsv")))
    tasks.append(_task("spelling", (Pair(wrong, right) for wrong, right in read_table(folder / "spelling_typos_dict.tsv.xz"))))
    tasks += _translations(folder / "swadesh207_en_de_fr_it.tsv")
    return tuple(sorted(tasks, key=lambda task: task.name))


def load_classes(data: Path, *, held_out: bool = False) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return short texts of labelled data sets by data set and class: those to train on, or those that are held out."""
    folder = data / "classification"
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for domain, intent, text in read_table(folder / "clinc150_train.tsv.xz", has_header=True):
        found["intent"][intent.replace("_", " ")].append(text)
        found["topic"][domain.replace("_", " ")].append(text)
    for label, text in read_table(folder / "pros_cons_train.tsv.xz", has_header=True):
        found["pros and cons"][label].append(text)
    return {
        name: {
            label: kept
            for label, texts in classes.items()
            if (kept := tuple(text for text in texts if 0 < len(text) <= MAX_CHARACTERS and is_held_out(text) == held_out))
        }
        for name, classes in found.items()
    }


def load_categories(tasks: Sequence[Task], *, held_out: bool = False) -> dict[str, tuple[str, ...]]:
    """Return words by category ("animal", "verb" ...): those to train on, or those that are held out.

    They come from the training pairs of the tasks that ask for the one word of a category: ``animal_v_object_3`` has an
    animal as its output and objects as the rest of its input.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        if "_v_" not in task.name or task.is_held_out:
            continue
        chosen, others = task.name.rsplit("_", 1)[0].split("_v_")
        for pair in task.training_pairs:
            found[chosen].add(pair.output)
            # "Concept" is what is no object: it has every other category inside, and names none.
            if others != "concept":
                found[others] |= set(pair.input.split(", ")) - {pair.output}
    found.pop("concept", None)
    return {name: tuple(sorted(word for word in words if is_held_out(word) == held_out)) for name, words in sorted(found.items())}


def read_table(path: Path, *, has_header: bool = False) -> Iterator[list[str]]:
    """Yield the rows of a tab-separated file, compressed or not."""
    packed = path.read_bytes()
    text = (lzma.decompress(packed) if path.suffix == ".xz" else packed).decode("utf-8")
    rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    if has_header:
        next(rows)
    yield from rows


def _task(name: str, pairs: Iterator[Pair]) -> Task:
    first: dict[str, Pair] = {}
    for pair in pairs:
        if pair.input and pair.output and len(pair.input) <= MAX_CHARACTERS:
            first.setdefault(pair.input, pair)
    return Task(name=name, pairs=tuple(first.values()))


def _json_pairs(path: Path) -> Iterator[Pair]:
    for item in json.loads(path.read_text(encoding="utf-8")):
        yield Pair(str(item["input"]).strip(), str(item["output"]).strip())


def _antonyms(path: Path) -> Iterator[Pair]:
    for first, second in read_table(path):
        yield Pair(first, second)
        yield Pair(second, first)


def _translations(path: Path) -> Iterator[Task]:
    rows = [[variants.split(" | ") for variants in row] for row in read_table(path, has_header=True)]
    for column, language in enumerate(("german", "french", "italian"), start=1):
        # Rows for "I" and its kin begin with a grammatical note ("1 sg.").
        pairs = (Pair(row[0][0], row[column][0]) for row in rows if len(row) > column and not row[0][0][:1].isdigit())
        yield _task(f"english-{language}", pairs)
