"""Bits per byte of documents, by a served model, by n-grams and by file compressors: the same documents, the same bytes.

Models see each document by itself, behind the mark that ends the one before. A served model sees up to its whole context:
windows advance by half of it, and each token is scored in the first window that has it.
"""

import gzip
import lzma
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attendant_client import Client
from models.recipes.gpt.measure.ngram import NgramModel

Bits = Callable[[Sequence[int]], float]
"""Takes the token ids of a document and returns the bits that a model needs for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text and its token ids."""

    text: str
    token_ids: tuple[int, ...]


def bits_per_byte(documents: Sequence[Document], bits: Bits) -> float:
    """Return a model's bits over all documents for each of their UTF-8 bytes."""
    num_bytes = sum(len(document.text.encode()) for document in documents)
    return math.fsum(bits(document.token_ids) for document in documents) / num_bytes


def compressed_bits_per_byte(documents: Sequence[Document]) -> dict[str, float]:
    """Return what gzip and xz at their best make of the documents end to end."""
    text = "".join(document.text for document in documents).encode()
    sizes = {"gzip -9": len(gzip.compress(text, 9)), "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))}
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def ngram_bits(model: NgramModel, *, order: int, begin: int) -> Bits:
    """Return the scorer of an n-gram model."""
    return lambda token_ids: float(model.bits(token_ids, order=order, begin=begin).sum())


def served_bits(client: Client, model: str, *, begin: int, context: int) -> Bits:
    """Return the scorer of a served model: log-probabilities of prompts, over gRPC."""

    def bits(token_ids: Sequence[int]) -> float:
        sequence = (begin, *token_ids)
        nats = 0.0
        for window in windows(len(sequence), context):
            answer = client.complete(model, sequence[window.start : window.end], max_tokens=0, prompt_logprobs=0)
            positions = answer.completions[0].prompt_logprobs[window.first_scored - window.start :]
            nats -= math.fsum(position.logprob for position in positions if position.logprob is not None)
        return nats / math.log(2)

    return bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a sequence to be sent; what stands before ``first_scored`` is context alone."""

    start: int
    end: int
    first_scored: int


def windows(length: int, context: int) -> list[Window]:
    """Return windows of at most ``context`` that score each place but the first of a sequence exactly once."""
    found: list[Window] = []
    scored = 1
    while scored < length:
        start = 0 if not found else scored - context // 2
        end = min(start + context, length)
        found.append(Window(start=start, end=end, first_scored=scored))
        scored = end
    return found
