"""Packed weights: what comes back out of them, how exactly each format holds a number, and what they take."""

import pytest
import torch

from attendant_engine.kernels.cpu.calls import WeightFormat
from tests.engine.kernels.linears import WEIGHT_FORMATS, pack, sow, unpacked

SHAPES = [(1, 1), (64, 64), (130, 67), (3, 300), (200, 33)]


def _weight(num_outputs: int, num_inputs: int) -> torch.Tensor:
    sow()
    return torch.randn(num_outputs, num_inputs)


@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
def test_float32_is_held_as_it_is(num_outputs: int, num_inputs: int) -> None:
    weight = _weight(num_outputs, num_inputs)
    assert torch.equal(unpacked(pack(WeightFormat.F32, [(weight, None)])), weight)


@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
def test_bfloat16_is_rounded_to_nearest(num_outputs: int, num_inputs: int) -> None:
    weight = _weight(num_outputs, num_inputs)
    assert torch.equal(unpacked(pack(WeightFormat.BF16, [(weight, None)])), weight.bfloat16().float())


@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
def test_int8_is_symmetric_with_a_scale_an_output(num_outputs: int, num_inputs: int) -> None:
    weight = _weight(num_outputs, num_inputs)
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    held = unpacked(pack(WeightFormat.I8, [(weight, None)]))
    assert bool(((held - weight).abs() <= scale * 0.5001).all())
    levels = held / scale
    assert float((levels - levels.round()).abs().max()) < 1e-4


@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
def test_int4_has_a_scale_for_each_32_inputs(num_outputs: int, num_inputs: int) -> None:
    weight = _weight(num_outputs, num_inputs)
    held = unpacked(pack(WeightFormat.I4, [(weight, None)]))
    for k in range(0, num_inputs, 32):
        group, held_group = weight[:, k : k + 32], held[:, k : k + 32]
        # One step below zero more than above, so the largest value's sign decides that of the scale.
        extreme = group.gather(1, group.abs().argmax(dim=1, keepdim=True))
        scale = (-extreme / 8).bfloat16().float()
        plain = (group / scale).round().clamp(-8, 7) * scale
        assert bool(((held_group - group).square().sum(dim=1) <= (plain - group).square().sum(dim=1) * 1.0001).all())
        assert all(len(row.unique()) <= 16 for row in held_group)


@pytest.mark.parametrize("weight_format", WEIGHT_FORMATS)
def test_a_bfloat16_source_packs_as_the_same_numbers_in_float32(weight_format: WeightFormat) -> None:
    weight = _weight(70, 45).bfloat16()
    assert torch.equal(unpacked(pack(weight_format, [(weight, None)])), unpacked(pack(weight_format, [(weight.float(), None)])))


@pytest.mark.parametrize("weight_format", WEIGHT_FORMATS)
def test_zeros_stay_zeros_and_a_weight_that_is_not_finite_stays_so(weight_format: WeightFormat) -> None:
    weight = torch.randn(5, 40)
    weight[1] = 0
    weight[2, 7] = torch.nan
    weight[3, 7] = torch.inf
    held = unpacked(pack(weight_format, [(weight, None)]))
    assert not bool(held[1].any())
    assert not bool(held[2, 7].isfinite())
    assert not bool(held[3, 7].isfinite())
    assert bool(held[[0, 1, 4]].isfinite().all())


@pytest.mark.parametrize(
    ("weight_format", "bytes_a_number"),
    [(WeightFormat.F32, 4.0), (WeightFormat.BF16, 2.0), (WeightFormat.I8, 1.0), (WeightFormat.I4, 0.5625)],
)
def test_a_weight_takes_its_numbers_and_a_few_vectors(weight_format: WeightFormat, bytes_a_number: float) -> None:
    packed = pack(weight_format, [(torch.randn(640, 1024), None)])
    vectors = 12 if weight_format is WeightFormat.I8 else 4
    assert packed.num_bytes == 640 * 1024 * bytes_a_number + 640 * vectors


def test_an_int8_weight_whose_sums_could_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="65537 inputs"):
        pack(WeightFormat.I8, [(torch.zeros(1, 65537), None)])
