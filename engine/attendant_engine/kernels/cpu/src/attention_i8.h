// How attention computes with a cache of int8, whose positions have a scale each.
//
// Queries and weights lose nothing that matters: both are taken as integers of 15 or 16 bits, in two planes of bytes, so the
// cache's own rounding is what an answer sees. Sums are whole numbers and exact in any order. The scale of a key goes into
// its score, that of a value into its weight; a row's weights of a span share one scale, which depends on that row alone.
#pragma once

#include "attention_floats.h"

namespace attendant::ATTENDANT_ISA {
namespace {

// Below this a largest number is taken for zero: its reciprocal would not be finite.
constexpr float kVanishing = 1.0e-30f;

// The scales of a tile's positions.
ATTENDANT_INLINE Line load_scales(const char* tile) { return load_line(reinterpret_cast<const float*>(tile)); }

#ifdef __AVX512VNNI__

struct CachedI8 {
    using Number = uint8_t;
    struct Sum {
        __m512i high, low;
    };
    static constexpr int kPlanes = 2;
    static constexpr int kGroup = 4;
    static constexpr float kMostOfQuery = 127 * 128, kMostOfWeight = 65535;

    // q = (128 * high + low) * scale, both planes signed. Keys take part as byte + 128, which `bias` takes back.
    static ATTENDANT_INLINE void put_query(const float* q, int64_t padded_dim, Number* numbers, QueryFacts& facts) {
        Vec most = zero();
        for (int64_t d = 0; d < padded_dim; d += 16) most = max_magnitude(most, abs(load(q + d)));
        const float largest = largest_lane(most);
        const Vec factor = broadcast(largest < kVanishing ? 0.0f : kMostOfQuery / largest);
        __m512i total = _mm512_setzero_si512();
        for (int64_t d = 0; d < padded_dim; d += 16) {
            const __m512i whole = _mm512_cvtps_epi32(mul(load(q + d), factor).v);
            const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(64)), 7);
            put_bytes(numbers + d, high);
            put_bytes(numbers + padded_dim + d, _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 7)));
            total = _mm512_add_epi32(total, whole);
        }
        facts.scale = largest / kMostOfQuery;
        facts.bias = 128 * _mm512_reduce_add_epi32(total);
    }

    static ATTENDANT_INLINE Sum none() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }

    static ATTENDANT_INLINE Line score(const Sum& sum, const QueryFacts& facts, const char* tile) {
        const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(sum.high, 7), sum.low);
        const Vec unbiased = {_mm512_cvtepi32_ps(_mm512_sub_epi32(whole, _mm512_set1_epi32(facts.bias)))};
        return {{mul(mul(unbiased, broadcast(facts.scale)), load_scales(tile).part[0])}};
    }

    // weight * scale of the value = (256 * high + low) * what this returns, both planes unsigned.
    template <int T>
    static ATTENDANT_INLINE float weigh(
        const Line (&scores)[T], float largest, const char* const* tiles, Seen seen, Number* weights, Line& totals) {
        Vec scaled[T];
        Vec most = zero();
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            const Vec weight = power_of_two(sub(scores[t].part[0], broadcast(largest)));
            totals.part[0] = add(totals.part[0], weight);
            // Where nothing was written a scale may be anything.
            scaled[t] = keep_lanes(mul(weight, load_scales(tiles[t]).part[0]), seen.begin - t * 16, seen.end - t * 16, 0.0f);
            most = max_magnitude(most, scaled[t]);
        }
        const float top = largest_lane(most);
        const Vec factor = broadcast(top < kVanishing ? 0.0f : kMostOfWeight / top);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            const __m512i whole = _mm512_cvtps_epi32(mul(scaled[t], factor).v);
            put_bytes(weights + t * 16, _mm512_srli_epi32(whole, 8));
            put_bytes(weights + 64 + t * 16, whole);
        }
        return top / kMostOfWeight;
    }

    template <int R, int C, bool kIsOfKeys, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Sum (&sums)[R][C], const Number* numbers, int64_t stride, int64_t plane, const char* const (&lines)[C], int64_t offset) {
        __m512i x[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            x[c] = _mm512_loadu_si512(lines[c] + offset);
            if (kIsOfKeys) x[c] = _mm512_xor_si512(x[c], _mm512_set1_epi8(-128));
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const __m512i high = broadcast_four(numbers + r * stride), low = broadcast_four(numbers + r * stride + plane);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                Sum& sum = sums[r][c];
                sum.high = kIsOfKeys ? _mm512_dpbusd_epi32(sum.high, x[c], high) : _mm512_dpbusd_epi32(sum.high, high, x[c]);
                sum.low = kIsOfKeys ? _mm512_dpbusd_epi32(sum.low, x[c], low) : _mm512_dpbusd_epi32(sum.low, low, x[c]);
            }
        }
    }

    static ATTENDANT_INLINE Sum begin(const float*, Vec) { return none(); }

    static ATTENDANT_INLINE void end(const Sum& sum, float* sums, Vec correction, float factor) {
        const Vec whole = {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sum.high, 8), sum.low))};
        store(sums, fma(whole, broadcast(factor), mul(load(sums), correction)));
    }

private:
    static ATTENDANT_INLINE void put_bytes(Number* p, __m512i a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
    }
    static ATTENDANT_INLINE __m512i broadcast_four(const Number* p) {
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        return _mm512_set1_epi32(four);
    }
    // Of magnitudes, NaN where one is: as integers, their bits stand in that order.
    static ATTENDANT_INLINE float largest_lane(Vec a) {
        const int32_t bits = _mm512_reduce_max_epi32(_mm512_castps_si512(a.v));
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }
};

#else

// Without the instruction: widened to float32, byte after byte; queries and weights stay float32.
struct CachedI8 : FloatNumbers {
    static constexpr int kGroup = 4;

    static ATTENDANT_INLINE Line score(const Sum& sum, const QueryFacts&, const char* tile) {
        const Line scales = load_scales(tile);
        Line line;
        for (int i = 0; i < kParts; i++) line.part[i] = mul(sum.part[i], scales.part[i]);
        return line;
    }

    template <int T>
    static ATTENDANT_INLINE float weigh(
        const Line (&scores)[T], float largest, const char* const* tiles, Seen seen, Number* weights, Line& totals) {
        const Vec most = broadcast(largest);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            const Line scales = load_scales(tiles[t]);
            for (int i = 0; i < kParts; i++) {
                const Vec weight = power_of_two(sub(scores[t].part[i], most));
                totals.part[i] = add(totals.part[i], weight);
                const int lane = t * 16 + i * kWidth;
                store(weights + lane, keep_lanes(mul(weight, scales.part[i]), seen.begin - lane, seen.end - lane, 0.0f));
            }
        }
        return 1;
    }

    template <int R, int C, bool kIsOfKeys, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Sum (&sums)[R][C], const Number* numbers, int64_t stride, int64_t, const char* const (&lines)[C], int64_t offset) {
#pragma GCC unroll 4
        for (int byte = 0; byte < kGroup; byte++) {
            Line x[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) x[c] = expand(lines[c] + offset, byte);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Vec factor = broadcast(numbers[r * stride + byte]);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) sums[r][c] = fma_line(factor, x[c], sums[r][c]);
            }
        }
    }

private:
    // One of the four bytes of each of 16 lanes.
    static ATTENDANT_INLINE Line expand(const char* p, int byte) {
        Line line;
        for (int i = 0; i < kParts; i++) {
#ifdef __AVX512F__
            const __m512i bytes = _mm512_loadu_si512(p);
            line.part[i] = {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - 8 * byte), 24))};
#else
            const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + i);
            line.part[i] = {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(bytes, 24 - 8 * byte), 24))};
#endif
        }
        return line;
    }
};

#endif

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
