// Which kernels run: the best set that this processor and its operating system have, or the one that was forced.
#include "kernels.h"

namespace attendant {
namespace {

#define ATTENDANT_KERNELS_OF(isa)                                                                                  \
    Kernels {                                                                                                      \
        isa::linear, isa::embed, isa::norm, isa::write_cache, isa::attention, isa::pool, isa::finite, isa::sample, \
            isa::logprobs                                                                                          \
    }

const Kernels kernel_sets[] = {Kernels{}, ATTENDANT_KERNELS_OF(avx2), ATTENDANT_KERNELS_OF(avx512), ATTENDANT_KERNELS_OF(avx512_bf16)};

// __builtin_cpu_supports asks the operating system too: a kernel that does not save wide registers hides them.
Isa detect() {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::None;
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!has_avx512) return Isa::Avx2;
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") ? Isa::Avx512Bf16 : Isa::Avx512;
}

Isa& in_force() {
    static Isa isa = detect();
    return isa;
}

}  // namespace

Isa isa_in_force() { return in_force(); }

const Kernels& kernels() { return kernel_sets[static_cast<int>(in_force())]; }

bool force_isa(Isa isa) {
    if (isa <= Isa::None || isa > detect()) return false;
    in_force() = isa;
    return true;
}

}  // namespace attendant
