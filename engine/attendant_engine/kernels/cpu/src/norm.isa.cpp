// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019) of rows, written as what the next linear layer reads.
//
// The mean comes first and then the squares of what deviates from it, since a difference of large sums would lose the
// variance. Each sum is taken in four interleaved vectors, an order that the width alone decides.
#include "simd.h"

#include "finite.h"
#include "kernels.h"
#include "quantize.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int kChains = 4;

// The sum of `term(vector)` over the row; lanes beyond its end count as zero.
template <typename Term>
inline float sum_row(const float* x, int64_t width, Term term) {
    Vec sums[kChains] = {zero(), zero(), zero(), zero()};
    int64_t i = 0;
    for (; i + kChains * kWidth <= width; i += kChains * kWidth)
        for (int chain = 0; chain < kChains; chain++) sums[chain] = add(sums[chain], term(load(x + i + chain * kWidth)));
    for (int chain = 0; i < width; i += kWidth, chain++) {
        const int64_t count = width - i < kWidth ? width - i : kWidth;
        sums[chain] = add(sums[chain], keep_first(term(load_tail(x + i, count)), count));
    }
    return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

// What a row has to be shifted and multiplied by.
struct Moments {
    float mean, inverse_deviation;
};

Moments row_moments(const NormCall& call, const float* x) {
    const auto width = static_cast<float>(call.width);
    float mean = 0;
    if (!call.is_rms) mean = sum_row(x, call.width, [](Vec a) { return a; }) / width;
    const Vec shift = broadcast(mean);
    const float squares = sum_row(x, call.width, [shift](Vec a) {
        const Vec deviation = sub(a, shift);
        return mul(deviation, deviation);
    });
    return {mean, 1.0f / __builtin_sqrtf(squares / width + call.eps)};
}

// The elements i and following of the normalised row.
inline Vec normalised(const NormCall& call, const float* x, Moments moments, int64_t i, int64_t count) {
    const Vec centred = sub(load_tail(x + i, count), broadcast(moments.mean));
    const Vec scaled = mul(centred, broadcast(moments.inverse_deviation));
    const Vec weight = load_tail(call.weight + i, count);
    return call.bias == nullptr ? mul(scaled, weight) : fma(scaled, weight, load_tail(call.bias + i, count));
}

template <typename Put>
inline void for_each_vector(const NormCall& call, const float* x, Moments moments, Put put) {
    for (int64_t i = 0; i < call.width; i += kWidth) {
        const int64_t count = call.width - i < kWidth ? call.width - i : kWidth;
        put(i, count, normalised(call, x, moments, i, count));
    }
}

// In pieces through a small buffer: the row is computed twice, once for its magnitude.
void write_quantised(const NormCall& call, const float* x, Moments moments, uint8_t* out, float& scale) {
    Vec magnitudes = zero();
    for_each_vector(
        call, x, moments, [&](int64_t, int64_t count, Vec a) { magnitudes = max_magnitude(magnitudes, abs(keep_first(a, count))); });
    const float magnitude = largest_magnitude(magnitudes);
    for_each_vector(call, x, moments, [&](int64_t i, int64_t count, Vec a) {
        alignas(64) float piece[kWidth];
        store(piece, a);
        scale = quantize_row(piece, count, magnitude, out + i);
    });
}

void write_row(const NormCall& call, const float* x, Moments moments, const Rows& rows, int64_t row) {
    const int64_t first = row * rows.stride;
    if (rows.format == Format::F32) {
        float* out = static_cast<float*>(rows.data) + first;
        for_each_vector(call, x, moments, [&](int64_t i, int64_t count, Vec a) { store_tail(out + i, a, count); });
    } else if (rows.format == Format::BF16) {
        uint16_t* out = static_cast<uint16_t*>(rows.data) + first;
        for_each_vector(call, x, moments, [&](int64_t i, int64_t count, Vec a) { store_bf16_tail(out + i, a, count); });
    } else {
        write_quantised(call, x, moments, static_cast<uint8_t*>(rows.data) + first, rows.scales[row]);
    }
}

}  // namespace

void norm(const NormCall& call, Team& team) {
    const Range rows = team.share(call.num_rows);
    for (int64_t row = rows.begin; row < rows.end; row++) {
        const float* x = static_cast<const float*>(call.x.data) + row * call.x.stride;
        const Moments moments = row_moments(call, x);
        write_row(call, x, moments, call.out, row);
        if (call.also.data != nullptr) write_row(call, x, moments, call.also, row);
    }
}

}  // namespace attendant::ATTENDANT_ISA
