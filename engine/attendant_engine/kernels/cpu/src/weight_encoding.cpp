// See weight_encoding.h.
#include "weight_encoding.h"

#include <emmintrin.h>

#include <cmath>
#include <cstring>

namespace attendant {
namespace {

constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23
constexpr uint32_t kRoundingBits = 0x4b400000;

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

uint16_t to_bf16(float value) {
    const uint32_t bits = bits_of(value);
    if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The nearest integer modulo 2^32, of values below 2^22.
uint32_t to_integer(float value) { return bits_of(value + kRounding) - kRoundingBits; }

// Four values as whole steps of a scale, from -8 to 7.
__m128 int4_steps(__m128 values, __m128 inverse) {
    const __m128 clipped = _mm_min_ps(_mm_max_ps(_mm_mul_ps(values, inverse), _mm_set1_ps(-8.0f)), _mm_set1_ps(7.0f));
    return _mm_sub_ps(_mm_add_ps(clipped, _mm_set1_ps(kRounding)), _mm_set1_ps(kRounding));
}

// The squared error of a group with one scale.
float int4_error(const float* values, float scale) {
    const __m128 scales = _mm_set1_ps(scale), inverse = _mm_set1_ps(1.0f / scale);
    __m128 sum = _mm_setzero_ps();
    for (int64_t i = 0; i < kInt4Group; i += 4) {
        const __m128 value = _mm_loadu_ps(values + i);
        const __m128 error = _mm_sub_ps(_mm_mul_ps(int4_steps(value, inverse), scales), value);
        sum = _mm_add_ps(sum, _mm_mul_ps(error, error));
    }
    float lanes[4];
    _mm_storeu_ps(lanes, sum);
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// The scale of a group of 32: of some that let the largest value, whatever its sign, lie about 8 steps below zero (or clip it
// a little, for finer steps everywhere else), the one with the least squared error. Not a number where a value is none.
float int4_scale(const float* values) {
    const float largest = magnitude_of_bits(largest_magnitude_bits(values, kInt4Group));
    if (!std::isfinite(largest)) return NAN;
    if (largest < 1e-30f) return 0;
    float extreme = largest;
    for (int64_t i = 0; i < kInt4Group; i++) extreme = values[i] == -largest ? -largest : extreme;
    float best = 0, least = INFINITY;
    constexpr float kSteps[] = {6.5f, 7.0f, 7.5f, 8.0f, 8.5f, 9.0f, 9.5f, 10.0f};
    for (const float steps : kSteps) {
        const float scale = from_bf16(to_bf16(-extreme / steps)), error = int4_error(values, scale);
        if (error < least) {
            best = scale;
            least = error;
        }
    }
    return best;
}

}  // namespace

float from_bf16(uint16_t bits) { return magnitude_of_bits(uint32_t{bits} << 16); }

float magnitude_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint32_t largest_magnitude_bits(const float* values, int64_t count) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = bits_of(values[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

void encode_float32(const Block& block, int64_t count, char* out) {
    auto* floats = reinterpret_cast<float*>(out);
    for (int64_t k = 0; k < count; k++)
        for (int64_t column = 0; column < kPanel; column++) floats[k * kPanel + column] = block[column][k];
}

void encode_bfloat16(const Block& block, int64_t count, char* out) {
    auto* halves = reinterpret_cast<uint16_t*>(out);
    for (int64_t k = 0; k < count; k += 2)
        for (int64_t column = 0; column < kPanel; column++, halves += 2) {
            halves[0] = to_bf16(block[column][k]);
            halves[1] = to_bf16(block[column][k + 1]);
        }
}

void encode_int8(const Block& block, const float* inverses, int64_t count, char* out, uint32_t* sums) {
    for (int64_t column = 0; column < kPanel; column++) {
        uint8_t bytes[kBlock];
        uint32_t sum = 0;
        for (int64_t k = 0; k < kBlock; k++) {
            const uint32_t value = to_integer(block[column][k] * inverses[column]);
            bytes[k] = static_cast<uint8_t>(value);
            sum += value;
        }
        sums[column] += sum;
        for (int64_t k = 0; k < count; k += 4) std::memcpy(out + (k / 4 * kPanel + column) * 4, bytes + k, 4);
    }
}

void encode_int4_group(const Block& block, int64_t k, char* out) {
    for (int64_t column = 0; column < kPanel; column++) {
        const float* const values = block[column] + k;
        const uint16_t held_scale = to_bf16(int4_scale(values));
        const float scale = from_bf16(held_scale), inverse = std::fabs(scale) > 1e-37f ? 1.0f / scale : 0.0f;
        int32_t steps[kInt4Group];
        for (int64_t i = 0; i < kInt4Group; i += 4) {
            const __m128i whole = _mm_cvtps_epi32(int4_steps(_mm_loadu_ps(values + i), _mm_set1_ps(inverse)));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(steps + i), _mm_add_epi32(whole, _mm_set1_epi32(8)));
        }
        for (int64_t part = 0; part < 4; part++) {
            uint8_t bytes[4];
            for (int64_t i = 0; i < 4; i++) bytes[i] = static_cast<uint8_t>(steps[part * 8 + i] | steps[part * 8 + 4 + i] << 4);
            std::memcpy(out + (part * kPanel + column) * 4, bytes, 4);
        }
        std::memcpy(out + kPanel * kInt4Group / 2 + column * 2, &held_scale, 2);
    }
}

}  // namespace attendant
