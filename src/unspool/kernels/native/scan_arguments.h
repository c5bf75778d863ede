// What a gated scan is given: sizes and pointers. Axes: T time, B batch, I input, H hidden, G gates, S states.
// All tensors are dense, last axis first in memory; a null pointer says that an argument is absent. The same for all targets.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "encoded.h"

namespace unspool {

// How a team shares a scan: each thread has some units or some sequences; or there is no team.
enum class Sharing { kUnits, kSequences, kAlone };

struct ScanSplit {
  int threads;
  Sharing sharing;
  bool by_units() const { return sharing == Sharing::kUnits; }
};

// A scan's weights as they are packed, from one call to the next. Whoever hands it over vouches that they stay the same.
struct KeptWeights {
  std::vector<uint32_t> ih, hh;
  std::array<int, 5> layout{};  // what packing depends on, as ForwardScan::layout says; zeros: nothing is packed
};

struct ScanArguments {
  int64_t T, B, I, H, G, S;
  int64_t num_vectors, num_steps, num_sequences;  // how many inputs of each kind the programs take
  int64_t saved;                                  // values that the forward program leaves for the backward one
  int64_t slots;                                  // of a row of `buffer`, each [H]
  bool product, narrow, reverse;                  // narrow: products in bfloat16
  int threads;
  std::optional<Sharing> split;  // as choose_split finds best, unless given

  const float* x;              // [T, B, I], or [T, B, G*H] without weight_ih
  const float *weight_ih, *bias_ih;  // [G*H, I], [G*H]
  const float *weight_hh, *bias_hh;  // [G*H, H], [G*H]
  const float* initial;        // [S, B, H]
  const float* vectors;        // [num_vectors, H]
  const float* steps;          // [num_steps, T, B, H]
  const float* sequences;      // [num_sequences, B, H]
  const float* mask;           // [B, H]
  const int64_t* lengths;      // [B]
  const bool* reset;           // [T, B]
  const float* reset_state;    // [S, B, H]
  std::vector<float*> states;  // S of [T, B, H]; written forward, read backward
  float* buffer;               // [real rows, slots, H]: what backward needs; null in inference
  KeptWeights* kept;           // forward: or null
};

struct ScanGradients {
  std::vector<const float*> states;  // S of [T, B, H], or null where nothing comes from outside
  std::vector<int64_t> h_slots;      // G: the slot of each gate's h-gradient; its x-gradient lies in slot g
  float *x, *weight_ih, *bias_ih, *weight_hh, *bias_hh, *initial, *vectors, *steps, *sequences, *reset_state;
};

// Which rows are real at each step. Sequences are ordered by falling length, so that those within their length at step t
// are the first count[t] of `order`; a row of `buffer` is start[t] + the place in that order.
struct Rows {
  Rows(int64_t T, int64_t B, const int64_t* lengths) : order(B), length(B, T), count(T, B), start(T + 1, 0) {
    std::iota(order.begin(), order.end(), 0);
    if (lengths) {
      std::copy(lengths, lengths + B, length.begin());
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length[a] > length[b]; });
      int64_t alive = B;
      for (int64_t t = 0; t < T; ++t) {
        while (alive > 0 && length[order[alive - 1]] <= t) --alive;
        count[t] = alive;
      }
    }
    for (int64_t t = 0; t < T; ++t) start[t + 1] = start[t] + count[t];
  }
  int64_t total() const { return start.back(); }

  std::vector<int64_t> order, length, count, start;
};

}  // namespace unspool
