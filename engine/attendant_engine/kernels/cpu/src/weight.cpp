// Packing of weights; see weight.h. Runs on the pool, a panel at a time, through a tile of 64 columns by 64 k on the stack.
#include "weight.h"

#include <cmath>
#include <cstring>
#include <new>

#include "team.h"
#include "weight_encoding.h"
#include "weight_memory.h"

namespace attendant {
namespace {

struct Packing {
    Weight* weight;
    Format source_format;
    const WeightPart* parts;
    int num_parts;
};

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

void pack_panel(const Packing& packing, int64_t panel) {
    Weight& weight = *packing.weight;
    Column columns[kPanel];
    for (int64_t column = 0; column < kPanel; column++) {
        columns[column] = find_column(packing, panel, column);
        const Column& source = columns[column];
        const bool has_bias = source.part != nullptr && source.part->bias != nullptr;
        weight.bias[panel * kPanel + column] = has_bias ? source.part->bias[source.row] : 0.0f;
    }
    alignas(64) Block block;
    float inverses[kPanel];
    uint32_t sums[kPanel] = {};
    if (weight.format == WeightFormat::I8) {
        for (int64_t column = 0; column < kPanel; column++) {
            uint32_t bits = 0;
            for (int64_t k = 0; k < weight.num_inputs; k += kBlock) {
                read_block(packing, columns[column], k, block[0]);
                const uint32_t of_block = largest_magnitude_bits(block[0], kBlock);
                bits = of_block > bits ? of_block : bits;
            }
            const float largest = magnitude_of_bits(bits);
            const bool is_zero = largest < 1e-36f;  // whose inverse would be infinite
            weight.scales[panel * kPanel + column] = !std::isfinite(largest) ? NAN : is_zero ? 0.0f : largest / 127.0f;
            inverses[column] = !std::isfinite(largest) || is_zero ? 0.0f : 127.0f / largest;
        }
    }
    const int64_t step = weight.format == WeightFormat::F32    ? 1
                         : weight.format == WeightFormat::BF16 ? 2
                         : weight.format == WeightFormat::I8   ? 4
                                                               : kInt4Group;
    char* out = weight.panels + panel * weight.panel_bytes;
    for (int64_t k = 0; k < weight.num_inputs; k += kBlock) {
        for (int64_t column = 0; column < kPanel; column++) read_block(packing, columns[column], k, block[column]);
        const int64_t left = weight.num_inputs - k < kBlock ? weight.num_inputs - k : kBlock;
        const int64_t steps = (left + step - 1) / step;
        switch (weight.format) {
            case WeightFormat::F32:
                encode_float32(block, steps, out);
                break;
            case WeightFormat::BF16:
                encode_bfloat16(block, steps * step, out);
                break;
            case WeightFormat::I8:
                encode_int8(block, inverses, steps * step, out, sums);
                break;
            case WeightFormat::I4:
                for (int64_t group = 0; group < steps; group++) encode_int4_group(block, group * kInt4Group, out + group * kInt4GroupBytes);
        }
        out += steps * (weight.format == WeightFormat::I4 ? kInt4GroupBytes : kPanel * 4);
    }
    if (weight.format == WeightFormat::I8)
        for (int64_t column = 0; column < kPanel; column++)
            weight.compensation[panel * kPanel + column] = static_cast<int32_t>(128 * sums[column]);
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
