// What the likeliest symbols of a linear map's softmax are asked for with. Axes: N rows, D features, V symbols. All
// tensors are dense, last axis first in memory. The same for all targets.
#pragma once

#include <cstdint>

namespace unspool {

struct LikeliestArguments {
  int64_t N, D, V;
  int64_t count;  // of symbols for each row, in 1..V
  bool narrow;    // products in bfloat16, sums in float
  int threads;
  const float* x;       // [N, D]
  const float* weight;  // [V, D]
  const float* bias;    // [V], or null
  const uint32_t* pairs;  // [V, D / 2] the weight in bfloat16 already, or null
  float* values;         // [N, count] log-probabilities, falling
  int64_t* symbols;      // [N, count]
  float* log_partition;  // [N]
};

}  // namespace unspool
