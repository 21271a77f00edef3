// The pool: as many threads as it was given cores, the caller's included. Between jobs workers spin for a moment, since the
// next is usually microseconds away, then give way to whoever wants their core, and at last sleep in the kernel.
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdio>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "team.h"

namespace attendant {
namespace {

constexpr int kSpinsBeforeYield = 4000;   // a tenth of a millisecond; then a partner may have lost its core, or wait for this one
constexpr int kYieldsBeforeSleep = 1000;  // together about half a millisecond: longer than Python takes between two calls

// What a job is and who is in it. `job`, `argument` and `team_size` are written before `job_number` announces them, and
// only when no worker is running.
struct Shared {
    alignas(64) std::atomic<uint32_t> job_number{0};
    std::atomic<int> num_sleeping{0};
    Job job = nullptr;
    void* argument = nullptr;
    int team_size = 1;
    bool is_stopping = false;
    alignas(64) std::atomic<int> num_running{0};
    alignas(64) std::atomic<int> num_arrived{0};
    alignas(64) std::atomic<uint32_t> barrier_number{0};
};

Shared shared;
std::mutex one_job;  // guards all below, and whoever holds it is the caller of the running job
std::vector<std::thread>* workers = nullptr;
int num_threads = 1;

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Waits a little, the more patiently the longer it has been.
class Patience {
public:
    void wait() {
        if (num_waits_++ < kSpinsBeforeYield) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
    bool is_exhausted() const { return num_waits_ > kSpinsBeforeYield + kYieldsBeforeSleep; }

private:
    int num_waits_ = 0;
};

// A worker that goes to sleep counts itself first and looks at the number after; whoever announces changes the number
// first and looks at the count after. So one of them sees the other.
uint32_t wait_for_job(uint32_t seen) {
    Patience patience;
    for (;;) {
        const uint32_t number = shared.job_number.load(std::memory_order_acquire);
        if (number != seen) return number;
        if (!patience.is_exhausted()) {
            patience.wait();
            continue;
        }
        shared.num_sleeping.fetch_add(1);
        futex_wait(shared.job_number, seen);
        shared.num_sleeping.fetch_sub(1);
    }
}

void work(int thread, uint32_t seen) {
    char name[16];
    std::snprintf(name, sizeof name, "attendant-cpu%d", thread);
    pthread_setname_np(pthread_self(), name);
    for (;;) {
        seen = wait_for_job(seen);
        if (shared.is_stopping) return;
        Team team(thread, shared.team_size);
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

// Signals are the program's own threads' business. Where the system grants fewer threads, the pool is smaller.
void start_workers() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const uint32_t seen = shared.job_number.load();
    workers = new std::vector<std::thread>;
    try {
        workers->reserve(static_cast<size_t>(num_threads));
        for (int thread = 1; thread < num_threads; thread++) workers->emplace_back(work, thread, seen);
    } catch (const std::system_error&) {
        num_threads = static_cast<int>(workers->size()) + 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// A child of fork has the caller's thread alone. The workers' objects refer to nothing there and are let go of, and so is
// a job that another thread was running.
void forget_workers_after_fork() {
    workers = nullptr;
    shared.num_sleeping.store(0);
    shared.num_running.store(0);
    shared.num_arrived.store(0);
    shared.is_stopping = false;
    new (&one_job) std::mutex;
}

[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, forget_workers_after_fork);

}  // namespace

void Team::barrier() {
    if (size_ == 1) return;
    const uint32_t number = shared.barrier_number.load(std::memory_order_relaxed);
    if (shared.num_arrived.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        shared.num_arrived.store(0, std::memory_order_relaxed);
        shared.barrier_number.store(number + 1, std::memory_order_release);
        return;
    }
    for (Patience patience; shared.barrier_number.load(std::memory_order_acquire) == number;) patience.wait();
}

void run_on_pool(Job job, void* argument) {
    std::lock_guard<std::mutex> lock(one_job);
    if (num_threads > 1 && workers == nullptr) start_workers();
    Team team(0, num_threads);
    if (num_threads == 1) return job(argument, team);
    shared.job = job;
    shared.argument = argument;
    shared.team_size = num_threads;
    shared.num_running.store(num_threads - 1);
    announce();
    job(argument, team);
    for (Patience patience; shared.num_running.load(std::memory_order_acquire) > 0;) patience.wait();
}

int pool_size() {
    std::lock_guard<std::mutex> lock(one_job);
    return num_threads;
}

void set_pool_size(int size) {
    std::lock_guard<std::mutex> lock(one_job);
    const int wanted = size < 1 ? 1 : size;
    if (wanted == num_threads) return;
    stop_workers();
    num_threads = wanted;
}

}  // namespace attendant
