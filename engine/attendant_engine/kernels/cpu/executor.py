"""A built program: its memory, its caches, and running it: by one native call a step, or one between two sums over ranks."""

import ctypes
import time
from collections.abc import Sequence
from itertools import groupby

import torch

from attendant_engine.kernels.cpu.arena import Arena, Value
from attendant_engine.kernels.cpu.cache_layout import CACHE_FORMATS, TILE, elements_per_token
from attendant_engine.kernels.cpu.calls import CacheView, Op, OpKind, Step
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.operations import NativeOperation, Operation, SumOperation

_MIN_CAPACITY = 256


class Program:
    """A forward pass. Made by ``ProgramBuilder``; run by one thread at a time.

    Memory grows to the most rows that were asked for, and stays. ``dtype`` is that of the program's own cache; a paged cache
    brings its own.
    """

    def __init__(
        self,
        library: KernelLibrary,
        operations: Sequence[Operation],
        caches: Sequence[CacheView],
        dtype: torch.dtype,
        output: Value,
        offsets: dict[Value, int],
        row_bytes: int,
    ) -> None:
        self._library = library
        self._operations = operations
        self._caches = caches
        self._dtype = dtype
        self._output = output
        self._offsets = offsets
        self._row_bytes = row_bytes
        self._arena: Arena | None = None
        self._hidden = torch.empty(0, output.width)
        self._own_blocks = 0
        self._own_memory: list[torch.Tensor] = []
        self._attached: object = None
        self._pieces = _pieces(library, operations)

    @property
    def operations(self) -> Sequence[Operation]:
        """What it runs, in order."""
        return self._operations

    @property
    def num_bytes(self) -> int:
        """Memory beside weights and the caches attached."""
        return (0 if self._arena is None else self._arena.num_bytes) + sum(tensor.nbytes for tensor in self._own_memory)

    @property
    def hidden(self) -> torch.Tensor:
        """The output's rows ``[capacity, E]`` float32, of which the last run wrote the first."""
        return self._hidden

    def reserve(self, num_tokens: int) -> None:
        """Have memory for steps of ``num_tokens``."""
        if self._arena is not None and num_tokens <= self._arena.capacity:
            return
        capacity = max(num_tokens, _MIN_CAPACITY, 0 if self._arena is None else 2 * self._arena.capacity)
        self._hidden = torch.empty(0, self._output.width)
        self._arena = None  # the old memory goes before the new comes
        self._arena = Arena(self._offsets, self._row_bytes, capacity)
        self._hidden = self._arena.tensor(self._output)
        self._bind()

    def attach(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], owner: object) -> None:
        """Use the paged cache ``layers``, a key and a value tensor ``[num_blocks, elements]`` each, unless it is attached already.

        ``owner`` stands for all of them: the same object means the same tensors.
        """
        if self._attached is owner:
            return
        for cache, (key, value) in zip(self._caches, layers, strict=True):
            elements = elements_per_token(cache.num_kv_heads, cache.head_dim, key.dtype)
            cache.key, cache.value, cache.block_size = key.data_ptr(), value.data_ptr(), key[0].numel() // elements
            cache.format = CACHE_FORMATS[key.dtype]
        self._attached = owner
        self._bind()

    def attach_own(self, num_tokens: int, num_sequences: int) -> None:
        """Use the program's own cache, with room for whole sequences of together ``num_tokens``."""
        num_blocks = num_tokens // TILE + num_sequences
        if self._attached is self and num_blocks <= self._own_blocks:
            return
        if self._caches and num_blocks > self._own_blocks:
            elements = max(elements_per_token(cache.num_kv_heads, cache.head_dim, self._dtype) * TILE for cache in self._caches)
            self._own_memory = []
            self._own_memory = [torch.empty(num_blocks * elements, dtype=self._dtype) for _ in range(2)]
            self._own_blocks = num_blocks
        for cache in self._caches:
            cache.key, cache.value = (memory.data_ptr() for memory in self._own_memory)
            cache.block_size, cache.format = TILE, CACHE_FORMATS[self._dtype]
        self._attached = self
        self._bind()

    def run(self, step: Step) -> torch.Tensor:
        """Run one step, for which memory is reserved and a cache attached; return float32 rows ``[T, E]``, valid until the next run."""
        for piece in self._pieces:
            piece.run(step)
        return self._hidden[: step.num_tokens]

    def run_timed(self, step: Step) -> list[tuple[Operation, float]]:
        """Run one step; return each operation, and the seconds from when it began until every thread had done it."""
        return [timed for piece in self._pieces for timed in piece.run_timed(step)]

    def _bind(self) -> None:
        if self._arena is not None:
            for operation in self._operations:
                operation.bind(self._arena)


class _NativePiece:
    """Operations that are one native call."""

    def __init__(self, library: KernelLibrary, operations: Sequence[NativeOperation]) -> None:
        self._library = library
        self._operations = operations
        self._ops = (Op * len(operations))(
            *(
                Op(operation.kind, _has_barrier(operation) and index + 1 < len(operations), ctypes.addressof(operation.call))
                for index, operation in enumerate(operations)
            )
        )
        self._op_ns = (ctypes.c_int64 * len(operations))()
        handle = library.c.attendant_program_new(ctypes.addressof(self._ops), len(operations))
        if not handle:
            raise MemoryError("There is no memory left for a program.")
        self._handle: int = handle

    def run(self, step: Step, op_ns: int | None = None) -> None:
        if self._library.c.attendant_program_run(self._handle, ctypes.addressof(step), op_ns) != 0:
            raise MemoryError("There is no memory left to place the sequences of a step.")

    def run_timed(self, step: Step) -> list[tuple[Operation, float]]:
        self.run(step, ctypes.addressof(self._op_ns))
        return [(operation, op_ns * 1e-9) for operation, op_ns in zip(self._operations, self._op_ns, strict=True)]

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.c.attendant_program_free(self._handle)


class _SumPiece:
    """A sum over ranks, between two native calls."""

    def __init__(self, operation: SumOperation) -> None:
        self._operation = operation

    def run(self, step: Step) -> None:
        self._operation.run(step.num_tokens)

    def run_timed(self, step: Step) -> list[tuple[Operation, float]]:
        begun_s = time.perf_counter()
        self.run(step)
        return [(self._operation, time.perf_counter() - begun_s)]


def _pieces(library: KernelLibrary, operations: Sequence[Operation]) -> list[_NativePiece | _SumPiece]:
    pieces: list[_NativePiece | _SumPiece] = []
    for is_sum, some in groupby(operations, lambda operation: isinstance(operation, SumOperation)):
        if is_sum:
            pieces += [_SumPiece(operation) for operation in some if isinstance(operation, SumOperation)]
        else:
            pieces.append(_NativePiece(library, [operation for operation in some if not isinstance(operation, SumOperation)]))
    return pieces


def _has_barrier(operation: NativeOperation) -> bool:
    """Most steps have no rows for an adapter; where there are some, the operation waits for all threads by itself."""
    return operation.kind is not OpKind.LOW_RANK
