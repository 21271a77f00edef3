"""The same models once more in plain torch, in the form that exporters follow: every input a tensor, the cache included.

Weights are those of transformers' modules; attention is ``scaled_dot_product_attention``, which OpenVINO recognises, or
spelled out, which onnxruntime's optimiser recognises.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def load_decoder(model: str, source: Path) -> nn.Module:
    """Return a step of the decoder in ``source``: ``(input_ids, attention_mask, position_ids, past)`` to ``(logits, *present)``."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    return (Gpt2Step(loaded) if model == "gpt2" else LlamaStep(loaded)).eval()


def load_encoder(source: Path, *, is_attention_fused: bool) -> nn.Module:
    """Return the sentence encoder in ``source``: ``(input_ids, attention_mask)`` to normalised mean-pooled vectors."""
    from transformers import BertModel

    return SentenceEncoder(BertModel.from_pretrained(source, dtype=torch.float32), is_attention_fused=is_attention_fused).eval()


class Gpt2Step(nn.Module):
    """GPT-2 over a cache; linear weights laid out ``[out, in]``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config, body = model.config, model.transformer
        self.num_layers, self.num_heads, self.num_kv_heads = config.n_layer, config.n_head, config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.wte, self.wpe, self.ln_f = body.wte, body.wpe, body.ln_f
        self.blocks = nn.ModuleList(_Gpt2Block(block) for block in body.h)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        """Compute logits for every new token, and the cache with them."""
        mask = causal_mask(input_ids, attention_mask)
        x = self.wte(input_ids) + self.wpe(position_ids)
        present: list[Tensor] = []
        block: Any
        for layer, block in enumerate(self.blocks):
            q, k, v = (_heads(part, self.num_heads) for part in block.qkv(block.norm_1(x)).chunk(3, dim=-1))
            k, v = torch.cat([past[2 * layer], k], dim=2), torch.cat([past[2 * layer + 1], v], dim=2)
            present += [k, v]
            x = x + block.out(_joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
            x = x + block.down(F.gelu(block.up(block.norm_2(x)), approximate="tanh"))
        return (F.linear(self.ln_f(x), self.wte.weight), *present)


class _Gpt2Block(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = block.ln_1, block.ln_2
        self.qkv, self.out = _as_linear(block.attn.c_attn), _as_linear(block.attn.c_proj)
        self.up, self.down = _as_linear(block.mlp.c_fc), _as_linear(block.mlp.c_proj)


class LlamaStep(nn.Module):
    """Llama over a cache, with grouped queries."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.num_layers, self.num_heads = config.num_hidden_layers, config.num_attention_heads
        self.num_kv_heads, self.head_dim = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        self.body, self.lm_head = model.model, model.lm_head
        self.register_buffer("inv_freq", 1.0 / 10000.0 ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        """Compute logits for every new token, and the cache with them."""
        mask = causal_mask(input_ids, attention_mask)
        x = self.body.embed_tokens(input_ids)
        cos, sin = self._rotation(position_ids)
        present: list[Tensor] = []
        for layer, block in enumerate(self.body.layers):
            normed, attn = block.input_layernorm(x), block.self_attn
            q = _rotated(_heads(attn.q_proj(normed), self.num_heads), cos, sin)
            k = _rotated(_heads(attn.k_proj(normed), self.num_kv_heads), cos, sin)
            v = _heads(attn.v_proj(normed), self.num_kv_heads)
            k, v = torch.cat([past[2 * layer], k], dim=2), torch.cat([past[2 * layer + 1], v], dim=2)
            present += [k, v]
            groups = self.num_heads // self.num_kv_heads
            x = x + attn.o_proj(_joined(F.scaled_dot_product_attention(q, _repeated(k, groups), _repeated(v, groups), attn_mask=mask)))
            normed, mlp = block.post_attention_layernorm(x), block.mlp
            x = x + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
        return (self.lm_head(self.body.norm(x)), *present)

    def _rotation(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = self.get_buffer("inv_freq")[None, :, None].expand(position_ids.shape[0], -1, 1)
        angles = (frequencies.float() @ position_ids[:, None, :].float()).transpose(1, 2)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().unsqueeze(1), both.sin().unsqueeze(1)


class SentenceEncoder(nn.Module):
    """BERT, the mean over a text's tokens, and the norm taken out."""

    def __init__(self, model: Any, *, is_attention_fused: bool) -> None:
        super().__init__()
        self.model, self.is_attention_fused = model, is_attention_fused
        self.num_heads = model.config.num_attention_heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return vectors ``[texts, width]``."""
        bias = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        table = self.model.embeddings
        positions = torch.arange(input_ids.shape[1])[None]
        x = table.word_embeddings(input_ids) + table.position_embeddings(positions) + table.token_type_embeddings.weight[0]
        x = table.LayerNorm(x)
        for layer in self.model.encoder.layer:
            own, out = layer.attention.self, layer.attention.output
            q, k, v = (_heads(part(x), self.num_heads) for part in (own.query, own.key, own.value))
            x = out.LayerNorm(out.dense(_joined(self._attention(q, k, v, bias))) + x)
            x = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(x))) + x)
        weights = attention_mask[:, :, None].float()
        return F.normalize((x * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        if self.is_attention_fused:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
        return torch.softmax(scores, dim=-1) @ v


def causal_mask(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return what is added to the scores: 0 where a new token may look, very low elsewhere; ``[B, 1, new, all]``."""
    num_all, num_new = attention_mask.shape[1], input_ids.shape[1]
    keys = torch.arange(num_all)
    may_look = keys[None, :] <= keys[num_all - num_new :][:, None]
    seen = may_look[None, None] & attention_mask[:, None, None, :].bool()
    return torch.zeros((), dtype=torch.float32).masked_fill(~seen, torch.finfo(torch.float32).min)


def _as_linear(conv: Any) -> nn.Linear:
    rows, columns = conv.weight.shape
    linear = nn.Linear(rows, columns)
    linear.weight.data, linear.bias.data = conv.weight.data.t().contiguous(), conv.bias.data
    return linear


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], num_heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _repeated(x: Tensor, groups: int) -> Tensor:
    batch, num_kv_heads, length, head_dim = x.shape
    wide = x[:, :, None, :, :].expand(batch, num_kv_heads, groups, length, head_dim)
    return wide.reshape(batch, num_kv_heads * groups, length, head_dim)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
