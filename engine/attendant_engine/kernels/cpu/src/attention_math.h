// The arithmetic of attention: lines of 16 numbers, the products that a key or value line takes part in, and powers of two.
//
// A `Cached` type says how one format is computed with: what a query's dimension or a weight becomes (`Number`), how many
// of them one step takes at once (`kGroup`, one line of the cache), and the step itself. A sum's additions stand in the
// order of the steps, whatever the number of rows and lines that are computed beside it.
#pragma once

#include "cache_layout.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int kParts = 16 / kWidth;

struct Line {
    Vec part[kParts];
};

ATTENDANT_INLINE Line load_line(const float* p) {
    Line line;
    for (int i = 0; i < kParts; i++) line.part[i] = load(p + i * kWidth);
    return line;
}
ATTENDANT_INLINE void store_line(float* p, const Line& line) {
    for (int i = 0; i < kParts; i++) store(p + i * kWidth, line.part[i]);
}
ATTENDANT_INLINE Line broadcast_line(float x) {
    Line line;
    for (int i = 0; i < kParts; i++) line.part[i] = broadcast(x);
    return line;
}
ATTENDANT_INLINE Line fma_line(Vec a, const Line& b, const Line& c) {
    Line line;
    for (int i = 0; i < kParts; i++) line.part[i] = fma(a, b.part[i], c.part[i]);
    return line;
}
ATTENDANT_INLINE Line scale_line(const Line& a, Vec b) {
    Line line;
    for (int i = 0; i < kParts; i++) line.part[i] = mul(a.part[i], b);
    return line;
}

// 2^x for x <= 0 within 2 ulp; exactly 1 at 0, exactly 0 from -151 down and at minus infinity, NaN of NaN. The polynomial
// of degree 5 has a relative error of 9.2e-8 (minimax, constrained to 1 at 0).
ATTENDANT_INLINE Vec power_of_two(Vec x) {
    const Vec clamped = max(broadcast(-151.0f), x);
    const Vec n = round(clamped);
    const Vec r = sub(clamped, n);
    Vec p = broadcast(1.326472707e-03f);
    p = fma(p, r, broadcast(9.671512649e-03f));
    p = fma(p, r, broadcast(5.550733744e-02f));
    p = fma(p, r, broadcast(2.402224209e-01f));
    p = fma(p, r, broadcast(6.931469776e-01f));
    p = fma(p, r, broadcast(1.0f));
    return scale_by_power(p, n);
}
ATTENDANT_INLINE float power_of_two(float x) {
    alignas(64) float lanes[kWidth];
    store(lanes, power_of_two(broadcast(x)));
    return lanes[0];
}

// Lanes outside of [begin, end) become minus infinity.
ATTENDANT_INLINE Vec keep_lanes(Vec a, int begin, int end) {
#ifdef __AVX512F__
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 is_kept = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin)) & _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
    return {_mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), is_kept, a.v)};
#else
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i is_kept = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1)), _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
    return {_mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), a.v, _mm256_castsi256_ps(is_kept))};
#endif
}

ATTENDANT_INLINE float largest_lane(Vec a) {
#ifdef __AVX512F__
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
#else
    __m256 half = a.v;
#endif
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

template <int R, int C>
using Sums = Line[R][C];

// float32: a step takes one dimension, or one position.
struct CachedF32 {
    using Element = float;
    using Number = float;
    static constexpr int kGroup = 1;

    static ATTENDANT_INLINE void put(Number* p, Vec a) { store(p, a); }
    // Puts weights and returns them as they were put.
    static ATTENDANT_INLINE Vec put_weights(Number* p, Vec a) {
        store(p, a);
        return a;
    }

    template <int R, int C, bool kIsHalf>
    static ATTENDANT_INLINE void step(Sums<R, C>& sums, const Number* numbers, int64_t stride, const char* const (&lines)[C], int64_t offset) {
        Line x[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) x[c] = load_line(reinterpret_cast<const float*>(lines[c] + offset));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const Vec factor = broadcast(numbers[r * stride]);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) sums[r][c] = fma_line(factor, x[c], sums[r][c]);
        }
    }
};

#ifdef __AVX512BF16__

// bfloat16 with the instruction for it: a step takes a pair, and queries and weights are bfloat16 too.
// `kIsHalf`: the second of each pair is not there, and what stands in its place may not be a number.
struct CachedBf16 {
    using Element = uint16_t;
    using Number = uint16_t;
    static constexpr int kGroup = 2;

    static ATTENDANT_INLINE void put(Number* p, Vec a) { store_bf16(p, a); }
    static ATTENDANT_INLINE Vec put_weights(Number* p, Vec a) {
        const __m256i weights = (__m256i)_mm512_cvtneps_pbh(a.v);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), weights);
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(weights), 16))};
    }

    template <int R, int C, bool kIsHalf>
    static ATTENDANT_INLINE void step(Sums<R, C>& sums, const Number* numbers, int64_t stride, const char* const (&lines)[C], int64_t offset) {
        __m512i x[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            x[c] = _mm512_loadu_si512(lines[c] + offset);
            if (kIsHalf) x[c] = _mm512_and_si512(x[c], _mm512_set1_epi32(0xffff));
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int32_t pair;
            __builtin_memcpy(&pair, numbers + r * stride, 4);
            const __m512i factor = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                sums[r][c].part[0].v = _mm512_dpbf16_ps(sums[r][c].part[0].v, (__m512bh)factor, (__m512bh)x[c]);
            }
        }
    }
};

#else

// bfloat16 without it: a step takes a pair in two products of float32; queries and weights stay float32.
struct CachedBf16 {
    using Element = uint16_t;
    using Number = float;
    static constexpr int kGroup = 2;

    static ATTENDANT_INLINE void put(Number* p, Vec a) { store(p, a); }
    // Puts weights and returns them as they were put.
    static ATTENDANT_INLINE Vec put_weights(Number* p, Vec a) {
        store(p, a);
        return a;
    }

    static ATTENDANT_INLINE Line expand(const char* p, bool is_second) {
        Line line;
        for (int i = 0; i < kParts; i++) {
#ifdef __AVX512F__
            const __m512i pairs = _mm512_loadu_si512(p);
            line.part[i] = {_mm512_castsi512_ps(is_second ? _mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)) : _mm512_slli_epi32(pairs, 16))};
#else
            const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + i);
            line.part[i] = {_mm256_castsi256_ps(is_second ? _mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)) : _mm256_slli_epi32(pairs, 16))};
#endif
        }
        return line;
    }

    template <int R, int C, bool kIsHalf>
    static ATTENDANT_INLINE void step(Sums<R, C>& sums, const Number* numbers, int64_t stride, const char* const (&lines)[C], int64_t offset) {
#pragma GCC unroll 2
        for (int half = 0; half < (kIsHalf ? 1 : 2); half++) {
            Line x[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) x[c] = expand(lines[c] + offset, half == 1);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Vec factor = broadcast(numbers[r * stride + half]);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) sums[r][c] = fma_line(factor, x[c], sums[r][c]);
            }
        }
    }
};

#endif

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
