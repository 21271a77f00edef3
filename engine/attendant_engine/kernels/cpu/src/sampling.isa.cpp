// From logits to tokens: the best, or one drawn by inverting the cumulative distribution of what truncation leaves.
//
// A row is one thread's work from beginning to end, and all its sums are in an order that the vocabulary alone decides.
#include "simd.h"

#include "finite.h"
#include "kernels.h"
#include "select.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kMaxChunks = 256;  // of a row, whose sums are kept while the token is looked for
constexpr int64_t kChunkUnit = 512;

struct Best {
    int64_t id;
    float magnitude;  // the row's largest; NaN where it holds one
};

// The largest of a row, the lowest id of equals, in one pass: only the block that holds it is looked at twice.
Best find_best(const float* x, int64_t n) {
    constexpr int kVectors = 8;
    Vec best = broadcast(-__builtin_inff()), magnitude = zero();
    int64_t best_block = 0, i = 0;
    for (; i + kVectors * kWidth <= n; i += kVectors * kWidth) {
        Vec block = load(x + i);
        magnitude = max_magnitude(magnitude, abs(block));
        for (int vector = 1; vector < kVectors; vector++) {
            const Vec a = load(x + i + vector * kWidth);
            block = max(block, a);
            magnitude = max_magnitude(magnitude, abs(a));
        }
        if (is_greater(block, best) != 0) {
            best = broadcast(largest(block));
            best_block = i;
        }
    }
    float value = largest(best);
    int64_t id = best_block;
    for (int64_t end = best_block + kVectors * kWidth < i ? best_block + kVectors * kWidth : i; id < end && x[id] != value;) id++;
    for (; i < n; i += kWidth) {
        const int64_t count = n - i < kWidth ? n - i : kWidth;
        magnitude = max_magnitude(magnitude, abs(load_tail(x + i, count)));
        for (int64_t lane = 0; lane < count; lane++)
            if (x[i + lane] > value) value = x[i + lane], id = i + lane;
    }
    return {id < n ? id : 0, largest_magnitude(magnitude)};
}

// Writes the row divided by the temperature; returns its largest and, in `magnitude`, the raw row's largest.
float divide(const float* x, int64_t n, float temperature, float* out, float* magnitude) {
    const Vec divisor = broadcast(temperature);
    Vec best = broadcast(-__builtin_inff()), magnitudes = zero();
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) {
        const Vec a = load(x + i), divided = div(a, divisor);
        magnitudes = max_magnitude(magnitudes, abs(a));
        best = max(best, divided);
        store(out + i, divided);
    }
    float value = largest(best);
    if (i < n) {
        const Vec a = load_tail(x + i, n - i);
        magnitudes = max_magnitude(magnitudes, abs(a));
        store_tail(out + i, div(a, divisor), n - i);
        for (; i < n; i++)
            if (out[i] > value) value = out[i];
    }
    *magnitude = largest_magnitude(magnitudes);
    return value;
}

// What may still be drawn: a number x >= threshold weighs e^(x - best), all others nothing.
struct Kept {
    const float* x;
    int64_t n;
    float best, threshold;

    // The weights of the vector at i, which has `count` numbers; false where all are zero.
    bool weights(int64_t i, int64_t count, Vec* out) const {
        const Vec a = load_tail(x + i, count);
        const uint32_t kept = is_at_least(a, broadcast(threshold)) & ((1u << count) - 1);
        if (kept == 0) return false;
        *out = keep(exp(sub(a, broadcast(best))), kept);
        return true;
    }
    double total(int64_t begin, int64_t end) const {
        DoubleSum sum;
        for (int64_t i = begin; i < end; i += kWidth) {
            Vec weight;
            if (weights(i, end - i < kWidth ? end - i : kWidth, &weight)) sum.add(weight);
        }
        return sum.total();
    }
};

float truncate(const SampleCall& call, int64_t row, const float* x, float best, float* buffer) {
    const int64_t n = call.vocab_size, k = call.top_k[row];
    float threshold = -__builtin_inff();
    if (call.min_p[row] > 0) threshold = best + __builtin_logf(call.min_p[row]);
    if (k > 0 && k < n) {
        const float least = find_kth(x, n, k, buffer);
        if (least > threshold) threshold = least;
    }
    if (!(call.top_p[row] < 1)) return threshold;
    int64_t count = n;
    if (threshold > -__builtin_inff()) {
        count = collect_from(x, n, threshold, buffer);
        x = buffer;
    }
    const float nucleus = find_cut(x, count, EnoughOfTotal{call.top_p[row], broadcast(best)}, buffer);
    return nucleus > threshold ? nucleus : threshold;
}

// The first token at which the sum of the weights so far exceeds `uniform` times their total.
int64_t draw(const Kept& kept, double uniform) {
    double sums[kMaxChunks];
    const int64_t unit = (kept.n + kMaxChunks * kChunkUnit - 1) / (kMaxChunks * kChunkUnit) * kChunkUnit;
    int64_t num_chunks = 0;
    double total = 0;
    for (int64_t begin = 0; begin < kept.n; begin += unit, num_chunks++) {
        sums[num_chunks] = kept.total(begin, begin + unit < kept.n ? begin + unit : kept.n);
        total += sums[num_chunks];
    }
    const double target = uniform * total;
    double before = 0;
    int64_t chunk = 0, last = 0;
    for (; chunk < num_chunks - 1 && !(before + sums[chunk] > target); chunk++) before += sums[chunk];
    const int64_t end = (chunk + 1) * unit < kept.n ? (chunk + 1) * unit : kept.n;
    for (int64_t i = chunk * unit; i < end; i += kWidth) {
        const int64_t count = end - i < kWidth ? end - i : kWidth;
        Vec weight;
        if (!kept.weights(i, count, &weight)) continue;
        alignas(64) float lanes[kWidth];
        store(lanes, weight);
        for (int64_t lane = 0; lane < count; lane++) {
            if (!(lanes[lane] > 0)) continue;
            before += lanes[lane];
            last = i + lane;
            if (before > target) return last;
        }
    }
    return last;  // the chunk's own sum, in another order, was larger by a rounding
}

void sample_row(const SampleCall& call, int64_t row, float* scratch) {
    const float* x = call.logits + row * call.stride;
    const int64_t n = call.vocab_size;
    float magnitude;
    if (call.temperature == nullptr || call.temperature[row] == 0) {
        const Best best = find_best(x, n);
        magnitude = best.magnitude;
        call.token_ids[row] = best.id;
    } else {
        float* buffer = scratch + vocabulary_scratch(n) / 2;
        const float best = divide(x, n, call.temperature[row], scratch, &magnitude);
        call.token_ids[row] = 0;
        if (magnitude == magnitude && best < __builtin_inff())
            call.token_ids[row] = draw({scratch, n, best, truncate(call, row, scratch, best, buffer)}, call.uniform[row]);
    }
    if (call.is_finite != nullptr) call.is_finite[row] = is_finite_magnitude(magnitude);
}

}  // namespace

void sample(const SampleCall& call, Team& team) {
    const Range rows = team.share(call.num_rows);
    float* scratch = call.scratch + team.thread() * vocabulary_scratch(call.vocab_size);
    for (int64_t row = rows.begin; row < rows.end; row++) sample_row(call, row, scratch);
}

}  // namespace attendant::ATTENDANT_ISA
