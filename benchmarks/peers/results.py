"""What was measured, as data: repetitions in cells of engines in one group (a model in one class of precision)."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.cells import Cell, Precision
from benchmarks.peers.shapes import ModelName

MAX_FOREIGN_RATIO = 0.03
"""A repetition is disturbed if others had more of the machine than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """One run of a cell in round ``round_index``; ``foreign_ratio`` of the machine went to others."""

    round_index: int
    figures: dict[str, float]
    foreign_ratio: float

    @property
    def value(self) -> float:
        """The cell's figure."""
        return self.figures["value"]

    @property
    def is_disturbed(self) -> bool:
        """Whether somebody else was at work."""
        return self.foreign_ratio > MAX_FOREIGN_RATIO


@dataclass(slots=True)
class CellResult:
    """An engine's repetitions of a cell, or why there are none (or no more)."""

    cell: Cell
    repetitions: list[Repetition] = field(default_factory=list)
    problem: str | None = None

    @property
    def best_known(self) -> list[Repetition]:
        """Undisturbed repetitions if at least half are, else all."""
        quiet = [repetition for repetition in self.repetitions if not repetition.is_disturbed]
        return quiet if 2 * len(quiet) >= len(self.repetitions) else self.repetitions

    @property
    def num_disturbed(self) -> int:
        """Repetitions during which others had a part of the machine."""
        return sum(repetition.is_disturbed for repetition in self.repetitions)

    def values(self, figure: str = "value") -> list[float]:
        """Return one figure of every repetition that counts."""
        return [repetition.figures[figure] for repetition in self.best_known if figure in repetition.figures]

    def median(self) -> float:
        """Return the median of the figures that count."""
        return median(self.values())


@dataclass(slots=True)
class EngineResult:
    """All of one engine in a group. ``agreement`` compares its answer with the float32 reference's, in [0, 1]."""

    name: str
    title: str
    problem: str | None = None
    cells: list[CellResult] = field(default_factory=list)
    load_s: float = 0.0
    load_peak_bytes: int = 0
    serving_peak_bytes: int = 0
    agreement: float | None = None

    def cell(self, cell: Cell) -> CellResult:
        """Return the result for ``cell``."""
        return next(result for result in self.cells if result.cell == cell)


@dataclass(slots=True)
class Group:
    """One model in one class of precision: every engine, and the machine's limits in the same rounds."""

    model: ModelName
    precision: Precision
    cells: list[Cell]
    engines: list[EngineResult]
    roofline: EngineResult
    num_rounds: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return everything, for a file."""
        return asdict(self)
