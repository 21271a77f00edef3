"""Memory of our own is zero, is taken as it is written, and goes back when it is let go."""

from pathlib import Path

import pytest
import torch

from attendant_engine.host_memory import zeros

CPU = torch.device("cpu")


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5, 2), (1 << 19,), (513, 257, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_zeros_have_the_shape_and_type_that_were_asked_for(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = zeros(shape, dtype, CPU)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
    assert torch.equal(tensor, torch.zeros(shape, dtype=dtype))
    tensor.fill_(3)
    assert bool((tensor == 3).all())


def test_what_was_not_written_takes_no_memory() -> None:
    before = resident_bytes()
    large = zeros((1 << 30,), torch.uint8, CPU)
    large[: 1 << 20] = 1
    assert resident_bytes() - before < 64 << 20


def test_a_large_tensor_goes_back_to_the_system_when_it_is_let_go() -> None:
    kept = []
    before = resident_bytes()
    for _ in range(20):
        large = zeros((1 << 20,), torch.float32, CPU)
        large.fill_(1.0)
        kept.append(zeros((64,), torch.float32, CPU))
        del large
    assert resident_bytes() - before < 8 << 20
