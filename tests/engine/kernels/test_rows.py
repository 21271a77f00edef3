"""Embeddings, norms, pooling and the finite check against torch in double precision; a row's bits are its own."""

import math

import pytest
import torch

from attendant_engine.kernels.cpu.calls import Format, WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.rows import QuantisedRows, embed, finite_rows, norm, pool
from attendant_engine.kernels.cpu.weights import PackedWeight
from attendant_engine.types import PoolingMode

WIDTHS = (1, 3, 8, 15, 16, 17, 33, 64, 100, 384, 768, 1023)
NOT_FINITE = (math.nan, math.inf, -math.inf)


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({4: torch.int32, 2: torch.int16, 1: torch.uint8}[x.element_size()])


def _norm_oracle(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float, is_rms: bool) -> torch.Tensor:
    wide = x.double()
    if is_rms:
        normalised = wide / (wide.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        return normalised * weight.double()
    return torch.nn.functional.layer_norm(wide, x.shape[-1:], weight.double(), None if bias is None else bias.double(), eps)


@pytest.mark.parametrize("kind", ["layer_norm", "layer_norm_without_bias", "rms_norm"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_norm_is_its_formula_in_every_format(kernels: KernelLibrary, kind: str, width: int) -> None:
    x = torch.randn(7, width) * torch.rand(7, 1) * 20 + torch.randn(7, 1) * 5
    weight, bias = torch.randn(width), torch.randn(width) if kind == "layer_norm" else None
    expected = _norm_oracle(x, weight, bias, 1e-5, kind == "rms_norm")

    def run(out_format: Format) -> QuantisedRows:
        return norm(kernels, x, weight, bias, eps=1e-5, is_rms=kind == "rms_norm", out_format=out_format)

    wide = run(Format.F32).values
    # The numbers' own rounding, as the division by their deviation magnifies it.
    condition = x.double().abs().amax(dim=-1, keepdim=True) / (x.double().var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()
    scale = expected.abs().amax(dim=-1, keepdim=True) + (0.0 if kind == "rms_norm" else condition * weight.abs().max())
    assert float(((wide - expected).abs() / scale).max()) < 1e-6
    assert torch.equal(run(Format.BF16).values, wide.bfloat16())
    quantised = run(Format.U8)
    assert quantised.scales is not None
    magnitude = wide.abs().amax(dim=-1)
    inverse = torch.where(magnitude > 0, torch.full_like(magnitude, 127) / magnitude, 0.0)  # 127 / x is a product with 1 / x
    assert torch.equal(quantised.values, (wide * inverse[:, None]).round().add(128).to(torch.uint8))
    torch.testing.assert_close(quantised.scales, magnitude / 127, rtol=1e-6, atol=0)


@pytest.mark.parametrize("out_format", [Format.F32, Format.BF16, Format.U8])
def test_a_row_of_a_norm_has_the_same_bits_in_any_company_and_on_any_number_of_threads(kernels: KernelLibrary, out_format: Format) -> None:
    width = 391
    x, weight, bias = torch.randn(65, width) * 4, torch.randn(width), torch.randn(width)

    def run(rows: torch.Tensor) -> QuantisedRows:
        return norm(kernels, rows, weight, bias, eps=1e-12, is_rms=False, out_format=out_format)

    together = run(x)
    for num_threads in (1, 2, 3):
        kernels.set_num_threads(num_threads)
        for begin, end in ((0, 1), (64, 65), (0, 2), (5, 22), (0, 65)):
            some = run(x[begin:end])
            assert torch.equal(_bits(some.values), _bits(together.values[begin:end]))
            if some.scales is not None and together.scales is not None:
                assert torch.equal(_bits(some.scales), _bits(together.scales[begin:end]))


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("is_rms", [False, True])
def test_what_is_not_finite_shows_in_its_own_row_and_in_no_other(kernels: KernelLibrary, bad: float, is_rms: bool) -> None:
    x, weight = torch.randn(5, 100), torch.ones(100)
    x[2, 97] = bad
    for out_format in (Format.F32, Format.BF16):
        out = norm(kernels, x, weight, None, eps=1e-5, is_rms=is_rms, out_format=out_format).values
        assert out.float().isfinite().all(dim=-1).tolist() == [True, True, False, True, True]
    scales = norm(kernels, x, weight, None, eps=1e-5, is_rms=is_rms, out_format=Format.U8).scales
    assert scales is not None and scales.isnan().tolist() == [False, False, True, False, False]


def test_a_norm_of_zeros_is_its_bias(kernels: KernelLibrary) -> None:
    weight, bias = torch.randn(50), torch.randn(50)
    assert torch.equal(norm(kernels, torch.zeros(3, 50), weight, bias, eps=1e-5, is_rms=False).values, bias.expand(3, 50))
    quantised = norm(kernels, torch.zeros(3, 50), weight, None, eps=1e-5, is_rms=True, out_format=Format.U8)
    assert quantised.scales is not None and quantised.scales.tolist() == [0.0] * 3 and bool((quantised.values == 128).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, 16, 33, 384])
def test_embeddings_are_added_in_float32(kernels: KernelLibrary, dtype: torch.dtype, width: int) -> None:
    tokens, positions, types = (torch.randn(rows, width).to(dtype) for rows in (30, 20, 2))
    token_ids, position_ids, type_ids = torch.randint(30, (9,)), torch.randint(20, (9,)), torch.randint(2, (9,))
    plain = embed(kernels, tokens, token_ids, width=width)
    assert torch.equal(plain, tokens[token_ids].float())
    with_positions = embed(kernels, tokens, token_ids, width=width, positions=(positions, position_ids))
    assert torch.equal(with_positions, plain + positions[position_ids].float())
    full = embed(kernels, tokens, token_ids, width=width, positions=(positions, position_ids), types=(types, type_ids))
    assert torch.equal(full, with_positions + types[type_ids].float())
    of_type_zero = embed(kernels, tokens, token_ids, width=width, types=(types, None))
    assert torch.equal(of_type_zero, plain + types[0].float())


@pytest.mark.parametrize("weight_format", [WeightFormat.F32, WeightFormat.BF16, WeightFormat.I8])
def test_a_tied_head_serves_as_table(kernels: KernelLibrary, weight_format: WeightFormat) -> None:
    head, positions = torch.randn(70, 48), torch.randn(20, 48)
    packed = PackedWeight(kernels, weight_format, [(head, None)])
    token_ids, position_ids = torch.tensor([0, 69, 64, 63, 5]), torch.tensor([0, 19, 3, 3, 1])
    out = embed(kernels, packed, token_ids, width=48, positions=(positions, position_ids))
    rows = torch.stack([packed.unpack_row(int(token_id)) for token_id in token_ids])
    assert torch.equal(out, rows + positions[position_ids])


LENGTHS = (1, 5, 64, 65, 200, 2, 1, 33)
MODES: tuple[PoolingMode, ...] = ("mean", "cls", "last", "mean", "mean", "mean", "mean", "last")


def _pool_inputs(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(sum(LENGTHS), width), torch.tensor([0, *LENGTHS]).cumsum(0).int()


@pytest.mark.parametrize("width", [1, 15, 384, 1000])
def test_pooling_is_its_formula(kernels: KernelLibrary, width: int) -> None:
    hidden, cu_seqlens = _pool_inputs(width)
    for is_normalized in (False, True):
        out = pool(kernels, hidden, cu_seqlens, MODES, [is_normalized] * len(MODES))
        for row, mode in enumerate(MODES):
            tokens = hidden[cu_seqlens[row] : cu_seqlens[row + 1]].double()
            expected = {"mean": tokens.mean(dim=0), "cls": tokens[0], "last": tokens[-1]}[mode]
            expected = torch.nn.functional.normalize(expected, dim=0) if is_normalized else expected
            torch.testing.assert_close(out[row].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_pooled_vector_has_the_same_bits_alone(kernels: KernelLibrary) -> None:
    hidden, cu_seqlens = _pool_inputs(300)
    is_normalized = [row % 2 == 0 for row in range(len(MODES))]
    together = pool(kernels, hidden, cu_seqlens, MODES, is_normalized)
    for num_threads in (1, 2, 3):
        kernels.set_num_threads(num_threads)
        for row, mode in enumerate(MODES):
            tokens = hidden[cu_seqlens[row] : cu_seqlens[row + 1]]
            alone = pool(kernels, tokens, torch.tensor([0, len(tokens)]).int(), [mode], [is_normalized[row]])
            assert torch.equal(_bits(alone[0]), _bits(together[row]))


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_the_finite_check_finds_the_row_wherever_the_number_stands(kernels: KernelLibrary, bad: float) -> None:
    for width in (1, 16, 31, 100, 257):
        for column in {0, width // 2, width - 1}:
            x = torch.randn(4, width) * 1e30
            x[1] = 3.4e38  # large, and finite all the same
            x[2, column] = bad
            assert finite_rows(kernels, x) == [True, True, False, True]
