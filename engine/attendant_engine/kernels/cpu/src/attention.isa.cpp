// Attention over the paged cache in one pass with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// A row keeps the largest score so far, the sum of its weights and their weighted sum of values. Keys are taken in spans
// of 64 at fixed places of the sequence, so a row's arithmetic is the same whatever rows are attended beside it, and a span
// of which it sees nothing leaves it as it was: its weights are exactly 0 and what was summed before is multiplied by
// exactly 1. Scores are held in units of log2: the queries are multiplied by scale * log2(e) at the start.
#include "attention_floats.h"
#include "attention_i8.h"
#include "attention_work.h"
#include "kernels.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int kTilesOfSpan = kSpan / kTile;
constexpr int kLanesOfGroup = 8;  // rows attended at once, rounded up to a vector of 256 bits
constexpr float kLog2E = 1.44269504088896341f;

// Lines of a row whose sums, of so many planes, fit into the registers beside those of `rows` others.
constexpr int lines_at_once(int rows, int planes) {
#ifdef __AVX512F__
    return rows * planes <= 6 ? 4 : 2;
#else
    (void)planes;  // one
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#endif
}

// Where the keys and values of a span lie: a tile of 16 positions each.
struct Span {
    const char* keys[kTilesOfSpan];
    const char* values[kTilesOfSpan];
    int num_tiles;
};

// Of a tile, before its numbers; and the numbers that a row's weights of a span are put down as.
template <class Cached>
constexpr int64_t kScaleBytes = scale_bytes(Cached::kGroup == 4 ? Format::I8 : Format::F32);
template <class Cached>
constexpr int64_t kNumbersOfRow = Cached::kPlanes * kSpan;

// What the rows of an item have come to. Rows that are attended at once are a group.
template <class Cached>
struct State {
    alignas(64) typename Cached::Number q[kMaxItemRows * Cached::kPlanes * kMaxHeadDim];  // [rows, planes, D']
    alignas(64) float sums[kMaxItemRows * kMaxHeadDim];                                   // [rows, D']
    QueryFacts facts[kMaxItemRows];
    Line totals[kMaxItemRows];
    alignas(64) float largest[kMaxItemRows / kRowsAtOnce][kLanesOfGroup];
    Visible visible[kMaxItemRows];
};

// Writes down where the item's span at `base` lies. Tiles that it does not have keep the places they had: readable memory.
void locate(const AttentionCall& call, const Item& item, int64_t base, Span& span) {
    const CacheView& cache = call.cache;
    const uint32_t tiles_per_block = static_cast<uint32_t>(cache.block_size / kTile);
    const int32_t* blocks = call.block_table + item.sequence * call.block_table_stride;
    const int64_t num_keys = item.end_key - base < kSpan ? item.end_key - base : kSpan;
    span.num_tiles = static_cast<int>((num_keys + kTile - 1) / kTile);
    for (int t = 0; t < span.num_tiles; t++) {
        const uint32_t tile = static_cast<uint32_t>(base / kTile) + t;
        const int64_t offset = tile_offset(cache, blocks[tile / tiles_per_block], item.kv_head, tile % tiles_per_block);
        span.keys[t] = static_cast<const char*>(cache.key) + offset;
        span.values[t] = static_cast<const char*>(cache.value) + offset;
    }
}

// Asks for a line of the span that comes next, up to the second-level cache: the first is full of this one. Blocks lie
// anywhere, so the hardware cannot guess them.
ATTENDANT_INLINE void fetch(const char* line) { __builtin_prefetch(line, 0, 2); }

// scores[r][first + c] = q[r] . keys of tile first + c, for C tiles. With `kAhead`, fetches as many tiles of the next span.
template <class Cached, int R, int T, int C, bool kAhead>
ATTENDANT_INLINE void score_tiles(
    const State<Cached>& state, int64_t row, int64_t padded_dim, const Span& span, const Span& ahead, int first, int64_t num_steps,
    Line (&scores)[R][T]) {
    const int64_t stride = Cached::kPlanes * padded_dim;
    const typename Cached::Number* const q = state.q + row * stride;
    const char* lines[C];
    const char* lines_ahead[C];
    typename Cached::Sum sums[R][C];
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        lines[c] = span.keys[first + c] + kScaleBytes<Cached>;
        lines_ahead[c] = ahead.keys[first + c] + kScaleBytes<Cached>;
        if (kAhead && kScaleBytes<Cached> > 0) fetch(ahead.keys[first + c]);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sums[r][c] = Cached::none();
    }
    for (int64_t i = 0; i < num_steps; i++) {
        Cached::template step<R, C, true, false>(sums, q + i * Cached::kGroup, stride, padded_dim, lines, i * kLineBytes);
#pragma GCC unroll 8
        for (int c = 0; kAhead && c < C; c++) fetch(lines_ahead[c] + i * kLineBytes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) scores[r][first + c] = Cached::score(sums[r][c], state.facts[row + r], span.keys[first + c]);
    }
}

// Scores R rows against a span's first T tiles, and turns the scores into weights; what was summed before has then to be
// multiplied by `corrections`, and what integer weights add by `factors`.
template <class Cached, int R, int T, bool kAhead>
void weigh(
    const Span& span, const Span& ahead, int64_t row, int64_t base, int64_t head_dim, State<Cached>& state,
    typename Cached::Number* weights, float* corrections, float* factors) {
    const int64_t padded_dim = padded_head_dim(head_dim), num_steps = (head_dim + Cached::kGroup - 1) / Cached::kGroup;
    Line scores[R][T];
    constexpr int kMost = lines_at_once(R, Cached::kPlanes), C = kMost < T ? kMost : T;
#pragma GCC unroll 4
    for (int first = 0; first < T; first += C) {
        score_tiles<Cached, R, T, C, kAhead>(state, row, padded_dim, span, ahead, first, num_steps, scores);
    }
    // Positions ascend: the first row sees least to the right, the last one least to the left.
    const Visible* visible = state.visible + row;
    if (visible[0].end < base + T * kTile || visible[R - 1].begin > base) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const int begin = static_cast<int>(visible[r].begin - base), end = static_cast<int>(visible[r].end - base);
#pragma GCC unroll 8
            for (int i = 0; i < T * kParts; i++) {
                Vec& part = scores[r][i / kParts].part[i % kParts];
                part = keep_lanes(part, begin - i * kWidth, end - i * kWidth, kUnseen);
            }
        }
    }
    Vec most[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        most[r] = scores[r][0].part[0];
#pragma GCC unroll 8
        for (int i = 1; i < T * kParts; i++) most[r] = max(most[r], scores[r][i / kParts].part[i % kParts]);
    }
    float* largest = state.largest[row / kRowsAtOnce];
    const __m256 before = _mm256_load_ps(largest), now = _mm256_max_ps(largest_of_each(most), before);
    _mm256_store_ps(largest, now);
#ifdef __AVX512F__
    store(corrections, power_of_two({_mm512_castps256_ps512(_mm256_sub_ps(before, now))}));
#else
    store(corrections, power_of_two({_mm256_sub_ps(before, now)}));
#endif
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        Line& total = state.totals[row + r];
        total = scale_line(total, broadcast(corrections[r]));
        const Seen seen = {static_cast<int>(visible[r].begin - base), static_cast<int>(visible[r].end - base)};
        factors[r] = Cached::template weigh<T>(scores[r], largest[r], span.values, seen, weights + r * kNumbersOfRow<Cached>, total);
    }
}

// sums[r] = sums[r] * corrections[r] + factors[r] * weights[r] . values, for C lines of dimensions from the byte `offset` of a
// row on.
template <class Cached, int R, int C, bool kAhead>
ATTENDANT_INLINE void add_lines(
    const typename Cached::Number* weights, const float* corrections, const float* factors, const Span& span, const Span& ahead,
    int64_t num_keys, int64_t row_bytes, int64_t offset, float* sums, int64_t stride) {
    typename Cached::Sum now[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const Vec correction = broadcast(corrections[r]);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) now[r][c] = Cached::begin(sums + r * stride + c * 16, correction);
    }
    for (int64_t first = 0; first < num_keys; first += kTile) {
        const int64_t keys = num_keys - first < kTile ? num_keys - first : kTile;
        const char* lines[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) lines[c] = span.values[first / kTile] + kScaleBytes<Cached> + offset + c * kLineBytes;
        const char* lines_ahead = ahead.values[first / kTile] + kScaleBytes<Cached> + offset;
        if (kAhead && kScaleBytes<Cached> > 0 && offset == 0) fetch(ahead.values[first / kTile]);
        // Where weights are whole numbers, those of positions that are not there are zero and multiply anything.
        const int64_t num_steps = Cached::kGroup == 4 ? (keys + 3) / 4 : keys / Cached::kGroup;
        for (int64_t i = 0; i < num_steps; i++) {
            Cached::template step<R, C, false, false>(
                now, weights + first + i * Cached::kGroup, kNumbersOfRow<Cached>, kSpan, lines, i * row_bytes);
#pragma GCC unroll 8
            for (int c = 0; kAhead && c < C; c++) fetch(lines_ahead + i * row_bytes + c * kLineBytes);
        }
        if (Cached::kGroup == 2 && keys % 2 != 0) {
            Cached::template step<R, C, false, true>(
                now, weights + first + num_steps * Cached::kGroup, kNumbersOfRow<Cached>, kSpan, lines, num_steps * row_bytes);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) Cached::end(now[r][c], sums + r * stride + c * 16, broadcast(corrections[r]), factors[r]);
    }
}

template <class Cached, int R, bool kAhead>
void add_values(
    const typename Cached::Number* weights, const float* corrections, const float* factors, const Span& span, const Span& ahead,
    int64_t num_keys, int64_t padded_dim, float* sums) {
    constexpr int kMost = lines_at_once(R, Cached::kPlanes), kHalf = kMost > 1 ? kMost / 2 : 1;
    const int64_t row_bytes = padded_dim * 4;
    int64_t d = 0;
    for (; d + kMost * 16 <= padded_dim; d += kMost * 16) {
        add_lines<Cached, R, kMost, kAhead>(weights, corrections, factors, span, ahead, num_keys, row_bytes, d * 4, sums + d, padded_dim);
    }
    for (; d + kHalf * 16 <= padded_dim; d += kHalf * 16) {
        add_lines<Cached, R, kHalf, kAhead>(weights, corrections, factors, span, ahead, num_keys, row_bytes, d * 4, sums + d, padded_dim);
    }
    for (; d < padded_dim; d += 16) {
        add_lines<Cached, R, 1, kAhead>(weights, corrections, factors, span, ahead, num_keys, row_bytes, d * 4, sums + d, padded_dim);
    }
}

// Attends R rows of an item, from `row` on, to one span. With `kAhead`, fetches what it can of the span to be attended next.
template <class Cached, int R, bool kAhead>
void attend_group(const Span& span, const Span& ahead, int64_t row, int64_t base, int64_t head_dim, State<Cached>& state) {
    const int64_t end = state.visible[row + R - 1].end - base, num_keys = end < kSpan ? end : kSpan;
    if (num_keys <= 0 || state.visible[row].begin >= base + kSpan) return;
    alignas(64) typename Cached::Number weights[R * kNumbersOfRow<Cached>];
    alignas(64) float corrections[16];
    float factors[R];
    if (num_keys <= kTile) {
        weigh<Cached, R, 1, kAhead>(span, ahead, row, base, head_dim, state, weights, corrections, factors);
    } else if (num_keys <= 2 * kTile) {
        weigh<Cached, R, 2, kAhead>(span, ahead, row, base, head_dim, state, weights, corrections, factors);
    } else {
        weigh<Cached, R, 4, kAhead>(span, ahead, row, base, head_dim, state, weights, corrections, factors);
    }
    const int64_t padded_dim = padded_head_dim(head_dim);
    add_values<Cached, R, kAhead>(weights, corrections, factors, span, ahead, num_keys, padded_dim, state.sums + row * padded_dim);
}

template <class Cached, bool kAhead>
ATTENDANT_INLINE void attend_rows(
    const Span& span, const Span& ahead, int64_t row, int64_t num_rows, int64_t base, int64_t head_dim, State<Cached>& state) {
    switch (num_rows) {
        case 1:
            return attend_group<Cached, 1, kAhead>(span, ahead, row, base, head_dim, state);
        case 2:
            return attend_group<Cached, 2, kAhead>(span, ahead, row, base, head_dim, state);
        case 3:
            return attend_group<Cached, 3, kAhead>(span, ahead, row, base, head_dim, state);
        case 4:
            return attend_group<Cached, 4, kAhead>(span, ahead, row, base, head_dim, state);
        case 5:
            return attend_group<Cached, 5, kAhead>(span, ahead, row, base, head_dim, state);
        default:
            return attend_group<Cached, 6, kAhead>(span, ahead, row, base, head_dim, state);
    }
}

template <class Cached>
void load_queries(const AttentionCall& call, const Work& work, const Item& item, State<Cached>& state) {
    const int64_t head_dim = call.cache.head_dim, padded_dim = padded_head_dim(head_dim);
    const Vec scale = broadcast(call.scale * kLog2E);
    for (int64_t r = 0; r < item.num_rows; r++) {
        const int64_t row = item.first_row + r, token = call.cu_seqlens_q[item.sequence] + row / work.group();
        const float* q = call.q + token * call.q_stride + (item.kv_head * work.group() + row % work.group()) * head_dim;
        alignas(64) float scaled[kMaxHeadDim];
        for (int64_t d = 0; d < padded_dim; d += kWidth) {
            const int64_t left = head_dim - d;
            const Vec numbers = left >= kWidth ? load(q + d) : left > 0 ? load_tail(q + d, left) : zero();
            store(scaled + d, mul(numbers, scale));
            store(state.sums + r * padded_dim + d, zero());
        }
        Cached::put_query(scaled, padded_dim, state.q + r * Cached::kPlanes * padded_dim, state.facts[r]);
        state.totals[r] = zero_line();
        state.visible[r] = work.visible(item.sequence, row);
    }
    for (auto& group : state.largest) {
        for (float& largest : group) largest = kNothingYet;
    }
}

template <class Cached>
void store_results(const AttentionCall& call, const Work& work, const Item& item, const State<Cached>& state) {
    const int64_t head_dim = call.cache.head_dim, padded_dim = padded_head_dim(head_dim);
    for (int64_t r = 0; r < item.num_rows; r++) {
        const int64_t row = item.first_row + r, token = call.cu_seqlens_q[item.sequence] + row / work.group();
        const int64_t place = token * call.out.stride + (item.kv_head * work.group() + row % work.group()) * head_dim;
        // A sequence without keys attends to nothing, which is zero.
        const Vec factor = broadcast(item.end_key > 0 ? 1.0f / sum_line(state.totals[r]) : 0.0f);
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

// `span` is the item's first; it becomes that of `next`, the item after it, which is null at the end.
template <class Cached>
void attend_item(const AttentionCall& call, const Work& work, const Item& item, const Item* next, Span& span, State<Cached>& state) {
    const int64_t head_dim = call.cache.head_dim;
    const int64_t bytes_of_tile = tile_bytes(call.cache);
    load_queries(call, work, item, state);
    for (int64_t base = item.first_key; base < item.end_key; base += kSpan) {
        Span ahead = span;
        if (base + kSpan < item.end_key) {
            locate(call, item, base + kSpan, ahead);
        } else if (next != nullptr) {
            locate(call, *next, next->first_key, ahead);
        }
        // A tile is fetched while one of this span is attended; the next span may have more of them.
        for (int t = span.num_tiles; t < ahead.num_tiles; t++) {
            for (int64_t offset = 0; offset < bytes_of_tile; offset += kLineBytes) {
                fetch(ahead.keys[t] + offset);
                fetch(ahead.values[t] + offset);
            }
        }
        attend_rows<Cached, true>(span, ahead, 0, item.num_rows, base, head_dim, state);
        for (int64_t row = kRowsAtOnce; row < item.num_rows; row += kRowsAtOnce) {
            attend_rows<Cached, false>(span, ahead, row, item.num_rows - row, base, head_dim, state);
        }
        span = ahead;
    }
    store_results(call, work, item, state);
}

template <class Cached>
void attend(const AttentionCall& call, Team& team) {
    Work work(call, team);
    State<Cached> state;
    Item item, next;
    if (!work.next(item)) return;
    Span span;
    for (int t = 0; t < kTilesOfSpan; t++) {
        span.keys[t] = static_cast<const char*>(call.cache.key);
        span.values[t] = static_cast<const char*>(call.cache.value);
    }
    locate(call, item, item.first_key, span);
    for (bool is_last = false; !is_last; item = next) {
        is_last = !work.next(next);
        attend_item(call, work, item, is_last ? nullptr : &next, span, state);
    }
}

}  // namespace

void attention(const AttentionCall& call, Team& team) {
    switch (call.cache.format) {
        case Format::BF16:
            return attend<CachedBf16>(call, team);
        case Format::I8:
            return attend<CachedI8>(call, team);
        default:
            return attend<CachedF32>(call, team);
    }
}

}  // namespace attendant::ATTENDANT_ISA
