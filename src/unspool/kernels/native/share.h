// How the threads of a team share a gated scan, and what one of them has in hand.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "panels.h"
#include "parallel.h"
#include "program.h"
#include "scan_arguments.h"

namespace unspool::UNSPOOL_TARGET {

inline ScanSplit choose_split(const ScanArguments& a, double real_rows) {
  // Measured with `unspool bench engine`: below some 24,000 multiplications a step a barrier costs more than it saves.
  const double work = double(a.G) * a.H * (a.product ? a.H : 8) * std::max(1.0, real_rows / std::max<int64_t>(a.T, 1));
  const int wanted = std::max(1, a.threads);
  if (wanted == 1 || a.T * a.B == 0) return {1, Sharing::kAlone};
  if (a.split) return {*a.split == Sharing::kAlone ? 1 : wanted, *a.split};
  const bool units_pay = a.H >= 2 * W * wanted && work / wanted > 12000;
  const bool rows_pay = a.B >= wanted && work * a.T / wanted > 200000;
  // Few rows of a large weight: half a weight fits where a whole one does not. See docs/results/engine.md.
  const bool half_tiles = kTiles && a.narrow && a.H >= 256 && a.B <= 8 * wanted;  // of AMX, if each took its own sequences
  const bool weights_count = a.H >= 512 || (a.H >= 128 && a.B <= 2 * wanted) || half_tiles;
  if (rows_pay && !(units_pay && weights_count)) return {wanted, Sharing::kSequences};
  if (units_pay) return {wanted, Sharing::kUnits};
  return {1, Sharing::kAlone};
}

// Most sequences that one thread of a full team runs; it only chooses the width of panels.
inline int64_t rows_of_thread(const ScanArguments& a, ScanSplit split) {
  return split.sharing == Sharing::kSequences ? (a.B + split.threads - 1) / split.threads : a.B;
}

// What one thread of a team has in hand: its sequences, its units, and where every tensor's rows lie.
class Share {
 public:
  Share(const ScanArguments& a, const Rows& rows, ScanSplit split, int thread, int threads)
      : a_(a), rows_(rows), units_{0, a.H} {
    if (split.by_units()) {
      units_ = share_of(a.H, thread, threads, W);
      for (int64_t i = 0; i < a.B; ++i) own_.push_back(i);
    } else {
      for (int64_t i = thread; i < a.B; i += threads) own_.push_back(i);
    }
  }

  Range units() const { return units_; }
  int64_t sequences() const { return own_.size(); }
  int64_t place(int64_t own) const { return own_[own]; }                       // in the order of falling length
  int64_t sequence(int64_t own) const { return rows_.order[own_[own]]; }       // b
  int64_t active(int64_t t) const {                                            // of the own sequences, at step t
    const int64_t count = rows_.count[t];
    if (own_.empty() || own_[0] >= count) return 0;
    const int64_t stride = own_.size() > 1 ? own_[1] - own_[0] : 1;
    return std::min<int64_t>(own_.size(), (count - own_[0] + stride - 1) / stride);
  }

  float* state(int64_t j, int64_t t, int64_t b) const { return a_.states[j] + (t * a_.B + b) * a_.H; }
  const float* initial(int64_t j, int64_t b) const { return a_.initial + (j * a_.B + b) * a_.H; }
  bool resets(int64_t t, int64_t b) const { return a_.reset && a_.reset[t * a_.B + b]; }
  bool begins(int64_t t, int64_t b) const { return a_.reverse ? t + 1 == rows_.length[b] : t == 0; }
  const float* before(int64_t j, int64_t t, int64_t b) const {  // the state that step t starts from
    if (resets(t, b)) return a_.reset_state + (j * a_.B + b) * a_.H;
    return begins(t, b) ? initial(j, b) : state(j, a_.reverse ? t + 1 : t - 1, b);
  }
  const float* x(int64_t t, int64_t b) const { return a_.x + (t * a_.B + b) * (a_.weight_ih ? a_.I : a_.G * a_.H); }
  float* buffer(int64_t t, int64_t own) const { return a_.buffer + (rows_.start[t] + own_[own]) * a_.slots * a_.H; }
  const float* mask(int64_t b) const { return a_.mask ? a_.mask + b * a_.H : nullptr; }

  // Points the inputs that both programs share, beginning at input `i`: vectors, steps, sequences.
  int64_t point_others(Machine& machine, int64_t i, int64_t t, int64_t b, int64_t u) const {
    for (int64_t p = 0; p < a_.num_vectors; ++p) machine.input(i++, a_.vectors + p * a_.H + u);
    for (int64_t n = 0; n < a_.num_steps; ++n) machine.input(i++, a_.steps + ((n * a_.T + t) * a_.B + b) * a_.H + u);
    for (int64_t q = 0; q < a_.num_sequences; ++q) machine.input(i++, a_.sequences + (q * a_.B + b) * a_.H + u);
    return i;
  }

 private:
  const ScanArguments& a_;
  const Rows& rows_;
  Range units_;
  std::vector<int64_t> own_;
};

// Parts of a range of units, as wide as a machine runs at once.
inline std::vector<Range> tiles_of(Range units, int64_t width) {
  std::vector<Range> tiles;
  for (int64_t u = units.first; u < units.last; u += width) tiles.push_back({u, std::min(units.last, u + width)});
  return tiles;
}

}  // namespace unspool::UNSPOOL_TARGET
