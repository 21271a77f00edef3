"""GPT-2 (Radford et al. 2019) as the trainer holds it: weights in float32, products in the dtype of the autocast around it.

Queries, keys and values are three matrices here, since Muon makes each update orthogonal by itself; ``hugging_face_state``
joins them into GPT-2's fused ``c_attn``. Products are stored ``[out, in]`` here and ``[in, out]`` (Conv1D) there.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

INITIAL_STD = 0.02
NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a GPT-2; the feed-forward layer is four times the width, as in every GPT-2."""

    vocab_size: int = 8192
    max_positions: int = 1024
    width: int = 384
    num_layers: int = 6
    num_heads: int = 6

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"the width {self.width} is no multiple of {self.num_heads} heads")


class Attention(nn.Module):
    """Causal self-attention over whole windows."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.q = nn.Linear(shape.width, shape.width)
        self.k = nn.Linear(shape.width, shape.width)
        self.v = nn.Linear(shape.width, shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, T, E]`` to ``[B, T, E]``."""
        q, k, v = (self._split(linear(x)) for linear in (self.q, self.k, self.v))
        attended = _written_out(q, k, v) if x.device.type == "cpu" else scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def _written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention as two products and a softmax in float32: ``[B, H, T, D]`` to the same.

    Half of these products is masked; still, compiled, a step of 512-token spans takes about 3.2 s, and 3.7 s with torch's flash
    attention for CPUs, whose backward pass is slow.
    """
    length = q.shape[-2]
    mask = torch.full((length, length), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2)) + mask
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype), v)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.attn = Attention(shape)
        self.ln_2 = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.fc = nn.Linear(shape.width, 4 * shape.width)
        self.proj = nn.Linear(4 * shape.width, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, T, E]`` to ``[B, T, E]``."""
        x = x + self.attn(self.ln_1(x))
        out: torch.Tensor = x + self.proj(gelu(self.fc(self.ln_2(x)), approximate="tanh"))
        return out


class GPT(nn.Module):
    """The model with its tied head."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.width)
        self.wpe = nn.Embedding(shape.max_positions, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.ln_f = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self._initialize()

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return logits ``[B, T, V]`` for ``token_ids`` ``[B, T]`` at ``positions`` ``[T]`` or ``[B, T]``."""
        x = self.wte(token_ids) + self.wpe(positions)
        for block in self.blocks:
            x = block(x)
        return nn.functional.linear(self.ln_f(x), self.wte.weight)

    def loss(self, token_ids: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the sum of the cross-entropies in nats, each times its weight; all arguments ``[B, T]``."""
        logits = self(token_ids, positions)
        losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        return (losses * weights.flatten()).sum()

    @torch.no_grad()
    def add_to_embeddings(self, vectors: torch.Tensor) -> None:
        """Add ``[V, E]`` to the token embeddings, which are the head's too."""
        self.wte.weight += vectors.to(self.wte.weight.device)

    @torch.no_grad()
    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            # What goes into the residual stream is scaled by its depth, as in the paper.
            for linear in (cast(Block, block).attn.proj, cast(Block, block).proj):
                nn.init.normal_(linear.weight, std=INITIAL_STD / math.sqrt(2 * self.shape.num_layers))


def hugging_face_state(model: GPT) -> dict[str, torch.Tensor]:
    """Return the weights under the names and in the layout of Hugging Face's ``GPT2LMHeadModel``; the tied head is left out."""
    state = {"transformer.wte.weight": model.wte.weight, "transformer.wpe.weight": model.wpe.weight}
    for layer, module in enumerate(model.blocks):
        block = cast(Block, module)
        prefix = f"transformer.h.{layer}"
        parts = (block.attn.q, block.attn.k, block.attn.v)
        state |= _norm_state(f"{prefix}.ln_1", block.ln_1) | _norm_state(f"{prefix}.ln_2", block.ln_2)
        state[f"{prefix}.attn.c_attn.weight"] = torch.cat([part.weight for part in parts]).T
        state[f"{prefix}.attn.c_attn.bias"] = torch.cat([part.bias for part in parts])
        for name, linear in (("attn.c_proj", block.attn.proj), ("mlp.c_fc", block.fc), ("mlp.c_proj", block.proj)):
            state[f"{prefix}.{name}.weight"] = linear.weight.T
            state[f"{prefix}.{name}.bias"] = linear.bias
    state |= _norm_state("transformer.ln_f", model.ln_f)
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _norm_state(name: str, norm: nn.LayerNorm) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
