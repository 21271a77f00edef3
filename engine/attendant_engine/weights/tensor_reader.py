"""Reads stored tensors by position, a few megabytes at a time, into memory that goes back to the system when it is let go.

Nothing is memory-mapped: the pages of a mapped file count as this process's own for as long as the map lives. Knows
neither models nor which tensors there should be.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from attendant_engine.errors import CheckpointError
from attendant_engine.host_memory import zeros
from attendant_engine.weights.safetensors_files import StoredTensor, read_layout

READABLE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Element types that a weight may be stored in."""

_CHUNK_BYTES = 8 << 20

Span = tuple[int, int]
"""First and last, not included, of neighbouring rows or columns."""


class TensorReader:
    """The open weight files of a checkpoint. Raises ``CheckpointError`` for a file that is damaged or cannot be read."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._places: dict[str, tuple[str, int, StoredTensor]] = {}
        self._open_files = ExitStack()
        try:
            for path in files:
                try:
                    file = self._open_files.enter_context(path.open("rb", buffering=0))
                except OSError:
                    raise _unreadable(path.name) from None
                for name, tensor in read_layout(path).items():
                    self._places[name] = (path.name, file.fileno(), tensor)
            self._staging = zeros((_CHUNK_BYTES,), torch.uint8, torch.device("cpu"))
        except BaseException:
            self._open_files.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open_files.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor, in the order of the files."""
        return tuple(self._places)

    def stored_dtype(self, name: str) -> str:
        """Return safetensors' own name of the element type of tensor ``name``."""
        return self._places[name][2].dtype

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type that tensor ``name`` is stored in, which must be a readable one."""
        return READABLE_DTYPES[self._places[name][2].dtype]

    def row_chunks(
        self, name: str, *, rows: Sequence[Span] | None = None, columns: Sequence[Span] | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield tensor ``name`` in pieces: the first row's index and rows ``[n, ...]``, good until the next piece is asked for.

        A vector's rows are its elements. A row wider than the staging buffer is read into memory of its own. With ``rows``
        these alone, counted as they come; with ``columns``, which takes a matrix, these alone of each: nothing else is read.
        """
        file_name, descriptor, stored = self._places[name]
        dtype, shape = READABLE_DTYPES[stored.dtype], stored.shape or (1,)
        stored_row_bytes = torch.Size(shape[1:]).numel() * dtype.itemsize
        if columns is None:
            widths, pieces = shape[1:], [(0, stored_row_bytes)]
        else:
            widths = (sum(last - first for first, last in columns),)
            pieces = [(first * dtype.itemsize, (last - first) * dtype.itemsize) for first, last in columns]
        row_bytes = sum(size for _, size in pieces)
        if row_bytes == 0 or shape[0] == 0:
            return
        staging = self._staging if row_bytes <= _CHUNK_BYTES else zeros((row_bytes,), torch.uint8, torch.device("cpu"))
        rows_per_chunk = len(staging) // row_bytes
        num_before = 0
        for first_row, last_row in [(0, shape[0])] if rows is None else rows:
            for first in range(first_row, last_row, rows_per_chunk):
                num_rows = min(rows_per_chunk, last_row - first)
                chunk = staging[: num_rows * row_bytes]
                start = stored.offset + first * stored_row_bytes
                if columns is None:
                    _read(descriptor, chunk, start, file_name)
                else:
                    _read_pieces(descriptor, chunk.view(num_rows, row_bytes), start, stored_row_bytes, pieces, file_name)
                yield num_before + first - first_row, chunk.view(dtype).view(num_rows, *widths)
            num_before += last_row - first_row


def _read_pieces(
    descriptor: int, into: torch.Tensor, offset: int, stored_row_bytes: int, pieces: Sequence[tuple[int, int]], file_name: str
) -> None:
    """Fill each row of ``into`` ``[n, bytes]`` with the ``pieces`` (first byte, size) of a stored row, from position ``offset`` on."""
    for row in into:
        begin = 0
        for first, size in pieces:
            _read(descriptor, row[begin : begin + size], offset + first, file_name)
            begin += size
        offset += stored_row_bytes


def _read(descriptor: int, into: torch.Tensor, offset: int, file_name: str) -> None:
    """Fill the bytes ``into`` from position ``offset`` on."""
    memory = memoryview((ctypes.c_char * into.numel()).from_address(into.data_ptr())).cast("B")
    num_read = 0
    while num_read < into.numel():
        try:
            count = os.preadv(descriptor, [memory[num_read:]], offset + num_read)
        except OSError:
            raise _unreadable(file_name) from None
        if count == 0:
            raise _unreadable(file_name)  # it became shorter after its header was read
        num_read += count


def _unreadable(file_name: str) -> CheckpointError:
    return CheckpointError(f"{file_name} cannot be read; download it again.")
