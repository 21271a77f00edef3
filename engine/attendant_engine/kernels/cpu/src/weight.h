// Weights of linear layers, packed once at load into panels of 64 output columns.
//
// A panel holds, for k = 0, G, 2G ..., 64 columns of G consecutive k each: [panel][k / G][64][G], with G = 1 for float32,
// 2 for bfloat16 and 4 for int8, so that one instruction takes the G products of a column and every output has one chain
// of additions over ascending k. Columns beyond N and k beyond K are zero.
//   I8: symmetric, one scale an output column; `compensation` is 128 * the column's sum, for inputs offset by 128.
//   I4: symmetric, one bfloat16 scale an output column and group of 32 k. A panel is a list of groups, each of 1,152 bytes:
//       [4][64][4] bytes, of which byte j of [i][column] holds k = 8 i + j in its low half and k = 8 i + 4 + j in its high
//       half, as value + 8; then the 64 scales. One stream of memory, and a mask or a shift away from int8's order.
// A gated weight interleaves the gate's and the up matrix's columns, 32 and 32, so that a panel has both of 32 outputs.
#pragma once

#include <cstdint>

#include "calls.h"

namespace attendant {

constexpr int64_t kPanel = 64;
constexpr int64_t kInt4Group = 32;
constexpr int64_t kInt4GroupBytes = kPanel * kInt4Group / 2 + kPanel * 2;

struct Weight {
    WeightFormat format = WeightFormat::F32;
    int64_t num_outputs = 0;  // N, of the result: of one half where gated
    int64_t num_inputs = 0;   // K
    bool is_gated = false;
    int64_t num_panels = 0;
    int64_t panel_bytes = 0;
    char* panels = nullptr;
    float* scales = nullptr;          // I8 [columns], else null
    int32_t* compensation = nullptr;  // I8 [columns], else null
    float* bias = nullptr;            // [columns], zero where there is none
    int64_t num_bytes = 0;            // all of the above
};

// The format that the kernels take the inputs of a weight in; anything else is converted to it first.
inline Format input_format(WeightFormat format) {
    return format == WeightFormat::F32 ? Format::F32 : format == WeightFormat::BF16 ? Format::BF16 : Format::U8;
}

// Bytes of a row of inputs in `scratch`: in `input_format` with K rounded up to 64; for I4 groups of 32 with their sums.
inline int64_t linear_input_bytes(const Weight& weight) {
    const int64_t padded = (weight.num_inputs + 63) / 64 * 64;
    switch (weight.format) {
        case WeightFormat::F32:
            return padded * 4;
        case WeightFormat::BF16:
            return padded * 2;
        case WeightFormat::I8:
            return padded;
        default:
            return padded / kInt4Group * (kInt4Group + 4);
    }
}

// Bytes that `scratch` of a LinearCall needs: the inputs, and a scale a row.
inline int64_t linear_scratch_bytes(const Weight& weight, int64_t num_rows) { return num_rows * (linear_input_bytes(weight) + 4); }

// A weight of sizes alone, without memory: what packing it would take.
Weight* lay_out_weight(WeightFormat format, int64_t num_outputs, int64_t num_inputs, bool is_gated);

// Packs rows [N, K] given in parts (query, key and value, say), one below the other. `sources` are float32 or bfloat16,
// row-major and contiguous; a bias may be null. With `is_gated` there are exactly two parts, gate and up. Null where there
// is no memory, or K is too large for the integer sums of I8 (65,536).
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
