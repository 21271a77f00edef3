"""Rotary position embeddings (Su et al. 2021) in the rotate-half layout of Hugging Face checkpoints.

Frequencies may be scaled for longer contexts: linearly (Chen et al. 2023) or by Llama 3's rule (Dubey et al. 2024).
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

SCALINGS = ("default", "linear", "llama3")


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions, in float32.

    ``scaling`` has ``rope_type`` and its parameters; empty means none. Types outside ``SCALINGS`` are a ``ValueError``.
    """

    frequencies: torch.Tensor

    def __init__(self, head_dim: int, *, theta: float, scaling: Mapping[str, float | str]) -> None:
        super().__init__()
        # Computed, not loaded, so real even when the model is laid out on the meta device.
        self.register_buffer("frequencies", scaled_frequencies(head_dim, theta, scaling), persistent=False)

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines ``[T, 1, D / 2]`` of positions ``[T]``, ready for ``rotate``."""
        angles = (positions.to(torch.float32)[:, None] * self.frequencies)[:, None]
        return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads ``[T, H, D]`` by ``[T, 1, D / 2]``, in float32, and return x's dtype."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def scaled_frequencies(head_dim: int, theta: float, scaling: Mapping[str, float | str]) -> torch.Tensor:
    """Return the angle a position adds for each pair, ``[D / 2]`` float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    frequencies = 1.0 / (theta**exponents)
    rope_type = scaling.get("rope_type", "default")
    if rope_type == "default":
        return frequencies
    if rope_type == "linear":
        return frequencies / float(scaling["factor"])
    if rope_type == "llama3":
        return _llama3_frequencies(frequencies, scaling)
    raise ValueError(f"rotary scaling {rope_type!r} is none of {SCALINGS}")


def _llama3_frequencies(frequencies: torch.Tensor, scaling: Mapping[str, float | str]) -> torch.Tensor:
    """Keep fast pairs, slow down slow ones by ``factor``, and blend between the two wavelengths."""
    factor = float(scaling["factor"])
    low_factor, high_factor = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    old_context = float(scaling["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    blend = (old_context / wavelengths - low_factor) / (high_factor - low_factor)
    blended = (1 - blend) * frequencies / factor + blend * frequencies
    scaled = torch.where(wavelengths > old_context / low_factor, frequencies / factor, blended)
    return torch.where(wavelengths < old_context / high_factor, frequencies, scaled)
