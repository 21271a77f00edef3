// The arithmetic that attention needs in every format of the cache: lines of 16 numbers, which keys count, powers of two.
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

// Lanes outside of [begin, end) become `otherwise`.
ATTENDANT_INLINE Vec keep_lanes(Vec a, int begin, int end, float otherwise) {
#ifdef __AVX512F__
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 is_late = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin));
    const __mmask16 is_kept = _mm512_mask_cmplt_epi32_mask(is_late, lane, _mm512_set1_epi32(end));
    return {_mm512_mask_mov_ps(_mm512_set1_ps(otherwise), is_kept, a.v)};
#else
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i is_late = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1));
    const __m256i is_kept = _mm256_and_si256(is_late, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
    return {_mm256_blendv_ps(_mm256_set1_ps(otherwise), a.v, _mm256_castsi256_ps(is_kept))};
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

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
