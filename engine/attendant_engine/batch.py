"""Packs what the scheduler chose into one step's tensors: token ids end to end, no padding.

All index arithmetic is numpy on the host, and the arrays travel as two buffers, because at 64 sequences a step's cost
beside the model is mostly the number of small tensors. Knows no scores, seeds or text.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.models.base import ModelInputs
from attendant_engine.sequence import PoolingState, ScheduledSequence

_ALIGNMENT = 16  # elements; keeps every view's address as aligned as a tensor of its own would be


def pack_sequences(
    scheduled: Sequence[ScheduledSequence], *, layer_caches: tuple[LayerCache, ...], block_size: int, device: torch.device
) -> ModelInputs:
    """Pack chunks and decodes, each to be read and written through its sequence's blocks."""
    query_lens = [item.num_tokens for item in scheduled]
    starts = [item.sequence.num_computed_tokens for item in scheduled]
    context_lens = [start + length for start, length in zip(starts, query_lens, strict=True)]
    token_ids: list[int] = []
    for item, start, end in zip(scheduled, starts, context_lens, strict=True):
        token_ids.extend(item.sequence.token_ids[start:end])
    table = np.zeros((len(scheduled), max(len(item.sequence.block_ids) for item in scheduled)), dtype=np.int32)
    for row, item in enumerate(scheduled):
        table[row, : len(item.sequence.block_ids)] = item.sequence.block_ids
    cu_seqlens = _cumulative(query_lens)
    row_of_token = np.repeat(np.arange(len(scheduled)), query_lens)
    positions = np.arange(len(token_ids)) + (np.array(starts) - cu_seqlens[:-1])[row_of_token]
    slots = table[row_of_token, positions // block_size].astype(np.int64) * block_size + positions % block_size
    ids, packed_positions, slot_mapping = _send([np.array(token_ids), positions, slots], np.int64, device)
    cu_seqlens_q, seq_lens, block_table = _send([cu_seqlens, np.array(context_lens), table], np.int32, device)
    return ModelInputs(
        token_ids=ids,
        positions=packed_positions,
        layer_caches=layer_caches,
        attention=AttentionMetadata(
            cu_seqlens_q=cu_seqlens_q,
            seq_lens=seq_lens,
            query_lens=tuple(query_lens),
            context_lens=tuple(context_lens),
            block_table=block_table.view(table.shape),
            slot_mapping=slot_mapping,
        ),
    )


def pack_pooling(states: Sequence[PoolingState], *, is_causal: bool, device: torch.device) -> ModelInputs:
    """Pack whole texts, which need no cache."""
    lens = [state.num_tokens for state in states]
    cu_seqlens = _cumulative(lens)
    token_ids = np.fromiter(chain.from_iterable(state.request.prompt_token_ids for state in states), np.int64)
    positions = np.arange(len(token_ids)) - np.repeat(cu_seqlens[:-1], lens)
    arrays = [token_ids, positions]
    if any(state.request.token_type_ids is not None for state in states):
        types = chain.from_iterable(state.request.token_type_ids or [0] * state.num_tokens for state in states)
        arrays.append(np.fromiter(types, np.int64))
    sent = _send(arrays, np.int64, device)
    cu_seqlens_q, seq_lens = _send([cu_seqlens, np.array(lens)], np.int32, device)
    return ModelInputs(
        token_ids=sent[0],
        positions=sent[1],
        token_type_ids=sent[2] if len(sent) == 3 else None,
        attention=AttentionMetadata(
            cu_seqlens_q=cu_seqlens_q,
            seq_lens=seq_lens,
            query_lens=tuple(lens),
            context_lens=tuple(lens),
            is_causal=is_causal,
        ),
    )


def _cumulative(lens: Sequence[int]) -> npt.NDArray[np.int64]:
    cumulative = np.zeros(len(lens) + 1, dtype=np.int64)
    np.cumsum(lens, out=cumulative[1:])
    return cumulative


def _send(
    arrays: Sequence[npt.NDArray[np.integer]], dtype: type[np.int32] | type[np.int64], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Copy ``arrays`` to the device in one piece; return one flat view each."""
    starts = [0]
    for array in arrays:
        starts.append(starts[-1] + -(-array.size // _ALIGNMENT) * _ALIGNMENT)
    buffer = np.empty(starts[-1], dtype=dtype)
    for array, start in zip(arrays, starts[:-1], strict=True):
        buffer[start : start + array.size] = array.ravel()
    sent = torch.from_numpy(buffer).to(device)
    return tuple(sent[start : start + array.size] for array, start in zip(arrays, starts[:-1], strict=True))
