// Whether a row's numbers are all finite, in one pass. Included by *.isa.cpp files only.
#pragma once

#include "simd.h"

namespace attendant::ATTENDANT_ISA {

// The largest magnitude of a row; NaN where it holds one.
inline float row_magnitude(const float* x, int64_t width) {
    Vec first = zero(), second = zero();
    int64_t i = 0;
    for (; i + 2 * kWidth <= width; i += 2 * kWidth) {
        first = max_magnitude(first, abs(load(x + i)));
        second = max_magnitude(second, abs(load(x + i + kWidth)));
    }
    for (; i < width; i += kWidth) {
        const int64_t count = width - i < kWidth ? width - i : kWidth;
        first = max_magnitude(first, abs(load_tail(x + i, count)));
    }
    return largest_magnitude(max_magnitude(first, second));
}

inline bool is_finite_magnitude(float magnitude) { return magnitude <= 3.40282347e38f; }

}  // namespace attendant::ATTENDANT_ISA
