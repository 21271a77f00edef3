// Slabs of address space, of which memory is taken as it is first written: a slab that is half full takes half of its size.
// Weights lie one behind the other in a slab, which goes back when the last of them does.
#include "weight_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <mutex>
#include <new>

namespace attendant {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlabBytes = size_t{64} << 20;

struct Slab {
    char* begin;
    size_t num_bytes, num_used;
    int num_weights;
    Slab* next;
};

std::mutex mutex;
Slab* slabs = nullptr;  // the first is the one that is being filled

char* map_huge(size_t num_bytes) {
    void* mapped = mmap(nullptr, num_bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* const address = static_cast<char*>(mapped);
    const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(mapped) % kHugePage) % kHugePage;
    if (before > 0) munmap(address, before);
    if (before < kHugePage) munmap(address + before + num_bytes, kHugePage - before);
    madvise(address + before, num_bytes, MADV_HUGEPAGE);
    return address + before;
}

Slab* add_slab(size_t num_bytes) {
    const size_t whole = (num_bytes + kHugePage - 1) / kHugePage * kHugePage, size = whole > kSlabBytes ? whole : kSlabBytes;
    char* const begin = map_huge(size);
    auto* const slab = begin == nullptr ? nullptr : new (std::nothrow) Slab{begin, size, 0, 0, slabs};
    if (slab != nullptr) slabs = slab;
    return slab;
}

}  // namespace

char* allocate_weight(size_t num_bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const size_t size = (num_bytes + 63) / 64 * 64;
    Slab* slab = slabs;
    if (slab == nullptr || slab->num_bytes - slab->num_used < size) slab = add_slab(size);
    if (slab == nullptr) return nullptr;
    char* const memory = slab->begin + slab->num_used;
    slab->num_used += size;
    slab->num_weights++;
    return memory;
}

void release_weight(char* memory) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (Slab** link = &slabs; *link != nullptr; link = &(*link)->next) {
        Slab* const slab = *link;
        if (memory < slab->begin || memory >= slab->begin + slab->num_bytes) continue;
        if (--slab->num_weights > 0) return;
        *link = slab->next;
        munmap(slab->begin, slab->num_bytes);
        delete slab;
        return;
    }
}

}  // namespace attendant
