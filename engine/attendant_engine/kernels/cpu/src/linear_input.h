// Brings the inputs of a linear layer into the format that its weight is multiplied with, row by row, in `scratch`.
#pragma once

#include <cstring>

#include "quantize.h"
#include "simd.h"
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

// One row, with zeros from its end to that of its last step.
inline float prepare_row(const Rows& x, int64_t row, int64_t width, Format wanted, char* out) {
    const int64_t item = item_bytes(wanted);
    std::memset(out + width / 4 * 4 * item, 0, static_cast<size_t>(width % 4 > 0 ? 4 * item : 0));
    const char* const source = static_cast<const char*>(x.data) + row * x.stride * item_bytes(x.format);
    if (x.format == wanted) {
        std::memcpy(out, source, static_cast<size_t>(width * item));
        return wanted == Format::U8 ? x.scales[row] : 0.0f;
    }
    const auto* const floats = reinterpret_cast<const float*>(source);
    if (wanted == Format::U8) return quantize_row(floats, width, reinterpret_cast<uint8_t*>(out));
    convert_row(floats, width, reinterpret_cast<uint16_t*>(out));
    return 0.0f;
}

// All threads of the team call it together; it ends with a barrier where anything had to be written.
inline Inputs prepare_inputs(const LinearCall& call, Team& team) {
    const int64_t width = call.weight->num_inputs;
    const Format wanted = input_format(call.weight->format);
    const int64_t item = item_bytes(wanted);
    const bool has_whole_steps = width * item % 4 == 0;
    if (call.x.format == wanted && call.row_ids == nullptr && has_whole_steps)
        return {static_cast<const char*>(call.x.data), call.x.stride * item, call.x.scales};
    if (call.x.format != wanted && (call.x.format != Format::F32)) __builtin_trap();

    const int64_t stride = (width + 63) / 64 * 64 * item;
    char* const rows = static_cast<char*>(call.scratch);
    auto* const scales = reinterpret_cast<float*>(rows + call.num_rows * stride);
    const Range mine = team.share(call.num_rows);
    for (int64_t i = mine.begin; i < mine.end; i++)
        scales[i] = prepare_row(call.x, call.row_ids == nullptr ? i : call.row_ids[i], width, wanted, rows + i * stride);
    team.barrier();
    return {rows, stride, scales};
}

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
