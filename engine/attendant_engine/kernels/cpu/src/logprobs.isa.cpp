// Log-probabilities of raw logits: of one token a row with its rank, and of the best.
//
// All of a row come from the same numbers (x - largest) - log(sum), so a chosen token that is the best equals the best to
// the last bit, and what rounding makes equal stands in the order of ids.
#include "simd.h"

#include "kernels.h"
#include "select.h"

namespace attendant::ATTENDANT_ISA {
namespace {

float find_largest(const float* x, int64_t n) {
    Vec best = broadcast(-__builtin_inff());
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) best = max(best, load(x + i));
    float value = largest(best);
    for (; i < n; i++)
        if (x[i] > value) value = x[i];
    return value;
}

// Writes a row's log-probabilities; all are NaN where one number is NaN or positive infinity.
void log_softmax(const float* x, int64_t n, float* out) {
    const Vec best = broadcast(find_largest(x, n));
    DoubleSum sum;
    for (int64_t i = 0; i < n; i += kWidth) {
        const int64_t count = n - i < kWidth ? n - i : kWidth;
        const Vec centred = sub(load_tail(x + i, count), best);
        store_tail(out + i, centred, count);
        sum.add(keep_first(exp(centred), count));
    }
    const Vec log_sum = broadcast(static_cast<float>(__builtin_log(sum.total())));
    for (int64_t i = 0; i < n; i += kWidth) {
        const int64_t count = n - i < kWidth ? n - i : kWidth;
        store_tail(out + i, sub(load_tail(out + i, count), log_sum), count);
    }
}

// One more than the number of better tokens, where an equal one of a lower id is better.
int32_t rank_of(const float* logprobs, int64_t n, int64_t token_id) {
    const Vec own = broadcast(logprobs[token_id]);
    int32_t num_better = 0;
    for (int64_t i = 0; i < n; i += kWidth) {
        const int64_t count = n - i < kWidth ? n - i : kWidth;
        const int64_t num_lower = token_id <= i ? 0 : token_id - i < count ? token_id - i : count;
        const Vec a = load_tail(logprobs + i, count);
        const uint32_t better = (is_greater(a, own) & ((1u << count) - 1)) | (is_equal(a, own) & ((1u << num_lower) - 1));
        num_better += __builtin_popcount(better);
    }
    return num_better + 1;
}

inline bool is_before(int64_t id, float value, int64_t other_id, float other_value) {
    return value > other_value || (value == other_value && id < other_id);
}

// Shell's method: the best first, ties by id.
void sort_best(int64_t* ids, float* values, int64_t n) {
    int64_t gap = 1;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
        for (int64_t i = gap; i < n; i++) {
            const int64_t id = ids[i];
            const float value = values[i];
            int64_t at = i;
            for (; at >= gap && is_before(id, value, ids[at - gap], values[at - gap]); at -= gap) {
                ids[at] = ids[at - gap];
                values[at] = values[at - gap];
            }
            ids[at] = id;
            values[at] = value;
        }
    }
}

// Puts the ids of what is above the cut at `ids`, then those equal to it in the order of ids until there are k.
void take_best(const float* logprobs, int64_t n, int64_t k, float cut, int64_t* ids, float* values) {
    int64_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < n && count < k; i += kWidth) {
            const int64_t rest = n - i < kWidth ? n - i : kWidth;
            const Vec a = load_tail(logprobs + i, rest), edge = broadcast(cut);
            uint32_t chosen = (pass == 0 ? is_greater(a, edge) : is_equal(a, edge)) & ((1u << rest) - 1);
            for (; chosen != 0 && count < k; chosen &= chosen - 1, count++) {
                ids[count] = i + __builtin_ctz(chosen);
                values[count] = logprobs[ids[count]];
            }
        }
    }
    // Fewer only where the row is not a distribution.
    for (; count < k; count++) ids[count] = count, values[count] = __builtin_nanf("");
    sort_best(ids, values, k);
}

}  // namespace

void logprobs(const LogprobsCall& call, Team& team) {
    const Range rows = team.share(call.num_rows);
    const int64_t n = call.vocab_size;
    float* values = call.scratch + team.thread() * vocabulary_scratch(n);
    float* buffer = values + vocabulary_scratch(n) / 2;
    for (int64_t row = rows.begin; row < rows.end; row++) {
        log_softmax(call.logits + row * call.stride, n, values);
        call.logprobs[row] = values[call.token_ids[row]];
        call.ranks[row] = rank_of(values, n, call.token_ids[row]);
        const int64_t k = call.num_top[row] < n ? call.num_top[row] : n;
        if (k <= 0) continue;
        const float cut = find_kth(values, n, k, buffer);
        take_best(values, n, k, cut, call.top_ids + row * call.max_top, call.top_logprobs + row * call.max_top);
    }
}

}  // namespace attendant::ATTENDANT_ISA
