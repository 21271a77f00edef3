// Attention over the paged cache in one pass with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// A row keeps the largest score so far, the sum of its weights and their weighted sum of values. Keys are taken in spans
// of 64 at fixed places of the sequence, so a row's arithmetic is the same whatever rows are attended beside it, and a span
// of which it sees nothing leaves it as it was: its weights are exactly 0 and what was summed before is multiplied by
// exactly 1. Scores are held in units of log2: the queries are multiplied by scale * log2(e) at the start.
#include "attention_math.h"
#include "attention_work.h"
#include "kernels.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int kTilesOfSpan = kSpan / kTile;
constexpr int kMaxGroupRows = 6;  // rows whose sums stay in registers together
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kNothingYet = -3.0e38f;  // below every finite score, and less itself is 0 where minus infinity would be NaN

// Lines that fit into the registers beside `rows` others.
constexpr int lines_at_once(int rows) {
#ifdef __AVX512F__
    return rows > 0 ? 4 : 0;
#else
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#endif
}

// Where the keys and values of a span lie: a tile of 16 positions each.
struct Span {
    const char* keys[kTilesOfSpan];
    const char* values[kTilesOfSpan];
    int num_tiles;
};

// What the rows of an item have come to.
template <class Cached>
struct State {
    alignas(64) typename Cached::Number q[kMaxItemRows * kMaxHeadDim];  // [rows, D']
    alignas(64) float sums[kMaxItemRows * kMaxHeadDim];                 // [rows, D']
    Line totals[kMaxItemRows];
    float largest[kMaxItemRows];
};

Span locate(const AttentionCall& call, const Item& item, int64_t base) {
    const CacheView& cache = call.cache;
    const uint32_t tiles_per_block = static_cast<uint32_t>(cache.block_size / kTile);
    const int32_t* blocks = call.block_table + item.sequence * call.block_table_stride;
    const int64_t num_keys = item.end_key - base < kSpan ? item.end_key - base : kSpan;
    Span span;
    span.num_tiles = static_cast<int>((num_keys + kTile - 1) / kTile);
    for (int t = 0; t < span.num_tiles; t++) {
        const uint32_t tile = static_cast<uint32_t>(base / kTile) + t;
        const int64_t offset = tile_offset(cache, blocks[tile / tiles_per_block], item.kv_head, tile % tiles_per_block);
        span.keys[t] = static_cast<const char*>(cache.key) + offset;
        span.values[t] = static_cast<const char*>(cache.value) + offset;
    }
    return span;
}

// scores[r][16 t + i] = q[r] . key i of tile t, for C tiles from `keys` on.
template <class Cached, int R, int C>
ATTENDANT_INLINE void score_tiles(const typename Cached::Number* q, int64_t stride, const char* const* keys, int64_t num_steps, float* scores) {
    const char* lines[C];
    Sums<R, C> sums;
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        lines[c] = keys[c];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sums[r][c] = broadcast_line(0);
    }
    for (int64_t i = 0; i < num_steps; i++) {
        Cached::template step<R, C, false>(sums, q + i * Cached::kGroup, stride, lines, i * kLineBytes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) store_line(scores + r * kSpan + c * kTile, sums[r][c]);
    }
}

template <class Cached, int R>
ATTENDANT_INLINE void score(const typename Cached::Number* q, int64_t stride, const Span& span, int num_tiles, int64_t num_steps, float* scores) {
    constexpr int kMost = lines_at_once(R);
    for (int t = 0; t < num_tiles;) {
        const int left = num_tiles - t;
        if (kMost >= 4 && left >= 4) {
            score_tiles<Cached, R, kMost >= 4 ? 4 : 1>(q, stride, span.keys + t, num_steps, scores + t * kTile);
            t += 4;
        } else if (kMost >= 2 && left >= 2) {
            score_tiles<Cached, R, kMost >= 2 ? 2 : 1>(q, stride, span.keys + t, num_steps, scores + t * kTile);
            t += 2;
        } else {
            score_tiles<Cached, R, 1>(q, stride, span.keys + t, num_steps, scores + t * kTile);
            t += 1;
        }
    }
}

// Turns a row's scores into weights, and returns what the sums so far have to be multiplied by.
template <class Cached>
ATTENDANT_INLINE float weigh(
    const float* scores, int num_tiles, Visible visible, typename Cached::Number* weights, float& largest, Line& total) {
    Vec x[kTilesOfSpan * kParts];
    const Vec nothing = broadcast(-__builtin_inff());
    const bool is_partial = visible.begin > 0 || visible.end < num_tiles * kTile;
    const int begin = static_cast<int>(visible.begin > 0 ? visible.begin : 0);
    const int end = static_cast<int>(visible.end < kSpan ? visible.end : kSpan);
#pragma GCC unroll 8
    for (int i = 0; i < kTilesOfSpan * kParts; i++) {
        x[i] = i < num_tiles * kParts ? load(scores + i * kWidth) : nothing;
        if (is_partial) x[i] = keep_lanes(x[i], begin - i * kWidth, end - i * kWidth);
    }
    Vec most = max(x[0], x[1]);
#pragma GCC unroll 8
    for (int i = 2; i < kTilesOfSpan * kParts; i++) most = max(most, x[i]);
    const float largest_here = largest_lane(most);
    const float now = largest_here > largest ? largest_here : largest;
    const float correction = power_of_two(largest - now);
    largest = now;
    total = scale_line(total, broadcast(correction));
#pragma GCC unroll 8
    for (int i = 0; i < kTilesOfSpan * kParts; i++) {
        const Vec weight = Cached::put_weights(weights + i * kWidth, power_of_two(sub(x[i], broadcast(now))));
        total.part[i % kParts] = add(total.part[i % kParts], weight);
    }
    return correction;
}

// sums[r] = sums[r] * corrections[r] + weights[r] . values, for C lines of dimensions from the byte `offset` of a row on.
template <class Cached, int R, int C>
ATTENDANT_INLINE void add_lines(const typename Cached::Number* weights, const float* corrections, const Span& span, int64_t num_keys,
                                int64_t row_bytes, int64_t offset, float* sums, int64_t stride) {
    Sums<R, C> now;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const Vec correction = broadcast(corrections[r]);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) now[r][c] = scale_line(load_line(sums + r * stride + c * 16), correction);
    }
    for (int64_t first = 0; first < num_keys; first += kTile) {
        const int64_t keys = num_keys - first < kTile ? num_keys - first : kTile;
        const char* lines[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) lines[c] = span.values[first / kTile] + offset + c * kLineBytes;
        const int64_t num_steps = keys / Cached::kGroup;
        for (int64_t i = 0; i < num_steps; i++) {
            Cached::template step<R, C, false>(now, weights + first + i * Cached::kGroup, kSpan, lines, i * row_bytes);
        }
        if (keys % Cached::kGroup != 0) {
            Cached::template step<R, C, true>(now, weights + first + num_steps * Cached::kGroup, kSpan, lines, num_steps * row_bytes);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) store_line(sums + r * stride + c * 16, now[r][c]);
    }
}

template <class Cached, int R>
ATTENDANT_INLINE void add_values(const typename Cached::Number* weights, const float* corrections, const Span& span, int64_t num_keys,
                                 int64_t padded_dim, float* sums) {
    constexpr int kMost = lines_at_once(R);
    const int64_t row_bytes = padded_dim * Cached::kGroup * static_cast<int64_t>(sizeof(typename Cached::Element));
    for (int64_t line = 0; line < padded_dim / 16;) {
        const int64_t left = padded_dim / 16 - line, offset = line * kLineBytes;
        if (kMost >= 4 && left >= 4) {
            add_lines<Cached, R, kMost >= 4 ? 4 : 1>(weights, corrections, span, num_keys, row_bytes, offset, sums + line * 16, padded_dim);
            line += 4;
        } else if (kMost >= 2 && left >= 2) {
            add_lines<Cached, R, kMost >= 2 ? 2 : 1>(weights, corrections, span, num_keys, row_bytes, offset, sums + line * 16, padded_dim);
            line += 2;
        } else {
            add_lines<Cached, R, 1>(weights, corrections, span, num_keys, row_bytes, offset, sums + line * 16, padded_dim);
            line += 1;
        }
    }
}

// Attends R rows of an item, from `row` on, to one span.
template <class Cached, int R>
void attend_group(const Work& work, const Item& item, int64_t row, const Span& span, int64_t base, int64_t head_dim, State<Cached>& state) {
    Visible visible[R];
    for (int r = 0; r < R; r++) visible[r] = work.visible(item.sequence, item.first_row + row + r, base);
    // Positions ascend: the last row sees most to the right, the first one most to the left.
    const int64_t num_keys = visible[R - 1].end < kSpan ? visible[R - 1].end : kSpan;
    if (num_keys <= 0 || visible[0].begin >= kSpan) return;
    const int num_tiles = static_cast<int>((num_keys + kTile - 1) / kTile);
    const int64_t padded_dim = padded_head_dim(head_dim);
    alignas(64) float scores[R * kSpan];
    alignas(64) typename Cached::Number weights[R * kSpan];
    float corrections[R];
    score<Cached, R>(state.q + row * padded_dim, padded_dim, span, num_tiles, (head_dim + Cached::kGroup - 1) / Cached::kGroup, scores);
    for (int r = 0; r < R; r++) {
        corrections[r] = weigh<Cached>(scores + r * kSpan, num_tiles, visible[r], weights + r * kSpan, state.largest[row + r], state.totals[row + r]);
    }
    add_values<Cached, R>(weights, corrections, span, num_keys, padded_dim, state.sums + row * padded_dim);
}

template <class Cached>
void load_queries(const AttentionCall& call, const Item& item, int64_t group, State<Cached>& state) {
    const int64_t head_dim = call.cache.head_dim, padded_dim = padded_head_dim(head_dim);
    const Vec scale = broadcast(call.scale * kLog2E);
    for (int64_t r = 0; r < item.num_rows; r++) {
        const int64_t row = item.first_row + r;
        const int64_t token = call.cu_seqlens_q[item.sequence] + row / group;
        const float* q = call.q + token * call.q_stride + (item.kv_head * group + row % group) * head_dim;
        for (int64_t d = 0; d < padded_dim; d += kWidth) {
            const int64_t left = head_dim - d;
            const Vec numbers = left >= kWidth ? load(q + d) : left > 0 ? load_tail(q + d, left) : zero();
            Cached::put(state.q + r * padded_dim + d, mul(numbers, scale));
            store(state.sums + r * padded_dim + d, zero());
        }
        state.totals[r] = broadcast_line(0);
        state.largest[r] = kNothingYet;
    }
}

template <class Cached>
void store_results(const AttentionCall& call, const Item& item, int64_t group, const State<Cached>& state) {
    const int64_t head_dim = call.cache.head_dim, padded_dim = padded_head_dim(head_dim);
    for (int64_t r = 0; r < item.num_rows; r++) {
        const int64_t row = item.first_row + r;
        const int64_t token = call.cu_seqlens_q[item.sequence] + row / group;
        const int64_t place = token * call.out.stride + (item.kv_head * group + row % group) * head_dim;
        Vec total = state.totals[r].part[0];
        for (int i = 1; i < kParts; i++) total = add(total, state.totals[r].part[i]);
        // A sequence without keys attends to nothing, which is zero.
        const Vec factor = broadcast(item.end_key > 0 ? 1.0f / sum(total) : 0.0f);
        for (int64_t d = 0; d < head_dim; d += kWidth) {
            // Plus zero, so that a sum that has vanished has no sign: a span that adds nothing could change it.
            const Vec result = fma(load(state.sums + r * padded_dim + d), factor, zero());
            const int64_t left = head_dim - d;
            if (call.out.format == Format::BF16) {
                uint16_t* out = static_cast<uint16_t*>(call.out.data) + place + d;
                left >= kWidth ? store_bf16(out, result) : store_bf16_tail(out, result, left);
            } else {
                float* out = static_cast<float*>(call.out.data) + place + d;
                left >= kWidth ? store(out, result) : store_tail(out, result, left);
            }
        }
    }
}

template <class Cached>
void attend_item(const AttentionCall& call, const Work& work, const Item& item, State<Cached>& state) {
    const int64_t head_dim = call.cache.head_dim;
    load_queries(call, item, work.group(), state);
    for (int64_t base = item.first_key; base < item.end_key; base += kSpan) {
        const Span span = locate(call, item, base);
        for (int64_t row = 0; row < item.num_rows; row += kMaxGroupRows) {
            switch (item.num_rows - row) {
                case 1: attend_group<Cached, 1>(work, item, row, span, base, head_dim, state); break;
                case 2: attend_group<Cached, 2>(work, item, row, span, base, head_dim, state); break;
                case 3: attend_group<Cached, 3>(work, item, row, span, base, head_dim, state); break;
                case 4: attend_group<Cached, 4>(work, item, row, span, base, head_dim, state); break;
                case 5: attend_group<Cached, 5>(work, item, row, span, base, head_dim, state); break;
                default: attend_group<Cached, 6>(work, item, row, span, base, head_dim, state); break;
            }
        }
    }
    store_results(call, item, work.group(), state);
}

template <class Cached>
void attend(const AttentionCall& call, Team& team) {
    Work work(call, team);
    State<Cached> state;
    Item item;
    while (work.next(item)) attend_item(call, work, item, state);
}

}  // namespace

void attention(const AttentionCall& call, Team& team) {
    if (call.cache.format == Format::BF16) {
        attend<CachedBf16>(call, team);
    } else {
        attend<CachedF32>(call, team);
    }
}

}  // namespace attendant::ATTENDANT_ISA
