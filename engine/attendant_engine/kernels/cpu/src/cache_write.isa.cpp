// Rotary positions (Su et al. 2021, rotate-half), and keys and values into the paged cache.
#include "cache_layout.h"
#include "kernels.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kMaxHeadDim = 256;

// out[i] = x[i] cos[i] - x[i + D/2] sin[i] and out[i + D/2] = x[i + D/2] cos[i] + x[i] sin[i]. `out` may be `x`.
void rotate(const float* x, const float* cos, const float* sin, int64_t head_dim, float* out) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i += kWidth) {
        const int64_t count = half - i < kWidth ? half - i : kWidth;
        const Vec first = load_tail(x + i, count), second = load_tail(x + half + i, count);
        const Vec c = load_tail(cos + i, count), s = load_tail(sin + i, count);
        store_tail(out + i, fma(first, c, sub(zero(), mul(second, s))), count);
        store_tail(out + half + i, fma(second, c, mul(first, s)), count);
    }
}

// Copies a head's numbers, with zeros from `head_dim` to `padded_dim`.
void pad(const float* x, int64_t head_dim, int64_t padded_dim, float* out) {
    for (int64_t d = 0; d < padded_dim; d += kWidth) {
        const int64_t left = head_dim - d;
        store(out + d, left >= kWidth ? load(x + d) : left > 0 ? load_tail(x + d, left) : zero());
    }
}

// Every store below touches the bytes of its own position alone: another thread may be writing the position beside it.

void put_f32(const float* key, const float* value, int64_t lane, int64_t padded_dim, char* key_tile, char* value_tile) {
    float* keys = reinterpret_cast<float*>(key_tile) + lane;
    for (int64_t d = 0; d < padded_dim; d++) keys[d * kTile] = key[d];
    float* values = reinterpret_cast<float*>(value_tile) + lane * padded_dim;
    for (int64_t d = 0; d < padded_dim; d += kWidth) store(values + d, load(value + d));
}

void put_bf16(const float* key, const float* value, int64_t lane, int64_t padded_dim, char* key_tile, char* value_tile) {
    alignas(64) uint32_t pairs[kMaxHeadDim / 2];
    for (int64_t d = 0; d < padded_dim; d += kWidth) store_bf16(reinterpret_cast<uint16_t*>(pairs) + d, load(key + d));
    uint32_t* keys = reinterpret_cast<uint32_t*>(key_tile) + lane;
    for (int64_t i = 0; i < padded_dim / 2; i++) keys[i * kTile] = pairs[i];

    uint16_t* values = reinterpret_cast<uint16_t*>(value_tile) + lane / 2 * padded_dim * 2;
    const bool is_second = lane % 2 != 0;
    for (int64_t d = 0; d < padded_dim; d += kWidth) {
#ifdef __AVX512F__
        const __m512i wide = _mm512_cvtepu16_epi32(to_bf16(load(value + d)));
        _mm512_mask_storeu_epi16(values + 2 * d, is_second ? 0xaaaaaaaau : 0x55555555u, is_second ? _mm512_slli_epi32(wide, 16) : wide);
#else
        alignas(16) uint16_t lanes[kWidth];
        store_bf16(lanes, load(value + d));
        for (int i = 0; i < kWidth; i++) values[2 * (d + i) + is_second] = lanes[i];
#endif
    }
}

void write_head(const CacheWriteCall& call, int64_t token, int64_t kv_head) {
    const CacheView& cache = call.cache;
    const int64_t head_dim = cache.head_dim, padded_dim = padded_head_dim(head_dim);
    alignas(64) float key[kMaxHeadDim], value[kMaxHeadDim];
    pad(call.k + token * call.kv_stride + kv_head * head_dim, head_dim, padded_dim, key);
    pad(call.v + token * call.kv_stride + kv_head * head_dim, head_dim, padded_dim, value);
    if (call.cos != nullptr) {
        const int64_t row = call.position_ids[token] * (head_dim / 2);
        rotate(key, call.cos + row, call.sin + row, head_dim, key);
    }
    const uint64_t slot = static_cast<uint64_t>(call.slots[token]), block_size = static_cast<uint64_t>(cache.block_size);
    const int64_t position = static_cast<int64_t>(slot % block_size);
    const int64_t offset = tile_offset(cache, static_cast<int64_t>(slot / block_size), kv_head, position / kTile);
    char* key_tile = static_cast<char*>(cache.key) + offset;
    char* value_tile = static_cast<char*>(cache.value) + offset;
    if (cache.format == Format::BF16) {
        put_bf16(key, value, position % kTile, padded_dim, key_tile, value_tile);
    } else {
        put_f32(key, value, position % kTile, padded_dim, key_tile, value_tile);
    }
}

}  // namespace

void write_cache(const CacheWriteCall& call, Team& team) {
    const int64_t num_kv_heads = call.cache.num_kv_heads, head_dim = call.cache.head_dim;
    const Range writes = team.share(call.num_tokens * num_kv_heads);
    for (int64_t i = writes.begin; i < writes.end; i++) write_head(call, i / num_kv_heads, i % num_kv_heads);
    if (call.cos == nullptr) return;
    const Range rotations = team.share(call.num_tokens * call.num_heads);
    for (int64_t i = rotations.begin; i < rotations.end; i++) {
        const int64_t token = i / call.num_heads, row = call.position_ids[token] * (head_dim / 2);
        float* q = call.q + token * call.q_stride + i % call.num_heads * head_dim;
        rotate(q, call.cos + row, call.sin + row, head_dim, q);
    }
}

}  // namespace attendant::ATTENDANT_ISA
