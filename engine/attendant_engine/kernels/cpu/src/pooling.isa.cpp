// One vector a sequence from its hidden states, and the check for what is not finite.
#include "simd.h"

#include "finite.h"
#include "kernels.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kSlab = 256;       // columns that one thread pools at a time
constexpr int64_t kTokensASum = 64;  // a mean is a sum of sums of so many tokens: rounding grows by their number, not the length
enum Mode : uint8_t { kMean = 0, kFirst = 1, kLast = 2 };

Vec mean(const Rows& hidden, int64_t first, int64_t last, int64_t column, int64_t count) {
    const float* x = static_cast<const float*>(hidden.data) + column;
    Vec total = zero();
    for (int64_t begin = first; begin < last; begin += kTokensASum) {
        Vec part = zero();
        for (int64_t token = begin; token < last && token < begin + kTokensASum; token++)
            part = add(part, load_tail(x + token * hidden.stride, count));
        total = add(total, part);
    }
    return div(total, broadcast(static_cast<float>(last - first)));
}

void pool_slab(const PoolCall& call, int64_t sequence, int64_t begin, int64_t end) {
    const int64_t first = call.cu_seqlens[sequence], last = call.cu_seqlens[sequence + 1];
    const int64_t token = call.modes[sequence] == kFirst ? first : last - 1;
    const float* row = static_cast<const float*>(call.hidden.data) + token * call.hidden.stride;
    float* out = call.out + sequence * call.width;
    for (int64_t column = begin; column < end; column += kWidth) {
        const int64_t count = end - column < kWidth ? end - column : kWidth;
        store_tail(
            out + column, call.modes[sequence] == kMean ? mean(call.hidden, first, last, column, count) : load_tail(row + column, count),
            count);
    }
}

void normalise(float* x, int64_t width) {
    Vec squares = zero();
    for (int64_t i = 0; i < width; i += kWidth) {
        const Vec a = load_tail(x + i, width - i < kWidth ? width - i : kWidth);
        squares = fma(a, a, squares);
    }
    const float length = __builtin_sqrtf(sum(squares));
    const Vec divisor = broadcast(length < 1e-12f ? 1e-12f : length);
    for (int64_t i = 0; i < width; i += kWidth) {
        const int64_t count = width - i < kWidth ? width - i : kWidth;
        store_tail(x + i, div(load_tail(x + i, count), divisor), count);
    }
}

}  // namespace

void pool(const PoolCall& call, Team& team) {
    const int64_t num_slabs = (call.width + kSlab - 1) / kSlab;
    const Range slabs = team.share(call.num_sequences * num_slabs);
    for (int64_t item = slabs.begin; item < slabs.end; item++) {
        const int64_t begin = item % num_slabs * kSlab;
        pool_slab(call, item / num_slabs, begin, begin + kSlab < call.width ? begin + kSlab : call.width);
    }
    team.barrier();
    const Range sequences = team.share(call.num_sequences);
    for (int64_t sequence = sequences.begin; sequence < sequences.end; sequence++)
        if (call.normalize[sequence]) normalise(call.out + sequence * call.width, call.width);
}

void finite(const FiniteCall& call, Team& team) {
    const Range rows = team.share(call.num_rows);
    for (int64_t row = rows.begin; row < rows.end; row++)
        call.is_finite[row] = is_finite_magnitude(row_magnitude(static_cast<const float*>(call.x.data) + row * call.x.stride, call.width));
}

}  // namespace attendant::ATTENDANT_ISA
