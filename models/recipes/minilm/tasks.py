"""The three tasks of attendant-minilm's adapters: their rows, their labels, and how each is trained."""

import lzma
import random
from dataclasses import dataclass
from pathlib import Path

OUT_OF_SCOPE = "oos"
PASSAGE_WORDS = 40
_SENTIMENT = {"pos": "positive", "neg": "negative", "pro": "positive", "con": "negative"}


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label."""

    text: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An adapter to train: on all of ``train`` in every epoch, and on a new part of ``extra`` in each.

    ``held_out`` is taken from the training files, for calibration; the dev files are only measured.

    Layers below ``first_layer`` are not adapted: what a request is about they know already, what it feels like they do not.
    """

    name: str
    labels: list[str]
    train: list[Example]
    extra: list[Example]
    held_out: list[Example]
    first_layer: int
    num_epochs: int
    learning_rate: float


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a compressed table with a header."""
    header, *lines = lzma.decompress(path.read_bytes()).decode("utf-8").splitlines()
    names = header.split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


def sentiment_rows(path: Path) -> list[Example]:
    """Return texts that are positive or negative."""
    return [Example(row["text"], _SENTIMENT[row["label"]]) for row in read_table(path)]


def review_passages(path: Path) -> list[Example]:
    """Return the last passages of whole reviews, where the verdict is, each under its review's label."""
    passages: list[Example] = []
    for row in sentiment_rows(path):
        words = row.text.split()[-5 * PASSAGE_WORDS :]
        starts = range(0, len(words), PASSAGE_WORDS)
        passages += [Example(" ".join(words[start : start + PASSAGE_WORDS]), row.label) for start in starts]
    return passages


def clinc_rows(path: Path, column: str) -> list[Example]:
    """Return requests with their ``domain`` or ``intent``."""
    return [Example(row["text"], row[column]) for row in read_table(path)]


def load_task(name: str, data: Path, seed: int) -> Task:
    """Return the task ``name`` from the pack of data at ``data``."""
    rng = random.Random(seed)
    folder = data / "classification"
    if name == "sentiment":
        reviews = sentiment_rows(folder / "sentence_polarity_train.tsv.xz")
        rng.shuffle(reviews)
        phrases = sentiment_rows(folder / "pros_cons_train.tsv.xz")
        passages = review_passages(folder / "movie_reviews_train.tsv.xz")
        extra = rng.sample(phrases, 12_000) + rng.sample(passages, 6_000)
        rng.shuffle(extra)
        return Task(
            name=name,
            labels=["negative", "positive"],
            train=reviews[500:],
            extra=extra,
            held_out=reviews[:500],
            first_layer=0,
            num_epochs=4,
            learning_rate=6e-4,
        )
    column = {"topic": "domain", "intent": "intent"}[name]
    rows = clinc_rows(folder / "clinc150_train.tsv.xz", column)
    rng.shuffle(rows)
    labels = sorted({row.label for row in rows})
    train, held_out = rows[750:], rows[:750]
    if name == "intent":
        outside = clinc_rows(folder / "clinc150_oos_train.tsv.xz", column)
        rng.shuffle(outside)
        train, held_out = train + outside[25:] * 8, held_out + outside[:25]
        labels.append(OUT_OF_SCOPE)
    num_epochs = 4 if name == "intent" else 2
    return Task(
        name=name, labels=labels, train=train, extra=[], held_out=held_out, first_layer=3, num_epochs=num_epochs, learning_rate=1e-3
    )


TASKS = ("sentiment", "topic", "intent")
