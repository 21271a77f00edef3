// One step of a product in each weight format: 32 bits of a row's inputs (G consecutive k) times the weights of a vector
// of columns, added to that vector of sums. What a step is depends on the instruction set; its order over k does not.
//
// bfloat16 without its instruction is widened to float32 and fused, k after k. Integers are exact in every instruction set;
// a step of int4 is a whole group, whose integer sum is scaled and added to a float32 one.
#pragma once

#include "simd.h"

#include <cstdint>
#include <cstring>

namespace attendant::ATTENDANT_ISA {

#ifdef __AVX512F__

using Ints = __m512i;
inline Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
inline void store_ints(void* p, Ints a) { _mm512_storeu_si512(p, a); }
inline Ints zero_ints() { return _mm512_setzero_si512(); }
inline Ints broadcast_ints(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints sub_ints(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints and_ints(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints shift_left(Ints a, int bits) { return _mm512_slli_epi32(a, bits); }
inline Ints shift_right16(Ints a, int bits) { return _mm512_srli_epi16(a, bits); }
inline Ints even_bytes_signed(Ints a) { return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8); }
inline Ints odd_bytes_signed(Ints a) { return _mm512_srai_epi16(a, 8); }
inline Ints multiply_pairs(Ints a, Ints b) { return _mm512_madd_epi16(a, b); }
inline Ints multiply_bytes(Ints a, Ints b) { return _mm512_maddubs_epi16(a, b); }
inline Ints add16(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
inline Vec as_floats(Ints a) { return {_mm512_castsi512_ps(a)}; }
inline Vec to_floats(Ints a) { return {_mm512_cvtepi32_ps(a)}; }

#else

using Ints = __m256i;
inline Ints load_ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_ints(void* p, Ints a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline Ints zero_ints() { return _mm256_setzero_si256(); }
inline Ints broadcast_ints(int32_t x) { return _mm256_set1_epi32(x); }
inline Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints sub_ints(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints and_ints(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Ints shift_left(Ints a, int bits) { return _mm256_slli_epi32(a, bits); }
inline Ints shift_right16(Ints a, int bits) { return _mm256_srli_epi16(a, bits); }
inline Ints even_bytes_signed(Ints a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
inline Ints odd_bytes_signed(Ints a) { return _mm256_srai_epi16(a, 8); }
inline Ints multiply_pairs(Ints a, Ints b) { return _mm256_madd_epi16(a, b); }
inline Ints multiply_bytes(Ints a, Ints b) { return _mm256_maddubs_epi16(a, b); }
inline Ints add16(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
inline Vec as_floats(Ints a) { return {_mm256_castsi256_ps(a)}; }
inline Vec to_floats(Ints a) { return {_mm256_cvtepi32_ps(a)}; }

#endif

inline int32_t read_int(const char* p) {
    int32_t value;
    std::memcpy(&value, p, 4);
    return value;
}

// Tiles by vectors of columns and rows, as many sums as the registers hold beside a step's weights and one row's inputs.
// Wide ones take a whole panel, which is then read once; narrow ones take more rows for half of one or less.
struct Shape {
    int vectors, max_rows;
};
struct Shapes {
    Shape wide, narrow;
};
#ifdef __AVX512F__
constexpr Shapes kLeanShapes = {{4, 6}, {2, 8}}, kWideningShapes = {{4, 5}, {2, 12}}, kInt4Shapes = {{4, 3}, {2, 6}};
#else
constexpr Shapes kLeanShapes = {{8, 1}, {2, 6}}, kWideningShapes = {{4, 1}, {2, 4}}, kInt4Shapes = {{4, 1}, {2, 3}};
#endif

// Float32 inputs and weights.
struct StepF32 {
    using Sum = Vec;
    using Input = Vec;
    using Weights = Vec;
    static constexpr Shapes kShapes = kLeanShapes;
    static constexpr int64_t kPerStep = 1, kInputBytes = 4, kWeightBytes = 256;
    static Sum none() { return zero(); }
    static Sum load_sum(const char* p) { return load(reinterpret_cast<const float*>(p)); }
    static void store_sum(char* p, Sum sum) { store(reinterpret_cast<float*>(p), sum); }
    static Input load_input(const char* p) {
        float value;
        std::memcpy(&value, p, 4);
        return broadcast(value);
    }
    static Weights load_weights(const char* p) { return load(reinterpret_cast<const float*>(p)); }
    static Sum step(Sum sum, Input x, Weights w) { return fma(x, w, sum); }
};

#if defined(__AVX512BF16__)

// bfloat16 inputs and weights, by the instruction for it.
struct StepBf16 {
    using Sum = Vec;
    using Input = Ints;
    using Weights = Ints;
    static constexpr Shapes kShapes = kLeanShapes;
    static constexpr int64_t kPerStep = 2, kInputBytes = 4, kWeightBytes = 256;
    static Sum none() { return zero(); }
    static Sum load_sum(const char* p) { return load(reinterpret_cast<const float*>(p)); }
    static void store_sum(char* p, Sum sum) { store(reinterpret_cast<float*>(p), sum); }
    static Input load_input(const char* p) { return broadcast_ints(read_int(p)); }
    static Weights load_weights(const char* p) { return load_ints(p); }
    static Sum step(Sum sum, Input x, Weights w) {
        return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w))};
    }
};

#else

// bfloat16 inputs and weights, widened.
struct StepBf16 {
    struct Pair {
        Vec first, second;
    };
    using Sum = Vec;
    using Input = Pair;
    using Weights = Pair;
    static constexpr Shapes kShapes = kWideningShapes;
    static constexpr int64_t kPerStep = 2, kInputBytes = 4, kWeightBytes = 256;
    static Sum none() { return zero(); }
    static Sum load_sum(const char* p) { return load(reinterpret_cast<const float*>(p)); }
    static void store_sum(char* p, Sum sum) { store(reinterpret_cast<float*>(p), sum); }
    static Pair widen(Ints halves) {
        return {as_floats(shift_left(halves, 16)), as_floats(and_ints(halves, broadcast_ints(static_cast<int32_t>(0xffff0000))))};
    }
    static Input load_input(const char* p) {
        // Widened as scalars, before the broadcast.
        const auto bits = static_cast<uint32_t>(read_int(p));
        const uint32_t low = bits << 16, high = bits & 0xffff0000u;
        return {as_floats(broadcast_ints(static_cast<int32_t>(low))), as_floats(broadcast_ints(static_cast<int32_t>(high)))};
    }
    static Weights load_weights(const char* p) { return widen(load_ints(p)); }
    static Sum step(Sum sum, Input x, Weights w) { return fma(x.second, w.second, fma(x.first, w.first, sum)); }
};

#endif

#if defined(__AVX512VNNI__)

// Unsigned inputs and signed weights of 8 bits, by the instruction for it.
struct StepI8 {
    using Sum = Ints;
    using Input = Ints;
    using Weights = Ints;
    static constexpr Shapes kShapes = kLeanShapes;
    static constexpr int64_t kPerStep = 4, kInputBytes = 4, kWeightBytes = 256;
    static Sum none() { return zero_ints(); }
    static Sum load_sum(const char* p) { return load_ints(p); }
    static void store_sum(char* p, Sum sum) { store_ints(p, sum); }
    static Input load_input(const char* p) { return broadcast_ints(read_int(p)); }
    static Weights load_weights(const char* p) { return load_ints(p); }
    static Sum step(Sum sum, Input x, Weights w) { return _mm512_dpbusd_epi32(sum, x, w); }
};

#else

// Unsigned inputs and signed weights of 8 bits, widened to 16: never the multiplication of bytes, which saturates.
struct StepI8 {
    struct Pair {
        Ints even, odd;
    };
    using Sum = Ints;
    using Input = Pair;
    using Weights = Pair;
    static constexpr Shapes kShapes = kWideningShapes;
    static constexpr int64_t kPerStep = 4, kInputBytes = 4, kWeightBytes = 256;
    static Sum none() { return zero_ints(); }
    static Sum load_sum(const char* p) { return load_ints(p); }
    static void store_sum(char* p, Sum sum) { store_ints(p, sum); }
    static Input load_input(const char* p) {
        const auto bytes = static_cast<uint32_t>(read_int(p));
        const uint32_t even = bytes & 0x00ff00ffu, odd = bytes >> 8 & 0x00ff00ffu;
        return {broadcast_ints(static_cast<int32_t>(even)), broadcast_ints(static_cast<int32_t>(odd))};
    }
    static Weights load_weights(const char* p) {
        const Ints bytes = load_ints(p);
        return {even_bytes_signed(bytes), odd_bytes_signed(bytes)};
    }
    static Sum step(Sum sum, Input x, Weights w) {
        return add_ints(sum, add_ints(multiply_pairs(x.even, w.even), multiply_pairs(x.odd, w.odd)));
    }
};

#endif

#if defined(__AVX512VNNI__)

// The integer sum of one group: values of 0 to 15 times signed inputs.
struct GroupI4 {
    Ints sum;
    static GroupI4 from(int32_t first) { return {broadcast_ints(first)}; }
    void add(Ints w, Ints x) { sum = _mm512_dpbusd_epi32(sum, w, x); }
    Ints total(int32_t) const { return sum; }
};

#else

// The same in 16 bits: 8 steps of at most 2 * 15 * 127 stay below 2^15, so that nothing saturates.
struct GroupI4 {
    Ints sum;
    static GroupI4 from(int32_t) { return {zero_ints()}; }
    void add(Ints w, Ints x) { sum = add16(sum, multiply_bytes(w, x)); }
    Ints total(int32_t first) const { return add_ints(broadcast_ints(first), multiply_pairs(sum, broadcast_ints(0x00010001))); }
};

#endif

// A group of an input row: 32 signed bytes, and -8 times their sum, where the sum of a group of products starts: weights
// are held as value + 8.
struct InputGroupI4 {
    int8_t values[32];
    int32_t first;
};

// Signed inputs of 8 bits and weights of 4.
struct StepI4 {
    using Sum = Vec;
    static constexpr Shapes kShapes = kInt4Shapes;
    static constexpr int64_t kPerStep = 32, kInputBytes = sizeof(InputGroupI4), kWeightBytes = 1152;
    static Sum none() { return zero(); }
    static Sum load_sum(const char* p) { return load(reinterpret_cast<const float*>(p)); }
    static void store_sum(char* p, Sum sum) { store(reinterpret_cast<float*>(p), sum); }
};

}  // namespace attendant::ATTENDANT_ISA
