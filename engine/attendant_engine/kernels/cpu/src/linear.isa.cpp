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

constexpr int64_t kMaxRowsAtOnce = 240;     // whose sums of a panel wait on the stack: 60 KB
constexpr int64_t kChunkBytes = 96 * 1024;  // of a panel between two waits: it stays in the second-level cache for all rows
constexpr int64_t kReadAhead = 16384;       // bytes, where each part of a weight is used once
constexpr int64_t kMinRowsApart = 24;       // as few as this are not split among threads: their weight is what takes time

// A thread's part of the weight's panels and of the rows.
struct Part {
    Range panels, rows;
};

inline Range part_of(int64_t count, int64_t index, int64_t parts) { return {count * index / parts, count * (index + 1) / parts}; }

// Splits the panels among the threads, and the rows too where panels alone would leave threads waiting.
inline Part choose_part(int64_t num_panels, int64_t num_rows, const Team& team) {
    int64_t best_cost = INT64_MAX, best = 1;
    for (int64_t across_rows = 1; across_rows <= team.size(); across_rows++) {
        if (team.size() % across_rows != 0 || (across_rows > 1 && num_rows < across_rows * kMinRowsApart)) continue;
        const int64_t across_panels = team.size() / across_rows;
        const int64_t panels = (num_panels + across_panels - 1) / across_panels, rows = (num_rows + across_rows - 1) / across_rows;
        if (panels * rows < best_cost) {
            best_cost = panels * rows;
            best = across_rows;
        }
    }
    const int64_t across_panels = team.size() / best;
    return {part_of(num_panels, team.thread() % across_panels, across_panels), part_of(num_rows, team.thread() / across_panels, best)};
}

// How the rows at hand are computed: blocks of nearly the same number of rows, each by tiles of so many columns. Each run of
// a tile reads ahead a `share`-th part of what it reads.
struct Plan {
    bool is_wide;
    int64_t num_blocks;
    int64_t columns;
    int share;
};

// Measured: from about three full tiles on, wide ones are as fast as any, and do with half the sums in memory.
constexpr int64_t kWideAgainFrom = 17;

template <class Step>
Plan choose_plan(int64_t num_rows) {
    constexpr Shape wide = Step::kShapes.wide, narrow = Step::kShapes.narrow;
    const bool is_wide = num_rows <= wide.max_rows || (num_rows >= kWideAgainFrom && wide.max_rows > 1);
    const Shape shape = is_wide ? wide : narrow;
    const int64_t num_blocks = (num_rows + shape.max_rows - 1) / shape.max_rows, columns = shape.vectors * kWidth;
    const int64_t runs = num_blocks * (kPanel / columns);
    return {is_wide, num_blocks, columns, runs == 1 ? 1 : runs < 4 ? 2 : 4};
}

template <class Step, int kShare>
Tile tile_of(const Plan& plan, int64_t rows) {
    constexpr Shape wide = Step::kShapes.wide, narrow = Step::kShapes.narrow;
    if (plan.is_wide) return tile_for<Step, wide.vectors, kShare, wide.max_rows>(rows);
    return tile_for<Step, narrow.vectors, kShare, narrow.max_rows>(rows);
}

template <class Step>
Tile tile_of(const Plan& plan, int64_t rows) {
    switch (plan.share) {
        case 1:
            return tile_of<Step, 1>(plan, rows);
        case 2:
            return tile_of<Step, 2>(plan, rows);
        default:
            return tile_of<Step, 4>(plan, rows);
    }
}

// Where the runs on one chunk read ahead: a little before themselves where there is one run, else each a part of the next
// chunk until all of that has been asked for.
struct ReadAhead {
    const char* next;
    const char* end;

    void aim(TileCall& tile, int share, int64_t step_bytes) {
        if (share == 1) {
            tile.ahead = tile.weights + kReadAhead;
            tile.ahead_stride = step_bytes;
        } else if (next < end) {
            tile.ahead = next;
            tile.ahead_stride = lines_ahead(step_bytes, share) * 64;
            next += tile.num_steps * tile.ahead_stride;
        } else {
            tile.ahead = tile.weights;
            tile.ahead_stride = 0;
        }
    }
};

// One chunk of one panel for all rows at hand.
template <class Step>
void multiply_chunk(const Plan& plan, TileCall tile, int64_t num_rows, ReadAhead ahead) {
    const char* const x = tile.x;
    char* const sums = tile.sums;
    for (tile.column = 0; tile.column < kPanel; tile.column += plan.columns) {
        for (int64_t block = 0; block < plan.num_blocks; block++) {
            const Range rows = part_of(num_rows, block, plan.num_blocks);
            tile.x = x + rows.begin * tile.x_stride;
            tile.sums = sums + rows.begin * kSumRowBytes;
            ahead.aim(tile, plan.share, Step::kWeightBytes);
            tile_of<Step>(plan, rows.end - rows.begin)(tile);
        }
    }
}

template <class Step>
void multiply_part(const LinearCall& call, const Inputs& inputs, const Part& part) {
    constexpr int64_t kMaxSteps = kChunkBytes / Step::kWeightBytes;
    const Weight& weight = *call.weight;
    const int64_t num_steps = (weight.num_inputs + Step::kPerStep - 1) / Step::kPerStep;
    const int64_t num_chunks = (num_steps + kMaxSteps - 1) / kMaxSteps;
    const char* const end = weight.panels + part.panels.end * weight.panel_bytes;
    alignas(64) char sums[kMaxRowsAtOnce * kSumRowBytes];
    for (int64_t row = part.rows.begin; row < part.rows.end; row += kMaxRowsAtOnce) {
        const int64_t left = part.rows.end - row, num_rows = left < kMaxRowsAtOnce ? left : kMaxRowsAtOnce;
        const Plan plan = choose_plan<Step>(num_rows);
        for (int64_t panel = part.panels.begin; panel < part.panels.end; panel++) {
            for (int64_t chunk = 0; chunk < num_chunks; chunk++) {
                const Range steps = part_of(num_steps, chunk, num_chunks);
                TileCall tile = {};
                tile.x = inputs.data + row * inputs.stride + steps.begin * Step::kInputBytes;
                tile.x_stride = inputs.stride;
                tile.weights = weight.panels + panel * weight.panel_bytes + steps.begin * Step::kWeightBytes;
                tile.num_steps = steps.end - steps.begin;
                tile.sums = sums;
                tile.starts = chunk == 0;
                const char* const next = tile.weights + tile.num_steps * Step::kWeightBytes;
                const int64_t rest = end - next, most = kMaxSteps * Step::kWeightBytes;
                multiply_chunk<Step>(plan, tile, num_rows, {next, next + (rest < most ? rest : most)});
            }
            finish_panel(call, inputs.scales, panel, row, num_rows, sums);
        }
    }
}

}  // namespace

void linear(const LinearCall& call, Team& team) {
    const Inputs inputs = prepare_inputs(call, team);
    const Part part = choose_part(call.weight->num_panels, call.num_rows, team);
    switch (call.weight->format) {
        case WeightFormat::F32:
            multiply_part<StepF32>(call, inputs, part);
            break;
        case WeightFormat::BF16:
            multiply_part<StepBf16>(call, inputs, part);
            break;
        case WeightFormat::I8:
            multiply_part<StepI8>(call, inputs, part);
            break;
        case WeightFormat::I4:
            multiply_part<StepI4>(call, inputs, part);
            break;
    }
}

}  // namespace attendant::ATTENDANT_ISA
