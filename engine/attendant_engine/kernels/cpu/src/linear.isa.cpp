// Linear layers over packed weights: which thread computes which rows and columns, in tiles of which shape.
//
// None of these choices shows in a result. Every output is one chain of additions over ascending k, whichever tile
// computes it, and sums that wait in memory between two runs over k lie there as they stood in registers.
#include "kernels.h"
#include "linear_finish.h"
#include "linear_input.h"
#include "linear_tile.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kMaxRowsAtOnce = 240;  // whose sums of a panel wait on the stack: 60 KB
constexpr int64_t kMaxSteps = 384;       // of a panel between two waits: 96 KB, less than half of a second-level cache
constexpr int64_t kReadAhead = 4096;     // bytes, where a weight streams from memory

// A thread's part of the weight's panels and of the rows.
struct Part {
    Range panels, rows;
};

template <class Step, int kVectors, int kLines, int... kRows>
Tile tile_of(int64_t rows) {
    static constexpr Tile tiles[] = {run_tile<Step, kRows, kVectors, kLines>...};
    return tiles[rows - 1];
}

#ifdef __AVX512F__
constexpr int64_t kMaxRows = 6;
template <class Step>
Tile streaming_tile(int64_t rows) {
    return tile_of<Step, 4, 4, 1, 2, 3, 4, 5, 6>(rows);
}
constexpr int64_t kStreamingColumns = 64;
#else
constexpr int64_t kMaxRows = 4;
template <class Step>
Tile streaming_tile(int64_t rows) {
    return tile_of<Step, 2, 1, 1, 2, 3, 4>(rows);
}
constexpr int64_t kStreamingColumns = 16;
#endif

template <class Step>
void multiply_part(const LinearCall& call, const Inputs& inputs, const Part& part) {
    const Weight& weight = *call.weight;
    const int64_t num_steps = (weight.num_inputs + Step::kPerStep - 1) / Step::kPerStep;
    alignas(64) char sums[kMaxRowsAtOnce * kSumRowBytes];
    for (int64_t row = part.rows.begin; row < part.rows.end; row += kMaxRowsAtOnce) {
        const int64_t left = part.rows.end - row, num_rows = left < kMaxRowsAtOnce ? left : kMaxRowsAtOnce;
        const int64_t num_blocks = (num_rows + kMaxRows - 1) / kMaxRows;
        for (int64_t panel = part.panels.begin; panel < part.panels.end; panel++) {
            const char* const weights = weight.panels + panel * weight.panel_bytes;
            for (int64_t step = 0; step < num_steps; step += kMaxSteps) {
                const int64_t steps = num_steps - step < kMaxSteps ? num_steps - step : kMaxSteps;
                for (int64_t column = 0; column < kPanel; column += kStreamingColumns) {
                    for (int64_t block = 0; block < num_blocks; block++) {
                        const int64_t begin = num_rows * block / num_blocks, end = num_rows * (block + 1) / num_blocks;
                        const char* const first = weights + step * kSumRowBytes + column * 4;
                        const TileCall tile = {
                            inputs.data + (row + begin) * inputs.stride + step * 4,
                            inputs.stride,
                            first,
                            steps,
                            sums + begin * kSumRowBytes + column * 4,
                            step == 0,
                            first + kReadAhead,
                            kSumRowBytes,
                        };
                        streaming_tile<Step>(end - begin)(tile);
                    }
                }
            }
            finish_panel(call, inputs.scales, panel, row, num_rows, sums);
        }
    }
}

}  // namespace

void linear(const LinearCall& call, Team& team) {
    const Inputs inputs = prepare_inputs(call, team);
    const Part part = {team.share(call.weight->num_panels), {0, call.num_rows}};
    switch (call.weight->format) {
        case WeightFormat::F32: multiply_part<StepF32>(call, inputs, part); break;
        case WeightFormat::BF16: multiply_part<StepBf16>(call, inputs, part); break;
        case WeightFormat::I8: multiply_part<StepI8>(call, inputs, part); break;
        case WeightFormat::I4: __builtin_trap();
    }
}

}  // namespace attendant::ATTENDANT_ISA
