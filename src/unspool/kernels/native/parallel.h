// A team of threads for one call, its barrier, and memory: in large pages, and scratch that outlives the call.
//
// One parallel region surrounds a whole scan; inside it threads meet only at `Barrier`. With OpenMP the team is the pool
// that PyTorch already has. Without OpenMP (UNSPOOL_STD_THREADS), and for the thread sanitizer, every call starts threads of
// its own, whose scratch memory is cold each time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

#if defined(_OPENMP) && !defined(UNSPOOL_STD_THREADS)
#include <omp.h>
#endif

namespace unspool {

// OpenMP's pool does not outlive a fork: in a child process every call runs on one thread.
inline std::atomic<bool> pool_is_lost{false};

}  // namespace unspool

namespace unspool::UNSPOOL_TARGET {

UNSPOOL_INLINE void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// All threads of a team wait for each other: spinning for a tenth of a millisecond or two, then yielding, since a core that another
// process has taken does not come back while we spin on the other.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  // How many really came; each thread says it before it waits.
  void team(int threads) { threads_.store(threads, std::memory_order_relaxed); }

  void wait() {
    const int threads = threads_.load(std::memory_order_relaxed);
    if (threads == 1) return;
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins < 4000) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  std::atomic<int> threads_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> round_{0};
};

// Runs body(thread, barrier, threads) on a team of at most `wanted` threads.
template <typename Body>
void run_team(int wanted, Body&& body) {
  if (wanted <= 1 || pool_is_lost.load(std::memory_order_relaxed)) {
    Barrier alone(1);
    body(0, alone, 1);
    return;
  }
#if defined(_OPENMP) && !defined(UNSPOOL_STD_THREADS)
  Barrier barrier(wanted);
#pragma omp parallel num_threads(wanted)
  {
    const int threads = omp_get_num_threads();
    barrier.team(threads);
    body(omp_get_thread_num(), barrier, threads);
  }
#elif defined(UNSPOOL_STD_THREADS)
  Barrier barrier(wanted);
  std::vector<std::thread> others;
  for (int i = 1; i < wanted; ++i) others.emplace_back([&, i] { body(i, barrier, wanted); });
  body(0, barrier, wanted);
  for (auto& other : others) other.join();
#else
#error "neither OpenMP nor UNSPOOL_STD_THREADS"
#endif
}

// The part [first, last) of n items that a thread takes, in multiples of `grain`.
struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

inline Range share_of(int64_t n, int thread, int threads, int64_t grain = 1) {
  const int64_t grains = (n + grain - 1) / grain;
  const int64_t first = grains * thread / threads, last = grains * (thread + 1) / threads;
  return {std::min(n, first * grain), std::min(n, last * grain)};
}

inline constexpr size_t kLarge = size_t{1} << 21;

// Asks for large pages in memory that nobody has touched yet, which is then filled with fewer faults and read with fewer
// walks through the page table.
inline void prefer_large_pages([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kLarge;
  if (bytes > before) madvise(static_cast<char*>(begin) + before, (bytes - before) / kLarge * kLarge, MADV_HUGEPAGE);
#endif
}

// Memory of whole pages, from 1 MiB on of large ones.
struct Pages {
  explicit Pages(size_t bytes) {
    const size_t grain = bytes >= kLarge / 2 ? kLarge : 4096;
    size = (bytes + grain - 1) / grain * grain;
    data.reset(static_cast<char*>(std::aligned_alloc(grain, size)));
    if (!data) throw std::bad_alloc();
    if (grain == kLarge) prefer_large_pages(data.get(), size);
  }
  size_t size;
  std::unique_ptr<char[], void (*)(void*)> data{nullptr, std::free};
};

// Scratch memory of the calling thread: grows to what the largest call needs, so that a call finds warm pages. An arena
// hands out parts until it goes out of scope; arenas of one thread nest.
class Arena {
 public:
  Arena() : before_(top()) {}
  ~Arena() { top() = before_; }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T) + 191) / 64 * 64;
    auto& kept = blocks();
    Top& now = top();
    if (now.used > 0 && now.used + bytes > kept[now.block].size) ++now.block, now.used = 0;
    while (now.block < kept.size() && bytes > kept[now.block].size) kept.erase(kept.begin() + now.block);
    if (now.block == kept.size()) kept.emplace_back(std::max<size_t>(bytes, size_t{1} << 22));
    char* part = kept[now.block].data.get() + now.used;
    now.used += bytes;
    return reinterpret_cast<T*>(part);
  }

 private:
  struct Top {
    size_t block = 0, used = 0;
  };
  static std::vector<Pages>& blocks() {
    thread_local std::vector<Pages> kept;
    return kept;
  }
  static Top& top() {
    thread_local Top now;
    return now;
  }
  const Top before_;
};

}  // namespace unspool::UNSPOOL_TARGET
