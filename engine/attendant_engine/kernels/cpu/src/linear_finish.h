// What a linear layer does with its sums: scales, bias, activation, gate, residual, and out as float32 or bfloat16.
#pragma once

#include "activations.h"
#include "linear_tile.h"
#include "weight.h"

namespace attendant::ATTENDANT_ISA {
namespace {

template <class Function>
inline void for_each_vector(float* values, int64_t count, Function function) {
    for (int64_t i = 0; i < count; i += kWidth) store(values + i, function(i, load(values + i)));
}

inline void activate_all(float* values, int64_t count, Activation activation) {
    switch (activation) {
        case Activation::None:
            break;
        case Activation::Gelu:
            for_each_vector(values, count, [](int64_t, Vec x) { return gelu(x); });
            break;
        case Activation::GeluTanh:
            for_each_vector(values, count, [](int64_t, Vec x) { return gelu_tanh(x); });
            break;
        default:
            for_each_vector(values, count, [&](int64_t, Vec x) { return activate(x, activation); });
    }
}

// Where the results of a row of a panel go: `count` columns from `column` on, of which the last vector may be a part.
inline void write_row(const LinearCall& call, int64_t row, int64_t column, int64_t count, const float* values) {
    const float* residual = call.residual == nullptr ? nullptr : call.residual + row * call.residual_stride + column;
    const int64_t at = row * call.out.stride + column;
    for (int64_t i = 0; i < count; i += kWidth) {
        const int64_t left = count - i;
        Vec value = load(values + i);
        if (residual != nullptr) value = add(value, left >= kWidth ? load(residual + i) : load_tail(residual + i, left));
        if (call.out.format == Format::F32) {
            float* out = static_cast<float*>(call.out.data) + at + i;
            left >= kWidth ? store(out, value) : store_tail(out, value, left);
        } else {
            uint16_t* out = static_cast<uint16_t*>(call.out.data) + at + i;
            left >= kWidth ? store_bf16(out, value) : store_bf16_tail(out, value, left);
        }
    }
}

// Rows `first_row` to `first_row + num_rows` of one panel, from its sums.
inline void finish_panel(
    const LinearCall& call, const float* input_scales, int64_t panel, int64_t first_row, int64_t num_rows, const char* sums) {
    const Weight& weight = *call.weight;
    const int64_t first_column = panel * kPanel, width = weight.is_gated ? kPanel / 2 : kPanel;
    const float* const bias = weight.bias + first_column;
    const int64_t column = panel * width, left = weight.num_outputs - column, count = left < width ? left : width;
    for (int64_t i = 0; i < num_rows; i++) {
        const char* const kept = sums + i * kSumRowBytes;
        alignas(64) float values[kPanel];
        if (weight.format == WeightFormat::I8) {
            const Vec input_scale = broadcast(input_scales[first_row + i]);
            for_each_vector(values, kPanel, [&](int64_t at, Vec) {
                const Ints products = sub_ints(load_ints(kept + at * 4), load_ints(weight.compensation + first_column + at));
                return fma(to_floats(products), mul(load(weight.scales + first_column + at), input_scale), load(bias + at));
            });
        } else {
            // A row of float32 or bfloat16 has no scale: times one, which changes nothing.
            const Vec input_scale = broadcast(weight.format == WeightFormat::I4 ? input_scales[first_row + i] : 1.0f);
            for_each_vector(values, kPanel, [&](int64_t at, Vec) {
                return fma(load(reinterpret_cast<const float*>(kept) + at), input_scale, load(bias + at));
            });
        }
        activate_all(values, width, call.activation);
        if (weight.is_gated) for_each_vector(values, width, [&](int64_t at, Vec gate) { return mul(gate, load(values + width + at)); });
        write_row(call, first_row + i, column, count, values);
    }
}

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
