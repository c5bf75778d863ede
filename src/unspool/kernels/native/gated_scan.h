// The gated scan, forwards: input product, recurrent product, program, for every step, in one parallel region.
//
// A team shares the work by hidden units (each thread keeps its share of the weights in its own cache, one barrier a
// step) or by sequences (no barrier at all). Input products run over chunks of steps just ahead of them.
#pragma once

#include <vector>

#include "matmul.h"
#include "parallel.h"
#include "program.h"
#include "scan_arguments.h"
#include "share.h"

namespace unspool::UNSPOOL_TARGET {

// A weight [G*H, depth] packed for products that give some units of every gate: one set of panels a tile and gate.
template <bool kNarrow>
class GateWeights {
 public:
  GateWeights(const ScanArguments& a, std::vector<Range> tiles, int64_t depth, int64_t rows)
      : tiles_(std::move(tiles)), depth_(depth), gates_(a.G), H_(a.H), widest_(panel_vectors(rows)) {
    for (const Range& tile : tiles_) offsets_.push_back(size_), size_ += gates_ * stride(tile);
  }
  int64_t size() const { return size_; }
  void place(element<kNarrow>* packed) { packed_ = packed; }
  void pack(const float* weight, int64_t tile) {
    for (int64_t g = 0; g < gates_; ++g)
      pack_panels<kNarrow, true>(weight + (g * H_ + tiles_[tile].first) * depth_, depth_, depth_, panels(tile),
                                 packed_ + offsets_[tile] + g * stride(tiles_[tile]),
                                 packed_depth<kNarrow>(depth_));
  }
  const std::vector<Range>& tiles() const { return tiles_; }
  Panels panels(int64_t tile) const { return {tiles_[tile].size(), widest_}; }
  const element<kNarrow>* at(int64_t tile, int64_t gate) const {
    return packed_ + offsets_[tile] + gate * stride(tiles_[tile]);
  }

 private:
  int64_t stride(const Range& tile) const { return (tile.size() + W - 1) / W * W * packed_depth<kNarrow>(depth_); }
  std::vector<Range> tiles_;
  std::vector<int64_t> offsets_;
  int64_t size_ = 0, depth_, gates_, H_;
  int widest_;
  element<kNarrow>* packed_ = nullptr;
};

// A bias [G*H] as rows [G][padded H], with room for whole vectors at every unit; null stays null.
inline const float* padded_bias(const ScanArguments& a, const float* bias, Arena& arena) {
  if (!bias) return nullptr;
  const int64_t stride = a.H + W;
  float* padded = arena.take<float>(a.G * stride);
  for (int64_t g = 0; g < a.G; ++g) {
    std::copy(bias + g * a.H, bias + (g + 1) * a.H, padded + g * stride);
    std::fill(padded + g * stride + a.H, padded + (g + 1) * stride, 0.0f);
  }
  return padded;
}

// Rows whose distance is a multiple of 2 KiB share few sets of the first-level cache; a tile's six rows evict each other.
inline bool crowds(int64_t rows, int64_t units) { return rows >= kMaxRows && units % 512 == 0; }

template <bool kNarrow>
int64_t fed_stride(int64_t units) {
  return packed_depth<kNarrow>(units) + 16;
}

// What the threads of a forward scan share.
template <bool kNarrow>
struct ForwardShared {
  element<kNarrow>* fed[2];        // [B][fed_stride]: what enters the product, where it is not a state itself
  element<kNarrow>* weight_ih;     // packed, where all threads read all units or the weights are kept
  element<kNarrow>* weight_hh;
  bool packed;                     // by an earlier call, for as many threads
  // Where a program needs whole rows but threads have only some units each:
  float* products;                 // [B][G][padded H]
  float* gates;                    // [chunk][B][G][H], x-parts where there is no buffer for them
  const float *bias_ih, *bias_hh;  // padded
};

template <bool kNarrow>
class ForwardScan {
 public:
  ForwardScan(const ScanArguments& a, const EncodedProgram& program, const Rows& rows, ScanSplit split,
              const ForwardShared<kNarrow>& shared, int thread, int threads, Barrier& barrier)
      : a_(a), rows_(rows), split_(split), shared_(shared), thread_(thread), threads_(threads), barrier_(barrier),
        share_(a, rows, split, thread, threads), machine_(program, a.H, arena_),
        recurrent_(a, tiles_of(share_.units(), kTile), a.H, rows_of_thread(a, split)),
        input_(a, {share_.units()}, a.I, kMaxRows) {}

  void run() {
    pack();
    prepare();
    for (int64_t n = 0; n < a_.T;) {
      const int64_t steps = std::min(chunk_, a_.T - n);
      if (a_.weight_ih) project(n, steps);
      for (int64_t i = 0; i < steps; ++i) step(n + i);
      n += steps;
    }
  }

  // Whether what enters the product is copied: narrowed, masked, or away from rows that crowd the same cache sets.
  static bool feeds(const ScanArguments& a) { return a.product && (kNarrow || a.mask || crowds(a.B, a.H)); }
  // Steps whose input products are computed together, the same for all threads that share units.
  static int64_t chunk(const ScanArguments& a, int threads, int64_t sequences) {
    const int64_t row = std::max<int64_t>(1, a.G * a.H / threads);
    return std::max<int64_t>(1, std::clamp<int64_t>(131072 / row, 48, 480) / std::max<int64_t>(1, sequences));
  }
  static int64_t input_size(const ScanArguments& a) { return GateWeights<kNarrow>(a, {{0, a.H}}, a.I, kMaxRows).size(); }
  static int64_t recurrent_size(const ScanArguments& a) {
    return GateWeights<kNarrow>(a, tiles_of({0, a.H}, kTile), a.H, kMaxRows).size();
  }
  static std::array<int, 5> layout(const ScanArguments& a, ScanSplit split) {
    return {W, kNarrow, split.threads, split.by_units(), panel_vectors(rows_of_thread(a, split))};
  }

 private:
  int64_t time(int64_t n) const { return a_.reverse ? a_.T - 1 - n : n; }  // of the n-th step of the scan
  int64_t rows_at_once() const { return std::max<int64_t>(1, share_.sequences()); }

  void pack() {
    const int64_t rows = a_.G * share_.units().first;
    const bool whole = threads_ == split_.threads, packed = shared_.packed && whole;
    if (a_.kept && !packed && thread_ == 0) a_.kept->layout = whole ? layout(a_, split_) : KeptWeights().layout;
    if (a_.weight_ih) {
      input_.place(shared_.weight_ih ? shared_.weight_ih + rows * packed_depth<kNarrow>(a_.I)
                                     : arena_.take<element<kNarrow>>(input_.size()));
      if (!packed && (split_.by_units() || thread_ == 0)) input_.pack(a_.weight_ih, 0);
    }
    if (a_.product) {
      recurrent_.place(shared_.weight_hh ? shared_.weight_hh + rows * packed_depth<kNarrow>(a_.H)
                                         : arena_.take<element<kNarrow>>(recurrent_.size()));
      const int64_t tiles = packed ? 0 : recurrent_.tiles().size();
      for (int64_t i = 0; i < tiles; ++i)
        if (split_.by_units() || (threads_ > 1 ? 1 + i % (threads_ - 1) : 0) == thread_) recurrent_.pack(a_.weight_hh, i);
    }
  }

  void prepare() {
    const int64_t sequences = rows_at_once();
    chunk_ = chunk(a_, split_.by_units() ? threads_ : 1, sequences);
    const int64_t most = chunk_ * sequences;
    from_.resize(most), to_.resize(most), fed_.resize(sequences);
    narrow_x_ = arena_.take<element<kNarrow>>(kNarrow && a_.weight_ih ? most * packed_depth<kNarrow>(a_.I) : 0);
    if (!a_.buffer && a_.weight_ih) gates_ = shared_.gates ? shared_.gates : arena_.take<float>(most * a_.G * a_.H);
    const int64_t blocks = (sequences - 1) / (kNarrow && kTiles ? 192 : 96) + 1;  // of equal size (benchmarks/translation/speed.py)
    block_ = (sequences + blocks - 1) / blocks;
    group_ = machine_.whole_rows() ? (a_.H + W - 1) / W * W : kTile;
    if (a_.product && !meets_in_rows()) products_ = arena_.take<float>(block_ * a_.G * group_);
    if (feeds(a_) && a_.T > 0) {
      const int64_t t = time(0);
      const Range units = share_.units();
      for (int64_t i = 0; i < share_.active(t); ++i)
        feed(t, 0, i, share_.before(0, t, share_.sequence(i)) + units.first, units);
    }
    barrier_.wait();
  }

  // A program that reduces over H, on threads that have only some units each, runs on whole rows between two barriers.
  bool meets_in_rows() const { return split_.by_units() && machine_.whole_rows(); }

  element<kNarrow>* fed_row(int64_t n, int64_t own) const {
    return shared_.fed[n % 2] + share_.place(own) * fed_stride<kNarrow>(a_.H);
  }

  float* gates(int64_t n, int64_t own) const {  // of the n-th step of the scan
    if (a_.buffer) return share_.buffer(time(n), own);
    return gates_ + ((n % chunk_) * rows_at_once() + own) * a_.G * a_.H;
  }

  void project(int64_t n, int64_t steps) {
    const Range units = share_.units();
    int64_t count = 0;
    for (int64_t i = n; i < n + steps; ++i)
      for (int64_t own = 0; own < share_.active(time(i)); ++own) {
        from_[count] = entering_row<kNarrow>(share_.x(time(i), share_.sequence(own)), a_.I,
                                             narrow_x_ + count * packed_depth<kNarrow>(a_.I));
        to_[count++] = gates(i, own) + units.first;
      }
    for (int64_t g = 0; g < a_.G; ++g) {
      const float* bias = shared_.bias_ih ? shared_.bias_ih + g * (a_.H + W) + units.first : nullptr;
      multiply<kNarrow>(count, from_.data(), a_.I, input_.at(0, g), input_.panels(0), to_.data(),
                        bias ? Start::kBias : Start::kZero, bias, false);
      for (int64_t i = 0; i < count; ++i) to_[i] += a_.H;
    }
  }

  void step(int64_t n) {
    const int64_t t = time(n), active = share_.active(t);
    const Range units = share_.units();
    if (a_.product)
      for (int64_t i = 0; i < active; ++i) {
        if (feeds(a_)) {
          fed_[i] = fed_row(n, i);
        } else if constexpr (!kNarrow) {
          fed_[i] = share_.before(0, t, share_.sequence(i));
        }
      }
    if (meets_in_rows()) {
      if (a_.product) {
        const int64_t stride = a_.G * group_;
        for (int64_t tile = 0; tile < int64_t(recurrent_.tiles().size()); ++tile)
          multiply_tile(tile, 0, active, shared_.products, stride, recurrent_.tiles()[tile].first, false);
      }
      barrier_.wait();
      for (int64_t i = thread_; i < active; i += threads_)
        run_program(n, i, {0, a_.H}, a_.product ? shared_.products + i * a_.G * group_ : nullptr);
    } else {
      const bool from_end = n % 2;  // see `multiply`
      for (int64_t block = 0; block < active; block += block_) {
        const int64_t count = std::min(block_, active - block);
        const auto& tiles = recurrent_.tiles();
        for (size_t done = 0; done < tiles.size(); ++done) {
          const bool last = done + 1 == tiles.size();
          const size_t tile = from_end ? tiles.size() - 1 - done : done;
          const int64_t offset = machine_.whole_rows() ? tiles[tile].first : 0;
          if (a_.product) multiply_tile(tile, block, count, products_, a_.G * group_, offset, from_end);
          if (machine_.whole_rows() && !last) continue;
          const Range part = machine_.whole_rows() ? units : tiles[tile];
          for (int64_t i = 0; i < count; ++i)
            run_program(n, block + i, part, a_.product ? products_ + i * a_.G * group_ : nullptr);
        }
      }
    }
    stand_still(t, active);
    begin_others(n, active);
    if (split_.by_units() && (a_.product || meets_in_rows())) barrier_.wait();
  }

  // h-gates of one tile of units for `count` sequences from `first` on, into products[i][g][offset ...].
  void multiply_tile(int64_t tile, int64_t first, int64_t count, float* products, int64_t stride, int64_t offset,
                     bool from_end) {
    for (int64_t done = 0; done < a_.G; ++done) {
      const int64_t g = from_end ? a_.G - 1 - done : done;
      for (int64_t i = 0; i < count; ++i) to_[i] = products + i * stride + g * group_ + offset;
      const float* bias =
          shared_.bias_hh ? shared_.bias_hh + g * (a_.H + W) + recurrent_.tiles()[tile].first : nullptr;
      multiply<kNarrow>(count, fed_.data() + first, a_.H, recurrent_.at(tile, g), recurrent_.panels(tile), to_.data(),
                        bias ? Start::kBias : Start::kZero, bias, true, from_end);
    }
  }

  void run_program(int64_t n, int64_t own, Range units, const float* products) {
    const int64_t t = time(n), b = share_.sequence(own), u = units.first;
    const float* x = a_.weight_ih ? gates(n, own) : share_.x(t, b);
    int64_t i = 0;
    for (int64_t g = 0; g < a_.G; ++g) machine_.input(i++, x + g * a_.H + u);
    if (a_.product)
      for (int64_t g = 0; g < a_.G; ++g) machine_.input(i++, products + g * group_);
    for (int64_t j = 0; j < a_.S; ++j) machine_.input(i++, share_.before(j, t, b) + u);
    share_.point_others(machine_, i, t, b, u);
    for (int64_t j = 0; j < a_.S; ++j) machine_.output(j, share_.state(j, t, b) + u);
    if (a_.saved) {
      float* saved = share_.buffer(t, own) + u;
      for (int64_t r = 0; r < a_.saved; ++r) machine_.output(a_.S + r, saved + r * a_.H);
    }
    machine_.run(units.size());
    if (feeds(a_) && n + 1 < a_.T) feed(time(n + 1), n + 1, own, share_.state(0, t, b) + u, units);
  }

  // Beyond its length a state stands still.
  void stand_still(int64_t t, int64_t active) {
    const Range units = share_.units();
    for (int64_t own = active; own < share_.sequences(); ++own) {
      const int64_t b = share_.sequence(own);
      for (int64_t j = 0; j < a_.S; ++j) {
        const float* from = a_.reverse || t == 0 ? share_.initial(j, b) : share_.state(j, t - 1, b);
        std::copy(from + units.first, from + units.last, share_.state(j, t, b) + units.first);
      }
    }
  }

  // Sequences that begin at the next step of a scan from the end: their initial state enters the product.
  void begin_others(int64_t n, int64_t active) {
    if (!feeds(a_) || !a_.reverse || n + 1 >= a_.T) return;
    const Range units = share_.units();
    for (int64_t own = active; own < share_.active(time(n + 1)); ++own)
      feed(time(n + 1), n + 1, own, share_.initial(0, share_.sequence(own)) + units.first, units);
  }

  // Writes what enters the product at step t (the n-th of the scan): h, or the reset state, under the mask.
  void feed(int64_t t, int64_t n, int64_t own, const float* h, Range units) {
    const int64_t b = share_.sequence(own);
    if (own >= share_.active(t)) return;
    if (share_.resets(t, b)) h = a_.reset_state + b * a_.H + units.first;
    const float* mask = share_.mask(b);
    element<kNarrow>* row = fed_row(n, own);
    auto entry = [&](int64_t i) { return mask ? h[i] * mask[units.first + i] : h[i]; };
    if constexpr (kNarrow) {
      if (!mask) return narrow_row(h, units.size(), row + units.first / 2);
      for (int64_t i = 0; i < units.size(); i += 2)
        row[(units.first + i) / 2] = bfloat16_pair(entry(i), i + 1 < units.size() ? entry(i + 1) : 0.0f);
    } else {
      for (int64_t i = 0; i < units.size(); ++i) row[units.first + i] = entry(i);
    }
  }

  const ScanArguments& a_;
  const Rows& rows_;
  const ScanSplit split_;
  const ForwardShared<kNarrow>& shared_;
  const int thread_, threads_;
  Barrier& barrier_;
  Arena arena_;
  Share share_;
  Machine machine_;
  GateWeights<kNarrow> recurrent_, input_;
  int64_t chunk_ = 1, block_ = 1, group_ = kTile;
  element<kNarrow>* narrow_x_ = nullptr;
  float *gates_ = nullptr, *products_ = nullptr;
  std::vector<const element<kNarrow>*> from_, fed_;
  std::vector<float*> to_;
};

template <bool kNarrow>
void scan_forward_as(const ScanArguments& a, const EncodedProgram& program) {
  const Rows rows(a.T, a.B, a.lengths);
  const ScanSplit split = choose_split(a, double(rows.total()));
  const size_t bytes = a.buffer ? sizeof(float) * rows.total() * a.slots * a.H : 0;
  if (bytes >= size_t{1} << 25) prefer_large_pages(a.buffer, bytes);  // glibc takes so much from the system each time
  Arena arena;
  using Scan = ForwardScan<kNarrow>;
  ForwardShared<kNarrow> shared{};
  shared.bias_ih = padded_bias(a, a.bias_ih, arena);
  shared.bias_hh = padded_bias(a, a.bias_hh, arena);
  if (Scan::feeds(a))
    for (auto& fed : shared.fed) fed = arena.take<element<kNarrow>>(a.B * fed_stride<kNarrow>(a.H));
  auto room = [&](std::vector<uint32_t> KeptWeights::*part, int64_t size) {
    if (!a.kept) return split.by_units() ? nullptr : arena.take<element<kNarrow>>(size);
    auto& kept = a.kept->*part;
    kept.resize(size + 16);  // from a whole cache line on
    return reinterpret_cast<element<kNarrow>*>((reinterpret_cast<uintptr_t>(kept.data()) + 63) / 64 * 64);
  };
  if (a.weight_ih) shared.weight_ih = room(&KeptWeights::ih, Scan::input_size(a));
  if (a.product) shared.weight_hh = room(&KeptWeights::hh, Scan::recurrent_size(a));
  shared.packed = a.kept && a.kept->layout == Scan::layout(a, split);
  if (split.by_units() && program.has_reduction && a.product)
    shared.products = arena.take<float>(a.B * a.G * ((a.H + W - 1) / W * W));
  if (split.by_units() && program.has_reduction && a.weight_ih && !a.buffer)
    shared.gates = arena.take<float>(Scan::chunk(a, split.threads, a.B) * a.B * a.G * a.H);
  run_team(split.threads, [&](int thread, Barrier& barrier, int threads) {
    Scan(a, program, rows, split, shared, thread, threads, barrier).run();
  });
}

}  // namespace unspool::UNSPOOL_TARGET
