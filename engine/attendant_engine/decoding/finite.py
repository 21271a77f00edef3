"""Finding the rows that a fault has spoiled: those with a number that is not finite."""

import torch

from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.kernels.cpu.rows import can_serve
from attendant_engine.kernels.cpu.rows import finite_rows as native_finite_rows


def finite_rows(rows: torch.Tensor) -> list[bool]:
    """Say of each row of ``rows`` ``[N, E]`` whether all its numbers are finite."""
    library = load_library()
    if library is not None and can_serve(rows):
        return native_finite_rows(library, rows)
    # A sum is finite only where all are (or it overflows), and is one pass without a mask.
    are_finite: list[bool] = rows.sum(dim=-1, dtype=torch.float32).isfinite().tolist()
    if all(are_finite):
        return are_finite
    exact: list[bool] = rows.isfinite().all(dim=-1).tolist()
    return exact
