"""Where a program's intermediate rows lie: one piece of memory, shared by values that are never alive together.

Places are in bytes a row, so one plan serves every capacity: a value begins at ``offset * capacity``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attendant_engine.kernels.cpu.calls import Format

ITEM_BYTES = {Format.F32: 4, Format.BF16: 2, Format.U8: 1}
ROW_ALIGNMENT = 64  # bytes: a cache line, and the widest register
CAPACITY_ALIGNMENT = 64  # rows; with offsets in whole bytes every value begins at a cache line


@dataclass(slots=True, eq=False)
class Value:
    """Rows of ``width`` numbers that an operation writes. ``formats`` are those that it can write them in; ``format`` is the one chosen.

    Rows of 8-bit numbers have a scale each. ``is_contiguous`` leaves no gap between rows.
    """

    width: int
    formats: frozenset[Format] = frozenset({Format.F32})
    format: Format = Format.F32
    is_contiguous: bool = False

    @property
    def stride(self) -> int:
        """Elements from one row to the next."""
        item_bytes = ITEM_BYTES[self.format]
        return self.width if self.is_contiguous else round_up(self.width * item_bytes, ROW_ALIGNMENT) // item_bytes

    @property
    def scales_offset(self) -> int:
        """Bytes a row before the scales."""
        return self.stride * ITEM_BYTES[self.format]

    @property
    def row_bytes(self) -> int:
        """Memory of one row, its scale included."""
        return self.scales_offset + (4 if self.format is Format.U8 else 0)


@dataclass(slots=True)
class Lifetime:
    """A value's memory from the operation that first writes it to the last that touches it, both included."""

    row_bytes: int
    first: int
    last: int


def round_up(count: int, unit: int) -> int:
    """Return the least multiple of ``unit`` that is no less than ``count``."""
    return -(-count // unit) * unit


def place(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Return each one's offset and the sum to allocate, in bytes a row: largest first, each in the first gap that fits."""
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda index: -lifetimes[index].row_bytes):
        mine = lifetimes[index]
        taken = sorted(
            (offsets[other], offsets[other] + lifetimes[other].row_bytes)
            for other in placed
            if lifetimes[other].first <= mine.last and mine.first <= lifetimes[other].last
        )
        offset = 0
        for begin, end in taken:
            if offset + mine.row_bytes <= begin:
                break
            offset = max(offset, end)
        offsets[index] = offset
        placed.append(index)
    return offsets, max((offset + life.row_bytes for offset, life in zip(offsets, lifetimes, strict=True)), default=0)


class Arena:
    """The memory itself, for at most ``capacity`` rows; ``offsets`` in bytes a row by value."""

    def __init__(self, offsets: dict[Value, int], row_bytes: int, capacity: int) -> None:
        self.capacity = round_up(capacity, CAPACITY_ALIGNMENT)
        self._offsets = offsets
        self._memory = torch.empty(row_bytes * self.capacity + ROW_ALIGNMENT, dtype=torch.uint8)
        self._start = round_up(self._memory.data_ptr(), ROW_ALIGNMENT) - self._memory.data_ptr()

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self._memory.nbytes

    def address(self, value: Value) -> int:
        """Return where the rows of ``value`` begin."""
        return self._memory.data_ptr() + self._first_byte(value)

    def scales_address(self, value: Value) -> int | None:
        """Return where the scales of its rows begin, or None without scales."""
        return self.address(value) + value.scales_offset * self.capacity if value.format is Format.U8 else None

    def tensor(self, value: Value) -> torch.Tensor:
        """Return the float32 rows of ``value`` as a view ``[capacity, width]``."""
        assert value.format is Format.F32
        begin = self._first_byte(value)
        rows = self._memory[begin : begin + value.row_bytes * self.capacity].view(torch.float32)
        return rows.view(self.capacity, value.stride)[:, : value.width]

    def _first_byte(self, value: Value) -> int:
        return self._start + self._offsets[value] * self.capacity
