// The innermost loop of a product: a tile of rows by vectors of columns, its sums in registers, over some steps of k.
//
// Sums wait between two runs over k in rows of 64 columns of 4 bytes, exactly as they stood in registers: how k is cut
// does not show in a result. Reading ahead, by whole cache lines a step, has no effect but on time.
#pragma once

#include "linear_step.h"

#define ATTENDANT_UNROLL _Pragma("GCC unroll 16")

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kSumRowBytes = 64 * 4;

struct TileCall {
    const char* x;  // rows, x_stride bytes apart
    int64_t x_stride;
    const char* weights;  // of the panel, at the first step
    int64_t column;       // the tile's first
    int64_t num_steps;
    char* sums;         // rows of the panel's columns, kSumRowBytes apart
    bool starts;        // from zero rather than from what is there
    const char* ahead;  // where to read ahead, `ahead_stride` bytes further at every step
    int64_t ahead_stride;
};

using Tile = void (*)(const TileCall&);

// Cache lines to read ahead at each step: one where a tile reads for itself, which is enough to keep the hardware's own
// reading ahead going, else a `share`-th of what the step reads.
constexpr int lines_ahead(int64_t step_bytes, int share) {
    return share == 1 ? 1 : static_cast<int>((step_bytes / 64 + share - 1) / share);
}

// Into the second-level cache: the first is too small to wait in.
template <int kFrom, int kTo>
__attribute__((always_inline)) inline void read_ahead(const char* ahead) {
    ATTENDANT_UNROLL
    for (int line = kFrom; line < kTo; line++) _mm_prefetch(ahead + line * 64, _MM_HINT_T1);
}

// Adds one step to all sums of a tile; `x` and `weights` stand at it, `ahead` where to read ahead.
template <class Step, int kRows, int kVectors, int kShare>
struct Adder {
    using Sums = typename Step::Sum[kRows][kVectors];
    explicit Adder(const TileCall&) {}

    __attribute__((always_inline)) void add(Sums& sums, const char* x, int64_t x_stride, const char* weights, const char* ahead) const {
        read_ahead<0, lines_ahead(Step::kWeightBytes, kShare)>(ahead);
        typename Step::Weights w[kVectors];
        ATTENDANT_UNROLL
        for (int vector = 0; vector < kVectors; vector++) w[vector] = Step::load_weights(weights + vector * kWidth * 4);
        ATTENDANT_UNROLL
        for (int row = 0; row < kRows; row++) {
            const typename Step::Input input = Step::load_input(x + row * x_stride);
            ATTENDANT_UNROLL
            for (int vector = 0; vector < kVectors; vector++) sums[row][vector] = Step::step(sums[row][vector], input, w[vector]);
        }
    }
};

template <int kRows, int kVectors, int kShare>
struct Adder<StepI4, kRows, kVectors, kShare> {
    using Sums = Vec[kRows][kVectors];
    explicit Adder(const TileCall& call) : scales_from_weights(4 * 256 - call.column * 2) {}

    __attribute__((always_inline)) void add(Sums& sums, const char* x, int64_t x_stride, const char* weights, const char* ahead) const {
        constexpr int kLines = lines_ahead(StepI4::kWeightBytes, kShare);
        GroupI4 groups[kRows][kVectors];
        ATTENDANT_UNROLL
        for (int row = 0; row < kRows; row++) ATTENDANT_UNROLL
        for (int vector = 0; vector < kVectors; vector++) groups[row][vector] = GroupI4::from(read_int(x + row * x_stride + 32));
        ATTENDANT_UNROLL
        for (int part = 0; part < 8; part++) {
            if (part % 2 == 0) read_ahead<0, (kLines + 3) / 4>(ahead + part / 2 * ((kLines + 3) / 4) * 64);
            Ints w[kVectors];
            ATTENDANT_UNROLL
            for (int vector = 0; vector < kVectors; vector++) {
                const Ints bytes = load_ints(weights + part / 2 * 256 + vector * kWidth * 4);
                w[vector] = and_ints(part % 2 == 0 ? bytes : shift_right16(bytes, 4), broadcast_ints(0x0f0f0f0f));
            }
            ATTENDANT_UNROLL
            for (int row = 0; row < kRows; row++) {
                const Ints input = broadcast_ints(read_int(x + row * x_stride + part * 4));
                ATTENDANT_UNROLL
                for (int vector = 0; vector < kVectors; vector++) groups[row][vector].add(w[vector], input);
            }
        }
        ATTENDANT_UNROLL
        for (int vector = 0; vector < kVectors; vector++) {
            const Vec scale = load_bf16(reinterpret_cast<const uint16_t*>(weights + scales_from_weights) + vector * kWidth);
            ATTENDANT_UNROLL
            for (int row = 0; row < kRows; row++) {
                const Ints total = groups[row][vector].total(read_int(x + row * x_stride + 32));
                sums[row][vector] = fma(to_floats(total), scale, sums[row][vector]);
            }
        }
    }

    int64_t scales_from_weights;
};

template <class Step, int kRows, int kVectors, int kShare>
void run_tile(const TileCall& call) {
    typename Step::Sum sums[kRows][kVectors];
    char* const kept = call.sums + call.column * 4;
    ATTENDANT_UNROLL
    for (int row = 0; row < kRows; row++) ATTENDANT_UNROLL
    for (int vector = 0; vector < kVectors; vector++)
        sums[row][vector] = call.starts ? Step::none() : Step::load_sum(kept + row * kSumRowBytes + vector * kWidth * 4);
    const Adder<Step, kRows, kVectors, kShare> adder(call);
    const char *x = call.x, *weights = call.weights + call.column * 4, *ahead = call.ahead;
    const int64_t x_stride = call.x_stride, ahead_stride = call.ahead_stride;
    for (int64_t left = call.num_steps; left > 0; left--) {
        adder.add(sums, x, x_stride, weights, ahead);
        x += Step::kInputBytes;
        weights += Step::kWeightBytes;
        ahead += ahead_stride;
    }
    ATTENDANT_UNROLL
    for (int row = 0; row < kRows; row++) ATTENDANT_UNROLL
    for (int vector = 0; vector < kVectors; vector++) Step::store_sum(kept + row * kSumRowBytes + vector * kWidth * 4, sums[row][vector]);
}

// The tile for `rows` of at most `kMaxRows` rows.
template <class Step, int kVectors, int kShare, int kMaxRows>
Tile tile_for(int64_t rows) {
    if constexpr (kMaxRows > 1) {
        if (rows < kMaxRows) return tile_for<Step, kVectors, kShare, kMaxRows - 1>(rows);
    }
    return run_tile<Step, kMaxRows, kVectors, kShare>;
}

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
