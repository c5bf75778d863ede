// Compiled once per target: how fast the machine is at most, for the floors that benchmarks are held against.
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "parallel.h"
#include "simd.h"
#include "targets.h"

namespace unspool::UNSPOOL_TARGET {
namespace {

constexpr int kSums = 12;  // in flight: more than latency times ports, fewer than registers

// The highest rate of all threads together in samples of some calls of `work`, each of which does `amount`.
template <typename Work>
double best_rate(double seconds, int threads, double amount, Work&& work) {
  using Clock = std::chrono::steady_clock;
  auto since = [](Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  double best = 0;
  bool more = true;  // written by the first thread between barriers
  run_team(threads, [&](int thread, Barrier& barrier, int present) {
    Arena arena;
    auto call = work(arena);
    call();
    const auto begin = Clock::now();
    const int calls = std::max(1, static_cast<int>(1e7 / amount));
    for (bool on = true; on;) {
      barrier.wait();
      const auto start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      barrier.wait();
      if (thread == 0) best = std::max(best, amount * calls * present / since(start)), more = since(begin) < seconds;
      barrier.wait();
      on = more;
    }
  });
  return best;
}

}  // namespace

double measure_multiplications(double seconds, int threads) {
  constexpr int kRounds = 10000;
  return best_rate(seconds, threads, 2.0 * W * kSums * kRounds, [](Arena& arena) {
    float* kept = arena.take<float>(W * kSums);  // the compiler does not know that they are alike
    std::fill(kept, kept + W * kSums, 0.0f);
    return [kept] {
      vf sums[kSums];
#pragma GCC unroll 12  // here too, or a variable index would keep all sums in memory
      for (int j = 0; j < kSums; ++j) sums[j] = load(kept + j * W);
      const vf a = splat(0.5f), b = splat(0.25f);
      for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
        for (int j = 0; j < kSums; ++j) sums[j] = sums[j] * a + b;
        asm volatile("" ::: "memory");
      }
#pragma GCC unroll 12
      for (int j = 0; j < kSums; ++j) store(kept + j * W, sums[j]);
    };
  });
}

double measure_reads(int64_t bytes, double seconds, int threads) {
  const int64_t grain = W * kSums, count = std::max<int64_t>(1, bytes / 4 / grain) * grain;
  return best_rate(seconds, threads, 4.0 * count, [count](Arena& arena) {
    float* numbers = arena.take<float>(count + W);
    std::fill(numbers, numbers + count + W, 1.0f);
    return [numbers, count] {
      vf sums[kSums] = {};
      for (int64_t i = 0; i < count; i += W * kSums) {
#pragma GCC unroll 12
        for (int j = 0; j < kSums; ++j) sums[j] += load(numbers + i + j * W);
      }
      vf total{};
#pragma GCC unroll 12
      for (int j = 0; j < kSums; ++j) total += sums[j];
      store(numbers + count, total);
      asm volatile("" ::: "memory");
    };
  });
}

}  // namespace unspool::UNSPOOL_TARGET
