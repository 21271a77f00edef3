"""What a rank is told when it starts: which share of which model, and how it is held. JSON on the way."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """One rank's part. Every choice is resolved: a rank plans nothing.

    ``num_blocks`` is 0 for a model without a cache; ``dtype`` and ``cache_dtype`` are torch's names; ``num_threads`` is what it
    computes with.
    """

    rank: int
    num_ranks: int
    path: str
    rendezvous: str
    device: str
    dtype: str
    cache_dtype: str
    attention_backend: str
    num_blocks: int
    block_size: int
    max_batch_tokens: int
    num_threads: int

    def to_bytes(self) -> bytes:
        """Write it down."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray) -> "RankJob":
        """Read what ``to_bytes`` wrote."""
        fields: dict[str, Any] = json.loads(data)
        return cls(**fields)


def dtype_named(name: str) -> torch.dtype:
    """Return torch's element type of that name."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype), "a job names an element type"
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """Return torch's name of an element type."""
    return str(dtype).removeprefix("torch.")
