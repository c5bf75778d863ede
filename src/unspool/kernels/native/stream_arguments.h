// What a stream is given: shapes, programs, weights, and how to draw symbols. Axes: B streams, I input, H hidden, G gates,
// S states, V symbols. All tensors are dense, last axis first in memory. The same for all targets.
#pragma once

#include <cstdint>
#include <vector>

#include "encoded.h"

namespace unspool {

struct StreamLayer {
  int64_t I, H, G, S, num_vectors;
  bool product;          // there is a recurrent product
  bool summed;           // the program takes the sum of each gate's x-part and h-part in the place of the x-part
  bool residual;         // the layer's input is added to its output
  bool normalizes;       // the layer's input is normalized: layer norm
  double epsilon;        // of the layer norm
  EncodedProgram program;
  float* states;         // [2, S, B, H], alive as long as the stream: a step reads one half and writes the other
};

// A linear map from the last layer's output: [columns, depth]; the last of them gives logits.
struct StreamMap {
  int64_t depth, columns;
};

struct StreamShape {
  int64_t B;
  int threads;
  bool narrow;  // weights and what they are multiplied with in bfloat16, sums in float
  std::vector<StreamLayer> layers;
  std::vector<StreamMap> maps;
};

// A null pointer says that a tensor is absent. They are read once: a stream keeps packed copies.
struct StreamWeights {
  const float *weight_ih, *bias_ih;     // [G*H, I], [G*H]
  const float *weight_hh, *bias_hh;     // [G*H, H], [G*H]
  const float* vectors;                 // [num_vectors, H]
  const float *norm_weight, *norm_bias; // [I]
};

// How symbols are drawn, and where they go.
struct WriteArguments {
  const float* embedding;          // [V, I of the first layer]
  int64_t* tokens;                 // [count + 1, B]; the first row is read, the others are drawn
  int64_t count;
  float temperature;               // 0: the likeliest symbol
  int64_t top_k;                   // 0: all
  double top_p;                    // 1: all
  std::vector<int64_t> forbidden;  // never drawn
  uint64_t seed, place;            // of chance: the first draw's number in its sequence
};

// One stack with its state, whatever the target. Not for two threads at once.
class AnyStream {
 public:
  virtual ~AnyStream() = default;
  virtual void set_layer(int64_t layer, const StreamWeights& weights) = 0;
  virtual void set_map(int64_t map, const float* weight, const float* bias) = 0;
  // x: [B, I]; y: [B, H of the last layer].
  virtual void step(const float* x, float* y) = 0;
  // False where logits were not numbers that symbols can be drawn from.
  virtual bool write(const WriteArguments& arguments) = 0;
  // Which half of the states holds the present ones.
  virtual int64_t half() const = 0;
  virtual int threads() const = 0;
};

}  // namespace unspool
