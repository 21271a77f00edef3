// A row of float32 as bytes with one scale: x = (byte - 128) * scale, scale = the largest magnitude / 127.
//
// Shared by everything that makes the input of an int8 linear layer, so that a row's bytes do not depend on who made them.
// Included by *.isa.cpp files only.
#pragma once

#include "finite.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {

// Writes `width` bytes and returns the scale: 0 for a row of zeros (or of numbers too small to divide by), and NaN for a
// row that is not finite, so that whatever is computed from it is not finite either. `magnitude` is the row's largest.
inline float quantize_row(const float* x, int64_t width, float magnitude, uint8_t* out) {
    constexpr float kSmallest = 1e-36f;
    const bool is_finite = is_finite_magnitude(magnitude);
    const Vec inverse = broadcast(is_finite && magnitude >= kSmallest ? 127.0f / magnitude : 0.0f), offset = broadcast(128.0f);
    int64_t i = 0;
    for (; i + kWidth <= width; i += kWidth) store_u8(out + i, add(round(mul(load(x + i), inverse)), offset));
    if (i < width) store_u8_tail(out + i, add(round(mul(load_tail(x + i, width - i), inverse)), offset), width - i);
    if (!is_finite) return __builtin_nanf("");
    return magnitude >= kSmallest ? magnitude / 127.0f : 0.0f;
}

inline float quantize_row(const float* x, int64_t width, uint8_t* out) { return quantize_row(x, width, row_magnitude(x, width), out); }

}  // namespace attendant::ATTENDANT_ISA
