// What a linear layer does with its sums: scales, bias, activation, gate, residual, and out as float32 or bfloat16.
#pragma once

#include "activations.h"
#include "linear_tile.h"
#include "weight.h"

namespace attendant::ATTENDANT_ISA {
namespace {

// Turns the sums of one vector of columns into what they stand for, row after row.
struct Column {
    WeightFormat format;
    Ints compensation;
    Vec scales, bias;

    Column(const Weight& weight, int64_t column)
        : format(weight.format),
          compensation(format == WeightFormat::I8 ? load_ints(weight.compensation + column) : zero_ints()),
          scales(format == WeightFormat::I8 ? load(weight.scales + column) : broadcast(1.0f)),
          bias(load(weight.bias + column)) {}

    // An input scale of 1 where inputs have none: a product with it changes nothing.
    __attribute__((always_inline)) Vec value(const char* sums, float input_scale) const {
        if (format == WeightFormat::I8) {
            return fma(to_floats(sub_ints(load_ints(sums), compensation)), mul(scales, broadcast(input_scale)), bias);
        }
        return fma(load(reinterpret_cast<const float*>(sums)), broadcast(input_scale), bias);
    }
};

// What an adapter adds to `count` columns, at most a vector, at `column` of a row.
inline Vec delta(const LinearCall& call, int64_t row, int64_t column, int64_t count) {
    const float* const at = call.delta + row * call.delta_stride + column;
    return count >= kWidth ? load(at) : load_tail(at, count);
}

// Adds the residual and writes `count` columns, at most a vector, at `column` of a row.
inline void write(const LinearCall& call, int64_t row, int64_t column, int64_t count, Vec value) {
    const float* const residual = call.residual == nullptr ? nullptr : call.residual + row * call.residual_stride + column;
    const int64_t at = row * call.out.stride + column;
    const bool is_whole = count >= kWidth;
    if (residual != nullptr) value = add(value, is_whole ? load(residual) : load_tail(residual, count));
    if (call.out.format == Format::F32) {
        float* const out = static_cast<float*>(call.out.data) + at;
        is_whole ? store(out, value) : store_tail(out, value, count);
    } else {
        uint16_t* const out = static_cast<uint16_t*>(call.out.data) + at;
        is_whole ? store_bf16(out, value) : store_bf16_tail(out, value, count);
    }
}

// Columns of a panel that are outputs, and the first of these outputs.
struct Outputs {
    int64_t width, first, count;

    Outputs(const Weight& weight, int64_t panel) : width(weight.is_gated ? kPanel / 2 : kPanel), first(panel * width) {
        const int64_t left = weight.num_outputs - first;
        count = left < width ? left : width;
    }
};

// Rows `first_row` to `first_row + num_rows` of one panel, from its sums.
inline void finish_panel(
    const LinearCall& call, const float* input_scales, int64_t panel, int64_t first_row, int64_t num_rows, const char* sums) {
    const Weight& weight = *call.weight;
    const Outputs outputs(weight, panel);
    const bool has_scales = weight.format == WeightFormat::I8 || weight.format == WeightFormat::I4;
    for (int64_t i = 0; i < outputs.count; i += kWidth) {
        const Column column(weight, panel * kPanel + i), up(weight, panel * kPanel + kPanel - outputs.width + i);
        for (int64_t row = 0; row < num_rows; row++) {
            const char* const kept = sums + row * kSumRowBytes + i * 4;
            const float input_scale = has_scales ? input_scales[first_row + row] : 1.0f;
            Vec value = column.value(kept, input_scale);
            if (call.delta != nullptr && first_row + row >= call.first_delta_row)
                value = add(value, delta(call, first_row + row, outputs.first + i, outputs.count - i));
            if (call.activation != Activation::None) value = activate(value, call.activation);
            if (weight.is_gated) value = mul(value, up.value(kept + outputs.width * 4, input_scale));
            write(call, first_row + row, outputs.first + i, outputs.count - i, value);
        }
    }
}

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
