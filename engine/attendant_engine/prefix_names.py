"""Names for the contents of full cache blocks: sha256 over all tokens up to a block's end, so that equal names mean equal prefixes.

A tenant's salt stands before the tokens, hence two tenants never share a block. A name's first eight bytes are its key: what
replicas tell of their caches and gateways look up, where a collision costs a detour and nothing else.
"""

import hashlib
import sys
from array import array
from collections.abc import Sequence

_ID_BYTES = array("I").itemsize
_KEY_BYTES = 8
_KEYS_A_NAME = hashlib.sha256().digest_size // _KEY_BYTES


class PrefixNames:
    """The names of one sequence's full blocks, ``names``, extended as it grows. To be read alone from outside."""

    __slots__ = ("_hash", "names")

    def __init__(self, salt: str) -> None:
        self.names: list[bytes] = []
        # Of a fixed length, so that no salt runs on into the tokens.
        self._hash = hashlib.sha256(hashlib.sha256(b"attendant.prefix.v2\0" + salt.encode("utf-8", "surrogatepass")).digest())

    def extend(self, token_ids: Sequence[int], num_tokens: int, block_size: int) -> None:
        """Add the name of each full block among the first ``num_tokens`` ids that has none yet."""
        start, stop = len(self.names) * block_size, num_tokens - num_tokens % block_size
        if start >= stop:
            return
        # One conversion for all blocks, and plain bytes to cut: a long prompt has hundreds of blocks.
        ids = array("I", token_ids[start:stop]).tobytes()
        update, digest, names, num_bytes = self._hash.update, self._hash.digest, self.names, block_size * _ID_BYTES
        for place in range(0, len(ids), num_bytes):
            update(ids[place : place + num_bytes])
            names.append(digest())

    def copy(self) -> "PrefixNames":
        """Return names of their own for a sequence that goes on from here in another way."""
        twin = PrefixNames.__new__(PrefixNames)
        twin.names, twin._hash = list(self.names), self._hash.copy()
        return twin


def key_of(name: bytes) -> int:
    """Return the key of a name."""
    return int.from_bytes(name[:_KEY_BYTES], sys.byteorder)


def prefix_keys(salt: str, token_ids: Sequence[int], block_size: int) -> list[int]:
    """Return the keys of the full blocks of a prompt that may come from a cache: its last token is always computed."""
    prefix = PrefixNames(salt)
    prefix.extend(token_ids, len(token_ids) - 1, block_size)
    return array("Q", b"".join(prefix.names))[::_KEYS_A_NAME].tolist()
