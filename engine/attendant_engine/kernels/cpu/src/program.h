// A forward pass as data: a list of kernel calls, run in order on all threads by one native call a step.
//
// Whoever builds a program fills the calls once: weights, buffers, formats, constants. Only what differs from step to step
// (how many rows, which ids, which blocks) comes with the Step and is written into every call before it runs.
#pragma once

#include <cstdint>
#include <vector>

#include "calls.h"

namespace attendant {

enum class OpKind : int32_t { Embed = 0, Norm = 1, Linear = 2, WriteCache = 3, Attention = 4, LowRank = 5 };

// `call` points to the struct of its kind and stays the builder's. `has_barrier` says that the next operation reads what
// other threads write in this one; LowRank, which most steps have no rows for, sees to that itself.
struct Op {
    OpKind kind = OpKind::Embed;
    bool has_barrier = true;
    void* call = nullptr;
};

// One packed step. Without `slots` there is no paged cache: every sequence is whole, and its keys and values go to the
// program's own cache of blocks of 16 positions, each sequence beginning a block.
struct Step {
    int64_t num_tokens = 0, num_sequences = 0;
    const int64_t* token_ids = nullptr;
    const int64_t* position_ids = nullptr;
    const int64_t* type_ids = nullptr;      // or null: all zero
    const int32_t* cu_seqlens_q = nullptr;  // [S + 1]
    const int32_t* seq_lens = nullptr;      // [S]
    const int32_t* block_table = nullptr;   // [S, block_table_stride]
    int64_t block_table_stride = 0;
    const int64_t* slots = nullptr;
    bool is_causal = true;
    int64_t window = 0;  // 0: none
    // Adapter i has the rows from adapter_bounds[i] to adapter_bounds[i + 1], the last ones of the step; null: no row has one.
    const int64_t* adapter_bounds = nullptr;
};

// Where whole sequences stand in a cache of their own: one after the other, each from the beginning of a block.
class Placement {
public:
    // Gives `step` slots and a block table, which live until the next call.
    void place(Step& step);

private:
    std::vector<int64_t> slots_;
    std::vector<int32_t> block_table_;
};

struct Program {
    const Op* ops = nullptr;
    int64_t num_ops = 0;
    Placement placement;
};

// Runs the operations. `op_ns`, if not null, takes the nanoseconds of each, barrier included. Not for two threads at once.
void run_program(Program& program, const Step& step, int64_t* op_ns);

}  // namespace attendant
