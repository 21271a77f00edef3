// Runs programs: writes the step into the calls, then lets every thread walk the list with a barrier behind each call.
#include "program.h"

#include <chrono>
#include <cstring>

#include "cache_layout.h"
#include "kernels.h"
#include "team.h"

namespace attendant {
namespace {

void write_step(const Op& op, const Step& step) {
    switch (op.kind) {
        case OpKind::Embed: {
            auto& call = *static_cast<EmbedCall*>(op.call);
            call.num_rows = step.num_tokens;
            call.token_ids = step.token_ids;
            call.position_ids = step.position_ids;
            call.type_ids = step.type_ids;
            return;
        }
        case OpKind::Norm:
            static_cast<NormCall*>(op.call)->num_rows = step.num_tokens;
            return;
        case OpKind::Linear: {
            auto& call = *static_cast<LinearCall*>(op.call);
            call.num_rows = step.num_tokens;
            call.first_delta_row = step.adapter_bounds == nullptr ? step.num_tokens : step.adapter_bounds[0];
            return;
        }
        case OpKind::LowRank:
            static_cast<LowRankCall*>(op.call)->adapter_bounds = step.adapter_bounds;
            return;
        case OpKind::WriteCache: {
            auto& call = *static_cast<CacheWriteCall*>(op.call);
            call.num_tokens = step.num_tokens;
            call.slots = step.slots;
            call.position_ids = step.position_ids;
            return;
        }
        case OpKind::Attention: {
            auto& call = *static_cast<AttentionCall*>(op.call);
            call.num_sequences = step.num_sequences;
            call.cu_seqlens_q = step.cu_seqlens_q;
            call.seq_lens = step.seq_lens;
            call.block_table = step.block_table;
            call.block_table_stride = step.block_table_stride;
            call.is_causal = step.is_causal;
            call.window = step.window;
            return;
        }
    }
}

Rows rows_from(const Rows& rows, int64_t first) {
    const int64_t item_bytes = rows.format == Format::F32 ? 4 : 2;
    return {static_cast<char*>(rows.data) + first * rows.stride * item_bytes, rows.stride, rows.format, nullptr};
}

void write_zeros(const LowRankCall& call, int64_t first, int64_t num_rows, const Team& team) {
    const Range mine = team.share(num_rows);
    for (int64_t i = mine.begin; i < mine.end; i++)
        std::memset(rows_from(call.delta, first + i).data, 0, static_cast<size_t>(call.width) * sizeof(float));
}

void run_low_rank(const LowRankCall& call, const Kernels& kernels, Team& team) {
    if (call.adapter_bounds == nullptr) return;
    for (int64_t i = 0; i < call.num_adapters; i++) {
        const int64_t first = call.adapter_bounds[i], num_rows = call.adapter_bounds[i + 1] - first;
        if (num_rows == 0) continue;
        if (call.pairs[i].down == nullptr) {
            write_zeros(call, first, num_rows, team);
            continue;
        }
        LinearCall down, up;
        down.weight = call.pairs[i].down;
        down.x = rows_from(call.x, first);
        down.scratch = call.scratch;
        up.weight = call.pairs[i].up;
        up.x = down.out = rows_from(call.inner, first);
        up.out = rows_from(call.delta, first);
        down.num_rows = up.num_rows = num_rows;
        kernels.linear(down, team);
        team.barrier();
        kernels.linear(up, team);  // needs no scratch: the next adapter may have it already
    }
    team.barrier();
}

void run_op(const Op& op, const Kernels& kernels, Team& team) {
    switch (op.kind) {
        case OpKind::Embed:
            return kernels.embed(*static_cast<const EmbedCall*>(op.call), team);
        case OpKind::Norm:
            return kernels.norm(*static_cast<const NormCall*>(op.call), team);
        case OpKind::Linear:
            return kernels.linear(*static_cast<const LinearCall*>(op.call), team);
        case OpKind::WriteCache:
            return kernels.write_cache(*static_cast<const CacheWriteCall*>(op.call), team);
        case OpKind::Attention:
            return kernels.attention(*static_cast<const AttentionCall*>(op.call), team);
        case OpKind::LowRank:
            return run_low_rank(*static_cast<const LowRankCall*>(op.call), kernels, team);
    }
}

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Run {
    const Program* program;
    const Kernels* kernels;
    int64_t* op_ns;
};

void run_ops(void* argument, Team& team) {
    const Run& run = *static_cast<const Run*>(argument);
    const bool is_timed = run.op_ns != nullptr && team.thread() == 0;
    int64_t begun_ns = is_timed ? now_ns() : 0;
    for (int64_t i = 0; i < run.program->num_ops; i++) {
        const Op& op = run.program->ops[i];
        run_op(op, *run.kernels, team);
        if (op.has_barrier) team.barrier();
        if (is_timed) {
            const int64_t ended_ns = now_ns();
            run.op_ns[i] = ended_ns - begun_ns;
            begun_ns = ended_ns;
        }
    }
}

}  // namespace

void Placement::place(Step& step) {
    int64_t max_blocks = 1;
    for (int64_t s = 0; s < step.num_sequences; s++) {
        const int64_t num_blocks = (step.seq_lens[s] + kTile - 1) / kTile;
        max_blocks = num_blocks > max_blocks ? num_blocks : max_blocks;
    }
    slots_.resize(step.num_tokens);
    block_table_.resize(step.num_sequences * max_blocks);
    int64_t first_block = 0;
    for (int64_t s = 0; s < step.num_sequences; s++) {
        const int64_t len = step.seq_lens[s], num_blocks = (len + kTile - 1) / kTile;
        for (int64_t i = 0; i < num_blocks; i++) block_table_[s * max_blocks + i] = static_cast<int32_t>(first_block + i);
        for (int64_t i = 0; i < len; i++) slots_[step.cu_seqlens_q[s] + i] = first_block * kTile + i;
        first_block += num_blocks;
    }
    step.slots = slots_.data();
    step.block_table = block_table_.data();
    step.block_table_stride = max_blocks;
}

void run_program(Program& program, const Step& given, int64_t* op_ns) {
    Step step = given;
    if (step.slots == nullptr) program.placement.place(step);
    for (int64_t i = 0; i < program.num_ops; i++) write_step(program.ops[i], step);
    Run run{&program, &kernels(), op_ns};
    run_on_pool(run_ops, &run);
}

}  // namespace attendant
