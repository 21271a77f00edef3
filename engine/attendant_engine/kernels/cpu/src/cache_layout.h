// How keys and values lie in a block of the paged cache. The unit is a tile of 16 positions, so the block size P is a
// multiple of 16; D' is the head dimension rounded up to 16, and g is 1 for float32, 2 for bfloat16, 4 for int8.
//
//   key    [B][K][P / 16][D' / g][16][g]   a line of 64 bytes holds g dimensions of 16 positions
//   value  [B][K][P / 16][16 / g][D'][g]   a line of 64 bytes holds 16 dimensions of g positions
//
// So one instruction multiplies a line by a query's g dimensions, or by the weights of g positions, and adds the result to
// 16 sums. A tile of int8 begins with a line more: the scales of its 16 positions, in float32. A position that was written
// has zeros in dimensions D to D'; one that was not may hold anything.
#pragma once

#include <cstdint>

#include "calls.h"

namespace attendant {

constexpr int64_t kTile = 16;
constexpr int64_t kLineBytes = 64;

// Always inline: a weak copy compiled for one instruction set must not end up serving another.
#define ATTENDANT_INLINE __attribute__((always_inline)) inline

ATTENDANT_INLINE int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
ATTENDANT_INLINE int64_t element_bytes(Format format) { return format == Format::F32 ? 4 : format == Format::BF16 ? 2 : 1; }
ATTENDANT_INLINE constexpr int64_t scale_bytes(Format format) { return format == Format::I8 ? kLineBytes : 0; }

// One tile of one head: of keys, or of values.
ATTENDANT_INLINE int64_t tile_bytes(const CacheView& cache) {
    return scale_bytes(cache.format) + kTile * padded_head_dim(cache.head_dim) * element_bytes(cache.format);
}

// Bytes from a cache's first byte to the tile numbered `tile_in_block` of a block's head; the same for keys and values.
ATTENDANT_INLINE int64_t tile_offset(const CacheView& cache, int64_t block, int64_t kv_head, int64_t tile_in_block) {
    const int64_t tiles_per_block = cache.block_size / kTile;
    return ((block * cache.num_kv_heads + kv_head) * tiles_per_block + tile_in_block) * tile_bytes(cache);
}

}  // namespace attendant
