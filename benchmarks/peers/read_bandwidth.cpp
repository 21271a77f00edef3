// How fast this machine reads memory: each thread sums its own part of a buffer that is far larger than any cache.
// Plain vector loads, eight independent streams of 64 bytes in flight a loop, the sum kept so that no load is dropped.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

typedef std::uint64_t Vector __attribute__((vector_size(64)));

std::uint64_t sum(const Vector* data, std::size_t num_vectors) {
    Vector totals[8] = {};
    for (std::size_t i = 0; i + 8 <= num_vectors; i += 8) {
        __builtin_prefetch(reinterpret_cast<const char*>(data + i) + 4096);
        for (std::size_t j = 0; j < 8; ++j) totals[j] += data[i + j];
    }
    std::uint64_t total = 0;
    for (const Vector& part : totals) {
        for (int lane = 0; lane < 8; ++lane) total += part[lane];
    }
    return total;
}

}  // namespace

// Read `num_bytes` from `buffer` (aligned to 64 bytes) with `num_threads` threads; returns seconds, adds the sum to `sink`.
extern "C" double read_seconds(const void* buffer, std::size_t num_bytes, int num_threads, std::uint64_t* sink) {
    const Vector* data = static_cast<const Vector*>(buffer);
    const std::size_t share = num_bytes / sizeof(Vector) / static_cast<std::size_t>(num_threads);
    std::vector<std::uint64_t> totals(static_cast<std::size_t>(num_threads));
    std::vector<std::thread> threads;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 1; i < num_threads; ++i) {
        const std::size_t at = static_cast<std::size_t>(i);
        threads.emplace_back([=, &totals] { totals[at] = sum(data + at * share, share); });
    }
    totals[0] = sum(data, share);
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    for (std::uint64_t total : totals) *sink += total;
    return elapsed.count();
}
