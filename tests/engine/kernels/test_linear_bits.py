"""A row's bits do not depend on the rows beside it: alone and in batches, at any place, on any number of threads."""

import random

import pytest
import torch

from attendant_engine.kernels.cpu.calls import Activation, WeightFormat
from attendant_engine.kernels.cpu.library import InstructionSet
from tests.engine.kernels.linears import DTYPE_OF_INPUT, INSTRUCTION_SETS, WEIGHT_FORMATS, forced, pack, quantize, run, sow

NUM_ROWS = 48


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda value: value.name.lower())
@pytest.mark.parametrize("weight_format", WEIGHT_FORMATS, ids=lambda value: value.name.lower())
@pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
def test_rows_are_bit_equal_alone_and_in_any_batch(instruction_set: InstructionSet, weight_format: WeightFormat, is_gated: bool) -> None:
    choose = random.Random(sow())
    num_cases = 0
    for num_inputs, num_outputs in [(choose.randrange(400, 900), 97), (choose.randrange(1, 200), choose.randrange(1, 400)), (1700, 65)]:
        parts: list[tuple[torch.Tensor, torch.Tensor | None]] = [
            (torch.randn(num_outputs, num_inputs), torch.randn(num_outputs)) for _ in range(2 if is_gated else 1)
        ]
        packed = pack(weight_format, parts, is_gated=is_gated)
        activation = choose.choice(list(Activation))
        x = torch.randn(NUM_ROWS, num_inputs) * torch.logspace(-3, 3, NUM_ROWS)[:, None]
        with forced(instruction_set, num_threads=1):
            alone = torch.cat([run(packed, x[i : i + 1], activation=activation) for i in range(NUM_ROWS)])
        sizes = [*(choose.randrange(2, 24) for _ in range(12)), *(choose.randrange(24, 130) for _ in range(6)), choose.randrange(240, 600)]
        for num_rows in sizes:
            row_ids = torch.tensor([choose.randrange(NUM_ROWS) for _ in range(num_rows)], dtype=torch.int32)
            with forced(instruction_set, num_threads=choose.choice([1, 2, 2, 3, 5])):
                gathered = run(packed, x, row_ids=row_ids, activation=activation)
                given, scales = x[row_ids].to(DTYPE_OF_INPUT[weight_format]), None
                if given.dtype is torch.uint8:
                    given, scales = quantize(x[row_ids])
                    given = torch.nn.functional.pad(given, (0, -num_inputs % 4))[:, :num_inputs]
                placed = run(packed, given, scales=scales, activation=activation)
            assert _same_bits(gathered, alone[row_ids])
            assert _same_bits(placed, alone[row_ids])
            num_cases += 2 * num_rows
    assert num_cases > 2000


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda value: value.name.lower())
@pytest.mark.parametrize("weight_format", WEIGHT_FORMATS, ids=lambda value: value.name.lower())
def test_rows_are_bit_equal_alone_and_among_4096(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    packed = pack(weight_format, [(torch.randn(80, 100), torch.randn(80))])
    x, row_ids = torch.randn(NUM_ROWS, 100), torch.randint(NUM_ROWS, (4096,), dtype=torch.int32)
    with forced(instruction_set):
        alone = torch.cat([run(packed, x[i : i + 1]) for i in range(NUM_ROWS)])
        assert _same_bits(run(packed, x, row_ids=row_ids), alone[row_ids])
