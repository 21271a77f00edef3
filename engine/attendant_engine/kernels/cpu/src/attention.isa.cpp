// Attention over the paged cache.
#include "kernels.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {

void attention(const AttentionCall&, Team&) { __builtin_trap(); }
void write_cache(const CacheWriteCall&, Team&) { __builtin_trap(); }

}  // namespace attendant::ATTENDANT_ISA
