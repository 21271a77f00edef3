// Which kernels run: the best set that this processor and its operating system have, or the one that was forced.
#include <cpuid.h>

#include "kernels.h"

namespace attendant {
namespace {

#define ATTENDANT_KERNELS_OF(isa) \
    Kernels { isa::linear, isa::embed, isa::norm, isa::write_cache, isa::attention, isa::pool, isa::finite, isa::sample, isa::logprobs }

const Kernels kernel_sets[] = {Kernels{}, ATTENDANT_KERNELS_OF(avx2), ATTENDANT_KERNELS_OF(avx512), ATTENDANT_KERNELS_OF(avx512_bf16)};

// What the operating system keeps for each thread (XCR0): a system that does not save wide registers must not see them used.
constexpr unsigned int kSavesYmm = 0x06, kSavesZmm = 0xe6;

unsigned int saved_registers() {
    unsigned int low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool has(unsigned int word, unsigned int bits) { return (word & bits) == bits; }

// Asks the processor itself: __builtin_cpu_supports needs a part of the compiler's library that not every clang brings.
Isa detect() {
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return Isa::None;
    if (!has(ecx, bit_FMA | bit_F16C | bit_OSXSAVE) || !has(saved_registers(), kSavesYmm)) return Isa::None;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !has(ebx, bit_AVX2)) return Isa::None;
    const bool has_avx512 = has(ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) && has(saved_registers(), kSavesZmm);
    if (!has_avx512) return Isa::Avx2;
    if (!has(ecx, bit_AVX512VNNI) || eax < 1) return Isa::Avx512;  // eax: the highest subleaf
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && has(eax, bit_AVX512BF16) ? Isa::Avx512Bf16 : Isa::Avx512;
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
