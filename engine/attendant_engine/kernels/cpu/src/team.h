// The threads that run a kernel together, and the one pool of them in this process.
#pragma once

#include <cstdint>

namespace attendant {

struct Range {
    int64_t begin, end;
};

// One thread's place among those that run a job. `barrier` returns when all of them have called it.
class Team {
public:
    Team(int thread, int size) : thread_(thread), size_(size) {}
    int thread() const { return thread_; }
    int size() const { return size_; }
    void barrier();

    // This thread's share of `count` items, in whole multiples of `unit` where possible: contiguous, in thread order.
    // Always inline: a weak copy compiled for one instruction set must not end up serving another.
    __attribute__((always_inline)) Range share(int64_t count, int64_t unit = 1) const {
        const int64_t units = (count + unit - 1) / unit;
        const int64_t begin = units * thread_ / size_ * unit, end = units * (thread_ + 1) / size_ * unit;
        return {begin < count ? begin : count, end < count ? end : count};
    }

private:
    int thread_, size_;
};

using Job = void (*)(void* argument, Team& team);

// Runs `job` on every thread of the pool, the caller's included, and returns when all are done. One job runs at a time;
// others wait their turn. Not to be called from within a job.
void run_on_pool(Job job, void* argument);

int pool_size();
void set_pool_size(int num_threads);

// Calls `kernel(call, team)` on the pool.
template <typename Call>
void run_kernel(void (*kernel)(const Call&, Team&), const Call& call) {
    struct Argument {
        void (*kernel)(const Call&, Team&);
        const Call* call;
    } argument{kernel, &call};
    run_on_pool(
        [](void* pointer, Team& team) {
            auto* a = static_cast<Argument*>(pointer);
            a->kernel(*a->call, team);
        },
        &argument);
}

}  // namespace attendant
