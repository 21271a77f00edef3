// What there is to attend in one call, cut into items, and which of them a thread does.
//
// An item is one sequence, one key/value head and some rows; a row is one query head at one position, and the rows of a
// position stand side by side, so that a key is read once for all of them. No result depends on how rows fall into items.
#pragma once

#include "cache_layout.h"
#include "team.h"

namespace attendant::ATTENDANT_ISA {
namespace {

constexpr int64_t kSpan = 64;       // keys that are attended together; spans stand at multiples of this in a sequence
constexpr int64_t kRowsAtOnce = 6;  // rows whose sums stay in registers together
constexpr int64_t kMaxItemRows = 48;
constexpr int64_t kItemNumbers = 24 * 64;  // rows times dimensions that stay near beside a span's keys and values
constexpr int64_t kReadCost = 8;           // reading a key and a value costs about as much as attending this many rows to them

struct Item {
    int64_t sequence, kv_head;
    int64_t first_row, num_rows;  // among the sequence's rows of this head
    int64_t first_key, end_key;   // that any row sees: first_key a multiple of kSpan
};

// The half-open range of keys that a row sees.
struct Visible {
    int64_t begin, end;
};

// Walks over the items that are this thread's share by cost, in order.
class Work {
public:
    ATTENDANT_INLINE Work(const AttentionCall& call, const Team& team) : call_(call), group_(call.num_heads / call.cache.num_kv_heads) {
        const int64_t most = kItemNumbers / padded_head_dim(call.cache.head_dim) / kRowsAtOnce * kRowsAtOnce;
        item_rows_ = most < kMaxItemRows ? most : kMaxItemRows;
        int64_t total = 0;
        for (int64_t s = 0; s < call.num_sequences; s++) total += sequence_cost(s);
        // An item belongs to the share that its middle falls into: costs are doubled, so that a middle is whole.
        begin_ = 2 * total / team.size() * team.thread() + 2 * total % team.size() * team.thread() / team.size();
        end_ = 2 * total / team.size() * (team.thread() + 1) + 2 * total % team.size() * (team.thread() + 1) / team.size();
        enter_sequence();
    }

    ATTENDANT_INLINE bool next(Item& item) {
        while (sequence_ < call_.num_sequences) {
            if (row_ >= num_rows_) {
                row_ = 0;
                if (++kv_head_ >= call_.cache.num_kv_heads) {
                    sequence_++;
                    enter_sequence();
                }
                continue;
            }
            item.sequence = sequence_;
            item.kv_head = kv_head_;
            item.first_row = row_;
            const int64_t cost = find_item(sequence_, num_rows_, item);
            row_ += item.num_rows;
            const int64_t middle = 2 * before_ + cost;
            before_ += cost;
            if (middle >= end_) {
                sequence_ = call_.num_sequences;
                return false;
            }
            if (middle >= begin_) return true;
        }
        return false;
    }

    // Which keys row `row` of a sequence sees.
    ATTENDANT_INLINE Visible visible(int64_t sequence, int64_t row) const {
        const int64_t num_keys = call_.seq_lens[sequence];
        if (!call_.is_causal) return {0, num_keys};
        const int64_t num_queries = call_.cu_seqlens_q[sequence + 1] - call_.cu_seqlens_q[sequence];
        const int64_t end = num_keys - num_queries + row / group_ + 1;
        return {call_.window > 0 && end > call_.window ? end - call_.window : 0, end};
    }

    int64_t group() const { return group_; }

private:
    ATTENDANT_INLINE int64_t rows_of(int64_t sequence) const {
        return (call_.cu_seqlens_q[sequence + 1] - call_.cu_seqlens_q[sequence]) * group_;
    }

    ATTENDANT_INLINE void enter_sequence() {
        kv_head_ = row_ = num_rows_ = 0;
        for (; sequence_ < call_.num_sequences; sequence_++) {
            const int64_t cost = sequence_cost(sequence_);
            num_rows_ = rows_of(sequence_);
            if (2 * (before_ + cost) > begin_) return;
            before_ += cost;
        }
    }

    // Fills in the rows and keys of the item that starts at `item.first_row`; returns its cost.
    ATTENDANT_INLINE int64_t find_item(int64_t sequence, int64_t num_rows, Item& item) const {
        item.num_rows = num_rows - item.first_row < item_rows_ ? num_rows - item.first_row : item_rows_;
        item.first_key = visible(sequence, item.first_row).begin / kSpan * kSpan;
        item.end_key = visible(sequence, item.first_row + item.num_rows - 1).end;
        return (item.end_key - item.first_key + kSpan) * (item.num_rows + kReadCost);
    }

    ATTENDANT_INLINE int64_t sequence_cost(int64_t sequence) const {
        const int64_t num_rows = rows_of(sequence);
        int64_t cost = 0;
        Item item{};
        for (item.first_row = 0; item.first_row < num_rows; item.first_row += item_rows_) cost += find_item(sequence, num_rows, item);
        return cost * call_.cache.num_kv_heads;
    }

    const AttentionCall& call_;
    int64_t group_, item_rows_;
    int64_t begin_ = 0, end_ = 0, before_ = 0;
    int64_t sequence_ = 0, kv_head_ = 0, row_ = 0, num_rows_ = 0;
};

}  // namespace
}  // namespace attendant::ATTENDANT_ISA
