// Linear layers over packed weights.
#include "kernels.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {

void linear(const LinearCall&, Team&) { __builtin_trap(); }

}  // namespace attendant::ATTENDANT_ISA
