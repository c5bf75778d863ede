// The linear scan h_t = a_t * h_{t-1} + b_t, forwards and backwards, in one parallel region.
//
// Memory is the limit: every tensor is read or written once. A team shares the columns of [T, B*H], and each thread walks
// through time with its own. Where there are too few columns for that, it shares time: see `in_chunks`.
//
// Steps are numbered by s in the scan's own direction: t = s, or t = T - 1 - s in reverse. Where neither lengths nor resets
// tell sequences apart, a step is one sequence with B*H units.
#pragma once

#include <algorithm>

#include "linear_scan_arguments.h"
#include "parallel.h"

namespace unspool::UNSPOOL_TARGET {

// Measured on two cores (Zen 3) at [T, B, H] = [1000, 1, 64], [20000, 1, 64], [128, 32, 256] and [1000, 16, 320].
inline constexpr int64_t kFewest = 1 << 15;  // elements that a second thread is woken for
inline constexpr int64_t kNarrowest = 256;   // columns of a thread: below, two threads stream rows slower than one
inline constexpr int64_t kBlock = 8192;      // columns whose states stay in the cache until the next step

// One algorithm for vectors and for the columns that fill none: V is vf or float.
template <typename V>
inline constexpr int kLanes = sizeof(V) / sizeof(float);
template <typename V>
UNSPOOL_INLINE V read(const float* p) {
  if constexpr (kLanes<V> == 1) return *p;
  else return load(p);
}
template <typename V>
UNSPOOL_INLINE void write(float* p, V v) {
  if constexpr (kLanes<V> == 1) *p = v;
  else store(p, v);
}

// Calls body<V, N>(column) for tiles of N * kLanes<V> columns, from wide to narrow.
template <typename V, int N, typename Body>
void take_tiles(int64_t& column, int64_t last, Body& body) {
  for (; last - column >= N * kLanes<V>; column += N * kLanes<V>) body.template operator()<V, N>(column);
}
template <typename Body>
void in_tiles(Range columns, Body body) {
  int64_t column = columns.first;
  take_tiles<vf, 8>(column, columns.last, body);
  take_tiles<vf, 4>(column, columns.last, body);
  take_tiles<vf, 2>(column, columns.last, body);
  take_tiles<vf, 1>(column, columns.last, body);
  take_tiles<float, 4>(column, columns.last, body);
  take_tiles<float, 1>(column, columns.last, body);
}

// One scan. A "column" is a place in a row [B, H]; rows that are handed in, such as a carry, are indexed by it.
class LinearScan {
 public:
  explicit LinearScan(const LinearScanArguments& a) : a_(a), T_(a.T), B_(a.B), H_(a.H) {
    if (!a.lengths && !a.reset) H_ *= B_, B_ = 1;
  }
  int64_t columns() const { return B_ * H_; }
  const float* before(int64_t s) const { return s == 0 ? a_.initial : a_.states + row(s - 1); }

  // Calls body<V, N>(b, column) for tiles that lie within one sequence each.
  template <typename Body>
  void each_tile(Range columns, Body body) const {
    for (int64_t b = columns.first / H_; b * H_ < columns.last; ++b)
      in_tiles({std::max(columns.first, b * H_), std::min(columns.last, (b + 1) * H_)},
               [&]<typename V, int N>(int64_t column) { body.template operator()<V, N>(b, column); });
  }

  // States of some steps; `carry` holds the state before them.
  void forward(const float* carry, Range steps, Range columns) const {
    each_tile(columns, [&]<typename V, int N>(int64_t b, int64_t column) {
      const Range real = real_steps(b, steps);
      V h[N];
      each<V, N>([&](int i, int64_t o) { h[i] = read<V>(carry + column + o); });
      auto stand_still = [&](int64_t s) {
        each<V, N>([&](int i, int64_t o) { write<V>(a_.states + row(s) + column + o, h[i]); });
      };
      for (int64_t s = steps.first; s < real.first; ++s) stand_still(s);
      for (int64_t s = real.first; s < real.last; ++s) {
        const int64_t at = row(s) + column;
        if (resets(s, b)) each<V, N>([&](int i, int64_t o) { h[i] = read<V>(a_.reset_state + column + o); });
        each<V, N>([&](int i, int64_t o) {
          h[i] = read<V>(a_.a + at + o) * h[i] + read<V>(a_.b + at + o);
          write<V>(a_.states + at + o, h[i]);
        });
      }
      for (int64_t s = real.last; s < steps.last; ++s) stand_still(s);
    });
  }

  // Some steps in brief: they turn a state h into product * h + sum; after a reset (`begins_anew`) into sum.
  void summarize_forward(float* product, float* sum, Range steps, Range columns) const {
    each_tile(columns, [&]<typename V, int N>(int64_t b, int64_t column) {
      const Range real = real_steps(b, steps);
      V p[N], h[N];
      each<V, N>([&](int i, int64_t) { p[i] = V{} + 1.0f, h[i] = V{}; });
      for (int64_t s = real.first; s < real.last; ++s) {
        const int64_t at = row(s) + column;
        if (resets(s, b)) each<V, N>([&](int i, int64_t o) { h[i] = read<V>(a_.reset_state + column + o); });
        each<V, N>([&](int i, int64_t o) {
          const V a = read<V>(a_.a + at + o);
          p[i] *= a;
          h[i] = a * h[i] + read<V>(a_.b + at + o);
        });
      }
      each<V, N>([&](int i, int64_t o) { write<V>(product + column + o, p[i]), write<V>(sum + column + o, h[i]); });
    });
  }

  // Gradients of some steps. `carry` holds dL/dh before them in this direction, and is given that after them:
  //   G_t = dL/dh_t = g_t + carry    dL/db_t = G_t    dL/da_t = G_t * h_{t-1}    carry = G_t * a_t
  // A reset hands the carry to `fresh`, the gradient of the reset state, which is added to.
  void backward(const LinearScanGradients& grads, float* carry, float* fresh, Range steps, Range columns) const {
    each_tile(columns, [&]<typename V, int N>(int64_t b, int64_t column) {
      const Range real = real_steps(b, steps);
      V c[N];
      each<V, N>([&](int i, int64_t o) { c[i] = read<V>(carry + column + o); });
      auto stand_still = [&](int64_t s) {
        const int64_t at = row(s) + column;
        each<V, N>([&](int i, int64_t o) {
          c[i] += read<V>(grads.states + at + o);
          write<V>(grads.a + at + o, V{}), write<V>(grads.b + at + o, V{});
        });
      };
      for (int64_t s = steps.last - 1; s >= real.last; --s) stand_still(s);
      for (int64_t s = real.last - 1; s >= real.first; --s) {
        const int64_t at = row(s) + column;
        const bool reset = resets(s, b);
        const float* previous = (reset ? a_.reset_state : before(s)) + column;
        each<V, N>([&](int i, int64_t o) {
          const V total = read<V>(grads.states + at + o) + c[i];
          write<V>(grads.b + at + o, total);
          write<V>(grads.a + at + o, total * read<V>(previous + o));
          c[i] = total * read<V>(a_.a + at + o);
        });
        if (reset)
          each<V, N>([&](int i, int64_t o) {
            float* to = fresh + column + o;
            write<V>(to, read<V>(to) + c[i]);
            c[i] = V{};
          });
      }
      for (int64_t s = real.first - 1; s >= steps.first; --s) stand_still(s);
      each<V, N>([&](int i, int64_t o) { write<V>(carry + column + o, c[i]); });
    });
  }

  // As `summarize_forward`, for the carry.
  void summarize_backward(const float* grad_states, float* product, float* sum, Range steps, Range columns) const {
    each_tile(columns, [&]<typename V, int N>(int64_t b, int64_t column) {
      const Range real = real_steps(b, steps);
      V p[N], c[N];
      each<V, N>([&](int i, int64_t) { p[i] = V{} + 1.0f, c[i] = V{}; });
      for (int64_t s = steps.last - 1; s >= steps.first; --s) {
        const int64_t at = row(s) + column;
        each<V, N>([&](int i, int64_t o) { c[i] += read<V>(grad_states + at + o); });
        if (s < real.first || s >= real.last) continue;
        each<V, N>([&](int i, int64_t o) {
          const V a = read<V>(a_.a + at + o);
          p[i] *= a, c[i] *= a;
        });
        if (resets(s, b)) each<V, N>([&](int i, int64_t) { c[i] = V{}; });
      }
      each<V, N>([&](int i, int64_t o) { write<V>(product + column + o, p[i]), write<V>(sum + column + o, c[i]); });
    });
  }

  // Takes a carry past some steps that have been summarized.
  void skip(float* carry, const float* product, const float* sum, Range steps) const {
    for (int64_t b = 0; b < B_; ++b) {
      const bool anew = begins_anew(b, steps);
      for (int64_t i = b * H_; i < (b + 1) * H_; ++i)  // a product that is infinite does not turn a zero into a NaN
        carry[i] = anew || carry[i] == 0.0f ? sum[i] : product[i] * carry[i] + sum[i];
    }
  }

 private:
  template <typename V, int N, typename Body>
  UNSPOOL_INLINE static void each(Body body) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) body(i, int64_t{i} * kLanes<V>);
  }
  int64_t time(int64_t s) const { return a_.reverse ? T_ - 1 - s : s; }
  int64_t row(int64_t s) const { return time(s) * columns(); }
  bool resets(int64_t s, int64_t b) const { return a_.reset && a_.reset[time(s) * B_ + b]; }
  Range real_steps(int64_t b, Range steps) const {  // those within the length
    if (!a_.lengths) return steps;
    const Range real = a_.reverse ? Range{T_ - a_.lengths[b], T_} : Range{0, a_.lengths[b]};
    const int64_t first = std::clamp(real.first, steps.first, steps.last);
    return {first, std::clamp(real.last, first, steps.last)};
  }
  bool begins_anew(int64_t b, Range steps) const {
    const Range real = real_steps(b, steps);
    for (int64_t s = real.first; a_.reset && s < real.last; ++s)
      if (resets(s, b)) return true;
    return false;
  }

  const LinearScanArguments& a_;
  const int64_t T_;
  int64_t B_, H_;
};

inline LinearSplit choose_linear_split(const LinearScanArguments& a) {
  const int64_t columns = a.B * a.H;
  if (a.threads <= 1 || a.T * columns < kFewest) return LinearSplit::kOneThread;
  if (columns >= kNarrowest * a.threads) return LinearSplit::kColumns;
  return a.T >= 64 * a.threads ? LinearSplit::kTime : LinearSplit::kOneThread;
}

// Calls body(steps, columns) for blocks of columns, whose states stay in the cache from one call to the next; steps in the
// given direction. A block that fits the registers takes all its steps at once, others one at a time.
template <typename Body>
void in_blocks(int64_t T, Range share, bool backwards, Body body) {
  for (int64_t first = share.first; first < share.last; first += kBlock) {
    const Range block = {first, std::min(share.last, first + kBlock)};
    if (block.size() <= 8 * W) {
      body(Range{0, T}, block);
      continue;
    }
    for (int64_t done = 0; done < T; ++done) {
      const int64_t s = backwards ? T - 1 - done : done;
      body(Range{s, s + 1}, block);
    }
  }
}

// Shares time: of threads + 1 chunks, the first is computed while the others but the last are summarized; then each thread
// knows the carry into one more chunk and computes it. Two passes where one thread makes threads + 1.
//
// compute(chunk, carry) leaves in `carry` what enters the next chunk; summarize(chunk, product, sum); skip(chunk, carry,
// product, sum). All rows have `columns` floats. `carry` holds what enters the first chunk, and in the end what leaves the
// last one.
template <typename Compute, typename Summarize, typename Skip>
void in_chunks(int threads, int64_t columns, float* carry, Compute compute, Summarize summarize, Skip skip) {
  Arena arena;
  float* summaries = arena.take<float>(2 * threads * columns);
  float* first = arena.take<float>(columns);
  std::copy(carry, carry + columns, first);
  run_team(threads, [&](int thread, Barrier& barrier, int present) {
    Arena own;
    auto summary = [&](int chunk) { return summaries + 2 * chunk * columns; };
    if (thread == 0) compute(0, present + 1, first);
    else summarize(thread, present + 1, summary(thread), summary(thread) + columns);
    barrier.wait();
    const int mine = thread == 0 ? present : thread;
    float* enters = own.take<float>(columns);
    std::copy(first, first + columns, enters);
    for (int chunk = 1; chunk < mine; ++chunk)
      skip(chunk, present + 1, enters, summary(chunk), summary(chunk) + columns);
    compute(mine, present + 1, enters);
    if (mine == present) std::copy(enters, enters + columns, carry);
  });
}

}  // namespace unspool::UNSPOOL_TARGET
