"""Attention backends by name, imported when they are first asked for, so that a CPU machine never imports Triton."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

import torch

from attendant_engine.attention.base import AttentionBackend
from attendant_engine.errors import InvalidRequestError

BACKENDS: dict[str, str] = {
    "reference": "attendant_engine.attention.reference:ReferenceAttention",
    "torch": "attendant_engine.attention.torch_sdpa:TorchAttention",
    "triton": "attendant_engine.attention.triton_paged:TritonAttention",
}


def resolve_backend_name(name: str, device: torch.device) -> str:
    """Return the backend that "auto" means on ``device``, or ``name`` itself.

    Raises ``InvalidRequestError`` for a name that is not registered.
    """
    if name == "auto":
        return "triton" if device.type == "cuda" else "torch"
    if name not in BACKENDS:
        known = ", ".join(["auto", *BACKENDS])
        raise InvalidRequestError(f"There is no attention backend {name!r}; choose one of {known}.", param="attention_backend")
    return name


def load_backend(name: str, device: torch.device) -> AttentionBackend:
    """Import and make the backend called ``name`` ("auto" picks by device)."""
    module_name, class_name = BACKENDS[resolve_backend_name(name, device)].split(":")
    make = cast(Callable[[], AttentionBackend], getattr(import_module(module_name), class_name))
    return make()
