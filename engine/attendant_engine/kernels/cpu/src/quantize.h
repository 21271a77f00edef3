// A row of float32 as bytes with one scale: x = (byte - 128) * scale, scale = the largest magnitude / 127.
//
// Shared by everything that makes the input of an int8 linear layer, so that a row's bytes do not depend on who made them.
// Included by *.isa.cpp files only.
#pragma once

#include "simd.h"

namespace attendant::ATTENDANT_ISA {

// The largest magnitude of a row; NaN or infinity where the row holds one.
inline float row_magnitude(const float* x, int64_t width) {
    Vec largest_lanes = zero();
    int64_t i = 0;
    for (; i + kWidth <= width; i += kWidth) largest_lanes = max_magnitude(largest_lanes, abs(load(x + i)));
    if (i < width) largest_lanes = max_magnitude(largest_lanes, abs(load_tail(x + i, width - i)));
    alignas(64) float lanes[kWidth];
    store(lanes, largest_lanes);
    float magnitude = lanes[0];
    for (int lane = 1; lane < kWidth; lane++)
        if (!(lanes[lane] <= magnitude) && magnitude == magnitude) magnitude = lanes[lane];
    return magnitude;
}

// Writes `width` bytes and returns the scale: 0 for a row of zeros (or of numbers too small to divide by), and NaN for a
// row that is not finite, so that whatever is computed from it is not finite either.
inline float quantize_row(const float* x, int64_t width, uint8_t* out) {
    constexpr float kSmallest = 1e-36f, kLargest = 3.40282347e38f;
    const float magnitude = row_magnitude(x, width);
    const bool is_finite = magnitude <= kLargest;
    const Vec inverse = broadcast(is_finite && magnitude >= kSmallest ? 127.0f / magnitude : 0.0f), offset = broadcast(128.0f);
    int64_t i = 0;
    for (; i + kWidth <= width; i += kWidth) store_u8(out + i, add(round(mul(load(x + i), inverse)), offset));
    if (i < width) store_u8_tail(out + i, add(round(mul(load_tail(x + i, width - i), inverse)), offset), width - i);
    if (!is_finite) return __builtin_nanf("");
    return magnitude >= kSmallest ? magnitude / 127.0f : 0.0f;
}

}  // namespace attendant::ATTENDANT_ISA
