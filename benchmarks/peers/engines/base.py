"""What every engine's adapter looks like to the worker that holds it. Standard library alone.

An adapter is built once for a model in one class of precision and answers loads until its process ends. It keeps no
clock of its own: a decoder tells when each token came, and the worker makes the figures from that, alike for all.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.cells import Load, Precision

NUM_TOGETHER = 4
"""Prompts that are computed at once where first tokens are all that is wanted: the first ones answer earlier so."""


class UnsupportedError(Exception):
    """The engine cannot do this; the text says why and is printed in its cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What an adapter is built from.

    ``path`` is the model in the engine's own format; ``num_vocab`` its vocabulary; ``num_threads`` what it may use.
    """

    model: str
    path: Path
    precision: Precision
    num_threads: int
    load: Load
    num_vocab: int


@dataclass(slots=True)
class Answer:
    """One sequence's tokens and the moment (``time.perf_counter``) at which each was known to the caller."""

    token_ids: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)

    def add(self, token_id: int, at_s: float) -> None:
        """Note the next token."""
        self.token_ids.append(token_id)
        self.at_s.append(at_s)


class Decoder(Protocol):
    """An engine that continues prompts, greedily and past any end-of-text token."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer all prompts, which arrive at once, as one load."""
        ...


class Encoder(Protocol):
    """An engine that turns texts of equal length into normalised mean-pooled vectors."""

    def encode(self, batch: list[list[int]]) -> Any:
        """Return one vector a text: lists of numbers, or any two-dimensional array with ``tolist``."""
        ...


class Meter(Protocol):
    """A part of the roofline: it has no model, and says itself how fast the machine was."""

    def measure(self, variant: str, num_threads: int) -> float:
        """Return GB/s or GFLOP/s."""
        ...
