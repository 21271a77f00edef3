"""Linear layers against float64 oracles on the same numbers: every instruction set, format, activation and odd shape."""

import random

import pytest
import torch

from attendant_engine.kernels.cpu.calls import Activation, WeightFormat
from attendant_engine.kernels.cpu.library import InstructionSet
from tests.engine.kernels.linears import (
    DTYPE_OF_INPUT,
    INSTRUCTION_SETS,
    WEIGHT_FORMATS,
    Expected,
    expect,
    forced,
    kernel_library,
    pack,
    quantize,
    run,
    sow,
    unpacked,
)

by_instruction_set = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda value: value.name.lower())
by_format = pytest.mark.parametrize("weight_format", WEIGHT_FORMATS, ids=lambda value: value.name.lower())


@pytest.fixture(autouse=True)
def _new_numbers() -> None:
    sow()


@by_instruction_set
@by_format
def test_outputs_are_the_oracles_at_any_shape(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    with forced(instruction_set):
        for num_inputs, num_outputs in [(1, 1), (3, 2), (64, 64), (37, 65), (399, 130), (777, 63), (1605, 33)]:
            weight, bias = torch.randn(num_outputs, num_inputs), torch.randn(num_outputs)
            packed = pack(weight_format, [(weight, bias)])
            for num_rows in [0, 1, 2, 3, 5, 8, 13, 14, 31, 70, 130]:
                x = torch.randn(num_rows, num_inputs)
                if num_rows == 0:
                    assert run(packed, x).shape == (0, num_outputs)
                else:
                    expect(weight_format, x, unpacked(packed), bias).check(run(packed, x))


@by_instruction_set
@by_format
@pytest.mark.parametrize("activation", list(Activation), ids=lambda value: value.name.lower())
def test_every_activation_is_the_papers(instruction_set: InstructionSet, weight_format: WeightFormat, activation: Activation) -> None:
    weight, bias, x = torch.randn(70, 50), torch.randn(70), torch.randn(9, 50)
    packed = pack(weight_format, [(weight, bias)])
    with forced(instruction_set):
        expect(weight_format, x, unpacked(packed), bias, activation).check(run(packed, x, activation=activation))


@by_instruction_set
@by_format
def test_a_gated_weight_gives_the_product_of_its_halves(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    for num_outputs in (31, 32, 100):
        gate, up, x = torch.randn(num_outputs, 75), torch.randn(num_outputs, 75), torch.randn(11, 75)
        bias = torch.randn(num_outputs)
        packed = pack(weight_format, [(gate, bias), (up, None)], is_gated=True)
        held_gate, held_up = unpacked(pack(weight_format, [(gate, None)])), unpacked(pack(weight_format, [(up, None)]))
        left = expect(weight_format, x, held_gate, bias, Activation.SILU)
        right = expect(weight_format, x, held_up)
        bound = left.bound * right.value.abs() + right.bound * left.value.abs() + left.bound * right.bound
        with forced(instruction_set):
            out = run(packed, x, activation=Activation.SILU)
        Expected(value=left.value * right.value, bound=bound + 1e-6 * (left.value * right.value).abs()).check(out)


@by_instruction_set
@by_format
def test_parts_lie_one_below_the_other(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    parts = [(torch.randn(rows, 40), torch.randn(rows) if rows != 17 else None) for rows in (48, 17, 65)]
    weight, bias = torch.cat([part[0] for part in parts]), torch.cat([torch.zeros(17) if b is None else b for _, b in parts])
    x = torch.randn(3, 40)
    with forced(instruction_set):
        assert torch.equal(run(pack(weight_format, parts), x), run(pack(weight_format, [(weight, bias)]), x))


@by_instruction_set
@by_format
def test_the_residual_is_added_and_may_be_the_output(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    weight, x, residual = torch.randn(77, 50), torch.randn(15, 50), torch.randn(15, 77)
    packed = pack(weight_format, [(weight, None)])
    with forced(instruction_set):
        plain = run(packed, x, activation=Activation.RELU)
        apart = run(packed, x, activation=Activation.RELU, residual=residual)
        assert torch.equal(apart, plain + residual)
        assert torch.equal(run(packed, x, activation=Activation.RELU, residual=residual, out=residual), apart)
        assert torch.equal(residual, apart)


@by_instruction_set
@by_format
def test_rows_are_gathered_by_their_ids(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    packed = pack(weight_format, [(torch.randn(70, 33), torch.randn(70))])
    x, row_ids = torch.randn(40, 33), torch.randint(40, (23,), dtype=torch.int32)
    with forced(instruction_set):
        assert torch.equal(run(packed, x, row_ids=row_ids), run(packed, x[row_ids]))


@by_instruction_set
@by_format
@pytest.mark.parametrize("num_inputs", [33, 64, 130])
def test_inputs_already_in_the_weights_format_give_the_same_bits(
    instruction_set: InstructionSet, weight_format: WeightFormat, num_inputs: int
) -> None:
    packed = pack(weight_format, [(torch.randn(70, num_inputs), None)])
    x, row_ids = torch.randn(9, num_inputs), torch.randint(9, (5,), dtype=torch.int32)
    given, scales = x.to(DTYPE_OF_INPUT[weight_format]), None
    if given.dtype is torch.uint8:
        given, scales = quantize(x)
    # Wider rows than there are inputs, with what would show in a sum beyond them.
    wide = torch.full((9, (num_inputs + 3) // 4 * 4 + 8), 255 if given.dtype is torch.uint8 else torch.nan, dtype=given.dtype)
    wide[:, :num_inputs] = given
    with forced(instruction_set):
        assert torch.equal(run(packed, wide[:, :num_inputs], scales=scales), run(packed, x))
        assert torch.equal(run(packed, wide[:, :num_inputs], scales=scales, row_ids=row_ids), run(packed, x[row_ids]))


@by_instruction_set
@by_format
def test_a_bfloat16_output_is_the_float32_one_rounded(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    packed, x = pack(weight_format, [(torch.randn(75, 33), None)]), torch.randn(7, 33)
    with forced(instruction_set):
        out = run(packed, x, out=torch.full((7, 75), torch.nan, dtype=torch.bfloat16))
        assert torch.equal(out, run(packed, x).bfloat16())


@by_instruction_set
@by_format
def test_nothing_is_written_beside_the_outputs(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    packed, x = pack(weight_format, [(torch.randn(70, 33), None)]), torch.randn(7, 33)
    for dtype in (torch.float32, torch.bfloat16):
        whole = torch.full((9, 90), 7.0, dtype=dtype)
        with forced(instruction_set):
            run(packed, x, out=whole[1:8, 10:80])
            assert torch.equal(whole[1:8, 10:80], run(packed, x).to(dtype))
        whole[1:8, 10:80] = 7.0
        assert bool((whole == 7.0).all())


@by_instruction_set
@by_format
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_spoils_its_own_output_and_no_other(
    instruction_set: InstructionSet, weight_format: WeightFormat, poison: float
) -> None:
    packed = pack(weight_format, [(torch.randn(70, 33), torch.randn(70))])
    for num_rows in (1, 4, 9, 40):
        x = torch.randn(num_rows, 33)
        poisoned, row = x.clone(), random.randrange(num_rows)
        poisoned[row, random.randrange(33)] = poison
        with forced(instruction_set):
            healthy, out = run(packed, x), run(packed, poisoned)
        assert not bool(out[row].isfinite().any())
        others = torch.arange(num_rows) != row
        assert torch.equal(out[others], healthy[others])


@by_instruction_set
@by_format
@pytest.mark.parametrize("activation", [a for a in Activation if a is not Activation.NONE], ids=lambda value: value.name.lower())
def test_nan_passes_every_activation(instruction_set: InstructionSet, weight_format: WeightFormat, activation: Activation) -> None:
    packed, x = pack(weight_format, [(torch.randn(70, 33), None)]), torch.full((1, 33), torch.nan)
    with forced(instruction_set):
        assert bool(run(packed, x, activation=activation).isnan().all())


@by_instruction_set
@by_format
def test_a_row_of_zeros_gives_the_bias(instruction_set: InstructionSet, weight_format: WeightFormat) -> None:
    bias = torch.randn(70)
    packed = pack(weight_format, [(torch.randn(70, 33), bias)])
    with forced(instruction_set):
        assert torch.equal(run(packed, torch.zeros(2, 33)), bias.expand(2, -1))


def test_integer_products_are_the_same_in_every_instruction_set() -> None:
    instruction_sets = [each for each in INSTRUCTION_SETS if each <= kernel_library().instruction_set]
    if len(instruction_sets) == 1:
        pytest.skip(f"this processor has none but {instruction_sets[0].name}")
    for num_inputs in (65, 2000):
        packed, x = pack(WeightFormat.I8, [(torch.randn(130, num_inputs), torch.randn(130))]), torch.randn(20, num_inputs)
        # The largest products that there are: what an instruction that saturates would get wrong.
        x[0], x[1] = 3.0, -3.0
        outputs = []
        for instruction_set in instruction_sets:
            with forced(instruction_set):
                outputs.append(run(packed, x))
        assert all(torch.equal(outputs[0], output) for output in outputs[1:])
