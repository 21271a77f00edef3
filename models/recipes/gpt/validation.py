"""Bits per byte of the model in training on text that it never sees; the card's figures come from the served model instead."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from models.recipes.gpt.corpus import Tokens
from models.recipes.gpt.model import GPT

WINDOWS_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationText:
    """A source to be measured on: windows ``[N, T + 1]`` spread evenly over its tokens, and bytes by token id ``[V]``."""

    name: str
    windows: torch.Tensor
    token_bytes: NDArray[np.int64]

    @classmethod
    def spread(cls, name: str, tokens: Tokens, token_bytes: NDArray[np.int64], *, window: int, max_windows: int) -> "ValidationText":
        """Take at most ``max_windows`` windows."""
        num_windows = min(max_windows, (len(tokens) - 1) // window)
        starts = np.linspace(0, len(tokens) - 1 - window, num_windows).astype(np.int64)
        rows = np.stack([tokens[start : start + window + 1].astype(np.int64) for start in starts])
        return cls(name=name, windows=torch.from_numpy(rows), token_bytes=token_bytes)


@torch.no_grad()
def bits_per_byte(model: GPT, text: ValidationText, *, device: torch.device) -> float:
    """Return the bits that the model needs for a byte of the text, the first token of each window given."""
    nats = 0.0
    num_bytes = 0
    for first in range(0, len(text.windows), WINDOWS_AT_ONCE):
        row = text.windows[first : first + WINDOWS_AT_ONCE]
        tokens = row.to(device)
        positions = torch.arange(tokens.shape[1] - 1, device=device).expand(len(tokens), -1)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(tokens[:, :-1], positions)
        nats += float(cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="sum"))
        num_bytes += int(text.token_bytes[row[:, 1:].numpy()].sum())
    return nats / math.log(2) / num_bytes
