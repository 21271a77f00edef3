"""Layers against the formulas they implement and against transformers."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from attendant_engine.layers.activations import ACTIVATIONS
from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Conv1D, Linear
from attendant_engine.layers.norm import LayerNorm, RMSNorm
from attendant_engine.layers.rotary import SCALINGS, RotaryEmbedding, rotate, scaled_frequencies

ROPES: list[dict[str, float | str]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
]


def fill(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape))


def test_a_linear_is_the_matrix_product_and_its_bias() -> None:
    layer = Linear(5, 3, bias=True)
    fill(layer)
    x = torch.randn(4, 5)
    assert layer.bias is not None
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    assert Linear(5, 3, bias=False).bias is None
    assert Conv1D(5, 3).weight.shape == (3, 5), "held as any other linear; only the file is transposed"


def test_an_embedding_looks_rows_up() -> None:
    table = Embedding(7, 3)
    fill(table)
    ids = torch.tensor([6, 0, 6])
    assert torch.equal(table(ids), table.weight[ids])


def test_norms_are_their_formulas() -> None:
    x = torch.randn(6, 8) * 3 + 1
    layer = LayerNorm(8, eps=1e-3)
    fill(layer)
    variance = x.var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(x), (x - x.mean(-1, keepdim=True)) / (variance + 1e-3).sqrt() * layer.weight + layer.bias)
    rms = RMSNorm(8, eps=1e-3)
    fill(rms)
    torch.testing.assert_close(rms(x), x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * rms.weight)


def test_an_rms_norm_in_bfloat16_equals_transformers_within_its_precision() -> None:
    theirs = LlamaRMSNorm(16, eps=1e-6).bfloat16()
    ours = RMSNorm(16, eps=1e-6).bfloat16()
    ours.weight.copy_(theirs.weight.detach())
    x = torch.randn(5, 16).bfloat16() * 100
    torch.testing.assert_close(ours(x), theirs(x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("scaling", ROPES, ids=lambda scaling: str(scaling["rope_type"]))
@pytest.mark.parametrize("head_dim", [2, 6, 16])
def test_rotary_positions_equal_transformers(head_dim: int, scaling: dict[str, float | str]) -> None:
    theta, num_positions = 1000.0, 200
    ours = RotaryEmbedding(head_dim, theta=theta, scaling=scaling)
    config = LlamaConfig(
        head_dim=head_dim,
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=num_positions,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    positions = torch.tensor([0, 1, 5, 63, 64, 199])
    x = torch.randn(6, 2, head_dim)
    cos, sin = LlamaRotaryEmbedding(config)(x, positions[None])
    expected, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(rotate(x, *ours(positions)), expected[0].transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_rotation_keeps_lengths_and_makes_scores_depend_on_distance_alone() -> None:
    rotary = RotaryEmbedding(8, theta=100.0, scaling={})
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def score(query_position: int, key_position: int) -> float:
        rotated = [rotate(x, *rotary(torch.tensor([position]))) for x, position in ((q, query_position), (k, key_position))]
        return float((rotated[0] * rotated[1]).sum())

    assert score(7, 3) == pytest.approx(score(44, 40), abs=1e-5)
    turned = rotate(q, *rotary(torch.tensor([31])))
    torch.testing.assert_close(turned.norm(), q.norm())


def test_an_unknown_rotary_scaling_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ValueError, match=f"'yarn' is none of .*{SCALINGS[-1]}"):
        scaled_frequencies(8, 10000.0, {"rope_type": "yarn"})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_transformers_of_that_name(name: str) -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), atol=1e-5, rtol=1e-5)
