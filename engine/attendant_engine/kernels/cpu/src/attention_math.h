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
ATTENDANT_INLINE Line zero_line() {
    Line line;
    for (int i = 0; i < kParts; i++) line.part[i] = zero();
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

// The sum of a line's numbers in one fixed tree.
ATTENDANT_INLINE float sum_line(const Line& a) {
#ifdef __AVX512F__
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.part[0].v), _mm512_extractf32x8_ps(a.part[0].v, 1));
#else
    const __m256 half = _mm256_add_ps(a.part[0].v, a.part[1].v);
#endif
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

// The largest number of each of R <= 8 vectors, in the lanes 0 to R - 1; by pairs, so that all come together.
template <int R>
ATTENDANT_INLINE __m256 largest_of_each(const Vec (&a)[R]) {
    __m256 half[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; r++) {
        const Vec x = a[r < R ? r : 0];
#ifdef __AVX512F__
        half[r] = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
#else
        half[r] = x.v;
#endif
    }
#pragma GCC unroll 4
    for (int r = 0; r < 8; r += 2)
        half[r / 2] = _mm256_max_ps(_mm256_unpacklo_ps(half[r], half[r + 1]), _mm256_unpackhi_ps(half[r], half[r + 1]));
#pragma GCC unroll 2
    for (int r = 0; r < 4; r += 2) {
        const __m256d x = _mm256_castps_pd(half[r]), y = _mm256_castps_pd(half[r + 1]);
        half[r / 2] = _mm256_max_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
    }
    return _mm256_max_ps(_mm256_permute2f128_ps(half[0], half[1], 0x20), _mm256_permute2f128_ps(half[0], half[1], 0x31));
}

// What stands for the score of a key that a row does not see, and for the largest score before there is one. Finite, so
// that a difference of the two is a number, and so far apart that 2 to the power of it is 0.
constexpr float kUnseen = -2.0e38f;
constexpr float kNothingYet = -1.0e38f;

// Lanes outside of [begin, end) become `kUnseen`.
ATTENDANT_INLINE Vec keep_lanes(Vec a, int begin, int end) {
#ifdef __AVX512F__
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 is_late = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin));
    const __mmask16 is_kept = _mm512_mask_cmplt_epi32_mask(is_late, lane, _mm512_set1_epi32(end));
    return {_mm512_mask_mov_ps(_mm512_set1_ps(kUnseen), is_kept, a.v)};
#else
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i is_late = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1));
    const __m256i is_kept = _mm256_and_si256(is_late, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
    return {_mm256_blendv_ps(_mm256_set1_ps(kUnseen), a.v, _mm256_castsi256_ps(is_kept))};
#endif
}

// 2^x for x <= 0; exactly 1 at 0 and 0 from -151 down, NaN of NaN. Minimax polynomials, constrained to 1 at 0, of a relative
// error of 9.2e-8, or, where the result is rounded to bfloat16 (2e-3), of 1.0e-4.
template <bool kIsCoarse = false>
ATTENDANT_INLINE Vec power_of_two(Vec x) {
#ifndef __AVX512F__
    x = max(broadcast(-151.0f), x);  // the exponent is put together as an integer
#endif
    const Vec n = round(x);
    const Vec r = sub(x, n);
    Vec p;
    if (kIsCoarse) {
        p = fma(broadcast(5.500893000e-02f), r, broadcast(2.422109596e-01f));
        p = fma(p, r, broadcast(6.932829273e-01f));
    } else {
        p = fma(broadcast(1.326472707e-03f), r, broadcast(9.671512649e-03f));
        p = fma(p, r, broadcast(5.550733744e-02f));
        p = fma(p, r, broadcast(2.402224209e-01f));
        p = fma(p, r, broadcast(6.931469776e-01f));
    }
    return scale_by_power(fma(p, r, broadcast(1.0f)), n);
}

// A row's weights of up to four tiles: 2^(score - largest), put down as `Number`s; adds them to the row's 16 totals as put.
template <class Number, int T>
ATTENDANT_INLINE void put_weights(const Line (&scores)[T], float largest, Number* weights, Line& totals) {
    const Vec most = broadcast(largest);
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < kParts; i++) {
            const Vec weight = power_of_two(sub(scores[t].part[i], most));
            store(weights + t * 16 + i * kWidth, weight);
            totals.part[i] = add(totals.part[i], weight);
        }
    }
}

// float32: a step takes one dimension, or one position.
struct CachedF32 {
    using Element = float;
    using Number = float;
    static constexpr int kGroup = 1;

    static ATTENDANT_INLINE void put(Number* p, Vec a) { store(p, a); }

    template <int T>
    static ATTENDANT_INLINE void weigh(const Line (&scores)[T], float largest, Number* weights, Line& totals) {
        put_weights<Number, T>(scores, largest, weights, totals);
    }

    template <int R, int C, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Line (&sums)[R][C], const Number* numbers, int64_t stride, const char* const (&lines)[C], int64_t offset) {
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

    static ATTENDANT_INLINE void put(Number* p, Vec a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a.v));
    }

    template <int T>
    static ATTENDANT_INLINE void weigh(const Line (&scores)[T], float largest, Number* weights, Line& totals) {
        const Vec most = broadcast(largest);
        const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
#pragma GCC unroll 4
        for (int t = 0; t < T; t += 2) {
            // A tile that is not there weighs nothing, so a row's totals do not depend on it.
            const Vec first = power_of_two<true>(sub(scores[t].part[0], most));
            const Vec second = t + 1 < T ? power_of_two<true>(sub(scores[t + 1 < T ? t + 1 : t].part[0], most)) : zero();
            const __m512bh pair = _mm512_cvtne2ps_pbh(second.v, first.v);
            _mm512_storeu_si512(weights + t * 16, (__m512i)pair);
            totals.part[0].v = _mm512_dpbf16_ps(totals.part[0].v, pair, ones);
        }
    }

    template <int R, int C, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Line (&sums)[R][C], const Number* numbers, int64_t stride, const char* const (&lines)[C], int64_t offset) {
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

    template <int T>
    static ATTENDANT_INLINE void weigh(const Line (&scores)[T], float largest, Number* weights, Line& totals) {
        put_weights<Number, T>(scores, largest, weights, totals);
    }

    static ATTENDANT_INLINE Line expand(const char* p, bool is_second) {
        Line line;
        for (int i = 0; i < kParts; i++) {
#ifdef __AVX512F__
            const __m512i pairs = _mm512_loadu_si512(p);
            const __m512i bits = is_second ? _mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)) : _mm512_slli_epi32(pairs, 16);
            line.part[i] = {_mm512_castsi512_ps(bits)};
#else
            const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + i);
            const __m256i bits = is_second ? _mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)) : _mm256_slli_epi32(pairs, 16);
            line.part[i] = {_mm256_castsi256_ps(bits)};
#endif
        }
        return line;
    }

    template <int R, int C, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Line (&sums)[R][C], const Number* numbers, int64_t stride, const char* const (&lines)[C], int64_t offset) {
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
