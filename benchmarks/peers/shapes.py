"""The models that are compared, as numbers: what a step reads and computes, for the limits of the machine.

Standard library alone.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.peers.cells import Precision

ModelName = Literal["gpt2", "llama", "minilm", "bert"]

BYTES_PER_WEIGHT: dict[Precision, float] = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 32}
"""int4 with one 16-bit scale for 32 weights; int8's one scale a channel is too little to count."""

BYTES_PER_CACHED: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "int8": 2, "int4": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Transformer's sizes; ``num_vocab`` rows in its embedding and, for a decoder, in its head."""

    title: str
    kind: Literal["decoder", "encoder"]
    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate: int
    num_vocab: int
    max_positions: int
    is_gated: bool = False

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys in one layer."""
        return self.hidden // self.num_heads * self.num_kv_heads

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's products: query, key, value, output and the feed-forward network."""
        attention = 2 * self.hidden * (self.hidden + self.kv_width)
        return attention + (3 if self.is_gated else 2) * self.hidden * self.intermediate

    @property
    def step_weights(self) -> int:
        """Weights that one decoding step multiplies: all layers and the head."""
        return self.num_layers * self.layer_weights + self.num_vocab * self.hidden

    def step_bytes(self, precision: Precision, context: int) -> float:
        """Bytes that one sequence's decoding step reads: every weight once, and the cache of ``context`` tokens."""
        cached = 2 * self.num_layers * self.kv_width * context
        return self.step_weights * BYTES_PER_WEIGHT[precision] + cached * BYTES_PER_CACHED[precision]

    def prefill_flops(self, num_tokens: int) -> float:
        """Floating-point operations of one prompt, causal attention included, the head for its last token alone."""
        products = 2 * (self.num_layers * self.layer_weights * num_tokens + self.num_vocab * self.hidden)
        return products + self.num_layers * 2 * num_tokens * num_tokens * self.hidden


SHAPES: dict[ModelName, Shape] = {
    "gpt2": Shape(
        title="GPT-2 124M",
        kind="decoder",
        hidden=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        intermediate=3072,
        num_vocab=50257,
        max_positions=1024,
    ),
    "llama": Shape(
        title="Llama type 125M, 12 heads over 4",
        kind="decoder",
        hidden=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=4,
        intermediate=2048,
        num_vocab=32000,
        max_positions=8192,
        is_gated=True,
    ),
    "minilm": Shape(
        title="all-MiniLM-L6-v2",
        kind="encoder",
        hidden=384,
        num_layers=6,
        num_heads=12,
        num_kv_heads=12,
        intermediate=1536,
        num_vocab=30522,
        max_positions=512,
    ),
    "bert": Shape(
        title="BERT-base",
        kind="encoder",
        hidden=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        intermediate=3072,
        num_vocab=30522,
        max_positions=512,
    ),
}
