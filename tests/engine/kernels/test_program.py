"""Programs: a small network built by hand equals its formula, memory is shared safely, and weights are let go of."""

import random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from attendant_engine.kernels.cpu.arena import Lifetime, Value, place
from attendant_engine.kernels.cpu.calls import Activation, Format, Step, WeightFormat
from attendant_engine.kernels.cpu.executor import Program
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.operations import LinearOperation, NormOperation
from attendant_engine.kernels.cpu.program import ProgramBuilder
from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Linear
from attendant_engine.layers.norm import LayerNorm

WIDTH, WIDE, VOCAB_SIZE = 40, 72, 50


class Network(nn.Module):
    """x = embedding; twice: x + down(gelu(up(norm(x)))); norm."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.embedding = Embedding(VOCAB_SIZE, WIDTH)
        self.norms = nn.ModuleList(LayerNorm(WIDTH, eps=1e-5) for _ in range(3))
        self.ups = nn.ModuleList(Linear(WIDTH, WIDE, bias=True) for _ in range(2))
        self.downs = nn.ModuleList(Linear(WIDE, WIDTH, bias=True) for _ in range(2))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def formula(self, token_ids: torch.Tensor) -> torch.Tensor:
        def norm(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
            return layer_norm(x, (WIDTH,), _double(module.weight), _double(module.bias), 1e-5)

        def product(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
            return x @ _double(module.weight).T + _double(module.bias)

        x = self.embedding(token_ids).double()
        for before, up, down in zip(self.norms, self.ups, self.downs, strict=False):
            x = x + product(gelu(product(norm(x, before), up)), down)
        return norm(x, self.norms[2])

    def lower(self, builder: ProgramBuilder) -> Program:
        x = builder.embed(self.embedding)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=False):
            wide = builder.linear(builder.norm(x, norm), [up], activation=Activation.GELU)
            x = builder.linear(wide, [down], residual=x)
        builder.output(builder.norm(x, self.norms[2]))
        return builder.finish()


def _double(weight: torch.Tensor | nn.Module) -> torch.Tensor:
    assert isinstance(weight, torch.Tensor)
    return weight.double()


@pytest.fixture
def library() -> KernelLibrary:
    loaded = load_library()
    if loaded is None:
        pytest.skip("the CPU kernels are not built here")
    return loaded


def builder_for(
    library: KernelLibrary, weight_format: WeightFormat = WeightFormat.F32, dtype: torch.dtype = torch.float32
) -> ProgramBuilder:
    return ProgramBuilder(library, dtype=dtype, weight_format=weight_format, fill=lambda module, dtype: None)


def run(program: Program, token_ids: torch.Tensor) -> torch.Tensor:
    program.reserve(len(token_ids))
    return program.run(Step(num_tokens=len(token_ids), token_ids=token_ids.data_ptr()))


@pytest.mark.parametrize(("weight_format", "tolerance"), [(WeightFormat.F32, 1e-5), (WeightFormat.BF16, 0.03), (WeightFormat.I8, 0.05)])
@torch.inference_mode()
def test_a_network_is_its_formula_and_a_row_has_the_same_bits_in_any_company(
    library: KernelLibrary, weight_format: WeightFormat, tolerance: float
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    network = Network(seed)
    token_ids = torch.randint(VOCAB_SIZE, (300,), generator=torch.Generator().manual_seed(seed))
    expected = network.formula(token_ids)
    program = network.lower(builder_for(library, weight_format))
    together = run(program, token_ids).clone()
    assert (together - expected).abs().max() < tolerance * expected.abs().max(), f"seed {seed}"
    for first, count in ((0, 1), (17, 1), (3, 5), (100, 64), (40, 260)):
        assert torch.equal(run(program, token_ids[first : first + count].clone()), together[first : first + count]), f"seed {seed}"


@torch.inference_mode()
def test_memory_grows_to_the_most_rows_and_the_last_run_is_at_hand(library: KernelLibrary) -> None:
    network = Network(0)
    program = network.lower(builder_for(library))
    assert program.num_bytes == 0
    few = run(program, torch.arange(3)).clone()
    held = program.num_bytes
    assert torch.equal(run(program, torch.arange(3)), few)
    assert program.num_bytes == held
    many = run(program, torch.arange(50).repeat(40))
    assert program.num_bytes > held
    assert torch.equal(many[:3], few)
    assert torch.equal(program.hidden[:2000], many)


@torch.inference_mode()
def test_a_norm_and_a_wide_layer_write_what_the_next_layer_reads(library: KernelLibrary) -> None:
    def formats(weight_format: WeightFormat) -> list[Format]:
        builder = builder_for(library, weight_format)
        program = Network(0).lower(builder)
        return [operation.out.format for operation in program.operations if isinstance(operation, NormOperation | LinearOperation)]

    f32, bf16, u8 = Format.F32, Format.BF16, Format.U8
    assert formats(WeightFormat.F32) == [f32] * 7
    assert formats(WeightFormat.BF16) == [bf16, bf16, f32] * 2 + [f32]
    assert formats(WeightFormat.I8) == [u8, f32, f32] * 2 + [f32]


@pytest.mark.parametrize(
    ("weight_format", "second"), [(WeightFormat.F32, None), (WeightFormat.BF16, Format.BF16), (WeightFormat.I8, Format.U8)]
)
@torch.inference_mode()
def test_a_norm_that_is_also_a_residual_is_written_twice(
    library: KernelLibrary, weight_format: WeightFormat, second: Format | None
) -> None:
    def build(*, is_read_by_linear_alone: bool) -> Program:
        network, builder = Network(0), builder_for(library, weight_format)
        x = builder.norm(builder.embed(network.embedding), network.norms[0])
        wide = builder.linear(x, [network.ups[0]])
        builder.output(builder.linear(wide, [network.downs[0]], residual=None if is_read_by_linear_alone else x))
        return builder.finish()

    norm = build(is_read_by_linear_alone=False).operations[1]
    assert isinstance(norm, NormOperation)
    assert norm.out.format is Format.F32
    assert (None if norm.also is None else norm.also.format) is second
    token_ids = torch.arange(20)
    first = Network(0).norms[0]
    residual = layer_norm(Network(0).embedding(token_ids).double(), (WIDTH,), _double(first.weight), _double(first.bias)).float()
    together = run(build(is_read_by_linear_alone=False), token_ids)
    torch.testing.assert_close(together, run(build(is_read_by_linear_alone=True), token_ids) + residual)


@torch.inference_mode()
def test_packing_lets_go_of_every_float_weight(library: KernelLibrary) -> None:
    network = Network(0)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    filled: list[tuple[nn.Module, torch.dtype]] = []
    builder = ProgramBuilder(
        library, dtype=torch.bfloat16, weight_format=WeightFormat.I8, fill=lambda module, dtype: filled.append((module, dtype))
    )
    network.lower(builder)
    assert not list(network.parameters())
    assert dict(filled)[network.embedding] is torch.bfloat16
    assert len(filled) == 8
    assert builder.weight_bytes < 3 * num_parameters


@torch.inference_mode()
def test_a_tied_table_is_packed_once_and_embeds_its_own_rows(library: KernelLibrary) -> None:
    network = Network(0)
    weight = network.embedding.weight.clone()
    builder = ProgramBuilder(
        library, dtype=torch.float32, weight_format=WeightFormat.F32, fill=lambda module, dtype: None, shared_table=network.embedding
    )
    builder.output(builder.norm(builder.embed(network.embedding), network.norms[0]))
    norm: Any = network.norms[0]
    program = builder.finish()
    assert builder.packed_table is not None
    assert torch.equal(builder.packed_table.unpack_row(7), weight[7])
    again = Network(0).norms[0]
    assert isinstance(again, LayerNorm)
    assert norm.weight is None
    torch.testing.assert_close(run(program, torch.tensor([7, 3])), again(weight[[7, 3]]))


@torch.inference_mode()
def test_a_timed_run_names_every_operation(library: KernelLibrary) -> None:
    program = Network(0).lower(builder_for(library))
    program.reserve(2)
    token_ids = torch.tensor([1, 2])
    timed = program.run_timed(Step(num_tokens=2, token_ids=token_ids.data_ptr()))
    assert [operation.name for operation, _ in timed] == ["embed", *["norm", "linear 40 x 72", "linear 72 x 40"] * 2, "norm"]
    assert all(seconds >= 0 for _, seconds in timed)


def test_values_alive_together_never_overlap() -> None:
    rng = random.Random(random.SystemRandom().randrange(2**32))
    for _ in range(200):
        lifetimes = [
            Lifetime(rng.randint(1, 9) * 64, first, first + rng.randint(0, 5))
            for first in sorted(rng.choices(range(30), k=rng.randint(1, 25)))
        ]
        offsets, row_bytes = place(lifetimes)
        for index, (mine, begin) in enumerate(zip(lifetimes, offsets, strict=True)):
            assert begin >= 0 and begin + mine.row_bytes <= row_bytes
            for other, other_begin in zip(lifetimes[:index], offsets[:index], strict=True):
                is_apart = begin + mine.row_bytes <= other_begin or other_begin + other.row_bytes <= begin
                assert is_apart or mine.last < other.first or other.last < mine.first, lifetimes
        busiest = max(sum(life.row_bytes for life in lifetimes if life.first <= time <= life.last) for time in range(36))
        assert row_bytes <= 3 * busiest


def test_rows_begin_at_cache_lines_and_have_their_scales_behind_them() -> None:
    value = Value(70, format=Format.U8)
    assert (value.stride, value.scales_offset, value.row_bytes) == (128, 128, 132)
    assert (Value(70).stride, Value(70, is_contiguous=True).stride) == (80, 70)
