"""Packed weights: the plain product's values, rows that do not depend on the rows beside them, and the original let go."""

import pytest
import torch

from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.layers import packing
from attendant_engine.layers.linear import Linear
from attendant_engine.layers.packing import NativeWeight, OneDnnWeight, PlainWeight, can_pack, pack

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=["native", "onednn"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Return the product that is to be chosen: with the native kernels, and where they are not built."""
    if request.param == "native":
        return NativeWeight
    monkeypatch.setattr(packing, "load_library", lambda: None)
    return OneDnnWeight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_in", "num_out"), [(1, 1), (7, 13), (64, 172), (96, 257)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_packed_product_is_the_plain_one(layout: type, dtype: torch.dtype, num_in: int, num_out: int, has_bias: bool) -> None:
    if not can_pack(dtype, CPU):
        pytest.skip(f"this machine's oneDNN has no packed product in {dtype}")
    torch.manual_seed(num_in * num_out)
    weight, bias = torch.randn(num_out, num_in, dtype=dtype), torch.randn(num_out, dtype=dtype) if has_bias else None
    product = pack(weight, bias)
    assert isinstance(product, layout)
    for num_rows in (1, 2, 5, 33):
        x = torch.randn(num_rows, num_in, dtype=dtype)
        torch.testing.assert_close(product(x), PlainWeight(weight, bias)(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_native_products_row_is_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    product = pack(torch.randn(70, 45, dtype=dtype), torch.randn(70, dtype=dtype))
    x = torch.randn(40, 45, dtype=dtype)
    alone = torch.cat([product(x[i : i + 1]) for i in range(40)])
    assert torch.equal(product(x), alone)
    assert torch.equal(product(x[::2]), alone[::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("weight_format", "tolerance"), [(WeightFormat.I8, 0.02), (WeightFormat.I4, 0.2)])
def test_a_weight_is_held_in_fewer_bits_where_asked(dtype: torch.dtype, weight_format: WeightFormat, tolerance: float) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(70, 96, dtype=dtype), torch.randn(5, 96, dtype=dtype)
    out, plain = pack(weight, None, weight_format)(x), PlainWeight(weight, None)(x)
    assert out.dtype is dtype
    assert float((out - plain).float().norm() / plain.float().norm()) < tolerance


def test_fewer_bits_take_the_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "load_library", lambda: None)
    with pytest.raises(RuntimeError, match="native CPU kernels"):
        pack(torch.randn(4, 3), None, WeightFormat.I8)


def test_a_dtype_without_a_packed_product_takes_the_plain_one() -> None:
    assert isinstance(pack(torch.randn(4, 3, dtype=torch.float64), None), PlainWeight)


def test_packing_a_layer_keeps_its_values_and_lets_go_of_the_weight(layout: type) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=True)
    layer.weight.normal_()
    assert layer.bias is not None
    layer.bias.normal_()
    x = torch.randn(3, 24)
    before = layer(x)
    layer.pack()
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)
    assert not list(layer.parameters())
