// How 64 columns by 64 k of a weight, as float32, become a piece of a panel in each format; see weight.h.
//
// Values are rounded to the nearest integer, ties to even, by adding 1.5 * 2^23, whose sums have no room for a fraction: a
// loop of that is vectorised by the compiler on any processor, and a load of billions of weights takes seconds.
#pragma once

#include <cstdint>

#include "weight.h"

namespace attendant {

constexpr int64_t kBlock = 64;  // k of a block: 16 KB, which the first-level cache holds
using Block = float[kPanel][kBlock];

float from_bf16(uint16_t bits);

// The bits of a magnitude, of which the larger magnitude has the larger; of what is not finite they are at least 0x7f800000.
uint32_t largest_magnitude_bits(const float* values, int64_t count);
float magnitude_of_bits(uint32_t bits);

// The first `count` k of a block, whole steps of the format.
void encode_float32(const Block& block, int64_t count, char* out);
void encode_bfloat16(const Block& block, int64_t count, char* out);
// Values times `inverses` [64]; adds what they are to `sums` [64], modulo 2^32.
void encode_int8(const Block& block, const float* inverses, int64_t count, char* out, uint32_t* sums);
// One group from `k` on, with its scales.
void encode_int4_group(const Block& block, int64_t k, char* out);

}  // namespace attendant
