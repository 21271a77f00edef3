// How keys and values lie in a block of the paged cache. The unit is a tile of 16 positions, so the block size P is a
// multiple of 16, and D' is the head dimension rounded up to 16.
//
//   key    [B][K][P / 16][D' / g][16][g]   g = 1 for float32, 2 for bfloat16: 16 scores build up in one register
//   value  [B][K][P / 16][16][D']
//
// Everything is zero at first, and dimensions from D to D' stay zero.
#pragma once

#include <cstdint>

#include "calls.h"

namespace attendant {

constexpr int64_t kTile = 16;

inline int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Elements of one block of keys, or of values, for all heads.
inline int64_t block_elements(const CacheView& cache) { return cache.num_kv_heads * cache.block_size * padded_head_dim(cache.head_dim); }

}  // namespace attendant
