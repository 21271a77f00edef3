"""GPT-2 (Radford et al. 2019): learned positions, norms before each sub-layer, one fused query-key-value product.

Names mirror Hugging Face's ``GPT2Model`` (``h.0.attn.c_attn.weight`` ...), whose products are Conv1D: stored ``[in, out]``.
"""

from typing import cast

import torch
from torch import nn

from attendant_engine.attention.base import AttentionBackend, AttentionMetadata, LayerCache
from attendant_engine.config import ModelConfig
from attendant_engine.kernels.cpu.arena import Value
from attendant_engine.kernels.cpu.program import ProgramBuilder
from attendant_engine.layers.activations import ACTIVATIONS, NATIVE_ACTIVATIONS, Activation
from attendant_engine.layers.attention import Attention
from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Conv1D
from attendant_engine.layers.norm import LayerNorm
from attendant_engine.models.base import ModelInputs


class GPT2Attention(nn.Module):
    """Causal self-attention; ``scale`` differs by layer in some checkpoints."""

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int, scale: float, backend: AttentionBackend) -> None:
        super().__init__()
        self.c_attn = Conv1D(hidden_size, 3 * num_heads * head_dim)
        self.c_proj = Conv1D(num_heads * head_dim, hidden_size)
        self.attend = Attention(backend, num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, scale=scale)

    def forward(self, x: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        attended = self.attend(self.attend.split_queries(q), self.attend.split_keys(k), self.attend.split_keys(v), cache, metadata)
        out: torch.Tensor = self.c_proj(attended)
        return out

    def lower(self, program: ProgramBuilder, x: Value, residual: Value) -> Value:
        """The same as native operations, and the residual added."""
        attended = program.attention(program.linear(x, [self.c_attn]), self.attend)
        return program.linear(attended, [self.c_proj], residual=residual)


class GPT2MLP(nn.Module):
    """Two products with a non-linearity between."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = Conv1D(hidden_size, intermediate_size)
        self.c_proj = Conv1D(intermediate_size, hidden_size)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        out: torch.Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return out

    def lower(self, program: ProgramBuilder, x: Value, residual: Value) -> Value:
        """The same as native operations, and the residual added."""
        wide = program.linear(x, [self.c_fc], activation=NATIVE_ACTIVATIONS[self.activation])
        return program.linear(wide, [self.c_proj], residual=residual)


class GPT2Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer_idx: int, backend: AttentionBackend) -> None:
        super().__init__()
        scale = config.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer_idx + 1
        self.ln_1 = LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.attn = GPT2Attention(config.hidden_size, config.num_heads, config.head_dim, scale, backend)
        self.ln_2 = LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = GPT2MLP(config.hidden_size, config.intermediate_size, ACTIVATIONS[config.activation])

    def forward(self, x: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        x = x + self.attn(self.ln_1(x), cache, metadata)
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out

    def lower(self, program: ProgramBuilder, x: Value) -> Value:
        """The same as native operations."""
        x = self.attn.lower(program, program.norm(x, self.ln_1), residual=x)
        return self.mlp.lower(program, program.norm(x, self.ln_2), residual=x)


class GPT2(nn.Module):
    """The trunk: embeddings, blocks, final norm."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.hidden_size)
        self.wpe = Embedding(config.max_position_embeddings, config.hidden_size)
        self.h = nn.ModuleList(GPT2Block(config, layer_idx, backend) for layer_idx in range(config.num_layers))
        self.ln_f = LayerNorm(config.hidden_size, eps=config.norm_eps)

    @property
    def token_embedding(self) -> Embedding:
        """What a tied language-model head shares."""
        return self.wte

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]`` after the final norm."""
        hidden = self.wte(inputs.token_ids) + self.wpe(inputs.positions)
        for block, cache in zip(self.h, inputs.caches_by_layer(len(self.h)), strict=True):
            hidden = block(hidden, cache, inputs.attention)
        out: torch.Tensor = self.ln_f(hidden)
        return out

    def lower(self, program: ProgramBuilder) -> None:
        """The same as native operations."""
        x = program.embed(self.wte, self.wpe)
        for block in self.h:
            x = cast(GPT2Block, block).lower(program, x)
        program.output(program.norm(x, self.ln_f))
