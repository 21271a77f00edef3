// Rotary positions (Su et al. 2021, rotate-half), and keys and values into the paged cache.
//
// Tokens that come to lie in one tile side by side are written together, one head at a time. Threads share the tokens, or
// the heads of a few; two of them may write to one tile, so every store touches the bytes of its own positions alone.
#include "cache_layout.h"
#include "kernels.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kRowWords = kMaxHeadDim + 16;  // of a token's key or value in scratch: off the powers of two, which share cache sets
constexpr int64_t kAhead = 4;                    // runs that are fetched before they are written

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
ATTENDANT_INLINE void pad(const float* x, int64_t head_dim, int64_t padded_dim, float* out) {
    for (int64_t d = 0; d < padded_dim; d += kWidth) {
        const int64_t left = head_dim - d;
        store(out + d, left >= kWidth ? load(x + d) : left > 0 ? load_tail(x + d, left) : zero());
    }
}

// Tokens with one head, at adjoining positions of one tile from `lane` on.
struct Run {
    int64_t token, num_tokens, kv_head, lane;
    char* key_tile;
    char* value_tile;
};

// Walks over the runs of some tokens and heads: tokens outside, heads inside.
class Runs {
public:
    Runs(const CacheWriteCall& call, Range tokens, Range heads) : call_(call), tokens_(tokens), heads_(heads), head_(heads.begin) {
        find_tokens();
    }

    ATTENDANT_INLINE bool next(Run& run) {
        if (token_ >= tokens_.end || heads_.begin >= heads_.end) return false;
        const int64_t offset = tile_offset(call_.cache, block_, head_, tile_in_block_);
        run = {token_,
               num_tokens_,
               head_,
               lane_,
               static_cast<char*>(call_.cache.key) + offset,
               static_cast<char*>(call_.cache.value) + offset};
        if (++head_ == heads_.end) {
            head_ = heads_.begin;
            token_ += num_tokens_;
            find_tokens();
        }
        return true;
    }

private:
    ATTENDANT_INLINE void find_tokens() {
        if (token_ < tokens_.begin) token_ = tokens_.begin;
        if (token_ >= tokens_.end) return;
        const uint64_t slot = static_cast<uint64_t>(call_.slots[token_]), block_size = static_cast<uint64_t>(call_.cache.block_size);
        const int64_t position = static_cast<int64_t>(slot % block_size);
        block_ = static_cast<int64_t>(slot / block_size);
        tile_in_block_ = position / kTile;
        lane_ = position % kTile;
        num_tokens_ = 1;
        while (lane_ + num_tokens_ < kTile && token_ + num_tokens_ < tokens_.end &&
               call_.slots[token_ + num_tokens_] == call_.slots[token_] + num_tokens_) {
            num_tokens_++;
        }
    }

    const CacheWriteCall& call_;
    Range tokens_, heads_;
    int64_t head_, token_ = 0, num_tokens_ = 0, block_ = 0, tile_in_block_ = 0, lane_ = 0;
};

// Asks for the lines of a run, since blocks lie anywhere: a key has a part of each line of its tile, a value lines of its own.
ATTENDANT_INLINE void fetch(const Run& run, int64_t padded_dim, Format format) {
    const int64_t group = 4 / element_bytes(format), row_bytes = padded_dim * 4;
    const char* const values = run.value_tile + scale_bytes(format);
    for (int64_t i = 0; i < padded_dim / group + scale_bytes(format) / kLineBytes; i++) {
        __builtin_prefetch(run.key_tile + i * kLineBytes, 1);
    }
    if (scale_bytes(format) > 0) __builtin_prefetch(run.value_tile, 1);
    const char* end = values + ((run.lane + run.num_tokens - 1) / group + 1) * row_bytes;
    for (const char* p = values + run.lane / group * row_bytes; p < end; p += kLineBytes) __builtin_prefetch(p, 1);
}

#ifdef __AVX512F__

// Writes 16 words of 16 rows as 16 lines, of which the first `num_lines` are there.
void put_transposed(const uint32_t* rows, int64_t num_lines, uint32_t* lines) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(rows + i * kRowWords);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    // a[4 q + j] has the words j, j + 4, j + 8 and j + 12 of the rows 4 q to 4 q + 3, a quarter each.
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        b[j] = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
        b[4 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        b[8 + j] = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        b[12 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        a[j] = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
        a[4 + j] = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
        a[8 + j] = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
        a[12 + j] = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        if (i < num_lines) _mm512_storeu_si512(lines + i * kTile, a[i]);
    }
}

#endif

// Writes a run's keys, given as words of one float32, two bfloat16 or four int8, to the columns of their tile's lines.
void put_keys(const uint32_t* rows, const Run& run, int64_t num_words, uint32_t* lines) {
#ifdef __AVX512F__
    if (run.num_tokens == kTile) {
        for (int64_t i = 0; i < num_words; i += 16) put_transposed(rows + i, num_words - i, lines + i * kTile);
        return;
    }
#endif
    for (int64_t t = 0; t < run.num_tokens; t++) {
        for (int64_t i = 0; i < num_words; i++) lines[i * kTile + run.lane + t] = rows[t * kRowWords + i];
    }
}

// Writes the values of two positions that share their lines.
ATTENDANT_INLINE void put_value_pair(const float* first, const float* second, int64_t padded_dim, uint16_t* out) {
    for (int64_t d = 0; d < padded_dim; d += kWidth) {
        const auto a = to_bf16(load(first + d)), b = to_bf16(load(second + d));
#ifdef __AVX512F__
        _mm512_storeu_si512(out + 2 * d, _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16)));
#else
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * d), _mm_unpacklo_epi16(a, b));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * d + 8), _mm_unpackhi_epi16(a, b));
#endif
    }
}

// Writes the value of one position into every other element, from the first or the second on.
ATTENDANT_INLINE void put_value_half(const float* value, int64_t padded_dim, uint16_t* out) {
    alignas(32) uint16_t lanes[kWidth];
    for (int64_t d = 0; d < padded_dim; d += kWidth) {
        store_bf16(lanes, load(value + d));
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; i++) out[2 * (d + i)] = lanes[i];
    }
}

// Rounds a row to bytes, x = byte * scale, and returns the scale, NaN of a row with a number that is none. `out` may be `x`.
ATTENDANT_INLINE float quantize_row(const float* x, int64_t padded_dim, int8_t* out) {
    Vec most = zero();
    for (int64_t d = 0; d < padded_dim; d += kWidth) most = max_magnitude(most, abs(load(x + d)));
    const float magnitude = largest_magnitude(most);
    const Vec factor = broadcast(magnitude < 1.0e-30f ? 0.0f : 127.0f / magnitude);
    for (int64_t d = 0; d < padded_dim; d += kWidth) {
        const Vec scaled = mul(load(x + d), factor);
#ifdef __AVX512F__
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + d), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled.v)));
#else
        int32_t whole[kWidth];
        store_int(whole, scaled);
        for (int i = 0; i < kWidth; i++) out[d + i] = static_cast<int8_t>(whole[i]);
#endif
    }
    return magnitude / 127.0f;
}

// Writes the value of one position into every fourth byte.
ATTENDANT_INLINE void put_value_bytes(const int8_t* value, int64_t padded_dim, int64_t byte, char* lines) {
    for (int64_t d = 0; d < padded_dim; d += 16) {
#ifdef __AVX512F__
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(value + d)));
        const __m512i shifted = _mm512_sllv_epi32(bytes, _mm512_set1_epi32(static_cast<int>(8 * byte)));
        _mm512_mask_storeu_epi8(lines + 4 * d, 0x1111111111111111ull << byte, shifted);
#else
        for (int i = 0; i < 16; i++) lines[4 * (d + i) + byte] = value[d + i];
#endif
    }
}

void put_values_f32(const float* values, const Run& run, int64_t padded_dim) {
    for (int64_t t = 0; t < run.num_tokens; t++) {
        float* out = reinterpret_cast<float*>(run.value_tile) + (run.lane + t) * padded_dim;
        for (int64_t d = 0; d < padded_dim; d += kWidth) store(out + d, load(values + t * kRowWords + d));
    }
}

void put_values_bf16(const float* values, const Run& run, int64_t padded_dim) {
    for (int64_t t = 0; t < run.num_tokens;) {
        const float* value = values + t * kRowWords;
        const int64_t lane = run.lane + t;
        uint16_t* out = reinterpret_cast<uint16_t*>(run.value_tile) + lane / 2 * padded_dim * 2;
        if (lane % 2 == 0 && t + 1 < run.num_tokens) {
            put_value_pair(value, value + kRowWords, padded_dim, out);
            t += 2;
        } else {
            put_value_half(value, padded_dim, out + lane % 2);
            t += 1;
        }
    }
}

void put_values_i8(const float* values, const Run& run, int64_t padded_dim) {
    alignas(64) int8_t bytes[kMaxHeadDim];
    for (int64_t t = 0; t < run.num_tokens; t++) {
        const int64_t lane = run.lane + t;
        reinterpret_cast<float*>(run.value_tile)[lane] = quantize_row(values + t * kRowWords, padded_dim, bytes);
        put_value_bytes(bytes, padded_dim, lane % 4, run.value_tile + kLineBytes + lane / 4 * padded_dim * 4);
    }
}

void write_run(const CacheWriteCall& call, const Run& run) {
    const Format format = call.cache.format;
    const int64_t head_dim = call.cache.head_dim, padded_dim = padded_head_dim(head_dim), column = run.kv_head * head_dim;
    alignas(64) float keys[kTile * kRowWords];
    alignas(64) float values[kTile * kRowWords];
    for (int64_t t = 0; t < run.num_tokens; t++) {
        const int64_t token = run.token + t;
        float* key = keys + t * kRowWords;
        pad(call.k + token * call.kv_stride + column, head_dim, padded_dim, key);
        if (call.cos != nullptr) {
            const int64_t row = call.position_ids[token] * (head_dim / 2);
            rotate(key, call.cos + row, call.sin + row, head_dim, key);
        }
        // In place: less is written than has been read.
        if (format == Format::BF16) {
            for (int64_t d = 0; d < padded_dim; d += kWidth) store_bf16(reinterpret_cast<uint16_t*>(key) + d, load(key + d));
        } else if (format == Format::I8) {
            reinterpret_cast<float*>(run.key_tile)[run.lane + t] = quantize_row(key, padded_dim, reinterpret_cast<int8_t*>(key));
        }
        pad(call.v + token * call.kv_stride + column, head_dim, padded_dim, values + t * kRowWords);
    }
    const int64_t num_words = padded_dim * element_bytes(format) / 4;
    put_keys(reinterpret_cast<const uint32_t*>(keys), run, num_words, reinterpret_cast<uint32_t*>(run.key_tile + scale_bytes(format)));
    switch (format) {
        case Format::BF16:
            return put_values_bf16(values, run, padded_dim);
        case Format::I8:
            return put_values_i8(values, run, padded_dim);
        default:
            return put_values_f32(values, run, padded_dim);
    }
}

}  // namespace

void write_cache(const CacheWriteCall& call, Team& team) {
    const int64_t head_dim = call.cache.head_dim;
    const bool by_tokens = call.num_tokens >= 4 * team.size();
    const Range all_heads{0, call.cache.num_kv_heads}, all_tokens{0, call.num_tokens};
    Runs runs(call, by_tokens ? team.share(call.num_tokens) : all_tokens, by_tokens ? all_heads : team.share(call.cache.num_kv_heads));
    Run ring[kAhead];
    int64_t num_found = 0, num_written = 0;
    for (bool is_more = true; is_more || num_written < num_found;) {
        is_more = is_more && runs.next(ring[num_found % kAhead]);
        if (is_more) {
            fetch(ring[num_found % kAhead], padded_head_dim(head_dim), call.cache.format);
            if (++num_found < kAhead) continue;
        }
        if (num_written < num_found) write_run(call, ring[num_written++ % kAhead]);
    }
    if (call.cos == nullptr) return;
    const Range rotations = team.share(call.num_tokens * call.num_heads);
    for (int64_t i = rotations.begin; i < rotations.end; i++) {
        const int64_t token = i / call.num_heads, row = call.position_ids[token] * (head_dim / 2);
        float* q = call.q + token * call.q_stride + i % call.num_heads * head_dim;
        rotate(q, call.cos + row, call.sin + row, head_dim, q);
    }
}

}  // namespace attendant::ATTENDANT_ISA
