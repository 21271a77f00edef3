// Weights of linear layers, packed once at load into panels of 64 output columns.
//
// A panel holds, for k = 0, G, 2G ..., 64 columns of G consecutive k each: [panel][k / G][64][G], with G = 1 for float32,
// 2 for bfloat16 and 4 for int8, so that one instruction takes the G products of a column and every output has one chain
// of additions over ascending k. Columns beyond N and k beyond K are zero.
//   I8: symmetric, one scale an output column; `compensation` is 128 * the column's sum, for inputs offset by 128.
//   I4: symmetric, one scale an output column and group of 32 k; two values a byte.
// A gated weight interleaves the gate's and the up matrix's columns so that one kernel call has both of an output.
#pragma once

#include <cstdint>

#include "calls.h"

namespace attendant {

constexpr int64_t kPanel = 64;
constexpr int64_t kInt4Group = 32;

struct Weight {
    WeightFormat format = WeightFormat::F32;
    int64_t num_outputs = 0;  // N, of the result: of one half where gated
    int64_t num_inputs = 0;   // K
    bool is_gated = false;
    char* panels = nullptr;
    float* scales = nullptr;           // I8 [columns]; I4 [panel][K / 32][64]
    int32_t* compensation = nullptr;   // I8 [columns]
    float* bias = nullptr;             // [columns], zero where there is none
    int64_t num_bytes = 0;             // all of the above
};

// Packs rows [N, K] given in parts (query, key and value, say), one below the other. `sources` are float32 or bfloat16,
// row-major and contiguous; a bias may be null. With `is_gated` there are exactly two parts, gate and up.
struct WeightPart {
    const void* data = nullptr;
    const float* bias = nullptr;
    int64_t num_rows = 0;
};
Weight* pack_weight(WeightFormat format, Format source_format, const WeightPart* parts, int num_parts, int64_t num_inputs, bool is_gated);
void free_weight(Weight* weight);

// Writes row `row` of a weight that is not gated, as float32 [K]: what an embedding lookup in a tied head needs.
void unpack_row(const Weight& weight, int64_t row, float* out);

}  // namespace attendant
