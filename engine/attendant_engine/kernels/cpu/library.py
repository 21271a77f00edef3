"""Loads the compiled kernels and says whether this machine can run them. ctypes releases the GIL during every call."""

import ctypes
from ctypes import c_char_p, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path

import torch

from attendant_engine.kernels.cpu.calls import STRUCTS
from attendant_engine.machine import available_cores

LIBRARY_PATH = Path(__file__).with_name("libattendant_cpu.so")


class InstructionSet(IntEnum):
    """The sets that kernels exist for, each one containing those before it."""

    NONE = 0
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3


class KernelLibrary:
    """The shared object at ``path``; every entry point is an attribute of ``c``, declared with its argument types.

    Raises ``OSError`` where it cannot be loaded, ``RuntimeError`` where it was compiled from other sources than these.
    """

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        try:
            _declare(self.c)
            is_ours = all(self.c.attendant_struct_bytes(struct.__name__.encode()) == ctypes.sizeof(struct) for struct in STRUCTS)
        except AttributeError:
            is_ours = False
        if not is_ours:
            raise RuntimeError("The compiled CPU kernels are not of this version; run `make` again.")
        # OMP_NUM_THREADS, which torch has read, may say less than the machine has.
        self.c.attendant_set_num_threads(min(max(1, round(available_cores())), torch.get_num_threads()))

    @property
    def instruction_set(self) -> InstructionSet:
        """The one in force: the best that this machine has, unless one was forced."""
        return InstructionSet(self.c.attendant_isa())

    def force_instruction_set(self, instruction_set: InstructionSet) -> bool:
        """Run the kernels of ``instruction_set`` from now on; return False where this machine lacks it."""
        return bool(self.c.attendant_force_isa(instruction_set))

    @property
    def num_threads(self) -> int:
        """Threads that a kernel runs on."""
        return int(self.c.attendant_num_threads())

    def set_num_threads(self, num_threads: int) -> None:
        """Size the pool, which all models of this process share."""
        self.c.attendant_set_num_threads(num_threads)


@cache
def load_library() -> KernelLibrary | None:
    """Return this process's kernels, or None where they are not built or the processor has no instruction set for them."""
    try:
        library = KernelLibrary(LIBRARY_PATH)
    except OSError:
        return None
    return None if library.instruction_set is InstructionSet.NONE else library


def _declare(c: ctypes.CDLL) -> None:
    for name in ("linear", "embed", "norm", "write_cache", "attention", "pool", "finite", "sample", "logprobs"):
        kernel = getattr(c, f"attendant_{name}")
        kernel.argtypes, kernel.restype = [c_void_p], None
    c.attendant_isa.argtypes, c.attendant_isa.restype = [], c_int32
    c.attendant_force_isa.argtypes, c.attendant_force_isa.restype = [c_int32], c_int32
    c.attendant_num_threads.argtypes, c.attendant_num_threads.restype = [], c_int32
    c.attendant_set_num_threads.argtypes, c.attendant_set_num_threads.restype = [c_int32], None
    c.attendant_struct_bytes.argtypes, c.attendant_struct_bytes.restype = [c_char_p], c_int64
    c.attendant_lay_out_weight.argtypes, c.attendant_lay_out_weight.restype = [c_int32, c_int64, c_int64, c_int32], c_void_p
    c.attendant_pack_weight.argtypes = [c_int32, c_int32, c_void_p, c_int32, c_int64, c_int32]
    c.attendant_pack_weight.restype = c_void_p
    c.attendant_free_weight.argtypes, c.attendant_free_weight.restype = [c_void_p], None
    c.attendant_weight_bytes.argtypes, c.attendant_weight_bytes.restype = [c_void_p], c_int64
    c.attendant_linear_scratch_bytes.argtypes, c.attendant_linear_scratch_bytes.restype = [c_void_p, c_int64], c_int64
    c.attendant_unpack_row.argtypes, c.attendant_unpack_row.restype = [c_void_p, c_int64, c_void_p], None
    c.attendant_program_new.argtypes, c.attendant_program_new.restype = [c_void_p, c_int64], c_void_p
    c.attendant_program_free.argtypes, c.attendant_program_free.restype = [c_void_p], None
    c.attendant_program_run.argtypes, c.attendant_program_run.restype = [c_void_p, c_void_p, c_void_p], c_int32
