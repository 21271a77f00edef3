// Brings the inputs of a linear layer into the format that its weight is multiplied with, row by row, in `scratch`.
#pragma once

#include <cstring>

#include "linear_step.h"
#include "quantize.h"
#include "team.h"
#include "weight.h"

namespace attendant::ATTENDANT_ISA {
namespace {

// Rows ready for the tiles, `stride` bytes apart, of whole steps of k. `scales` where they are bytes.
struct Inputs {
    const char* data;
    int64_t stride;
    const float* scales;
};

inline int64_t item_bytes(Format format) { return format == Format::F32 ? 4 : format == Format::BF16 ? 2 : 1; }

inline void convert_row(const float* x, int64_t width, uint16_t* out) {
    int64_t k = 0;
    for (; k + kWidth <= width; k += kWidth) store_bf16(out + k, load(x + k));
    if (k < width) store_bf16_tail(out + k, load_tail(x + k, width - k), width - k);
}

// Makes groups of the bytes of a row, which stand right behind where they go, and so are read before they are written over.
inline void group_row(const uint8_t* bytes, int64_t width, InputGroupI4* out) {
    for (int64_t k = 0; k < width; k += kInt4Group, out++) {
        const int64_t count = width - k < kInt4Group ? width - k : kInt4Group;
        int32_t total = 0;
        InputGroupI4 group = {};
        for (int64_t i = 0; i < count; i++) {
            group.values[i] = static_cast<int8_t>(bytes[k + i] ^ 0x80);
            total += group.values[i];
        }
        group.first = -8 * total;
        *out = group;
    }
}

// What the rows of a linear layer's inputs are made into, `stride` bytes each.
struct Target {
    Format format;
    bool has_groups;
    int64_t width, stride;
};

// One row, with zeros from its end to that of its last step. Returns its scale.
inline float prepare_row(const Rows& x, int64_t row, const Target& target, char* out) {
    const int64_t width = target.width, item = item_bytes(target.format), whole = width / 4 * 4;
    // Groups are larger than their bytes: these are made at the row's end first.
    char* const plain = target.has_groups ? out + target.stride - (width + 3) / 4 * 4 : out;
    if (whole < width) std::memset(plain + whole * item, 0, static_cast<size_t>(4 * item));
    const char* const source = static_cast<const char*>(x.data) + row * x.stride * item_bytes(x.format);
    float scale = 0;
    if (x.format == target.format) {
        std::memcpy(plain, source, static_cast<size_t>(width * item));
        if (x.format == Format::U8) scale = x.scales[row];
    } else if (target.format == Format::U8) {
        scale = quantize_row(reinterpret_cast<const float*>(source), width, reinterpret_cast<uint8_t*>(plain));
    } else {
        convert_row(reinterpret_cast<const float*>(source), width, reinterpret_cast<uint16_t*>(plain));
    }
    if (target.has_groups) group_row(reinterpret_cast<const uint8_t*>(plain), width, reinterpret_cast<InputGroupI4*>(out));
    return scale;
}

// All threads of the team call it together; it ends with a barrier where anything had to be written.
inline Inputs prepare_inputs(const LinearCall& call, Team& team) {
    const Weight& weight = *call.weight;
    const int64_t width = weight.num_inputs;
    const Format format = input_format(weight.format);
    const bool has_groups = weight.format == WeightFormat::I4, has_whole_steps = width * item_bytes(format) % 4 == 0;
    if (call.x.format == format && call.row_ids == nullptr && has_whole_steps && !has_groups)
        return {static_cast<const char*>(call.x.data), call.x.stride * item_bytes(format), call.x.scales};
    if (call.x.format != format && call.x.format != Format::F32) __builtin_trap();

    const int64_t stride = linear_input_bytes(weight);
    const Target target = {format, has_groups, width, stride};
    char* const rows = static_cast<char*>(call.scratch);
    auto* const scales = reinterpret_cast<float*>(rows + call.num_rows * stride);
    const Range mine = team.share(call.num_rows);
    for (int64_t i = mine.begin; i < mine.end; i++)
        scales[i] = prepare_row(call.x, call.row_ids == nullptr ? i : call.row_ids[i], target, rows + i * stride);
    team.barrier();
    return {rows, stride, scales};
}

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
