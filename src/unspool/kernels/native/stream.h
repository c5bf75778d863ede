// A stream: one step of a whole stack after the other, all memory taken and all weights packed when it is opened.
//
// A thread owns some units of every layer (its part), with the weights that lead to them, so that each core reads only
// its own share. Of one part, the columns of all gates lie side by side, and a panel holds the rows that x meets and,
// below them, those that h meets:
//
//                 i ... i f ... f g ... g o ... o      (one part's units of each gate, rounded up to whole vectors)
//        x_0      [ panel | panel | ... ]
//        x_1
//        ...
//        h_0
//        ...
//
// States lie twice, so that a step reads one half while it writes the other: one barrier a layer is enough.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "parallel.h"
#include "program.h"
#include "sampling.h"
#include "stream_arguments.h"
#include "stream_product.h"

namespace unspool::UNSPOOL_TARGET {

template <bool kNarrow>
class Stream final : public AnyStream {
 public:
  explicit Stream(const StreamShape& shape) : shape_(shape), parts_(choose_threads(shape)) {
    for (const StreamLayer& layer : shape_.layers) layers_.emplace_back(layer, shape_.B, parts_);
    for (const StreamMap& map : shape_.maps) maps_.emplace_back(1, map.columns, map.depth, 0, false, shape_.B, parts_);
    for (int i = 0; i < parts_; ++i) workers_.emplace_back(shape_);
  }

  void set_layer(int64_t layer, const StreamWeights& weights) override { layers_[layer].set(weights); }
  void set_map(int64_t map, const float* weight, const float* bias) override {
    maps_[map].set(weight, bias, nullptr, nullptr);
  }
  int64_t half() const override { return half_; }
  int threads() const override { return parts_; }

  void step(const float* x, float* y) override {
    run(1, [&](int thread, Barrier& barrier, int threads) {
      Hands hands(*this, thread, threads, barrier);
      for (int64_t b = 0; b < shape_.B; ++b) hands.worker.rows[b] = x + b * shape_.layers[0].I;
      run_layers(hands, half_);
      const int64_t size = shape_.layers.back().H;
      for (int64_t b = thread; b < shape_.B; b += threads) {
        const float* row = hands.worker.rows[b];
        std::copy(row, row + size, y + b * size);
      }
    });
    half_ = 1 - half_;
  }

  bool write(const WriteArguments& a) override {
    bool drawn[kMostThreads];
    std::fill(drawn, drawn + kMostThreads, true);
    run(a.count, [&](int thread, Barrier& barrier, int threads) {
      Hands hands(*this, thread, threads, barrier);
      if (!hands.worker.sampler) hands.worker.sampler = std::make_unique<Sampler>(shape_.maps.back().columns);
      for (int64_t n = 0; n < a.count; ++n) {
        const int64_t* tokens = a.tokens + n * shape_.B;
        for (int64_t b = 0; b < shape_.B; ++b) hands.worker.rows[b] = a.embedding + tokens[b] * shape_.layers[0].I;
        const int64_t half = (half_ + n) % 2;
        run_layers(hands, half);
        for (StreamProduct<kNarrow>& map : maps_) run_map(hands, map, half);
        for (int64_t b = thread; b < shape_.B; b += threads) {
          const int64_t symbol = hands.worker.sampler->draw(maps_.back().whole(b), a, a.place + n, b);
          drawn[thread] &= symbol >= 0;
          a.tokens[(n + 1) * shape_.B + b] = std::max<int64_t>(symbol, 0);
        }
        barrier.wait();
      }
    });
    half_ = (half_ + a.count) % 2;
    return std::all_of(drawn, drawn + parts_, [](bool all) { return all; });
  }

 private:
  static constexpr int kMostThreads = 64;

  template <typename Body>
  void run(int64_t steps, Body&& body) {
    if (parts_ == 1 || steps < 1) return run_team(1, body);
    const auto begin = std::chrono::steady_clock::now();
    run_team(team_.takes_team() ? parts_ : 1, body);
    team_.took(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / steps, steps);
  }

  // A step reads all weights once. A second thread pays where they do not fit into one core's cache (measured with
  // `unspool bench engine --only streaming`): below, waking it and waiting for it costs more than it saves.
  static int choose_threads(const StreamShape& shape) {
    double weights = 0;
    int64_t least = 1 << 30;
    for (const StreamLayer& layer : shape.layers) {
      weights += double(layer.G) * layer.H * (layer.I + (layer.product ? layer.H : 0));
      least = std::min(least, layer.H);
    }
    for (const StreamMap& map : shape.maps) weights += double(map.depth) * map.columns;
    const double work = weights * std::max<int64_t>(1, shape.B / 2);
    const int wanted = std::clamp(work / kWeightsPerThread, 1.0, 1.0 * std::clamp(shape.threads, 1, kMostThreads));
    return std::clamp<int>(least / (2 * W), 1, wanted);
  }
  static constexpr double kWeightsPerThread = 60000;

  struct Layer {
    Layer(const StreamLayer& shape, int64_t B, int parts)
        : shape(shape), product(shape.G, shape.H, shape.I, shape.product ? shape.H : 0, shape.summed, B, parts),
          vectors(shape.num_vectors * shape.H), norm_weight(shape.normalizes ? shape.I : 0),
          norm_bias(shape.normalizes ? shape.I : 0), sums(shape.residual ? B * shape.H : 0) {}

    void set(const StreamWeights& from) {
      product.set(from.weight_ih, from.bias_ih, from.weight_hh, from.bias_hh);
      if (from.vectors) std::copy(from.vectors, from.vectors + shape.num_vectors * shape.H, vectors.get());
      if (from.norm_weight) std::copy(from.norm_weight, from.norm_weight + shape.I, norm_weight.get());
      if (from.norm_bias) std::copy(from.norm_bias, from.norm_bias + shape.I, norm_bias.get());
    }

    const StreamLayer& shape;
    StreamProduct<kNarrow> product;
    Kept<float> vectors, norm_weight, norm_bias, sums;
  };

  // Room of one thread.
  struct Worker {
    explicit Worker(const StreamShape& shape) : rows(shape.B), x(shape.B), h(shape.B) {
      int64_t widest = 1, gates = 0;
      for (const StreamLayer& layer : shape.layers) {
        widest = std::max({widest, layer.I, layer.H});
        if (layer.program.has_reduction) gates = std::max(gates, layer.G * layer.H);
      }
      for (const StreamMap& map : shape.maps) widest = std::max(widest, map.depth);
      width = (widest + 15) / 16 * 16 + 16;
      normal = Kept<float>(shape.B * width);
      entering_x = Kept<element<kNarrow>>(shape.B * width), entering_h = Kept<element<kNarrow>>(shape.B * width);
      gathered_x = Kept<float>(gates), gathered_h = Kept<float>(gates);
    }
    std::vector<const float*> rows;                // what the next layer reads
    std::vector<const element<kNarrow>*> x, h;     // what enters its product
    int64_t width;
    Kept<float> normal, gathered_x, gathered_h;
    Kept<element<kNarrow>> entering_x, entering_h;
    std::unique_ptr<Sampler> sampler;
  };

  // What a thread holds during a call. Where the team is smaller than asked for, a thread takes several parts.
  struct Hands {
    Hands(Stream& stream, int thread, int threads, Barrier& barrier)
        : worker(stream.workers_[thread]), thread(thread), threads(threads), barrier(barrier) {
      machines.reserve(stream.layers_.size());
      for (const Layer& layer : stream.layers_) machines.emplace_back(layer.shape.program, layer.shape.H, arena);
    }
    Worker& worker;
    const int thread, threads;
    Barrier& barrier;
    Arena arena;
    std::vector<Machine> machines;
  };

  // On return worker.rows are the outputs of the last layer.
  void run_layers(Hands& hands, int64_t half) {
    for (size_t i = 0; i < layers_.size(); ++i) run_layer(hands, layers_[i], hands.machines[i], half);
  }

  void run_layer(Hands& hands, Layer& layer, Machine& machine, int64_t half) {
    const StreamLayer& shape = layer.shape;
    Worker& worker = hands.worker;
    const int64_t B = shape_.B;
    enter(worker.rows, shape.I, shape.normalizes ? &layer : nullptr, worker, worker.entering_x, worker.x);
    for (int64_t b = 0; b < B && shape.product; ++b)
      convert(state(shape, half, 0, b), shape.H, worker.entering_h.get() + b * worker.width, worker.h[b]);
    for (int part = hands.thread; part < parts_; part += hands.threads)
      layer.product.run(part, worker.x.data(), worker.h.data(), half);
    if (parts_ > 1 && machine.whole_rows()) {  // threads have some units each: meet, and then take whole rows
      hands.barrier.wait();
      for (int64_t b = hands.thread; b < B; b += hands.threads) {
        gather(layer, worker, b);
        run_program(hands, layer, machine, worker.gathered_x.get(), worker.gathered_h.get(), shape.H, half, b,
                    {0, shape.H});
      }
    } else {
      for (int part = hands.thread; part < parts_; part += hands.threads) {
        const Range units = layer.product.units(part);
        for (int64_t b = 0; b < B; ++b)
          for (int64_t u = units.first; u < units.last; u += machine.width()) {
            const int64_t skipped = u - units.first;
            run_program(hands, layer, machine, layer.product.x_gate(part, b, 0) + skipped,
                        layer.product.h_gate(part, b, 0) + skipped, (units.size() + W - 1) / W * W, half, b,
                        {u, std::min(units.last, u + machine.width())});
          }
      }
    }
    for (int64_t b = 0; b < B; ++b)
      worker.rows[b] = shape.residual ? layer.sums.get() + b * shape.H : state(shape, 1 - half, 0, b);
    if (hands.threads > 1) hands.barrier.wait();
  }

  void run_map(Hands& hands, StreamProduct<kNarrow>& map, bool from_end) {
    Worker& worker = hands.worker;
    const int64_t depth = shape_.maps[&map - maps_.data()].depth;
    enter(worker.rows, depth, nullptr, worker, worker.entering_x, worker.x);
    for (int part = hands.thread; part < parts_; part += hands.threads) map.run(part, worker.x.data(), nullptr, from_end);
    for (int64_t b = 0; b < shape_.B; ++b) worker.rows[b] = map.whole(b);
    if (hands.threads > 1) hands.barrier.wait();
  }

  float* state(const StreamLayer& layer, int64_t half, int64_t j, int64_t b) const {
    return layer.states + ((half * layer.S + j) * shape_.B + b) * layer.H;
  }

  // Rows as they enter a product: normalized, where the layer says so.
  void enter(const std::vector<const float*>& rows, int64_t size, const Layer* norm, Worker& worker,
             const Kept<element<kNarrow>>& room, std::vector<const element<kNarrow>*>& entering) {
    for (int64_t b = 0; b < shape_.B; ++b) {
      const float* row = rows[b];
      if (norm) row = normalize(row, size, *norm, worker.normal.get() + b * worker.width);
      convert(row, size, room.get() + b * worker.width, entering[b]);
    }
  }

  // Rows whose distance is a multiple of 2 KiB share few sets of the first-level cache, so that those of one tile would
  // evict each other: they are moved apart.
  void convert(const float* row, int64_t size, element<kNarrow>* room, const element<kNarrow>*& entering) const {
    entering = entering_row<kNarrow>(row, size, room);
    if constexpr (!kNarrow)
      if (shape_.B >= kMaxRows && size % 512 == 0) std::copy(row, row + size, room), entering = room;
  }

  static const float* normalize(const float* row, int64_t size, const Layer& layer, float* to) {
    float mean = 0, square = 0;
    for (int64_t i = 0; i < size; ++i) mean += row[i];
    mean /= size;
    for (int64_t i = 0; i < size; ++i) square += (row[i] - mean) * (row[i] - mean);
    const float scale = 1.0f / std::sqrt(square / size + static_cast<float>(layer.shape.epsilon));
    for (int64_t i = 0; i < size; ++i)
      to[i] = (row[i] - mean) * scale * layer.norm_weight.get()[i] + layer.norm_bias.get()[i];
    return to;
  }

  // Copies a row's gates from all parts to [G][H].
  void gather(const Layer& layer, Worker& worker, int64_t b) const {
    const int64_t H = layer.shape.H;
    const bool apart = layer.shape.product && !layer.shape.summed;
    for (int part = 0; part < parts_; ++part) {
      const Range units = layer.product.units(part);
      for (int64_t g = 0; g < layer.shape.G; ++g) {
        const float* x = layer.product.x_gate(part, b, g);
        std::copy(x, x + units.size(), worker.gathered_x.get() + g * H + units.first);
        if (!apart) continue;
        const float* h = layer.product.h_gate(part, b, g);
        std::copy(h, h + units.size(), worker.gathered_h.get() + g * H + units.first);
      }
    }
  }

  // x and h point at the first gate's values for these units, the next gates' lie `stride` further.
  void run_program(const Hands& hands, const Layer& layer, Machine& machine, const float* x, const float* h,
                   int64_t stride, int64_t half, int64_t b, Range units) const {
    const StreamLayer& shape = layer.shape;
    const int64_t u = units.first;
    int64_t i = 0;
    for (int64_t g = 0; g < shape.G; ++g) machine.input(i++, x + g * stride);
    if (shape.product && !shape.summed)
      for (int64_t g = 0; g < shape.G; ++g) machine.input(i++, h + g * stride);
    for (int64_t j = 0; j < shape.S; ++j) machine.input(i++, state(shape, half, j, b) + u);
    for (int64_t p = 0; p < shape.num_vectors; ++p) machine.input(i++, layer.vectors.get() + p * shape.H + u);
    for (int64_t j = 0; j < shape.S; ++j) machine.output(j, state(shape, 1 - half, j, b) + u);
    machine.run(units.size());
    if (!shape.residual) return;
    const float *input = hands.worker.rows[b] + u, *h_new = state(shape, 1 - half, 0, b) + u;
    for (int64_t k = 0; k < units.size(); ++k) layer.sums.get()[b * shape.H + u + k] = input[k] + h_new[k];
  }

  const StreamShape shape_;
  const int parts_;
  std::vector<Layer> layers_;
  std::vector<StreamProduct<kNarrow>> maps_;
  std::vector<Worker> workers_;
  int64_t half_ = 0;
  TeamOrAlone team_;
};

}  // namespace unspool::UNSPOOL_TARGET
