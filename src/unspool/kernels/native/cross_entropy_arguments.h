// What the softmax with its cross-entropy is given. Axes: N rows, D features, V symbols. All tensors are dense, last
// axis first in memory. The same for all targets.
#pragma once

#include <cstdint>

namespace unspool {

struct CrossEntropyArguments {
  int64_t N, D, V;
  int64_t ignore_index;  // rows with this target give no loss and no gradient
  bool narrow;           // products in bfloat16, sums in float
  int threads;
  const float* x;          // [N, D]
  const float* weight;     // [V, D]
  const float* bias;       // [V], or null
  const int64_t* targets;  // [N], in [0, V) or ignore_index
  // Gradients of the sum of nats, overwritten; null where none is wanted.
  float* grad_x;       // [N, D]
  float* grad_weight;  // [V, D]
  float* grad_bias;    // [V]

  bool wants_gradients() const { return grad_x || grad_weight || grad_bias; }
};

}  // namespace unspool
