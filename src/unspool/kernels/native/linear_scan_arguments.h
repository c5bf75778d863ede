// What a linear scan is given. Axes: T time, B batch, H hidden. All tensors are dense, last axis first in memory; a null
// pointer says that an argument is absent. The same for all targets.
#pragma once

#include <cstdint>

namespace unspool {

struct LinearScanArguments {
  int64_t T, B, H;
  bool reverse;
  int threads;

  const float *a, *b;        // [T, B, H]; the backward pass does not read b
  const float* initial;      // [B, H]
  const int64_t* lengths;    // [B]
  const bool* reset;         // [T, B]
  const float* reset_state;  // [B, H], with reset
  float* states;             // [T, B, H]; written forward, read backward
};

struct LinearScanGradients {
  const float* states;  // [T, B, H]
  float *a, *b;         // [T, B, H]
  float* initial;       // [B, H]
  float* reset_state;   // [B, H], with reset
};

// How a team shares a linear scan.
enum class LinearSplit { kOneThread, kColumns, kTime };

}  // namespace unspool
