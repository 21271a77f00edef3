"""Attention over a paged cache as one Triton kernel, for prefill chunks, single-token decodes and packed encoders alike.

A program owns one key/value head and a tile of rows; a row is one query position of one of the heads that share it, so
keys are read once for the whole group. Scores are reduced by online softmax (Milakov and Gimelshein 2018; Dao et al. 2022)
over keys in order, found through the block table (Kwon et al. 2023): nothing depends on what else is in the batch.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def attention_kernel(  # type: ignore[no-untyped-def]  # Triton's arguments are pointers and constants, not Python values.
    q,
    k,
    v,
    out,
    tile_sequences,
    tile_positions,
    cu_seqlens_q,
    seq_lens,
    block_table,
    scale,
    stride_q_token,
    stride_q_head,
    stride_out_token,
    stride_out_head,
    stride_block,
    stride_k_token,
    stride_k_head,
    stride_v_block,
    stride_v_token,
    stride_v_head,
    stride_table,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    IS_PAGED: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
):
    """Attend one tile.

    ``tile_sequences`` and ``tile_positions`` ``[tiles]`` int32 name each tile's sequence and its first query within it.
    Rows beyond ``TILE_POSITIONS * GROUP`` or beyond the sequence, and columns beyond ``HEAD_DIM``, are padding.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.load(tile_sequences + tile)
    first_query = tl.load(tile_positions + tile)
    first_row = tl.load(cu_seqlens_q + sequence)
    num_queries = tl.load(cu_seqlens_q + sequence + 1) - first_row
    num_keys = tl.load(seq_lens + sequence)
    num_before = num_keys - num_queries

    rows = tl.arange(0, TILE_ROWS)
    queries = first_query + rows // GROUP
    is_row = (rows < TILE_POSITIONS * GROUP) & (queries < num_queries)
    heads = kv_head * GROUP + rows % GROUP
    positions = num_before + queries
    columns = tl.arange(0, PADDED_DIM)
    is_column = columns < HEAD_DIM
    is_query = is_row[:, None] & is_column[None, :]
    query_tokens = (first_row + queries).to(tl.int64)
    q_tile = tl.load(
        q + query_tokens[:, None] * stride_q_token + heads[:, None] * stride_q_head + columns[None, :], mask=is_query, other=0.0
    )

    first_key = 0
    end_key = num_keys
    if IS_CAUSAL:
        end_key = tl.minimum(num_keys, num_before + first_query + TILE_POSITIONS)
        if WINDOW > 0:
            first_key = tl.maximum(0, num_before + first_query + 1 - WINDOW) // TILE_KEYS * TILE_KEYS

    best = tl.full((TILE_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_ROWS,), tl.float32)
    weighted = tl.zeros((TILE_ROWS, PADDED_DIM), tl.float32)
    for start in range(first_key, end_key, TILE_KEYS):
        keys = start + tl.arange(0, TILE_KEYS)
        is_key = keys < num_keys
        if IS_PAGED:
            blocks = tl.load(block_table + sequence * stride_table + keys // PAGE_SIZE, mask=is_key, other=0).to(tl.int64)
            k_tokens = blocks * stride_block + (keys % PAGE_SIZE) * stride_k_token
            v_tokens = blocks * stride_v_block + (keys % PAGE_SIZE) * stride_v_token
        else:
            k_tokens = (first_row + keys).to(tl.int64) * stride_k_token
            v_tokens = (first_row + keys).to(tl.int64) * stride_v_token
        is_element = is_key[:, None] & is_column[None, :]
        k_tile = tl.load(k + k_tokens[:, None] + kv_head * stride_k_head + columns[None, :], mask=is_element, other=0.0)
        v_tile = tl.load(v + v_tokens[:, None] + kv_head * stride_v_head + columns[None, :], mask=is_element, other=0.0)
        # "ieee" keeps float32 products exact where the default would round their factors to tf32.
        scores = tl.dot(q_tile, tl.trans(k_tile.to(q_tile.dtype)), input_precision="ieee") * scale
        is_visible = is_row[:, None] & is_key[None, :]
        if IS_CAUSAL:
            is_visible = is_visible & (keys[None, :] <= positions[:, None])
            if WINDOW > 0:
                is_visible = is_visible & (keys[None, :] > positions[:, None] - WINDOW)
        scores = tl.where(is_visible, scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, 1))
        # A row that has seen no key yet must not subtract infinity from infinity.
        shift = tl.where(new_best == float("-inf"), 0.0, new_best)
        probabilities = tl.exp(scores - shift[:, None])
        correction = tl.exp(best - shift)
        total = total * correction + tl.sum(probabilities, 1)
        weighted = weighted * correction[:, None]
        weighted += tl.dot(probabilities.to(q_tile.dtype), v_tile.to(q_tile.dtype), input_precision="ieee")
        best = new_best

    attended = weighted / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        out + query_tokens[:, None] * stride_out_token + heads[:, None] * stride_out_head + columns[None, :],
        attended.to(q_tile.dtype),
        mask=is_query,
    )
