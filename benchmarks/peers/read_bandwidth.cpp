// How fast this machine reads memory: each thread sums its own part of a buffer that is far larger than any cache.
// Vector loads of 64 bytes into eight independent sums, kept so that no load is dropped; huge pages where the kernel has them.
#include <sys/mman.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kLane = 8;

typedef std::uint64_t Vector __attribute__((vector_size(64)));

template <std::size_t kPrefetchBytes>
std::uint64_t sum(const Vector* data, std::size_t num_vectors) {
    Vector totals[kLane] = {};
    for (std::size_t i = 0; i + kLane <= num_vectors; i += kLane) {
        for (std::size_t j = 0; j < kLane; ++j) {
            if (kPrefetchBytes > 0) __builtin_prefetch(reinterpret_cast<const char*>(data + i + j) + kPrefetchBytes);
            totals[j] += data[i + j];
        }
    }
    std::uint64_t total = 0;
    for (const Vector& part : totals) {
        for (std::size_t lane = 0; lane < 8; ++lane) total += part[lane];
    }
    return total;
}

}  // namespace

// Return a buffer of `num_bytes` (a multiple of 2 MiB) whose every page has been written, or null.
extern "C" void* make_buffer(std::size_t num_bytes) {
    void* buffer = std::aligned_alloc(kHugePage, num_bytes);
    if (buffer == nullptr) return nullptr;
    madvise(buffer, num_bytes, MADV_HUGEPAGE);
    std::memset(buffer, 1, num_bytes);
    return buffer;
}

// Read `num_bytes` from `buffer` with `num_threads` threads, with software prefetch or without; return seconds, add to `sink`.
extern "C" double read_seconds(const void* buffer, std::size_t num_bytes, int num_threads, int is_prefetching, std::uint64_t* sink) {
    const Vector* data = static_cast<const Vector*>(buffer);
    const std::size_t num_parts = static_cast<std::size_t>(num_threads);
    const std::size_t share = num_bytes / sizeof(Vector) / num_parts;
    std::vector<std::uint64_t> totals(num_parts);
    const auto work = [&](std::size_t part) {
        const Vector* own = data + part * share;
        totals[part] = is_prefetching != 0 ? sum<4096>(own, share) : sum<0>(own, share);
    };
    std::vector<std::thread> threads;
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t part = 1; part < num_parts; ++part) threads.emplace_back(work, part);
    work(0);
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    for (std::uint64_t total : totals) *sink += total;
    return elapsed.count();
}
