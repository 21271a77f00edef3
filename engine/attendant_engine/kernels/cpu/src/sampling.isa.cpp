// From logits to tokens and log-probabilities.
#include "kernels.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {

void sample(const SampleCall&, Team&) { __builtin_trap(); }
void logprobs(const LogprobsCall&, Team&) { __builtin_trap(); }

}  // namespace attendant::ATTENDANT_ISA
