"""The measurement of a running server: ``python -m models.recipes.gpt measure``."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from attendant_client import Client
from models.recipes.gpt.corpus import TRAINING_SOURCES, VALIDATION_SOURCES, WorkFiles, cut_text, open_tokens, read_documents
from models.recipes.gpt.measure.continuation import continue_openings
from models.recipes.gpt.measure.few_shot import measure_case, read_cases
from models.recipes.gpt.measure.ngram import NgramModel
from models.recipes.gpt.measure.report import Measurements, write_report
from models.recipes.gpt.measure.text import Document, bits_per_byte, compressed_bits_per_byte, ngram_bits, served_bits
from models.recipes.gpt.tokenizer import END_OF_TEXT

NGRAM_ORDERS = (3, 5)


def measure_command(arguments: argparse.Namespace) -> None:
    """Measure the parts that were asked for and write the report."""
    console = Console(stderr=True)
    with Client(arguments.url) as client:
        client.wait_ready(arguments.model)
        model = client.get_model(arguments.model)
        found = Measurements(model=arguments.model, receipt=f"sha256 {model.digest}, {model.dtype} on {model.device_kind}")
        if "text" in arguments.parts:
            found.bits_per_byte = _measure_texts(client, arguments, console)
        if "few-shot" in arguments.parts:
            for case in track(read_cases(arguments.cases), "few-shot cases", console=console):
                found.scores += measure_case(client, arguments.model, case)
        if "continuations" in arguments.parts:
            found.continuations = continue_openings(client, arguments.model)
    write_report(found, arguments.output, command=shlex.join(["python", "-m", "models.recipes.gpt", *sys.argv[1:]]))
    console.print(f"Written to {arguments.output}")


def _measure_texts(client: Client, arguments: argparse.Namespace, console: Console) -> dict[str, dict[str, float]]:
    context = client.get_model(arguments.model).max_model_len
    (begin,) = client.tokenize(arguments.model, END_OF_TEXT, add_special_tokens=False).token_ids
    scorers = {arguments.model: served_bits(client, arguments.model, begin=begin, context=context)}
    ngrams = _count_ngrams(WorkFiles(directory=arguments.work), client.get_model(arguments.model).vocab_size)
    scorers |= {f"{order}-gram": ngram_bits(ngrams, order=order, begin=begin) for order in NGRAM_ORDERS}
    found = {}
    for source in VALIDATION_SOURCES:
        documents = list(_documents(client, arguments.model, arguments.data / "lm" / f"{source}.txt.xz"))
        found[source] = {name: bits_per_byte(documents, bits) for name, bits in scorers.items()} | compressed_bits_per_byte(documents)
        console.print(f"{source}: {found[source]}")
    return found


def _documents(client: Client, model: str, path: Path) -> Iterator[Document]:
    for text in read_documents(path):
        pieces = (client.tokenize(model, piece, add_special_tokens=False).token_ids for piece in cut_text(text))
        yield Document(text=text, token_ids=tuple(token_id for piece in pieces for token_id in piece))


def _count_ngrams(work: WorkFiles, vocab_size: int) -> NgramModel:
    tokens = np.concatenate([open_tokens(work, source) for source in TRAINING_SOURCES])
    return NgramModel(tokens, vocab_size=vocab_size, max_order=max(NGRAM_ORDERS))
