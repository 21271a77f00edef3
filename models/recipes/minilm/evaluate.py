"""Measures ``attendant-minilm`` and its adapters on a running server, over gRPC alone, and the reference beside it."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr

from attendant_client import Client
from models.recipes.minilm.figures import confusion_svg
from models.recipes.minilm.metrics import Judgement, accuracy, calibration_error, confusion, f1, macro_f1
from models.recipes.minilm.tasks import OUT_OF_SCOPE, Example, clinc_rows, read_table, sentiment_rows
from models.recipes.minilm.trunk import NAME, package_directory

_INPUTS_PER_CALL = 128
ItemT = TypeVar("ItemT")


def evaluate(data: Path, address: str, figures: Path | None, *, model: str = NAME) -> None:
    """Print every figure of the card; with ``figures`` write the confusion matrices there."""
    folder = data / "classification"
    table = Table("adapter", "file", "texts", "accuracy", "macro-F1", "calibration error", title="over gRPC")
    with Client(address) as client:
        measured = {
            "sentiment": ("sentence_polarity_dev", sentiment_rows(folder / "sentence_polarity_dev.tsv.xz")),
            "topic": ("clinc150_val", clinc_rows(folder / "clinc150_val.tsv.xz", "domain")),
            "intent": ("clinc150_val", clinc_rows(folder / "clinc150_val.tsv.xz", "intent")),
        }
        outside = clinc_rows(folder / "clinc150_oos_val.tsv.xz", "intent")
        for name, (file, examples) in measured.items():
            adapter = f"{model}-{name}"
            judgements = judge(client, adapter, examples)
            table.add_row(adapter, file, *_row(judgements))
            if name == "intent":
                judgements += judge(client, adapter, outside)
                table.add_row(adapter, f"{file} + clinc150_oos_val", *_row(judgements))
            if figures is not None:
                figures.mkdir(parents=True, exist_ok=True)
                labels = client.get_model(adapter).labels
                picture = confusion_svg(f"{adapter} on {file}", labels, confusion(judgements, labels))
                (figures / f"confusion-{name}.svg").write_text(picture, encoding="utf-8")
        ours = spearman(*_similarities(client, model, data))
    console = Console()
    console.print(table)
    recall = accuracy([one for one in judgements if one.truth == OUT_OF_SCOPE])
    console.print(f"out of scope: F1 {f1(judgements, OUT_OF_SCOPE):.3f}, recall {recall:.3f}, on clinc150_val + clinc150_oos_val")
    reference = spearman(*_reference_similarities(data))
    console.print(f"Spearman on stsb_captions_dev: {ours:.5f}; sentence-transformers {reference:.5f}; difference {ours - reference:+.5f}")


def judge(client: Client, adapter: str, examples: Sequence[Example]) -> list[Judgement]:
    """Ask the server for every example's label."""
    judgements: list[Judgement] = []
    for chunk in track(list(_chunks(examples)), description=adapter):
        answer = client.classify(adapter, [example.text for example in chunk])
        for example, said in zip(chunk, answer.classifications, strict=True):
            judgements.append(Judgement(example.label, said.label, said.score))
    return judgements


def spearman(similarities: Sequence[float], scores: Sequence[float]) -> float:
    """Return the rank correlation."""
    return float(spearmanr(similarities, scores).statistic)


def _row(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    figures = (f"{accuracy(judgements):.2%}", f"{macro_f1(judgements):.4f}", f"{calibration_error(judgements):.4f}")
    return (str(len(judgements)), *figures)


def _pairs(data: Path) -> tuple[list[str], list[float]]:
    """Return both sentences of every pair, one after the other, and the scores."""
    rows = read_table(data / "share_alike" / "stsb_captions_dev.tsv.xz")
    return [text for row in rows for text in (row["sentence1"], row["sentence2"])], [float(row["score_0_5"]) for row in rows]


def _similarities(client: Client, model: str, data: Path) -> tuple[list[float], list[float]]:
    texts, scores = _pairs(data)
    vectors = [vector for chunk in _chunks(texts) for vector in client.embed(model, list(chunk)).vectors]
    return [_dot(vectors[index], vectors[index + 1]) for index in range(0, len(vectors), 2)], scores


def _reference_similarities(data: Path) -> tuple[list[float], list[float]]:
    texts, scores = _pairs(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer(str(package_directory()), device="cpu").encode(texts).tolist()
    return [_dot(vectors[index], vectors[index + 1]) for index in range(0, len(vectors), 2)], scores


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def _chunks(items: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    for first in range(0, len(items), _INPUTS_PER_CALL):
        yield items[first : first + _INPUTS_PER_CALL]
