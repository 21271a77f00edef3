// What is computed row by row: embeddings, norms, pooling, checks.
#include "kernels.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {

void embed(const EmbedCall&, Team&) { __builtin_trap(); }
void norm(const NormCall&, Team&) { __builtin_trap(); }
void pool(const PoolCall&, Team&) { __builtin_trap(); }
void finite(const FiniteCall&, Team&) { __builtin_trap(); }

}  // namespace attendant::ATTENDANT_ISA
