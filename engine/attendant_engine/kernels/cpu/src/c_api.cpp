// The plain C interface that Python loads: one function a kernel, taking its call by pointer (structs of plain data,
// mirrored in calls.py), and the few that set the process up.
#include <cstring>
#include <new>

#include "kernels.h"
#include "program.h"
#include "weight.h"

using namespace attendant;

#define ATTENDANT_API extern "C" __attribute__((visibility("default")))

// --- the process -------------------------------------------------------------

ATTENDANT_API int32_t attendant_isa() { return static_cast<int32_t>(isa_in_force()); }
ATTENDANT_API int32_t attendant_force_isa(int32_t isa) { return force_isa(static_cast<Isa>(isa)) ? 1 : 0; }
ATTENDANT_API int32_t attendant_num_threads() { return pool_size(); }
ATTENDANT_API void attendant_set_num_threads(int32_t num_threads) { set_pool_size(num_threads); }

// Bytes of a struct as this library was compiled with it, 0 for an unknown name: a check against the mirror in calls.py.
ATTENDANT_API int64_t attendant_struct_bytes(const char* name) {
#define ATTENDANT_SIZE(type) \
    if (std::strcmp(name, #type) == 0) return sizeof(type);
    ATTENDANT_SIZE(Rows)
    ATTENDANT_SIZE(LinearCall)
    ATTENDANT_SIZE(LowRankPair)
    ATTENDANT_SIZE(LowRankCall)
    ATTENDANT_SIZE(Table)
    ATTENDANT_SIZE(EmbedCall)
    ATTENDANT_SIZE(NormCall)
    ATTENDANT_SIZE(CacheView)
    ATTENDANT_SIZE(CacheWriteCall)
    ATTENDANT_SIZE(AttentionCall)
    ATTENDANT_SIZE(PoolCall)
    ATTENDANT_SIZE(FiniteCall)
    ATTENDANT_SIZE(SampleCall)
    ATTENDANT_SIZE(LogprobsCall)
    ATTENDANT_SIZE(WeightPart)
    ATTENDANT_SIZE(Op)
    ATTENDANT_SIZE(Step)
#undef ATTENDANT_SIZE
    return 0;
}

// --- one kernel at a time ----------------------------------------------------

ATTENDANT_API void attendant_linear(const LinearCall* call) { run_kernel(kernels().linear, *call); }
ATTENDANT_API void attendant_embed(const EmbedCall* call) { run_kernel(kernels().embed, *call); }
ATTENDANT_API void attendant_norm(const NormCall* call) { run_kernel(kernels().norm, *call); }
ATTENDANT_API void attendant_write_cache(const CacheWriteCall* call) { run_kernel(kernels().write_cache, *call); }
ATTENDANT_API void attendant_attention(const AttentionCall* call) { run_kernel(kernels().attention, *call); }
ATTENDANT_API void attendant_pool(const PoolCall* call) { run_kernel(kernels().pool, *call); }
ATTENDANT_API void attendant_finite(const FiniteCall* call) { run_kernel(kernels().finite, *call); }
ATTENDANT_API void attendant_sample(const SampleCall* call) { run_kernel(kernels().sample, *call); }
ATTENDANT_API void attendant_logprobs(const LogprobsCall* call) { run_kernel(kernels().logprobs, *call); }

// --- weights -----------------------------------------------------------------

ATTENDANT_API Weight* attendant_lay_out_weight(int32_t format, int64_t num_outputs, int64_t num_inputs, int32_t is_gated) {
    return lay_out_weight(static_cast<WeightFormat>(format), num_outputs, num_inputs, is_gated != 0);
}
ATTENDANT_API Weight* attendant_pack_weight(
    int32_t format, int32_t source_format, const WeightPart* parts, int32_t num_parts, int64_t num_inputs, int32_t is_gated) {
    return pack_weight(static_cast<WeightFormat>(format), static_cast<Format>(source_format), parts, num_parts, num_inputs, is_gated != 0);
}
ATTENDANT_API void attendant_free_weight(Weight* weight) { free_weight(weight); }
ATTENDANT_API int64_t attendant_weight_bytes(const Weight* weight) { return weight->num_bytes; }
ATTENDANT_API int64_t attendant_linear_scratch_bytes(const Weight* weight, int64_t num_rows) {
    return linear_scratch_bytes(*weight, num_rows);
}
ATTENDANT_API void attendant_unpack_row(const Weight* weight, int64_t row, float* out) { unpack_row(*weight, row, out); }

// --- programs ----------------------------------------------------------------

// A program over `ops`, which stay the caller's, as do the calls that they point to. Null where there is no memory left.
ATTENDANT_API Program* attendant_program_new(const Op* ops, int64_t num_ops) {
    auto* program = new (std::nothrow) Program;
    if (program != nullptr) program->ops = ops, program->num_ops = num_ops;
    return program;
}
ATTENDANT_API void attendant_program_free(Program* program) { delete program; }

// 0, or 1 where there is no memory left. `op_ns` [num_ops] or null; see program.h.
ATTENDANT_API int32_t attendant_program_run(Program* program, const Step* step, int64_t* op_ns) {
    try {
        run_program(*program, *step, op_ns);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
