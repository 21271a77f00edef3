"""Llama (Touvron et al. 2023): RMSNorm before each sub-layer, rotary positions, grouped queries, SwiGLU.

Names mirror Hugging Face's ``LlamaModel`` (``layers.0.self_attn.q_proj.weight`` ...).
"""

from typing import cast

import torch
from torch import nn

from attendant_engine.attention.base import AttentionBackend, AttentionMetadata, LayerCache
from attendant_engine.config import ModelConfig
from attendant_engine.kernels.cpu.arena import Value
from attendant_engine.kernels.cpu.operations import Rotary
from attendant_engine.kernels.cpu.program import ProgramBuilder
from attendant_engine.layers.activations import ACTIVATIONS, NATIVE_ACTIVATIONS, Activation
from attendant_engine.layers.attention import Attention
from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Linear
from attendant_engine.layers.norm import RMSNorm
from attendant_engine.layers.rotary import RotaryEmbedding, rotate
from attendant_engine.models.base import ModelInputs


class LlamaAttention(nn.Module):
    """Causal self-attention with rotary positions; query heads share key/value heads in groups."""

    def __init__(
        self, hidden_size: int, num_heads: int, num_kv_heads: int, head_dim: int, *, bias: bool, backend: AttentionBackend
    ) -> None:
        super().__init__()
        self.q_proj = Linear(hidden_size, num_heads * head_dim, bias=bias)
        self.k_proj = Linear(hidden_size, num_kv_heads * head_dim, bias=bias)
        self.v_proj = Linear(hidden_size, num_kv_heads * head_dim, bias=bias)
        self.o_proj = Linear(num_heads * head_dim, hidden_size, bias=bias)
        self.attend = Attention(backend, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, scale=head_dim**-0.5)

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        cache: LayerCache | None,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``; ``rotation`` is of each token's position."""
        q = rotate(self.attend.split_queries(self.q_proj(x)), *rotation)
        k = rotate(self.attend.split_keys(self.k_proj(x)), *rotation)
        v = self.attend.split_keys(self.v_proj(x))
        out: torch.Tensor = self.o_proj(self.attend(q, k, v, cache, metadata))
        return out

    def lower(self, program: ProgramBuilder, x: Value, rotary: Rotary, residual: Value) -> Value:
        """The same as native operations, and the residual added."""
        qkv = program.linear(x, [self.q_proj, self.k_proj, self.v_proj])
        return program.linear(program.attention(qkv, self.attend, rotary=rotary), [self.o_proj], residual=residual)


class LlamaMLP(nn.Module):
    """SwiGLU (Shazeer 2020): down(activation(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        out: torch.Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out

    def lower(self, program: ProgramBuilder, x: Value, residual: Value) -> Value:
        """The same as native operations, and the residual added."""
        wide = program.linear(x, [self.gate_proj, self.up_proj], activation=NATIVE_ACTIVATIONS[self.activation], is_gated=True)
        return program.linear(wide, [self.down_proj], residual=residual)


class LlamaLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn = LlamaAttention(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            bias=config.attention_bias,
            backend=backend,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = LlamaMLP(config.hidden_size, config.intermediate_size, bias=config.mlp_bias, activation=ACTIVATIONS[config.activation])

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        cache: LayerCache | None,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache, metadata)
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def lower(self, program: ProgramBuilder, x: Value, rotary: Rotary) -> Value:
        """The same as native operations."""
        x = self.self_attn.lower(program, program.norm(x, self.input_layernorm), rotary, residual=x)
        return self.mlp.lower(program, program.norm(x, self.post_attention_layernorm), residual=x)


class Llama(nn.Module):
    """The trunk: embeddings, layers, final norm."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        assert config.rope_theta is not None, "a Llama has rotary positions"
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaLayer(config, backend) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.num_positions = config.max_position_embeddings
        self.rotary_emb = RotaryEmbedding(config.head_dim, theta=config.rope_theta, scaling=dict(config.rope_scaling))

    @property
    def token_embedding(self) -> Embedding:
        """What a tied language-model head shares."""
        return self.embed_tokens

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]`` after the final norm."""
        hidden = self.embed_tokens(inputs.token_ids)
        rotation = self.rotary_emb(inputs.positions)
        for layer, cache in zip(self.layers, inputs.caches_by_layer(len(self.layers)), strict=True):
            hidden = layer(hidden, rotation, cache, inputs.attention)
        out: torch.Tensor = self.norm(hidden)
        return out

    def lower(self, program: ProgramBuilder) -> None:
        """The same as native operations."""
        x = program.embed(self.embed_tokens)
        cos, sin = self.rotary_emb(torch.arange(self.num_positions))
        rotary = Rotary(cos.flatten(1).contiguous(), sin.flatten(1).contiguous())
        for layer in self.layers:
            x = cast(LlamaLayer, layer).lower(program, x, rotary)
        program.output(program.norm(x, self.norm))
