// What the kernels compute, as plain data: one struct a kernel, filled by the program executor or by a C entry point.
//
// Every kernel has the form `void kernel(const XCall&, Team&)`. All threads of the team enter it together, each does a
// fixed share of the work, and the caller puts a barrier behind it. Whatever a kernel reduces, it reduces in an order
// that depends on the row or the sequence alone: never on how many there are, nor on how the work is split.
#pragma once

#include <cstdint>

namespace attendant {

// How the numbers of a matrix or a cache are held. U8 rows are x = (byte - 128) * scale, one scale a row. I8 is for caches:
// x = byte * scale, one scale a position and head.
enum class Format : int32_t { F32 = 0, BF16 = 1, U8 = 2, I8 = 3 };

// How a weight is held; see weight.h.
enum class WeightFormat : int32_t { F32 = 0, BF16 = 1, I8 = 2, I4 = 3 };

enum class Activation : int32_t { None = 0, Gelu = 1, GeluTanh = 2, QuickGelu = 3, Relu = 4, SquaredRelu = 5, Silu = 6, Tanh = 7 };

struct Weight;

// Rows of `width` numbers, `stride` elements apart. `scales` [rows] only with Format::U8.
struct Rows {
    void* data = nullptr;
    int64_t stride = 0;
    Format format = Format::F32;
    float* scales = nullptr;
};

// out[r] = activation(x[row_ids ? row_ids[r] : r] W^T + bias) + residual[r].
// A gated weight holds two matrices of N rows: out = activation(x W_gate^T) * (x W_up^T).
// `x` is float32, or already in the input format of the weight (F32, BF16; U8 for I8 and I4), U8 rows readable to whole
// fours. `scratch` has `linear_scratch_bytes` of weight.h, aligned to 64: for inputs that have to be converted, gathered or
// padded. `out` may be the residual.
// Rows from `first_delta_row` on add their row of `delta` to x W^T + bias before the activation: not with a gated weight.
struct LinearCall {
    const Weight* weight = nullptr;
    Rows x;
    const int32_t* row_ids = nullptr;
    int64_t num_rows = 0;
    Rows out;  // F32 or BF16
    Activation activation = Activation::None;
    const float* residual = nullptr;  // F32 rows, or null
    int64_t residual_stride = 0;
    void* scratch = nullptr;
    const float* delta = nullptr;  // F32 rows, or null
    int64_t delta_stride = 0;
    int64_t first_delta_row = 0;
};

// What one adapter adds to a linear layer: x A^T B^T, `down` A [rank, K] and `up` B [N, rank]. Both null: nothing.
struct LowRankPair {
    const Weight* down = nullptr;
    const Weight* up = nullptr;
};

// delta[r] = x[r] A^T B^T with the pair of the adapter that row r belongs to; zero where that leaves the layer alone.
// Adapter i has the rows from adapter_bounds[i] to adapter_bounds[i + 1]. `inner` are rows in the input format of every
// `up`, of an even number of elements. `scratch` is as in LinearCall, for the largest `down` and all rows.
struct LowRankCall {
    Rows x;
    const LowRankPair* pairs = nullptr;
    int64_t num_adapters = 0;
    const int64_t* adapter_bounds = nullptr;  // [num_adapters + 1], or null: no rows
    int64_t width = 0;
    Rows inner;
    Rows delta;  // F32
    void* scratch = nullptr;
};

// A table of embeddings: either plain rows, or the packed weight of a tied head (then `plain.data` is null), which only
// the tokens' table may be.
struct Table {
    Rows plain;
    const Weight* packed = nullptr;
};

// out[t] = tokens[token_ids[t]] + positions[position_ids[t]] + types[type_ids ? type_ids[t] : 0], each where given.
struct EmbedCall {
    Table tokens, positions, types;
    bool has_positions = false, has_types = false;
    const int64_t* token_ids = nullptr;
    const int64_t* position_ids = nullptr;
    const int64_t* type_ids = nullptr;
    int64_t num_rows = 0, width = 0;
    Rows out;  // F32
};

// LayerNorm (bias not null, or is_rms false) or RMSNorm over `width`; out in F32, BF16 or U8 (quantised per row), and, if
// its data is not null, in the format of `also` too.
struct NormCall {
    Rows x;  // F32
    Rows out;
    const float* weight = nullptr;
    const float* bias = nullptr;
    float eps = 0;
    bool is_rms = false;
    int64_t num_rows = 0, width = 0;
    Rows also;
};

// The geometry of a paged cache of one layer; see cache_layout.h.
struct CacheView {
    void* key = nullptr;
    void* value = nullptr;
    Format format = Format::F32;  // F32, BF16 or I8
    int64_t block_size = 0;       // P, a multiple of 16
    int64_t num_kv_heads = 0, head_dim = 0;
};

// Writes packed keys and values (F32 [T, K * D], `stride` apart) at `slots`, keys rotated by their position's cosines and
// sines [positions, D / 2] where given (rotate-half layout, computed in float32); rotates the queries [T, H * D] in place.
struct CacheWriteCall {
    CacheView cache;
    float* q = nullptr;
    const float* k = nullptr;
    const float* v = nullptr;
    int64_t q_stride = 0, kv_stride = 0;
    int64_t num_heads = 0, num_tokens = 0;
    const int64_t* slots = nullptr;
    const int64_t* position_ids = nullptr;
    const float* cos = nullptr;  // null: no rotary positions
    const float* sin = nullptr;
};

// out[t] = softmax(q[t] k^T * scale) v over the sequence's keys in the cache, for packed queries.
struct AttentionCall {
    CacheView cache;
    const float* q = nullptr;  // [T, H * D]
    int64_t q_stride = 0;
    int64_t num_heads = 0, num_sequences = 0;
    const int32_t* cu_seqlens_q = nullptr;  // [S + 1]
    const int32_t* seq_lens = nullptr;      // [S]; query i of a sequence with n queries stands at seq_len - n + i
    const int32_t* block_table = nullptr;   // [S, block_table_stride]
    int64_t block_table_stride = 0;
    bool is_causal = true;
    int64_t window = 0;  // 0: none
    float scale = 1;
    Rows out;  // [T, H * D], F32 or BF16
};

// One row a sequence from packed hidden states. Modes: 0 mean, 1 first token, 2 last token.
struct PoolCall {
    Rows hidden;  // F32
    const int32_t* cu_seqlens = nullptr;
    const uint8_t* modes = nullptr;
    const uint8_t* normalize = nullptr;  // divide by the Euclidean norm
    int64_t num_sequences = 0, width = 0;
    float* out = nullptr;  // [S, width]
};

// Marks the rows of which every number is finite.
struct FiniteCall {
    Rows x;  // F32
    int64_t num_rows = 0, width = 0;
    uint8_t* is_finite = nullptr;
};

// Floats that a thread needs to look for the best of a vocabulary: two copies of a row, with room for a whole vector more.
__attribute__((always_inline)) inline int64_t vocabulary_scratch(int64_t vocab_size) { return 2 * ((vocab_size + 127) / 64 * 64); }

// Chooses a token of each row of logits. temperature 0: the largest logit, lowest id of equals. Otherwise min-p, then
// top-k (0: off), then top-p, each as a threshold that keeps ties, and the token at `uniform` of what is left.
// The semantics are those of decoding/truncation.py and sampling.py, which is the oracle.
struct SampleCall {
    const float* logits = nullptr;
    int64_t stride = 0, num_rows = 0, vocab_size = 0;
    const float* temperature = nullptr;
    const int32_t* top_k = nullptr;
    const float* top_p = nullptr;
    const float* min_p = nullptr;
    const double* uniform = nullptr;
    int64_t* token_ids = nullptr;
    uint8_t* is_finite = nullptr;  // of each row of logits, or null
    float* scratch = nullptr;      // num_threads * vocabulary_scratch(vocab_size) floats
};

// Log-probabilities of each row of raw logits: of `token_ids`, its rank (1 is best, ties by id), and the `num_top` best
// (ties by id), written at out_* [num_rows, max_top].
struct LogprobsCall {
    const float* logits = nullptr;
    int64_t stride = 0, num_rows = 0, vocab_size = 0;
    const int64_t* token_ids = nullptr;
    const int32_t* num_top = nullptr;
    int64_t max_top = 0;
    float* logprobs = nullptr;   // [num_rows]
    int32_t* ranks = nullptr;    // [num_rows]
    int64_t* top_ids = nullptr;  // [num_rows, max_top]
    float* top_logprobs = nullptr;
    float* scratch = nullptr;  // num_threads * vocabulary_scratch(vocab_size) floats
};

}  // namespace attendant
