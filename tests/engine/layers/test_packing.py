"""Packed weights: the plain product's values, rows that do not depend on the rows beside them, and the original let go."""

import pytest
import torch

from attendant_engine.layers.linear import Linear
from attendant_engine.layers.packing import PackedWeight, PlainWeight, can_pack, pack

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_in", "num_out"), [(1, 1), (7, 13), (64, 172), (96, 257)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_packed_product_is_the_plain_one(dtype: torch.dtype, num_in: int, num_out: int, has_bias: bool) -> None:
    if not can_pack(dtype, CPU):
        pytest.skip(f"this machine's oneDNN has no packed product in {dtype}")
    torch.manual_seed(num_in * num_out)
    weight, bias = torch.randn(num_out, num_in, dtype=dtype), torch.randn(num_out, dtype=dtype) if has_bias else None
    product = pack(weight)
    assert isinstance(product, PackedWeight)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for num_rows in (1, 2, 5, 33):
        x = torch.randn(num_rows, num_in, dtype=dtype)
        torch.testing.assert_close(product(x, bias), PlainWeight(weight)(x, bias), rtol=tolerance, atol=tolerance)


def test_a_dtype_without_a_packed_product_takes_the_plain_one() -> None:
    assert isinstance(pack(torch.randn(4, 3, dtype=torch.float64)), PlainWeight)


def test_packing_a_layer_keeps_its_values_and_lets_go_of_the_weight() -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=True)
    layer.weight.normal_()
    assert layer.bias is not None
    layer.bias.normal_()
    x = torch.randn(3, 24)
    before = layer(x)
    layer.pack()
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
