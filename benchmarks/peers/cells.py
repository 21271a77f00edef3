"""What is measured: a cell is one load on one model, in one class of precision, with one figure as its outcome.

Standard library alone: both virtual environments read it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["decode", "prefill", "first_token", "encode", "bandwidth", "gemm"]
Precision = Literal["float32", "bfloat16", "int8", "int4"]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "int4")
PROMPT_TOKENS = 128
PREFILL_TOKENS = 1000
NUM_ARRIVALS = 16
UNITS: dict[Kind, str] = {
    "decode": "tokens/s",
    "prefill": "tokens/s",
    "first_token": "ms",
    "encode": "sentences/s",
    "bandwidth": "GB/s",
    "gemm": "GFLOP/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One load: ``num_sequences`` at once of ``prompt_tokens`` each, ``new_tokens`` generated a sequence.

    A roofline's cell uses ``num_sequences`` for its threads and ``variant`` for what is multiplied.
    """

    kind: Kind
    num_sequences: int = 1
    prompt_tokens: int = 0
    new_tokens: int = 0
    variant: str = ""

    @property
    def is_lower_better(self) -> bool:
        """Times shrink, rates grow."""
        return self.kind == "first_token"

    @property
    def label(self) -> str:
        """Name the cell in a table."""
        match self.kind:
            case "decode":
                return f"decode, {_sequences(self.num_sequences)}, tokens/s"
            case "prefill":
                return f"prefill of {self.prompt_tokens:,}, tokens/s"
            case "first_token":
                return f"first token, {self.num_sequences} arrivals of {self.prompt_tokens}, mean ms"
            case "encode":
                return f"batch {self.num_sequences} x {self.prompt_tokens} tokens, sentences/s"
            case "bandwidth":
                return f"DRAM read, {self.num_sequences} thread{'s' if self.num_sequences > 1 else ''}, GB/s"
            case "gemm":
                return f"GEMM {self.variant}, GFLOP/s"

    def to_json(self) -> dict[str, Any]:
        """Return the fields for the pipe to a worker."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an engine must hold room for: the most sequences at once, and the longest one."""

    max_sequences: int
    max_tokens: int
    total_tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields for the pipe to a worker."""
        return asdict(self)


def decoder_cells(sequences: list[int], *, new_tokens: int) -> list[Cell]:
    """Return a decoder's cells: decoding at each number of sequences, one long prompt, concurrent arrivals."""
    decode = [Cell(kind="decode", num_sequences=n, prompt_tokens=PROMPT_TOKENS, new_tokens=new_tokens) for n in sequences]
    return [
        *decode,
        Cell(kind="prefill", prompt_tokens=PREFILL_TOKENS, new_tokens=1),
        Cell(kind="first_token", num_sequences=NUM_ARRIVALS, prompt_tokens=PROMPT_TOKENS, new_tokens=1),
    ]


def encoder_cells() -> list[Cell]:
    """Return an encoder's cells: one text and 32, short and long."""
    return [Cell(kind="encode", num_sequences=batch, prompt_tokens=length) for batch in (1, 32) for length in (32, 256)]


def load_of(cells: list[Cell]) -> Load:
    """Return the room that all of ``cells`` take."""
    return Load(
        max_sequences=max(cell.num_sequences for cell in cells),
        max_tokens=max(cell.prompt_tokens + cell.new_tokens for cell in cells),
        total_tokens=max(cell.num_sequences * (cell.prompt_tokens + cell.new_tokens) for cell in cells),
    )


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count} sequences"
