"""What every kernel shares: activations within a few units in the last place, bfloat16 and bytes rounded as torch rounds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from attendant_engine.kernels.cpu.calls import Activation, Format, WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.kernels.cpu.rows import norm
from attendant_engine.kernels.cpu.weights import PackedWeight

ORACLES: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.NONE: lambda x: x,
    Activation.GELU: functional.gelu,
    Activation.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
    Activation.QUICK_GELU: lambda x: x * torch.sigmoid(1.702 * x),
    Activation.RELU: functional.relu,
    Activation.SQUARED_RELU: lambda x: functional.relu(x).square(),
    Activation.SILU: functional.silu,
    Activation.TANH: torch.tanh,
}


def _activate(kernels: KernelLibrary, x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Apply ``activation`` to every number by a linear layer of the one weight 1."""
    layer = NativeLinear(kernels, PackedWeight(kernels, WeightFormat.F32, [(torch.ones(1, 1), None)]), activation)
    return layer(x[:, None]).squeeze(-1).clone()


@pytest.mark.parametrize("activation", list(Activation))
def test_an_activation_is_its_formula(kernels: KernelLibrary, activation: Activation) -> None:
    x = torch.cat([torch.randn(20_000) * 3, torch.linspace(-30, 30, 20_000), torch.tensor([0.0, 1e-30, 1e4, -1e4, 1e18, -1e18])])
    out, expected = _activate(kernels, x, activation), ORACLES[activation](x.double())
    # What is lost where 1 + erf is a difference of near equals, and by rounding the argument of an exponential, counts in x.
    bound = 1e-6 * expected.abs() + (2e-7 if activation is Activation.GELU else 1e-9) * x.double().abs()
    assert bool(((out - expected).abs() <= bound).all())


@pytest.mark.parametrize("activation", list(Activation))
def test_an_activation_hides_nothing_that_is_not_finite(kernels: KernelLibrary, activation: Activation) -> None:
    out = _activate(kernels, torch.tensor([math.nan, math.inf]), activation)
    assert math.isnan(out[0]) and out[1] == (1.0 if activation is Activation.TANH else math.inf)


def _through_norm(kernels: KernelLibrary, wanted: torch.Tensor) -> torch.Tensor:
    """Return ``wanted`` as the kernels convert it to bfloat16: a norm of (1, 1, ...) has what its weight says."""
    return norm(kernels, torch.ones(1, len(wanted)), wanted, None, eps=0.0, is_rms=True, out_format=Format.BF16).values[0]


def test_conversion_to_bfloat16_is_torchs_for_any_bits_and_keeps_every_nan(kernels: KernelLibrary) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (50_003,), dtype=torch.int32)
    bits[:6] = torch.tensor([0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000, 0x7F800000, -0x800000], dtype=torch.int32)
    bits[6:5000] = bits[6:5000] & ~0xFFFF | 0x8000  # ties
    numbers = bits.view(torch.float32)
    out, expected = _through_norm(kernels, numbers), numbers.bfloat16()
    assert torch.equal(out.isnan(), numbers.isnan())
    # Multiplying by 1 flushes no subnormal and changes no number, so the bits are all the conversion's.
    assert torch.equal(out[~numbers.isnan()].view(torch.int16), expected[~numbers.isnan()].view(torch.int16))


@pytest.mark.parametrize("width", [1, 7, 16, 50, 384, 1001])
def test_quantised_rows_are_half_a_unit_from_the_truth(kernels: KernelLibrary, width: int) -> None:
    x = torch.randn(1, width)
    quantised = norm(kernels, torch.ones(1, width), x[0], None, eps=0.0, is_rms=True, out_format=Format.U8)
    assert quantised.scales is not None
    restored = (quantised.values.float() - 128) * quantised.scales[:, None]
    assert bool(((restored - x).abs() <= 0.5001 * quantised.scales[:, None]).all())
    assert int(quantised.values.min()) >= 1 and int((quantised.values.int() - 128).abs().max()) == 127
