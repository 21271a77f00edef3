// Packing of weights; see weight.h. Runs on the pool, a panel at a time, through a tile of 64 columns by 64 k on the stack.
#include "weight.h"

#include <cmath>
#include <cstring>
#include <new>

#include "team.h"
#include "weight_memory.h"

namespace attendant {
namespace {

constexpr int64_t kBlock = 64;  // k of a tile: 16 KB, which the first cache holds

struct Packing {
    Weight* weight;
    Format source_format;
    const WeightPart* parts;
    int num_parts;
};

float from_bf16(uint16_t bits) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Column {
    const WeightPart* part;  // null beyond the last
    int64_t row;
};

Column find_column(const Packing& packing, int64_t panel, int64_t column) {
    if (packing.weight->is_gated) {
        const int64_t row = panel * (kPanel / 2) + column % (kPanel / 2);
        if (row >= packing.weight->num_outputs) return {nullptr, 0};
        return {&packing.parts[column / (kPanel / 2)], row};
    }
    int64_t row = panel * kPanel + column;
    for (int i = 0; i < packing.num_parts; i++) {
        if (row < packing.parts[i].num_rows) return {&packing.parts[i], row};
        row -= packing.parts[i].num_rows;
    }
    return {nullptr, 0};
}

// Reads k .. k + 64 of a column as float32, zeros beyond its end.
void read_block(const Packing& packing, const Column& column, int64_t k, float* out) {
    const int64_t num_inputs = packing.weight->num_inputs;
    const int64_t count = column.part == nullptr ? 0 : num_inputs - k < kBlock ? num_inputs - k : kBlock;
    if (count > 0 && packing.source_format == Format::F32) {
        std::memcpy(out, static_cast<const float*>(column.part->data) + column.row * num_inputs + k, static_cast<size_t>(count) * 4);
    } else if (count > 0) {
        const uint16_t* source = static_cast<const uint16_t*>(column.part->data) + column.row * num_inputs + k;
        for (int64_t i = 0; i < count; i++) out[i] = from_bf16(source[i]);
    }
    for (int64_t i = count; i < kBlock; i++) out[i] = 0;
}

// The largest magnitude, not a number where any element is not finite.
float largest_magnitude(const float* values, int64_t count, float so_far) {
    for (int64_t i = 0; i < count; i++) {
        const float magnitude = std::fabs(values[i]);
        if (!(magnitude <= so_far)) so_far = std::isfinite(magnitude) ? magnitude : NAN;
        if (std::isnan(so_far)) break;
    }
    return so_far;
}

int round_to_int(float value) { return std::isfinite(value) ? static_cast<int>(std::lrintf(value)) : 0; }

void pack_float_block(const float tile[kPanel][kBlock], char* out, int64_t count) {
    auto* floats = reinterpret_cast<float*>(out);
    for (int64_t k = 0; k < count; k++)
        for (int64_t column = 0; column < kPanel; column++) floats[k * kPanel + column] = tile[column][k];
}

void pack_bf16_block(const float tile[kPanel][kBlock], char* out, int64_t count) {
    auto* halves = reinterpret_cast<uint16_t*>(out);
    for (int64_t k = 0; k < count; k += 2)
        for (int64_t column = 0; column < kPanel; column++, halves += 2) {
            halves[0] = to_bf16(tile[column][k]);
            halves[1] = to_bf16(tile[column][k + 1]);
        }
}

void pack_int8_block(const float tile[kPanel][kBlock], const float* inverse, char* out, int32_t* sums, int64_t count) {
    auto* bytes = reinterpret_cast<int8_t*>(out);
    for (int64_t k = 0; k < count; k += 4)
        for (int64_t column = 0; column < kPanel; column++)
            for (int64_t i = k; i < k + 4; i++) {
                const int value = round_to_int(tile[column][i] * inverse[column]);
                *bytes++ = static_cast<int8_t>(value);
                sums[column] += value;
            }
}

// The scale of a group of 32: of some that let the largest value, whatever its sign, lie about 8 steps below zero (or clip it
// a little, for finer steps everywhere else), the one with the least squared error. Not a number where a value is none.
float int4_scale(const float* values) {
    constexpr int kCandidates = 8;
    constexpr float kSteps[kCandidates] = {6.5f, 7.0f, 7.5f, 8.0f, 8.5f, 9.0f, 9.5f, 10.0f};
    constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: a sum with it has no room for a fraction
    const float largest = largest_magnitude(values, kInt4Group, 0.0f);
    if (!(largest > 1e-30f)) return largest;  // also not a number
    float extreme = 0;
    for (int64_t i = 0; i < kInt4Group; i++) extreme = std::fabs(values[i]) > std::fabs(extreme) ? values[i] : extreme;
    float scales[kCandidates], inverses[kCandidates], errors[kCandidates] = {};
    for (int c = 0; c < kCandidates; c++) {
        scales[c] = from_bf16(to_bf16(-extreme / kSteps[c]));
        inverses[c] = 1.0f / scales[c];
    }
    for (int64_t i = 0; i < kInt4Group; i++)
        for (int c = 0; c < kCandidates; c++) {
            float steps = values[i] * inverses[c];
            steps = steps < -8.0f ? -8.0f : steps > 7.0f ? 7.0f : steps;
            const float difference = (steps + kRounding - kRounding) * scales[c] - values[i];
            errors[c] += difference * difference;
        }
    int best = 0;
    for (int c = 1; c < kCandidates; c++) best = errors[c] < errors[best] ? c : best;
    return scales[best];
}

// One group of 32 k from `k` of the tile on.
void pack_int4_group(const float tile[kPanel][kBlock], int64_t k, char* out) {
    auto* bytes = reinterpret_cast<uint8_t*>(out);
    auto* scales = reinterpret_cast<uint16_t*>(out + kPanel * kInt4Group / 2);
    for (int64_t column = 0; column < kPanel; column++) {
        const float* values = tile[column] + k;
        scales[column] = to_bf16(int4_scale(values));
        const float scale = from_bf16(scales[column]);
        const float inverse = std::fabs(scale) > 1e-37f ? 1.0f / scale : 0.0f;
        for (int64_t i = 0; i < kInt4Group; i++) {
            int value = round_to_int(values[i] * inverse);
            value = value < -8 ? -8 : value > 7 ? 7 : value;
            uint8_t& byte = bytes[(i / 8 * kPanel + column) * 4 + i % 4];
            byte = static_cast<uint8_t>(i % 8 < 4 ? value + 8 : byte | (value + 8) << 4);
        }
    }
}

void pack_panel(const Packing& packing, int64_t panel) {
    Weight& weight = *packing.weight;
    Column columns[kPanel];
    for (int64_t column = 0; column < kPanel; column++) {
        columns[column] = find_column(packing, panel, column);
        const Column& source = columns[column];
        const bool has_bias = source.part != nullptr && source.part->bias != nullptr;
        weight.bias[panel * kPanel + column] = has_bias ? source.part->bias[source.row] : 0.0f;
    }
    alignas(64) float tile[kPanel][kBlock];
    float inverse[kPanel];
    int32_t sums[kPanel] = {};
    if (weight.format == WeightFormat::I8) {
        for (int64_t column = 0; column < kPanel; column++) {
            float largest = 0;
            for (int64_t k = 0; k < weight.num_inputs; k += kBlock) {
                read_block(packing, columns[column], k, tile[0]);
                largest = largest_magnitude(tile[0], kBlock, largest);
            }
            const bool is_zero = largest < 1e-36f;  // whose inverse would be infinite
            weight.scales[panel * kPanel + column] = is_zero ? 0.0f : largest / 127.0f;
            inverse[column] = is_zero ? 0.0f : 127.0f / largest;
        }
    }
    const int64_t step = weight.format == WeightFormat::F32    ? 1
                         : weight.format == WeightFormat::BF16 ? 2
                         : weight.format == WeightFormat::I8   ? 4
                                                               : kInt4Group;
    char* out = weight.panels + panel * weight.panel_bytes;
    for (int64_t k = 0; k < weight.num_inputs; k += kBlock) {
        for (int64_t column = 0; column < kPanel; column++) read_block(packing, columns[column], k, tile[column]);
        const int64_t left = weight.num_inputs - k < kBlock ? weight.num_inputs - k : kBlock;
        const int64_t steps = (left + step - 1) / step;
        switch (weight.format) {
            case WeightFormat::F32:
                pack_float_block(tile, out, steps);
                break;
            case WeightFormat::BF16:
                pack_bf16_block(tile, out, steps * step);
                break;
            case WeightFormat::I8:
                pack_int8_block(tile, inverse, out, sums, steps * step);
                break;
            case WeightFormat::I4:
                for (int64_t group = 0; group < steps; group++) pack_int4_group(tile, group * kInt4Group, out + group * kInt4GroupBytes);
        }
        out += steps * (weight.format == WeightFormat::I4 ? kInt4GroupBytes : kPanel * 4);
    }
    if (weight.format == WeightFormat::I8)
        for (int64_t column = 0; column < kPanel; column++) weight.compensation[panel * kPanel + column] = 128 * sums[column];
}

void pack_panels(void* argument, Team& team) {
    const auto& packing = *static_cast<const Packing*>(argument);
    const Range mine = team.share(packing.weight->num_panels);
    for (int64_t panel = mine.begin; panel < mine.end; panel++) pack_panel(packing, panel);
}

int64_t panel_bytes(WeightFormat format, int64_t num_inputs) {
    switch (format) {
        case WeightFormat::F32:
            return num_inputs * kPanel * 4;
        case WeightFormat::BF16:
            return (num_inputs + 1) / 2 * kPanel * 4;
        case WeightFormat::I8:
            return (num_inputs + 3) / 4 * kPanel * 4;
        default:
            return (num_inputs + kInt4Group - 1) / kInt4Group * kInt4GroupBytes;
    }
}

}  // namespace

Weight* lay_out_weight(WeightFormat format, int64_t num_outputs, int64_t num_inputs, bool is_gated) {
    if (format == WeightFormat::I8 && num_inputs > 65536) return nullptr;
    auto* weight = new (std::nothrow) Weight;
    if (weight == nullptr) return nullptr;
    weight->format = format;
    weight->num_inputs = num_inputs;
    weight->num_outputs = num_outputs;
    weight->is_gated = is_gated;
    const int64_t width = is_gated ? kPanel / 2 : kPanel;
    weight->num_panels = (weight->num_outputs + width - 1) / width;
    weight->panel_bytes = panel_bytes(format, num_inputs);
    const int64_t num_vectors = format == WeightFormat::I8 ? 3 : 1;
    weight->num_bytes = weight->num_panels * weight->panel_bytes + num_vectors * weight->num_panels * kPanel * 4;
    return weight;
}

Weight* pack_weight(WeightFormat format, Format source_format, const WeightPart* parts, int num_parts, int64_t num_inputs, bool is_gated) {
    int64_t num_outputs = 0;
    for (int i = 0; i < (is_gated ? 1 : num_parts); i++) num_outputs += parts[i].num_rows;
    Weight* weight = lay_out_weight(format, num_outputs, num_inputs, is_gated);
    if (weight == nullptr) return nullptr;
    const int64_t columns = weight->num_panels * kPanel;
    const int64_t all_panels = weight->num_panels * weight->panel_bytes;
    weight->panels = allocate_weight(static_cast<size_t>(weight->num_bytes));
    if (weight->panels == nullptr) {
        delete weight;
        return nullptr;
    }
    weight->bias = reinterpret_cast<float*>(weight->panels + all_panels);
    if (format == WeightFormat::I8) {
        weight->scales = weight->bias + columns;
        weight->compensation = reinterpret_cast<int32_t*>(weight->scales + columns);
    }
    Packing packing{weight, source_format, parts, num_parts};
    run_on_pool(pack_panels, &packing);
    return weight;
}

void free_weight(Weight* weight) {
    if (weight == nullptr) return;
    if (weight->panels != nullptr) release_weight(weight->panels);
    delete weight;
}

void unpack_row(const Weight& weight, int64_t row, float* out) {
    const char* panel = weight.panels + row / kPanel * weight.panel_bytes;
    const int64_t column = row % kPanel;
    switch (weight.format) {
        case WeightFormat::F32:
            for (int64_t k = 0; k < weight.num_inputs; k++) out[k] = reinterpret_cast<const float*>(panel)[k * kPanel + column];
            break;
        case WeightFormat::BF16:
            for (int64_t k = 0; k < weight.num_inputs; k++)
                out[k] = from_bf16(reinterpret_cast<const uint16_t*>(panel)[(k / 2 * kPanel + column) * 2 + k % 2]);
            break;
        case WeightFormat::I8:
            for (int64_t k = 0; k < weight.num_inputs; k++)
                out[k] =
                    static_cast<float>(reinterpret_cast<const int8_t*>(panel)[(k / 4 * kPanel + column) * 4 + k % 4]) * weight.scales[row];
            break;
        case WeightFormat::I4:
            for (int64_t k = 0; k < weight.num_inputs; k++) {
                const char* group = panel + k / kInt4Group * kInt4GroupBytes;
                const int64_t i = k % kInt4Group;
                const int byte = reinterpret_cast<const uint8_t*>(group)[(i / 8 * kPanel + column) * 4 + i % 4];
                const float scale = from_bf16(reinterpret_cast<const uint16_t*>(group + kPanel * kInt4Group / 2)[column]);
                out[k] = static_cast<float>((i % 8 < 4 ? byte & 15 : byte >> 4) - 8) * scale;
            }
    }
}

}  // namespace attendant
