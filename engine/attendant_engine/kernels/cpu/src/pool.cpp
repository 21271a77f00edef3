// The pool: as many threads as it was given cores, the caller's included. Workers spin for a moment after a job, since the
// next is usually microseconds away, and then sleep in the kernel.
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <mutex>
#include <thread>
#include <vector>

#include "team.h"

namespace attendant {
namespace {

constexpr int kSpinsBeforeSleep = 20000;  // about half a millisecond: longer than Python takes between two calls of a step
constexpr int kSpinsBeforeYield = 4000;   // a barrier's partner may have lost its core to another process

struct Shared {
    alignas(64) std::atomic<uint32_t> job_number{0};
    alignas(64) std::atomic<int> num_sleeping{0};
    alignas(64) std::atomic<int> num_running{0};
    alignas(64) std::atomic<int> num_arrived{0};
    alignas(64) std::atomic<uint32_t> barrier_number{0};
    Job job = nullptr;
    void* argument = nullptr;
    bool is_stopping = false;
};

Shared shared;
std::mutex one_job;
std::vector<std::thread>* workers = nullptr;
int num_threads = 1;

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

uint32_t wait_for_job(uint32_t seen) {
    for (int spins = 0;; spins++) {
        const uint32_t number = shared.job_number.load(std::memory_order_acquire);
        if (number != seen) return number;
        if (spins < kSpinsBeforeSleep) {
            _mm_pause();
            continue;
        }
        shared.num_sleeping.fetch_add(1);
        futex_wait(shared.job_number, seen);
        shared.num_sleeping.fetch_sub(1);
        spins = 0;
    }
}

void work(int thread, int size, uint32_t seen) {
    for (;;) {
        seen = wait_for_job(seen);
        if (shared.is_stopping) return;
        Team team(thread, size);
        shared.job(shared.argument, team);
        shared.num_running.fetch_sub(1, std::memory_order_release);
    }
}

void announce() {
    shared.job_number.fetch_add(1);
    if (shared.num_sleeping.load() > 0) futex_wake_all(shared.job_number);
}

void stop_workers() {
    if (workers == nullptr) return;
    shared.is_stopping = true;
    announce();
    for (std::thread& worker : *workers) worker.join();
    delete workers;
    workers = nullptr;
    shared.is_stopping = false;
}

void start_workers() {
    workers = new std::vector<std::thread>;
    const uint32_t seen = shared.job_number.load();
    for (int thread = 1; thread < num_threads; thread++) workers->emplace_back(work, thread, num_threads, seen);
}

// A child of fork has the caller's thread alone: the workers' objects refer to nothing there and are let go of.
void forget_workers_after_fork() {
    workers = nullptr;
    shared.num_sleeping.store(0);
    new (&one_job) std::mutex;
}

const int fork_handler = pthread_atfork(nullptr, nullptr, forget_workers_after_fork);

}  // namespace

void Team::barrier() {
    if (size_ == 1) return;
    const uint32_t number = shared.barrier_number.load(std::memory_order_relaxed);
    if (shared.num_arrived.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        shared.num_arrived.store(0, std::memory_order_relaxed);
        shared.barrier_number.store(number + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; shared.barrier_number.load(std::memory_order_acquire) == number; spins++) {
        if (spins < kSpinsBeforeYield) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
}

void run_on_pool(Job job, void* argument) {
    std::lock_guard<std::mutex> lock(one_job);
    Team team(0, num_threads);
    if (num_threads > 1) {
        if (workers == nullptr) start_workers();
        shared.job = job;
        shared.argument = argument;
        shared.num_running.store(num_threads - 1);
        announce();
    }
    job(argument, team);
    for (int spins = 0; num_threads > 1 && shared.num_running.load(std::memory_order_acquire) > 0; spins++) {
        if (spins < kSpinsBeforeYield) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
}

int pool_size() { return num_threads; }

void set_pool_size(int size) {
    std::lock_guard<std::mutex> lock(one_job);
    if (size == num_threads) return;
    stop_workers();
    num_threads = size < 1 ? 1 : size;
}

}  // namespace attendant
