// A stream: one step of a whole stack after the other, all memory taken and all weights packed when it is opened.
//
// A thread owns some units of every layer (its part), with the weights that lead to them, so that each core reads only
// its own half. Of one part, the columns of all gates lie side by side, and a panel holds the rows that x meets and,
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
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "matmul.h"
#include "parallel.h"
#include "program.h"
#include "sampling.h"
#include "stream_arguments.h"

namespace unspool::UNSPOOL_TARGET {

// Memory for as long as a stream lives, zero at first. In large pages where the system has them: a packed weight is read
// from end to end, and pages of 4 KiB would cost a walk through the page table every 64 cache lines.
template <typename T>
class Kept {
 public:
  explicit Kept(int64_t count = 0) {
    constexpr size_t kLarge = size_t{1} << 21;
    const size_t wanted = std::max<size_t>(count, 1) * sizeof(T) + 64;
    const size_t grain = wanted >= kLarge / 2 ? kLarge : 4096, bytes = (wanted + grain - 1) / grain * grain;
    data_.reset(static_cast<T*>(std::aligned_alloc(grain, bytes)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (grain == kLarge) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
};

// One row down one panel of V vectors, as `tile` in matmul.h, but with the weights fetched ahead: they are read once a step
// and come from a far cache, and 8 KiB ahead were best (1.1 times as fast from 1 to 8 MiB, 1.8 times at 16 MiB, Zen 3).
template <int V, bool kNarrow>
void panel_down(const element<kNarrow>* a, int64_t steps, const element<kNarrow>* b, float* c, const float* bias) {
  constexpr int kAhead = 8192, kLine = 64;
  vf sums[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sums[v] = load((bias ? bias : c) + v * W);
  for (int64_t k = 0; k < steps; ++k, b += V * W) {
#pragma GCC unroll 8
    for (int line = 0; line < V * W * 4; line += kLine)
      __builtin_prefetch(reinterpret_cast<const char*>(b) + kAhead + line);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if constexpr (kNarrow) {
        sums[v] = dot_bfloat16(sums[v], splat_bits(a[k]), load_bits(b + v * W));
      } else {
        sums[v] += splat(a[k]) * load(b + v * W);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) store(c + v * W, sums[v]);
}

// W x + b and V h + c, or their sum, for some rows x and h. Gates and parts as in the picture above.
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

  void run(int place, const element<kNarrow>* const* x, const element<kNarrow>* const* h) {
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
    });
  }

  Range units(int part) const { return parts_[part].units; }
  // One gate's values for a part's units of one row.
  const float* x_gate(int part, int64_t row, int64_t gate) const { return place(x_gates_, part, row, gate); }
  const float* h_gate(int part, int64_t row, int64_t gate) const { return place(h_gates_, part, row, gate); }
  // With one gate: a whole row.
  float* whole(int64_t row) const { return x_gates_.get() + row * row_; }
  int64_t bytes() const { return gates_ * units_ * (x_depth_ + h_depth_) * (kNarrow ? 2 : 4); }

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
    const int most = tile_rows(vectors);
    // Few rows run down the panel at once; more take turns with parts of it that the first-level cache holds.
    const int64_t depth = rows_ <= most ? steps : kDepth;
    for (int64_t k = 0; k < steps; k += depth) {
      each_tile(rows_, most, [&](int64_t row, int count) {
        const element<kNarrow>* a_rows[kMaxRows];
        float* c_rows[kMaxRows];
        for (int m = 0; m < count; ++m) a_rows[m] = a[row + m] + k, c_rows[m] = c + (row + m) * row_;
        const Start start = bias && k == 0 ? Start::kBias : Start::kAccumulate;
        find_tile<kNarrow, false>(count, vectors)(a_rows, std::min(depth, steps - k), panel + k * vectors * W, c_rows,
                                                  start, bias);
      });
    }
  }

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

  void took(double seconds) {
    double& cost = cost_[team_];
    ++calls_;
    cost += (seconds - cost) / static_cast<double>(std::min<int64_t>(calls_, kMemory));
    if (trying_) {
      if (calls_ == kTrial || (team_ && cost > kStalled * cost_[0])) settle();
    } else if (calls_ >= kTrial && cost > cost_[!team_] && known_) {
      change(), pause_ = kFirstPause;
    } else if (calls_ >= pause_) {
      trying_ = true, known_ = true, change();
    }
  }

 private:
  static constexpr int64_t kMemory = 8, kTrial = 8, kFirstPause = 64, kLongestPause = 8192;  // calls
  static constexpr double kStalled = 10;  // times the cost alone: a thread waits for a core, which takes milliseconds

  void settle() {
    trying_ = false;
    if (cost_[team_] < cost_[!team_]) {
      pause_ = kFirstPause;
    } else {
      pause_ = std::min(4 * pause_, kLongestPause);
      const double kept = cost_[!team_];
      change(), cost_[team_] = kept, calls_ = kMemory;
    }
  }
  void change() { team_ = !team_, calls_ = 0; }

  bool team_ = false, trying_ = false, known_ = false;
  double cost_[2] = {};  // alone, with the team
  int64_t calls_ = 0, pause_ = kTrial;
};

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
        run_layers(hands, (half_ + n) % 2);
        for (StreamProduct<kNarrow>& map : maps_) run_map(hands, map);
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
    team_.took(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / steps);
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
      layer.product.run(part, worker.x.data(), worker.h.data());
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

  void run_map(Hands& hands, StreamProduct<kNarrow>& map) {
    Worker& worker = hands.worker;
    const int64_t depth = shape_.maps[&map - maps_.data()].depth;
    enter(worker.rows, depth, nullptr, worker, worker.entering_x, worker.x);
    for (int part = hands.thread; part < parts_; part += hands.threads) map.run(part, worker.x.data(), nullptr);
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
    entering = room;
    if constexpr (kNarrow) {
      narrow_row(row, size, room);
    } else if (shape_.B >= kMaxRows && size % 512 == 0) {
      std::copy(row, row + size, room);
    } else {
      entering = row;
    }
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
