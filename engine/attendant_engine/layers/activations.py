"""The non-linearities of feed-forward layers, by the names that checkpoints use."""

from collections.abc import Callable

import torch
from torch.nn.functional import gelu, relu, silu

from attendant_engine.kernels.cpu.calls import Activation as NativeActivation

Activation = Callable[[torch.Tensor], torch.Tensor]


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel 2016)."""
    return gelu(x, approximate="tanh")


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU by its sigmoid approximation, x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """relu(x)^2 (So et al. 2021)."""
    return relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu2": squared_relu,
    "silu": silu,
    "swish": silu,
    "tanh": torch.tanh,
}

NATIVE_ACTIVATIONS: dict[Activation, NativeActivation] = {
    gelu: NativeActivation.GELU,
    gelu_tanh: NativeActivation.GELU_TANH,
    quick_gelu: NativeActivation.QUICK_GELU,
    relu: NativeActivation.RELU,
    squared_relu: NativeActivation.SQUARED_RELU,
    silu: NativeActivation.SILU,
    torch.tanh: NativeActivation.TANH,
}
"""What the CPU kernels call each of them."""
