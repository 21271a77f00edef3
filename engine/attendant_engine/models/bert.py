"""BERT (Devlin et al. 2019): bidirectional, learned positions and segments, norms after each sub-layer.

Names mirror Hugging Face's ``BertModel`` (``encoder.layer.0.attention.self.query.weight`` ...), without its pooler, which
belongs to the heads that use it.
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
from attendant_engine.layers.linear import Linear
from attendant_engine.layers.norm import LayerNorm
from attendant_engine.models.base import ModelInputs


class BertEmbeddings(nn.Module):
    """Token, position and segment embeddings, summed and normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]``; no segments given means that all tokens are in the first."""
        segments = inputs.token_type_ids
        segment = self.token_type_embeddings.weight[0] if segments is None else self.token_type_embeddings(segments)
        summed = self.word_embeddings(inputs.token_ids) + segment + self.position_embeddings(inputs.positions)
        out: torch.Tensor = self.LayerNorm(summed)
        return out

    def lower(self, program: ProgramBuilder) -> Value:
        """The same as native operations."""
        summed = program.embed(self.word_embeddings, self.position_embeddings, self.token_type_embeddings)
        return program.norm(summed, self.LayerNorm)


class BertSelfAttention(nn.Module):
    """Query, key and value products, and attention."""

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int, backend: AttentionBackend) -> None:
        super().__init__()
        self.query = Linear(hidden_size, num_heads * head_dim, bias=True)
        self.key = Linear(hidden_size, num_heads * head_dim, bias=True)
        self.value = Linear(hidden_size, num_heads * head_dim, bias=True)
        self.attend = Attention(backend, num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, scale=head_dim**-0.5)

    def forward(self, x: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        q = self.attend.split_queries(self.query(x))
        k = self.attend.split_keys(self.key(x))
        v = self.attend.split_keys(self.value(x))
        return self.attend(q, k, v, cache, metadata)

    def lower(self, program: ProgramBuilder, x: Value) -> Value:
        """The same as native operations."""
        return program.attention(program.linear(x, [self.query, self.key, self.value]), self.attend)


class BertResidual(nn.Module):
    """norm(dense(x) + residual): how both sub-layers end."""

    def __init__(self, in_features: int, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.dense = Linear(in_features, hidden_size, bias=True)
        self.LayerNorm = LayerNorm(hidden_size, eps=eps)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """``[T, *]`` and ``[T, E]`` to ``[T, E]``."""
        out: torch.Tensor = self.LayerNorm(self.dense(x) + residual)
        return out

    def lower(self, program: ProgramBuilder, x: Value, residual: Value) -> Value:
        """The same as native operations."""
        return program.norm(program.linear(x, [self.dense], residual=residual), self.LayerNorm)


class BertAttention(nn.Module):
    """Self-attention and its residual."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.self = BertSelfAttention(config.hidden_size, config.num_heads, config.head_dim, backend)
        self.output = BertResidual(config.num_heads * config.head_dim, config.hidden_size, config.norm_eps)

    def forward(self, x: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        out: torch.Tensor = self.output(self.self(x, cache, metadata), x)
        return out

    def lower(self, program: ProgramBuilder, x: Value) -> Value:
        """The same as native operations."""
        return self.output.lower(program, self.self.lower(program, x), residual=x)


class BertIntermediate(nn.Module):
    """The wide half of the feed-forward layer."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, intermediate_size, bias=True)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` to ``[T, intermediate]``."""
        return self.activation(self.dense(x))

    def lower(self, program: ProgramBuilder, x: Value) -> Value:
        """The same as native operations."""
        return program.linear(x, [self.dense], activation=NATIVE_ACTIVATIONS[self.activation])


class BertLayer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.attention = BertAttention(config, backend)
        self.intermediate = BertIntermediate(config.hidden_size, config.intermediate_size, ACTIVATIONS[config.activation])
        self.output = BertResidual(config.intermediate_size, config.hidden_size, config.norm_eps)

    def forward(self, x: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        attended = self.attention(x, cache, metadata)
        out: torch.Tensor = self.output(self.intermediate(attended), attended)
        return out

    def lower(self, program: ProgramBuilder, x: Value) -> Value:
        """The same as native operations."""
        attended = self.attention.lower(program, x)
        return self.output.lower(program, self.intermediate.lower(program, attended), residual=attended)


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, backend) for _ in range(config.num_layers))

    def forward(self, x: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """``[T, E]`` to ``[T, E]``."""
        for layer, cache in zip(self.layer, inputs.caches_by_layer(len(self.layer)), strict=True):
            x = layer(x, cache, inputs.attention)
        return x


class Bert(nn.Module):
    """The trunk: embeddings and encoder."""

    def __init__(self, config: ModelConfig, backend: AttentionBackend) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config, backend)

    @property
    def token_embedding(self) -> Embedding:
        """The table of token embeddings."""
        return self.embeddings.word_embeddings

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]``."""
        out: torch.Tensor = self.encoder(self.embeddings(inputs), inputs)
        return out

    def lower(self, program: ProgramBuilder) -> None:
        """The same as native operations."""
        x = self.embeddings.lower(program)
        for layer in self.encoder.layer:
            x = cast(BertLayer, layer).lower(program, x)
        program.output(x)
