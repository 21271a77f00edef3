"""Ours with keys and values in int8, as OpenVINO keeps them unless told otherwise."""

from benchmarks.peers.engines.attendant import Attendant
from benchmarks.peers.engines.base import Setup


def load(setup: Setup) -> Attendant:
    """Load the checkpoint."""
    return Attendant(setup, kv_cache_dtype="int8")
