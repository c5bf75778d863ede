// What a stream is made of: memory that it keeps, the product of one step, and the choice between a team and one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "matmul.h"
#include "parallel.h"
#include "stream_arguments.h"

namespace unspool::UNSPOOL_TARGET {

// Memory for as long as a stream lives, zero at first. A packed weight is read from end to end: in pages of 4 KiB that would
// cost a walk through the page table every 64 cache lines.
template <typename T>
class Kept {
 public:
  explicit Kept(int64_t count = 0) : pages_(std::max<size_t>(count, 1) * sizeof(T) + 64) {
    std::memset(pages_.data.get(), 0, pages_.size);
  }
  T* get() const { return reinterpret_cast<T*>(pages_.data.get()); }

 private:
  Pages pages_;
};

// One row down one panel of V vectors, as `tile` in matmul.h, but with the weights fetched ahead: they are read once a step
// and come from a far cache, and 8 KiB ahead were best (1.1 times as fast from 1 to 8 MiB, 1.8 times at 16 MiB, Zen 3).
template <int V, bool kNarrow>
void panel_down(const element<kNarrow>* a, int64_t steps, const element<kNarrow>* b, float* c, const float* bias) {
  constexpr int kAhead = 8192;
  vf sums[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sums[v] = load((bias ? bias : c) + v * W);
  for (int64_t k = 0; k < steps; ++k, b += V * W) {
#pragma GCC unroll 8
    for (int line = 0; line < V * W * 4; line += kLine)
      __builtin_prefetch(reinterpret_cast<const char*>(b) + kAhead + line);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[v] = multiply_add(sums[v], splat(a[k]), load(b + v * W));
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) store(c + v * W, sums[v]);
}

// W x + b and V h + c, or their sum, for some rows x and h. Gates and parts as in the picture of stream.h.
template <bool kNarrow>
class StreamProduct {
 public:
  StreamProduct(int64_t gates, int64_t units, int64_t x_depth, int64_t h_depth, bool summed, int64_t rows, int parts)
      : gates_(gates), units_(units), rows_(rows), x_depth_(x_depth), h_depth_(h_depth), summed_(summed),
        row_(gates * ((units + W - 1) / W * W)), x_gates_(rows * row_), h_gates_(h_depth && !summed ? rows * row_ : 0) {
    for (int i = 0; i < parts; ++i) parts_.emplace_back(*this, share_of(units, i, parts, W));
  }

  void set(const float* weight_x, const float* bias_x, const float* weight_h, const float* bias_h) {
    for (Part& part : parts_) {
      pack(part, weight_x, x_depth_, 0);
      if (h_depth_) pack(part, weight_h, h_depth_, packed_depth<kNarrow>(x_depth_));
      for (int64_t g = 0; g < gates_; ++g)
        for (int64_t u = 0; u < part.units.size(); ++u) {
          const int64_t from = g * units_ + part.units.first + u, to = g * part.stride + u;
          const float x = bias_x ? bias_x[from] : 0.0f, h = bias_h ? bias_h[from] : 0.0f;
          part.x_bias.get()[to] = summed_ ? x + h : x;
          part.h_bias.get()[to] = h;
        }
    }
  }

  // `from_end` as for `multiply`: every second step.
  void run(int place, const element<kNarrow>* const* x, const element<kNarrow>* const* h, bool from_end) {
    const Part& part = parts_[place];
    const int64_t x_steps = packed_depth<kNarrow>(x_depth_), h_steps = packed_depth<kNarrow>(h_depth_);
    part.panels().each([&](int64_t first, int vectors) {
      const element<kNarrow>* panel = part.packed.get() + first * (x_steps + h_steps);
      multiply(panel, vectors, x, x_steps, x_gates_.get() + part.offset + first, part.x_bias.get() + first);
      if (!h_steps) return;
      panel += vectors * W * x_steps;
      if (summed_) {
        multiply(panel, vectors, h, h_steps, x_gates_.get() + part.offset + first, nullptr);
      } else {
        multiply(panel, vectors, h, h_steps, h_gates_.get() + part.offset + first, part.h_bias.get() + first);
      }
    }, from_end);
  }

  Range units(int part) const { return parts_[part].units; }
  // One gate's values for a part's units of one row.
  const float* x_gate(int part, int64_t row, int64_t gate) const { return place(x_gates_, part, row, gate); }
  const float* h_gate(int part, int64_t row, int64_t gate) const { return place(h_gates_, part, row, gate); }
  // With one gate: a whole row.
  float* whole(int64_t row) const { return x_gates_.get() + row * row_; }

 private:
  struct Part {
    Part(const StreamProduct& whole, Range units)
        : units(units), stride((units.size() + W - 1) / W * W), columns(whole.gates_ * stride),
          offset(whole.gates_ * units.first), widest(panel_vectors(whole.rows_)),
          packed(columns * (packed_depth<kNarrow>(whole.x_depth_) + packed_depth<kNarrow>(whole.h_depth_))),
          x_bias(columns), h_bias(columns) {}
    Panels panels() const { return {columns, widest}; }

    Range units;
    int64_t stride, columns, offset;  // of a gate; of all gates; from the beginning of a row
    int widest;
    Kept<element<kNarrow>> packed;
    Kept<float> x_bias, h_bias;
  };

  const float* place(const Kept<float>& gates, int part, int64_t row, int64_t gate) const {
    return gates.get() + row * row_ + parts_[part].offset + gate * parts_[part].stride;
  }

  void pack(Part& part, const float* weight, int64_t depth, int64_t at_step) {
    Kept<float> side_by_side(part.columns * depth);
    for (int64_t g = 0; g < gates_; ++g) {
      const float* from = weight + (g * units_ + part.units.first) * depth;
      std::copy(from, from + part.units.size() * depth, side_by_side.get() + g * part.stride * depth);
    }
    pack_panels<kNarrow, true>(side_by_side.get(), depth, depth, part.panels(), part.packed.get(),
                               packed_depth<kNarrow>(x_depth_) + packed_depth<kNarrow>(h_depth_), at_step);
  }

  // All rows down one panel; added to what is there without a bias.
  void multiply(const element<kNarrow>* panel, int vectors, const element<kNarrow>* const* a, int64_t steps, float* c,
                const float* bias) {
    if (rows_ == 1) return multiply_row(panel, vectors, a[0], steps, c, bias);
    float* rows[kRowsAtOnce];
    const Start start = bias ? Start::kBias : Start::kAccumulate;
    for (int64_t first = 0; first < rows_; first += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, rows_ - first);
      for (int64_t m = 0; m < count; ++m) rows[m] = c + (first + m) * row_;
      if (rows_ <= tile_rows(vectors)) {  // so few run down the panel at once
        find_tile<kNarrow, false>(int(rows_), vectors)(a, steps, panel, rows, start, bias, {});
      } else {
        UNSPOOL_TARGET::multiply<kNarrow>(count, a + first, steps * Element<kNarrow>::per, panel, {vectors * W, vectors}, rows,
                                          start, bias, true);
      }
    }
  }

  static constexpr int64_t kRowsAtOnce = 96;  // whole tiles

  static void multiply_row(const element<kNarrow>* panel, int vectors, const element<kNarrow>* a, int64_t steps,
                           float* c, const float* bias) {
    switch (vectors) {
      case 8: return panel_down<8, kNarrow>(a, steps, panel, c, bias);
      case 4: return panel_down<4, kNarrow>(a, steps, panel, c, bias);
      case 2: return panel_down<2, kNarrow>(a, steps, panel, c, bias);
      default: return panel_down<1, kNarrow>(a, steps, panel, c, bias);
    }
  }

  const int64_t gates_, units_, rows_, x_depth_, h_depth_;
  const bool summed_;
  const int64_t row_;  // floats of a row of gates
  Kept<float> x_gates_, h_gates_;
  std::vector<Part> parts_;
};

// Whether to take the team of threads or to go alone, by trying: a team is faster on idle cores, and slower by orders of
// magnitude where other programs hold them or where steps come so seldom that each has to wake a sleeping thread. The
// numbers that a step computes are the same.
class TeamOrAlone {
 public:
  bool takes_team() const { return team_; }

  // Of a call: what one of its steps took. Many steps count as few, so that a long call does not settle anything alone.
  void took(double seconds_per_step, int64_t steps) {
    double& cost = cost_[team_];
    steps = std::min(steps, kTrial / 2), steps_ += steps;
    cost += (seconds_per_step - cost) * double(steps) / double(std::min(steps_, kMemory));
    if (trying_) {
      if (steps_ >= kTrial || (team_ && cost > kStalled * cost_[0])) settle();
    } else if (steps_ >= kTrial && cost > cost_[!team_] && known_) {
      change(), pause_ = kFirstPause;
    } else if (steps_ >= pause_) {
      trying_ = true, known_ = true, change();
    }
  }

 private:
  static constexpr int64_t kMemory = 8, kTrial = 8, kFirstPause = 64, kLongestPause = 8192;  // steps
  static constexpr double kStalled = 10;  // times the cost alone: a thread waits for a core, which takes milliseconds

  void settle() {
    trying_ = false;
    if (cost_[team_] < cost_[!team_]) {
      pause_ = kFirstPause;
    } else {
      pause_ = std::min(4 * pause_, kLongestPause);
      change(), steps_ = kMemory;
    }
  }
  void change() { team_ = !team_, steps_ = 0; }

  bool team_ = false, trying_ = false, known_ = false;
  double cost_[2] = {};  // of a step: alone, with the team
  int64_t steps_ = 0, pause_ = kTrial;
};

}  // namespace unspool::UNSPOOL_TARGET
