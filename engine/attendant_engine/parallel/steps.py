"""One packed step as bytes, for ranks that have no scheduler: the integers of ``ModelInputs``, little-endian, one array after another.

All ranks run on one machine, so the byte order is its own.
"""

import numpy as np
import numpy.typing as npt
import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.models.base import ModelInputs

_NUM_FIELDS = 6
_NONE = -1


def encode_step(inputs: ModelInputs) -> bytes:
    """Write a step down, all but the cache itself."""
    assert inputs.adapter_bounds is None, "a model with adapters has one rank"
    metadata = inputs.attention
    table = metadata.block_table
    window = _NONE if metadata.window is None else metadata.window
    has_types = inputs.token_type_ids is not None
    width = _NONE if table is None else table.shape[1]
    fields = [inputs.token_ids.shape[0], metadata.num_sequences, width, has_types, metadata.is_causal, window]
    # Those of 8 bytes come first, so that every array begins where its elements may.
    long = (inputs.token_ids, inputs.positions, inputs.token_type_ids, metadata.slot_mapping)
    short = (metadata.cu_seqlens_q, metadata.seq_lens, table)
    arrays = [np.array(fields, dtype=np.int64), *(tensor.cpu().numpy() for tensor in (*long, *short) if tensor is not None)]
    return b"".join([array.tobytes() for array in arrays])


def decode_step(data: bytearray, layer_caches: tuple[LayerCache, ...], device: torch.device) -> ModelInputs:
    """Return the step that ``encode_step`` wrote, over this rank's own cache."""
    reader = _Reader(data)
    num_tokens, num_sequences, width, has_types, is_causal, window = reader.take(_NUM_FIELDS, np.int64).tolist()
    is_cached = width != _NONE
    token_ids, positions = (reader.tensor(num_tokens, np.int64, device) for _ in range(2))
    type_ids = reader.tensor(num_tokens, np.int64, device) if has_types else None
    slots = reader.tensor(num_tokens, np.int64, device) if is_cached else None
    cu_seqlens = reader.take(num_sequences + 1, np.int32)
    seq_lens = reader.take(num_sequences, np.int32)
    table = reader.tensor(num_sequences * width, np.int32, device).view(num_sequences, width) if is_cached else None
    return ModelInputs(
        token_ids=token_ids,
        positions=positions,
        token_type_ids=type_ids,
        layer_caches=layer_caches if is_cached else None,
        attention=AttentionMetadata(
            cu_seqlens_q=torch.from_numpy(cu_seqlens).to(device),
            seq_lens=torch.from_numpy(seq_lens).to(device),
            query_lens=tuple(np.diff(cu_seqlens).tolist()),
            context_lens=tuple(seq_lens.tolist()),
            block_table=table,
            slot_mapping=slots,
            is_causal=bool(is_causal),
            window=None if window == _NONE else window,
        ),
    )


def encode_integers(integers: list[int]) -> bytes:
    """Write block ids down."""
    return np.array(integers, dtype=np.int64).tobytes()


def decode_integers(data: bytearray) -> list[int]:
    """Return what ``encode_integers`` wrote."""
    integers: list[int] = np.frombuffer(data, dtype=np.int64).tolist()
    return integers


class _Reader:
    """Takes arrays from the front of a buffer."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self._offset = 0

    def take(self, count: int, dtype: type[np.int32] | type[np.int64]) -> npt.NDArray[np.integer]:
        array: npt.NDArray[np.integer] = np.frombuffer(self._data, dtype=dtype, count=count, offset=self._offset)
        self._offset += array.nbytes
        return array

    def tensor(self, count: int, dtype: type[np.int32] | type[np.int64], device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.take(count, dtype)).to(device)
