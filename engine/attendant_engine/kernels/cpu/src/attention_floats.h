// How attention computes with a cache of float32 or of bfloat16.
//
// A `Cached` type says how one format is computed with: what a query's dimension or a weight becomes (`Number`, in so many
// planes), how many of them one step takes at once (`kGroup`, one line of the cache), the step itself, and how the sums of
// steps become scores or join the row's. A sum's additions stand in the order of the steps, whatever the number of rows and
// lines that are computed beside it.
#pragma once

#include "attention_math.h"

namespace attendant::ATTENDANT_ISA {
namespace {

// What an integer query needs beside its numbers.
struct QueryFacts {
    float scale;
    int32_t bias;
};

// The lanes of a span that a row sees, from `begin` to `end`.
struct Seen {
    int begin, end;
};

// Sums in float32: what they come to is what they are.
struct FloatSums {
    using Sum = Line;
    static constexpr int kPlanes = 1;

    static ATTENDANT_INLINE Sum none() { return zero_line(); }
    static ATTENDANT_INLINE Line score(const Sum& sum, const QueryFacts&, const char*) { return sum; }
    static ATTENDANT_INLINE Sum begin(const float* sums, Vec correction) { return scale_line(load_line(sums), correction); }
    static ATTENDANT_INLINE void end(const Sum& sum, float* sums, Vec, float) { store_line(sums, sum); }
};

// Queries and weights as they are: the cache is what gets widened.
struct FloatNumbers : FloatSums {
    using Number = float;

    static ATTENDANT_INLINE void put_query(const float* q, int64_t padded_dim, Number* numbers, QueryFacts&) {
        for (int64_t d = 0; d < padded_dim; d += kWidth) store(numbers + d, load(q + d));
    }

    // Puts down a row's weights of up to four tiles, 2^(score - largest), and adds them to the row's 16 totals.
    template <int T>
    static ATTENDANT_INLINE float weigh(const Line (&scores)[T], float largest, const char* const*, Seen, Number* weights, Line& totals) {
        const Vec most = broadcast(largest);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            for (int i = 0; i < kParts; i++) {
                const Vec weight = power_of_two(sub(scores[t].part[i], most));
                store(weights + t * 16 + i * kWidth, weight);
                totals.part[i] = add(totals.part[i], weight);
            }
        }
        return 1;
    }
};

// float32: a step takes one dimension, or one position.
struct CachedF32 : FloatNumbers {
    static constexpr int kGroup = 1;

    template <int R, int C, bool kIsOfKeys, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Sum (&sums)[R][C], const Number* numbers, int64_t stride, int64_t, const char* const (&lines)[C], int64_t offset) {
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
struct CachedBf16 : FloatSums {
    using Number = uint16_t;
    static constexpr int kGroup = 2;

    static ATTENDANT_INLINE void put_query(const float* q, int64_t padded_dim, Number* numbers, QueryFacts&) {
        for (int64_t d = 0; d < padded_dim; d += 16) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers + d), (__m256i)_mm512_cvtneps_pbh(load(q + d).v));
        }
    }

    template <int T>
    static ATTENDANT_INLINE float weigh(const Line (&scores)[T], float largest, const char* const*, Seen, Number* weights, Line& totals) {
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
        return 1;
    }

    template <int R, int C, bool kIsOfKeys, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Sum (&sums)[R][C], const Number* numbers, int64_t stride, int64_t, const char* const (&lines)[C], int64_t offset) {
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
struct CachedBf16 : FloatNumbers {
    static constexpr int kGroup = 2;

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

    template <int R, int C, bool kIsOfKeys, bool kIsHalf>
    static ATTENDANT_INLINE void step(
        Sum (&sums)[R][C], const Number* numbers, int64_t stride, int64_t, const char* const (&lines)[C], int64_t offset) {
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
