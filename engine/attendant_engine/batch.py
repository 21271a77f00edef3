"""Packs what the scheduler chose into one step's tensors: token ids end to end, no padding.

All index arithmetic is numpy on the host, in memory that is kept from step to step: at 64 sequences a step's cost beside
the model is mostly the number of small tensors made. Knows no scores, seeds or text.
"""

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt
import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.models.base import ModelInputs
from attendant_engine.sequence import PoolingState, ScheduledSequence

_MIN_CAPACITY = 64
_MAX_KEPT_VIEWS = 1024


class SequencePacker:
    """Packs chunks and decodes, each to be read and written through its sequence's blocks.

    What ``pack`` returns is valid until its next call: on a CPU its tensors are views of the packer's own memory.
    """

    def __init__(self, layer_caches: tuple[LayerCache, ...], *, block_size: int, device: torch.device) -> None:
        self._layer_caches = layer_caches
        self._block_size = block_size
        self._device = device
        self._tokens = _Columns(3, np.int64)  # token ids, positions, slots
        self._lengths = _Columns(2, np.int32)  # cumulative query lengths, keys a sequence
        self._table = BlockTable()
        self._arange = np.arange(_MIN_CAPACITY + 1)
        self._is_on_host = device.type == "cpu"

    def pack(self, scheduled: Sequence[ScheduledSequence]) -> ModelInputs:
        """Return the inputs of one step."""
        num_sequences = len(scheduled)
        query_lens = tuple([item.num_tokens for item in scheduled])
        starts = [item.sequence.num_computed_tokens for item in scheduled]
        num_tokens = sum(query_lens)
        ids, positions, slots = self._tokens.rows(num_tokens)
        cu_seqlens, seq_lens = self._lengths.rows(num_sequences + 1)
        table = self._table.update(scheduled)
        arange = self._numbers(max(num_tokens, num_sequences + 1))
        if num_tokens == num_sequences:  # only decodes
            ids[:] = [item.sequence.token_ids[start] for item, start in zip(scheduled, starts, strict=True)]
            positions[:] = starts
            cu_seqlens[:] = arange[: num_sequences + 1]
            row_of_token = arange[:num_sequences]
        else:
            ids[:] = _token_ids(scheduled)
            cu_seqlens[0] = 0
            np.cumsum(query_lens, out=cu_seqlens[1:])
            row_of_token = np.repeat(arange[:num_sequences], query_lens)
            np.add(arange[:num_tokens], (starts - cu_seqlens[:-1])[row_of_token], out=positions)
        block_idx = positions // self._block_size
        np.multiply(table[row_of_token, block_idx] - block_idx, self._block_size, out=slots)
        slots += positions
        table_view = torch.from_numpy(table)
        context_lens = tuple([start + length for start, length in zip(starts, query_lens, strict=True)])
        seq_lens[:num_sequences] = context_lens
        token_views = self._tokens.views(num_tokens, self._device)
        length_views = self._lengths.views(num_sequences + 1, self._device)
        return ModelInputs(
            token_ids=token_views[0],
            positions=token_views[1],
            layer_caches=self._layer_caches,
            attention=AttentionMetadata(
                cu_seqlens_q=length_views[0],
                seq_lens=length_views[1][:num_sequences],
                query_lens=query_lens,
                context_lens=context_lens,
                block_table=table_view if self._is_on_host else table_view.to(self._device),
                slot_mapping=token_views[2],
            ),
        )

    def _numbers(self, count: int) -> npt.NDArray[np.int64]:
        if len(self._arange) < count:
            self._arange = np.arange(2 * count)
        return self._arange


class BlockTable:
    """The blocks of each row's sequence ``[S, max_blocks]`` int32, zero behind its last; only what changed is written."""

    def __init__(self) -> None:
        self._table = np.zeros((_MIN_CAPACITY, _MIN_CAPACITY), dtype=np.int32)
        self._owners: list[list[int] | None] = [None] * _MIN_CAPACITY  # each row's list of blocks, which a sequence only appends to
        self._num_written = [0] * _MIN_CAPACITY

    def update(self, scheduled: Sequence[ScheduledSequence]) -> npt.NDArray[np.int32]:
        """Return the table of this step, a view that is valid until the next."""
        width = max([len(item.sequence.block_ids) for item in scheduled])
        if len(scheduled) > self._table.shape[0] or width > self._table.shape[1]:
            self._grow(len(scheduled), width)
        table, owners, num_written = self._table, self._owners, self._num_written
        for row, item in enumerate(scheduled):
            block_ids = item.sequence.block_ids
            num_blocks = len(block_ids)
            if owners[row] is block_ids and item.block_copy is None and num_written[row] <= num_blocks:
                if num_written[row] < num_blocks:
                    table[row, num_written[row] : num_blocks] = block_ids[num_written[row] :]
                    num_written[row] = num_blocks
                continue
            table[row, :num_blocks] = block_ids
            table[row, num_blocks : num_written[row]] = 0
            owners[row] = block_ids
            num_written[row] = num_blocks
        return table[: len(scheduled), :width]

    def _grow(self, num_rows: int, width: int) -> None:
        shape = (max(self._table.shape[0], _round_up(num_rows)), max(self._table.shape[1], _round_up(width)))
        self._table = np.zeros(shape, dtype=np.int32)
        self._owners = [None] * shape[0]
        self._num_written = [0] * shape[0]


class _Columns:
    """Arrays of one kind in one piece of memory, seen at any length both as numpy arrays and as tensors."""

    def __init__(self, num_columns: int, dtype: type[np.int32] | type[np.int64]) -> None:
        self._memory = np.empty((num_columns, _MIN_CAPACITY), dtype=dtype)
        self._views: dict[int, tuple[torch.Tensor, ...]] = {}

    def rows(self, length: int) -> npt.NDArray[np.integer]:
        """Return ``[num_columns, length]``."""
        if length > self._memory.shape[1]:
            self._memory = np.empty((len(self._memory), _round_up(length)), dtype=self._memory.dtype)
            self._views.clear()
        return self._memory[:, :length]

    def views(self, length: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return what ``rows(length)`` gave as one tensor a column, on the device."""
        if device.type != "cpu":
            return tuple(torch.from_numpy(self._memory[:, :length]).to(device).unbind())
        views = self._views.get(length)
        if views is None:
            if len(self._views) == _MAX_KEPT_VIEWS:
                self._views.clear()
            views = self._views[length] = tuple(torch.from_numpy(self._memory[:, :length]).unbind())
        return views


def pack_pooling(
    states: Sequence[PoolingState], *, is_causal: bool, device: torch.device, adapter_names: Sequence[str] = ()
) -> ModelInputs:
    """Pack whole texts, which need no cache. Those with an adapter stand last, in the order of ``adapter_names``."""
    lens = tuple([state.num_tokens for state in states])
    cu_seqlens = np.fromiter(accumulate(lens, initial=0), np.int32, len(lens) + 1)
    num_tokens = int(cu_seqlens[-1])
    token_ids = np.fromiter(chain.from_iterable(state.request.prompt_token_ids for state in states), np.int64, num_tokens)
    positions = np.arange(num_tokens) - np.repeat(cu_seqlens[:-1], lens)
    token_types = None
    if any(state.request.token_type_ids is not None for state in states):
        types = chain.from_iterable(state.request.token_type_ids or [0] * state.num_tokens for state in states)
        token_types = torch.from_numpy(np.fromiter(types, np.int64, num_tokens)).to(device)
    return ModelInputs(
        token_ids=torch.from_numpy(token_ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        token_type_ids=token_types,
        attention=AttentionMetadata(
            cu_seqlens_q=torch.from_numpy(cu_seqlens).to(device),
            seq_lens=torch.from_numpy(np.array(lens, dtype=np.int32)).to(device),
            query_lens=lens,
            context_lens=lens,
            is_causal=is_causal,
        ),
        adapter_bounds=_adapter_bounds(states, adapter_names),
    )


def _adapter_bounds(states: Sequence[PoolingState], adapter_names: Sequence[str]) -> tuple[int, ...] | None:
    num_tokens = dict.fromkeys((None, *adapter_names), 0)
    for state in states:
        num_tokens[state.request.adapter] += state.num_tokens
    bounds = tuple(accumulate(num_tokens.values()))
    return bounds if bounds[0] < bounds[-1] else None


def _token_ids(scheduled: Sequence[ScheduledSequence]) -> list[int]:
    token_ids: list[int] = []
    for item in scheduled:
        start = item.sequence.num_computed_tokens
        token_ids += item.sequence.token_ids[start : start + item.num_tokens - len(item.draft_ids)]
        token_ids += item.draft_ids
    return token_ids


def _round_up(count: int) -> int:
    return max(_MIN_CAPACITY, 1 << (count - 1).bit_length())
