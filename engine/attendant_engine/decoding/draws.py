"""Uniform numbers that depend on a request's seed, its sequence's index and the token's position, and on nothing else.

A counter-based generator (Salmon et al. 2011): no state moves on from draw to draw, so neither the batch nor a
preemption, a chunk or a move to another replica can change what a sequence draws.
"""

import struct
from hashlib import blake2b

_SEED_MASK = (1 << 64) - 1
_NUM_BITS = 52  # so that u and u * total keep their distance from 1 and total in double precision


def draw_uniform(seed: int, index: int, position: int) -> float:
    """Return the number in [0, 1) of sequence ``index`` at ``position`` (prompt tokens counted)."""
    counter = struct.pack("<QQQ", seed & _SEED_MASK, index, position)
    bits = int.from_bytes(blake2b(counter, digest_size=8).digest(), "little")
    return (bits >> (64 - _NUM_BITS)) / (1 << _NUM_BITS)
