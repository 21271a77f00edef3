// The kernels of one instruction set, and the choice among the sets that this machine has.
//
// Files named *.isa.cpp are compiled once an instruction set, each time with ATTENDANT_ISA defined as the namespace that
// their functions go into, so one source gives three sets of kernels; simd.h hides the width.
// Such a file must not use the standard library's templates: the linker keeps one copy of each instantiation, whatever
// instruction set it was compiled for, and would hand it to all.
#pragma once

#include "calls.h"
#include "team.h"

namespace attendant {

enum class Isa : int32_t { None = 0, Avx2 = 1, Avx512 = 2, Avx512Bf16 = 3 };

struct Kernels {
    void (*linear)(const LinearCall&, Team&);
    void (*embed)(const EmbedCall&, Team&);
    void (*norm)(const NormCall&, Team&);
    void (*write_cache)(const CacheWriteCall&, Team&);
    void (*attention)(const AttentionCall&, Team&);
    void (*pool)(const PoolCall&, Team&);
    void (*finite)(const FiniteCall&, Team&);
    void (*sample)(const SampleCall&, Team&);
    void (*logprobs)(const LogprobsCall&, Team&);
};

// Those of the instruction set in force. The best that the machine has, unless one was forced.
const Kernels& kernels();
Isa isa_in_force();
// False where this machine does not have `isa`. Packed weights and caches are the same for all sets.
bool force_isa(Isa isa);

#define ATTENDANT_DECLARE_KERNELS(isa)              \
    namespace isa {                                 \
    void linear(const LinearCall&, Team&);          \
    void embed(const EmbedCall&, Team&);            \
    void norm(const NormCall&, Team&);              \
    void write_cache(const CacheWriteCall&, Team&); \
    void attention(const AttentionCall&, Team&);    \
    void pool(const PoolCall&, Team&);              \
    void finite(const FiniteCall&, Team&);          \
    void sample(const SampleCall&, Team&);          \
    void logprobs(const LogprobsCall&, Team&);      \
    }

ATTENDANT_DECLARE_KERNELS(avx2)
ATTENDANT_DECLARE_KERNELS(avx512)
ATTENDANT_DECLARE_KERNELS(avx512_bf16)

}  // namespace attendant
