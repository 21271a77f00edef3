"""Names for the contents of full cache blocks: a chain of sha256 digests, so that equal names mean equal prefixes.

The root of a chain is the tenant's salt, hence two tenants never share a block. Knows token ids, not blocks.
"""

import hashlib
from array import array
from collections.abc import Sequence


def root_hash(salt: str) -> bytes:
    """Return the digest that stands before the first block of every prompt under ``salt``."""
    return hashlib.sha256(b"attendant.prefix.v1\0" + salt.encode("utf-8", "surrogatepass")).digest()


def hash_block(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the digest of one full block that follows the blocks named by ``parent``."""
    return hashlib.sha256(parent + array("q", token_ids).tobytes()).digest()


def extend_hashes(hashes: list[bytes], salt: str, token_ids: Sequence[int], num_tokens: int, block_size: int) -> None:
    """Append to ``hashes``, in place, the digest of each full block among the first ``num_tokens`` ids not yet in it."""
    for start in range(len(hashes) * block_size, num_tokens - block_size + 1, block_size):
        parent = hashes[-1] if hashes else root_hash(salt)
        hashes.append(hash_block(parent, token_ids[start : start + block_size]))
