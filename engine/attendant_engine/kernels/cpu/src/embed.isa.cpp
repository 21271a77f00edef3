// Sums of embeddings, in float32.
#include "simd.h"

#include "kernels.h"
#include "weight.h"

namespace attendant::ATTENDANT_ISA {
namespace {

// out = row `id` of `table`, or out += it. A packed table has to be the first of a sum.
void put_row(const Table& table, int64_t id, int64_t width, bool is_first, float* out) {
    if (table.plain.data == nullptr) {
        unpack_row(*table.packed, id, out);
        return;
    }
    const bool is_bf16 = table.plain.format == Format::BF16;
    const auto* wide = static_cast<const float*>(table.plain.data) + (is_bf16 ? 0 : id * table.plain.stride);
    const auto* narrow = static_cast<const uint16_t*>(table.plain.data) + (is_bf16 ? id * table.plain.stride : 0);
    for (int64_t i = 0; i < width; i += kWidth) {
        const int64_t count = width - i < kWidth ? width - i : kWidth;
        const Vec value = is_bf16 ? load_bf16_tail(narrow + i, count) : load_tail(wide + i, count);
        store_tail(out + i, is_first ? value : add(load_tail(out + i, count), value), count);
    }
}

}  // namespace

void embed(const EmbedCall& call, Team& team) {
    const Range rows = team.share(call.num_rows);
    for (int64_t row = rows.begin; row < rows.end; row++) {
        float* out = static_cast<float*>(call.out.data) + row * call.out.stride;
        put_row(call.tokens, call.token_ids[row], call.width, true, out);
        if (call.has_positions) put_row(call.positions, call.position_ids[row], call.width, false, out);
        if (call.has_types) put_row(call.types, call.type_ids == nullptr ? 0 : call.type_ids[row], call.width, false, out);
    }
}

}  // namespace attendant::ATTENDANT_ISA
