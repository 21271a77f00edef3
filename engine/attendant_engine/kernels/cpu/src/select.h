// Finding where to cut a row so that what lies above the cut is enough: the k-th largest, or the nucleus of top-p.
//
// Numbers are weighed into bins, the bin that holds the cut is found from above, and the search goes on within it: first by
// bins of equal width, which leave about a hundred of a vocabulary, then by the bits of the numbers, which find the exact one
// in three passes whatever the numbers are. No sorting, and nothing depends on anything but the row.
// Included by *.isa.cpp files only.
#pragma once

#include "simd.h"

namespace attendant::ATTENDANT_ISA {

// Each number counts one, and `wanted` are enough.
struct EnoughInNumber {
    double wanted;
    Vec weigh(Vec) const { return broadcast(1.0f); }
    double of(double) const { return wanted; }
};
// Each number x weighs e^(x - shift), and this share of all is enough.
struct EnoughOfTotal {
    double share;
    Vec shift;
    Vec weigh(Vec x) const { return exp(sub(x, shift)); }
    double of(double total) const { return share * total; }
};

constexpr int kMaxBins = 2048;

// A search from the largest downwards: what weighs more than the numbers at hand, and how much is wanted in all.
struct Search {
    double above = 0, wanted = -1;

    // The first bin at which the weights reach what is wanted; the last that weighs anything where none does; -1 of nothing.
    int find_bin(const double* bins, int num_bins) {
        int found = -1;
        for (int bin = 0; bin < num_bins; bin++) {
            if (!(bins[bin] > 0)) continue;
            found = bin;
            if (above + bins[bin] >= wanted) return found;
            above += bins[bin];
        }
        wanted = __builtin_inf();  // short by a rounding: what remains to be found is the least number
        return found;
    }
};

// Writes the chosen numbers side by side and returns how many; `out` has room for a whole vector more, and may be `x`.
template <typename Choose>
inline int64_t collect_if(const float* x, int64_t n, Choose choose, float* out) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += kWidth) {
        const int64_t rest = n - i < kWidth ? n - i : kWidth;
        const Vec a = load_tail(x + i, rest);
        const uint32_t chosen = choose(a) & ((1u << rest) - 1);
        if (chosen != 0) count += compress(out + count, a, chosen);
    }
    return count;
}

inline int64_t collect_from(const float* x, int64_t n, float least, float* out) {
    const Vec edge = broadcast(least);
    return collect_if(x, n, [edge](Vec a) { return is_at_least(a, edge); }, out);
}

// Unsigned integers in the opposite order of the floats that they stand for.
inline uint32_t descending_key(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits ^ (~static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) & 0x7fffffffu);
}
inline float from_descending_key(uint32_t key) {
    const uint32_t bits = key ^ (~static_cast<uint32_t>(static_cast<int32_t>(key) >> 31) & 0x7fffffffu);
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

// The end of a search among n numbers, digit by digit of their bits.
template <typename Enough>
inline float find_exactly(const float* x, int64_t n, const Enough& enough, Search search) {
    constexpr int kNumPasses = 3;
    constexpr int num_bits[kNumPasses] = {11, 11, 10};
    double bins[kMaxBins];
    uint64_t prefix = 0;
    int shift = 32;
    for (int pass = 0; pass < kNumPasses; pass++) {
        const int num_bins = 1 << num_bits[pass], prefix_shift = shift;
        shift -= num_bits[pass];
        for (int bin = 0; bin < num_bins; bin++) bins[bin] = 0;
        double total = 0;
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t count = n - i < kWidth ? n - i : kWidth;
            alignas(64) float weights[kWidth];
            store(weights, enough.weigh(load_tail(x + i, count)));
            for (int64_t lane = 0; lane < count; lane++) {
                total += weights[lane];
                const uint64_t key = descending_key(x[i + lane]);
                if (key >> prefix_shift == prefix) bins[(key >> shift) & static_cast<uint64_t>(num_bins - 1)] += weights[lane];
            }
        }
        if (search.wanted < 0) search.wanted = enough.of(total);
        const int bin = search.find_bin(bins, num_bins);
        if (bin < 0) return -__builtin_inff();
        prefix = prefix << num_bits[pass] | static_cast<uint64_t>(bin);
    }
    return from_descending_key(static_cast<uint32_t>(prefix));
}

// The largest of the numbers v for which the weights of all x >= v are enough; the least that weighs anything where none is
// found. `buffer` has room for n numbers and a vector.
template <typename Enough>
inline float find_cut(const float* x, int64_t n, const Enough& enough, float* buffer) {
    constexpr int64_t kFew = 1024, kBlock = 512;
    constexpr float kWidest = 24.0f;  // what lies further below the largest is one bin
    Search search;
    if (n <= kFew) return find_exactly(x, n, enough, search);
    Vec high = load(x), low = high;
    for (int64_t i = 0; i + kWidth <= n; i += kWidth) {
        high = max(high, load(x + i));
        low = min(low, load(x + i));
    }
    for (int64_t i = n - n % kWidth; i < n; i++) {
        high = max(high, broadcast(x[i]));
        low = min(low, broadcast(x[i]));
    }
    const float best = largest(high), range = best + largest(sub(zero(), low));
    const Vec top = broadcast(best), last = broadcast(kMaxBins - 1);
    const Vec bins_a_unit = broadcast((kMaxBins - 1) / (range < kWidest ? range : kWidest));
    const auto bin_of = [=](Vec a) { return floor(min(mul(sub(top, a), bins_a_unit), last)); };
    if (!(range > 1e-30f) || !(best < __builtin_inff())) return find_exactly(x, n, enough, search);

    double bins[kMaxBins];
    for (int bin = 0; bin < kMaxBins; bin++) bins[bin] = 0;
    // In blocks, so that a number is read long after the vector that holds it was written.
    alignas(64) float weights[kBlock];
    alignas(64) int32_t places[kBlock];
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const int64_t count = n - begin < kBlock ? n - begin : kBlock;
        for (int64_t i = 0; i < count; i += kWidth) {
            const Vec a = load_tail(x + begin + i, count - i < kWidth ? count - i : kWidth);
            store(weights + i, enough.weigh(a));
            store_int(places + i, bin_of(a));
        }
        for (int64_t i = 0; i < count; i++) bins[places[i]] += weights[i];
    }
    double total = 0;
    for (int bin = 0; bin < kMaxBins; bin++) total += bins[bin];
    search.wanted = enough.of(total);
    const int bin = search.find_bin(bins, kMaxBins);
    if (bin < 0) return -__builtin_inff();
    const Vec chosen = broadcast(static_cast<float>(bin));
    n = collect_if(x, n, [&](Vec a) { return is_equal(bin_of(a), chosen); }, buffer);
    return find_exactly(buffer, n, enough, search);
}

// The k-th largest of n numbers, 1 <= k <= n. Looks at the largest of every few first: the k-th of those is a bound that
// leaves little more than k numbers. `buffer` as above.
inline float find_kth(const float* x, int64_t n, int64_t k, float* buffer) {
    const EnoughInNumber enough{static_cast<double>(k)};
    const int64_t group = n / (4 * k) / kWidth;  // vectors whose lanes' largest are taken together
    if (group >= 4) {
        int64_t num_largest = 0;
        for (int64_t i = 0; i + group * kWidth <= n; i += group * kWidth, num_largest += kWidth) {
            Vec best = load(x + i);
            for (int64_t member = 1; member < group; member++) best = max(best, load(x + i + member * kWidth));
            store(buffer + num_largest, best);
        }
        n = collect_from(x, n, find_cut(buffer, num_largest, enough, buffer), buffer);
        x = buffer;
    }
    return find_cut(x, n, enough, buffer);
}

}  // namespace attendant::ATTENDANT_ISA
