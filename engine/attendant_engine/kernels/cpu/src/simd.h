// A float vector of the instruction set being compiled for: the width and the few operations that the kernels share.
//
// Included by *.isa.cpp files only. A loop over `Vec` handles its tail with `load_tail` and `store_tail`, whose other
// lanes are zero or untouched, by the same instructions as a full vector: so an element's value never depends on whether
// it stands in a tail.
#pragma once

// GCC 12 takes its own header's undefined registers for a mistake of ours (GCC bug 105593). Wherever this header is
// included, it comes before any other that includes <immintrin.h>.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cstdint>

#ifndef ATTENDANT_ISA
#error "compile *.isa.cpp with ATTENDANT_ISA"
#endif

namespace attendant::ATTENDANT_ISA {

#ifdef __AVX512F__

struct Vec {
    __m512 v;
};
constexpr int kWidth = 16;

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 tail_mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
inline Vec load_tail(const float* p, int64_t count) { return {_mm512_maskz_loadu_ps(tail_mask(count), p)}; }
inline void store_tail(float* p, Vec a, int64_t count) { _mm512_mask_storeu_ps(p, tail_mask(count), a.v); }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// max and min give `b` where either is NaN: the operand whose NaN shall survive stands second.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
// The larger of two magnitudes, NaN where either is: as integers, their bits stand in that order.
inline Vec max_magnitude(Vec a, Vec b) {
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// The next whole number below, and whole numbers as integers.
inline Vec floor(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline void store_int(int32_t* p, Vec a) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(a.v)); }
// a * 2^n for integral n.
inline Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// Comparisons, a bit a lane; false where either is NaN.
inline uint32_t is_greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
inline uint32_t is_at_least(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
inline uint32_t is_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
// `a` in the lanes of `mask`, zero in the others.
inline Vec keep(Vec a, uint32_t mask) { return {_mm512_maskz_mov_ps(static_cast<__mmask16>(mask), a.v)}; }
inline Vec keep_first(Vec a, int64_t count) { return keep(a, tail_mask(count)); }
// Writes the lanes of `mask` side by side and returns how many; memory of a whole vector is overwritten.
inline int compress(float* p, Vec a, uint32_t mask) {
    store(p, {_mm512_maskz_compress_ps(static_cast<__mmask16>(mask), a.v)});
    return __builtin_popcount(mask);
}

// A sum in double precision, lane by lane, and its lanes in one fixed tree.
struct DoubleSum {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    void add(Vec a) {
        low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)));
        high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
    }
    double total() const {
        alignas(64) double lanes[8];
        _mm512_store_pd(lanes, _mm512_add_pd(low, high));
        return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
};

// bfloat16 from and to memory. Rounds to nearest, ties to even; a NaN stays one; subnormals and all else alike in every
// instruction set, which is why the hardware's conversion, which flushes subnormals, is not used.
inline Vec load_bf16(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
inline __m256i to_bf16(Vec a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    // Rounding could carry a NaN's payload over into the sign: the quiet bit is set instead.
    const __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
inline void store_bf16(uint16_t* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(a)); }
inline void store_bf16_tail(uint16_t* p, Vec a, int64_t count) { _mm256_mask_storeu_epi16(p, tail_mask(count), to_bf16(a)); }
inline Vec load_bf16_tail(const uint16_t* p, int64_t count) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(tail_mask(count), p)), 16))};
}

// Whole numbers to bytes, rounded to nearest, ties to even, and kept within 0 and 255.
inline __m128i to_u8(Vec a) { return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_cvtps_epi32(a.v), _mm512_setzero_si512())); }
inline void store_u8(uint8_t* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_u8(a)); }
inline void store_u8_tail(uint8_t* p, Vec a, int64_t count) { _mm_mask_storeu_epi8(p, tail_mask(count), to_u8(a)); }

#else

struct Vec {
    __m256 v;
};
constexpr int kWidth = 8;

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline __m256i tail_mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_tail(const float* p, int64_t count) { return {_mm256_maskload_ps(p, tail_mask(count))}; }
inline void store_tail(float* p, Vec a, int64_t count) { _mm256_maskstore_ps(p, tail_mask(count), a.v); }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec max_magnitude(Vec a, Vec b) {
    return {_mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)))};
}
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec floor(Vec a) { return {_mm256_floor_ps(a.v)}; }
inline void store_int(int32_t* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtps_epi32(a.v)); }
// In two steps, so that neither power overflows for any n that `exp` meets.
inline Vec scale_by_power(Vec a, Vec n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return {_mm256_mul_ps(_mm256_mul_ps(a.v, first), second)};
}

inline uint32_t is_greater(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)); }
inline uint32_t is_at_least(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)); }
inline uint32_t is_equal(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)); }
inline Vec keep(Vec a, uint32_t mask) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i chosen = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit);
    return {_mm256_and_ps(_mm256_castsi256_ps(chosen), a.v)};
}
inline Vec keep_first(Vec a, int64_t count) { return {_mm256_and_ps(_mm256_castsi256_ps(tail_mask(count)), a.v)}; }
inline int compress(float* p, Vec a, uint32_t mask) {
    alignas(32) float lanes[kWidth];
    store(lanes, a);
    int count = 0;
    for (; mask != 0; mask &= mask - 1) p[count++] = lanes[__builtin_ctz(mask)];
    return count;
}

struct DoubleSum {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    void add(Vec a) {
        low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(a.v)));
        high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1)));
    }
    double total() const {
        alignas(32) double lanes[4];
        _mm256_store_pd(lanes, _mm256_add_pd(low, high));
        return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    }
};

inline Vec load_bf16(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16))};
}
inline __m128i to_bf16(Vec a) {
    const __m256i bits = _mm256_castps_si256(a.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline void store_bf16(uint16_t* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(a)); }
inline void store_bf16_tail(uint16_t* p, Vec a, int64_t count) {
    if (count == kWidth) return store_bf16(p, a);
    alignas(16) uint16_t lanes[kWidth];
    _mm_store_si128(reinterpret_cast<__m128i*>(lanes), to_bf16(a));
    for (int64_t lane = 0; lane < count; lane++) p[lane] = lanes[lane];
}
inline Vec load_bf16_tail(const uint16_t* p, int64_t count) {
    if (count == kWidth) return load_bf16(p);
    alignas(16) uint16_t lanes[kWidth] = {};
    for (int64_t lane = 0; lane < count; lane++) lanes[lane] = p[lane];
    return load_bf16(lanes);
}

inline __m128i to_u8(Vec a) {
    const __m256i whole = _mm256_cvtps_epi32(a.v);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    return _mm_packus_epi16(words, words);
}
inline void store_u8(uint8_t* p, Vec a) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), to_u8(a)); }
inline void store_u8_tail(uint8_t* p, Vec a, int64_t count) {
    if (count == kWidth) return store_u8(p, a);
    alignas(16) uint8_t lanes[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(lanes), to_u8(a));
    for (int64_t lane = 0; lane < count; lane++) p[lane] = lanes[lane];
}

#endif

// Lane by lane in one fixed tree.
inline float sum(Vec a) {
    alignas(64) float lanes[kWidth];
    store(lanes, a);
    for (int half = kWidth / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}
inline float largest(Vec a) {
    alignas(64) float lanes[kWidth];
    store(lanes, a);
    for (int half = kWidth / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    return lanes[0];
}
// Of lanes that are magnitudes; NaN where one is.
inline float largest_magnitude(Vec a) {
    alignas(64) float lanes[kWidth];
    store(lanes, a);
    float magnitude = lanes[0];
    for (int lane = 1; lane < kWidth; lane++)
        if (!(lanes[lane] <= magnitude) && magnitude == magnitude) magnitude = lanes[lane];
    return magnitude;
}

// x within [low, high]; a NaN stays one.
inline Vec clamp(Vec x, float low, float high) { return min(broadcast(high), max(broadcast(low), x)); }

// e^x within 2 ulp where that is a normal number, 0 below, infinity above, exactly 1 at 0, NaN of NaN: Cody-Waite reduction
// and a polynomial of degree 6 (Cephes).
inline Vec exp(Vec x) {
    const Vec clamped = clamp(x, -104.0f, 89.0f);
    const Vec n = round(mul(clamped, broadcast(1.44269504088896341f)));
    Vec r = fma(n, broadcast(-0.693359375f), clamped);
    r = fma(n, broadcast(2.12194440e-4f), r);
    Vec p = broadcast(1.9875691500e-4f);
    p = fma(p, r, broadcast(1.3981999507e-3f));
    p = fma(p, r, broadcast(8.3334519073e-3f));
    p = fma(p, r, broadcast(4.1665795894e-2f));
    p = fma(p, r, broadcast(1.6666665459e-1f));
    p = fma(p, r, broadcast(5.0000001201e-1f));
    p = fma(p, mul(r, r), r);
    return scale_by_power(add(p, broadcast(1.0f)), n);
}

}  // namespace attendant::ATTENDANT_ISA
