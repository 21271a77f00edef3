// The innermost loop of a product: a tile of rows by vectors of columns, its sums in registers, over some steps of k.
//
// Sums wait between two runs over k in rows of 64 columns of 4 bytes, exactly as they stood in registers: how k is cut
// does not show in a result. Prefetching reads ahead by whole cache lines a step and has no effect but on time.
#pragma once

#include "linear_step.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int kVectorsAPanel = 64 / kWidth;
constexpr int64_t kSumRowBytes = 64 * 4;

struct TileCall {
    const char* x;          // rows, x_stride bytes apart
    int64_t x_stride;
    const char* weights;    // the tile's first column of the panel at the first step
    int64_t num_steps;
    char* sums;             // rows, kSumRowBytes apart
    bool starts;            // from zero rather than from what is there
    const char* prefetch;   // where to read ahead from, `prefetch_stride` bytes a step
    int64_t prefetch_stride;
};

using Tile = void (*)(const TileCall&);

template <class Step, int kRows, int kVectors, int kLines>
void run_tile(const TileCall& call) {
    typename Step::Sum sums[kRows][kVectors];
    char* const kept = call.sums;
#pragma GCC unroll 64
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 64
        for (int vector = 0; vector < kVectors; vector++) sums[row][vector] = Step::none();
    if (!call.starts) {
#pragma GCC unroll 64
        for (int row = 0; row < kRows; row++)
#pragma GCC unroll 64
            for (int vector = 0; vector < kVectors; vector++)
                sums[row][vector] = Step::load_sum(kept + row * kSumRowBytes + vector * kWidth * 4);
    }
    const char *x = call.x, *weights = call.weights, *prefetch = call.prefetch;
    const int64_t x_stride = call.x_stride, prefetch_stride = call.prefetch_stride;
    for (int64_t left = call.num_steps; left > 0; left--) {
        typename Step::Weights w[kVectors];
#pragma GCC unroll 64
        for (int vector = 0; vector < kVectors; vector++) w[vector] = Step::load_weights(weights + vector * kWidth * 4);
#pragma GCC unroll 8
        for (int line = 0; line < kLines; line++) _mm_prefetch(prefetch + line * 64, _MM_HINT_T0);
#pragma GCC unroll 64
        for (int row = 0; row < kRows; row++) {
            const typename Step::Input input = Step::load_input(x + row * x_stride);
#pragma GCC unroll 64
            for (int vector = 0; vector < kVectors; vector++) sums[row][vector] = Step::step(sums[row][vector], input, w[vector]);
        }
        x += 4;
        weights += kSumRowBytes;
        prefetch += prefetch_stride;
    }
#pragma GCC unroll 64
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 64
        for (int vector = 0; vector < kVectors; vector++)
            Step::store_sum(kept + row * kSumRowBytes + vector * kWidth * 4, sums[row][vector]);
}

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
