// A linear map to the scores of V symbols, their softmax, and its cross-entropy, with gradients in the same pass;
// scores exist for a chunk of rows at a time, and in tiles of AMX for a tile of symbols.
//
//     scores = x W^T + b        p = softmax(scores)        nats = sum over rows of -log p[target]
//     dS = p - onehot(target)   dx = dS W                  dW = dS^T x                  db = sum over rows of dS
//
// Everything is held the other way round, a row of memory per symbol and a lane per row of x: then W is read where it
// lies, dW is written where it lies, and the maxima and sums of the softmax need no step across lanes.
//
//     S: [V][R]     S = W x^T (x^T packed)     dW += S x (x packed)     dx += S^T W (a tile of W packed)
//
// The members of a team share the symbols among them and meet twice a chunk. Of few symbols each thread takes all, for
// its own share of the rows. Sums are in the order of threads: one number of threads gives one result.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cross_entropy_arguments.h"
#include "matmul.h"
#include "parallel.h"
#include "vector_math.h"

namespace unspool::UNSPOOL_TARGET {

// Whether scores are multiplied again for the gradients: in tiles of AMX that takes less time than keeping them.
template <bool kNarrow> inline constexpr bool kRecomputes = kNarrow && kTiles;
// Measured at N = 700, D = 200, V = 10000 on a Zen 3 (512 KB of second-level cache), for tiles on a Xeon with AMX (2 MB):
// rows of x at a time (a visit to all of dW is worth so many), and symbols whose scores stay in the cache between products.
template <bool kNarrow> inline constexpr int64_t kChunkRows = kRecomputes<kNarrow> ? 704 : 240;
template <bool kNarrow> inline constexpr int64_t kTileSymbols = kRecomputes<kNarrow> ? 128 : 120;
inline constexpr int64_t kMostScores = int64_t{1} << 24;  // in memory at a time, for all threads: 64 MB

// What the members of one team share, for `rows` rows at a time. Written in one chunk while the last one is still read.
struct CrossEntropyShared {
  CrossEntropyShared(Arena& arena, const CrossEntropyArguments& a, int members, int64_t rows) : stride(rows) {
    for (auto& summary : summaries) {
      summary.most = arena.take<float>(members * rows);
      summary.total = arena.take<float>(members * rows);
      summary.targets = arena.take<float>(rows);
    }
    if (a.grad_x) grad_x = arena.take<float>(members * rows * Panels{a.D, 1}.padded());
  }
  struct Summary {
    float* most;     // [members][rows]: the greatest score of a member's symbols
    float* total;    // [members][rows]: sum of exp(score - most)
    float* targets;  // [rows]: the target's score
  };
  Summary summaries[2];
  int64_t stride;
  float* grad_x = nullptr;  // [members][rows][D, padded]: each member's part
};

// The greater one; a NaN in b is lost, and comes back through the exponentials.
UNSPOOL_INLINE vf greater(vf a, vf b) { return select(b > a, b, a); }

// Adds `total` * exp(most) to a sum held as a maximum and what it multiplies.
UNSPOOL_INLINE void add_exponentials(vf& most, vf& total, vf other_most, vf other_total) {
  const vf greatest = greater(most, other_most);
  total = total * vexp(most - greatest) + other_total * vexp(other_most - greatest);
  most = greatest;
}

// One member's part: `rows` of x, which all members have in common, and its share of the symbols.
template <bool kNarrow>
class CrossEntropyPart {
 public:
  CrossEntropyPart(const CrossEntropyArguments& a, const int64_t* rows, int64_t num_rows,
                   const CrossEntropyShared& shared, int member, int members, Barrier& barrier, float* grad_weight,
                   float* grad_bias)
      : a_(a), all_rows_(rows), num_rows_(num_rows), shared_(shared), member_(member), members_(members),
        barrier_(barrier), grad_weight_(grad_weight), grad_bias_(grad_bias), gradients_(a.wants_gradients()),
        symbols_(share_of(a.V, member, members, kColumns<kNarrow>)), room_(shared.stride),
        stride_(((room_ + 15) / 16 | 1) * 16),  // an odd number of cache lines: a column goes to all sets of a cache
        tiles_((symbols_.size() + kTileSymbols<kNarrow> - 1) / kTileSymbols<kNarrow>) {
    const int64_t held = keeps() ? symbols_.size() : std::min(symbols_.size(), kTileSymbols<kNarrow>);
    scores_ = arena_.take<float>(held * stride_);
    tile_most_ = arena_.take<float>((keeps() ? tiles_ : 1) * room_);
    factor_ = arena_.take<float>(room_);
    most_ = arena_.take<float>(room_), total_ = arena_.take<float>(room_);
    no_bias_ = arena_.take<float>(kTileSymbols<kNarrow>);
    std::fill(no_bias_, no_bias_ + kTileSymbols<kNarrow>, 0.0f);
    x_ = arena_.take<float>(room_ * depth());
    std::fill(x_, x_ + room_ * depth(), 0.0f);
    x_columns_ = arena_.take<Item>(packed_depth<kNarrow>(depth()) * room_);
    if (grad_weight_) x_rows_ = arena_.take<Item>(packed_depth<kNarrow>(room_) * features().padded());
    narrow_ = arena_.take<Item>(kNarrow ? kTileSymbols<kNarrow> * packed_depth<true>(std::max(depth(), room_)) : 0);
    if (a.grad_x) {
      packed_weight_ = arena_.take<Item>(packed_depth<kNarrow>(kTileSymbols<kNarrow>) * features().padded());
      packed_scores_ = arena_.take<Item>((room_ + kColumns<kNarrow> - 1) / kColumns<kNarrow> * kPart);
    }
    from_.resize(kTileSymbols<kNarrow>), to_.resize(kTileSymbols<kNarrow>), sources_.resize(std::max(kTileSymbols<kNarrow>, room_));
  }

  // Returns the nats of all rows; the same for every member.
  double run() {
    double nats = 0;
    for (int64_t first = 0; first < num_rows_; first += room_, ++chunk_) {
      rows_ = all_rows_ + first;
      count_ = std::min(room_, num_rows_ - first);
      pack_x();
      summarize_chunk();
      barrier_.wait();
      nats += combine();
      if (!gradients_) continue;
      each_tile_of_symbols([&](Range tile, int64_t index) {
        if (!keeps()) multiply_scores(tile);
        make_gradients(tile, index);
        if (grad_weight_) weight_gradients(tile);
        if (a_.grad_x) x_gradients(tile, index);
      });
      if (!a_.grad_x) continue;
      if (tiles_ == 0) std::fill(own_grad_x(), own_grad_x() + count_ * padded_features().columns, 0.0f);
      barrier_.wait();
      gather_x_gradients();
    }
    return nats;
  }

 private:
  using Item = element<kNarrow>;
  static constexpr int64_t kPart = kTileSymbols<kNarrow> * kColumns<kNarrow> + W;  // of packed scores, for some rows of x

  // Of x and the weight, with zeros to whole tiles.
  int64_t depth() const { return kRecomputes<kNarrow> ? (a_.D + 31) / 32 * 32 : a_.D; }
  Panels features() const { return {a_.D, kTransposedVectors}; }
  Panels lanes() const { return {count_, kTransposedVectors}; }
  const CrossEntropyShared::Summary& summary() const { return shared_.summaries[chunk_ % 2]; }
  Panels padded_features() const { return {features().padded(), kTransposedVectors}; }  // whole cache lines, as tiles want them
  float* own_grad_x() const { return shared_.grad_x + member_ * room_ * padded_features().columns; }
  bool keeps() const { return gradients_ && !kRecomputes<kNarrow>; }  // the scores of all symbols
  float* scores(Range tile) const { return scores_ + (keeps() ? tile.first - symbols_.first : 0) * stride_; }
  const float* tile_bias(Range tile) const { return a_.bias ? a_.bias + tile.first : no_bias_; }
  int64_t target(int64_t r) const { return a_.targets[rows_[r]]; }

  template <typename Visit>
  void each_tile_of_symbols(Visit&& visit) const {  // visit(symbols, number of the tile)
    for (int64_t i = 0; i < tiles_; ++i) {
      const Range part = share_of(symbols_.size(), int(i), int(tiles_), kColumns<kNarrow>);
      visit(Range{symbols_.first + part.first, symbols_.first + part.last}, i);
    }
  }

  template <typename Visit>
  void each_target(Range tile, Visit&& visit) const {  // visit(row of x, symbol) where a target is in the tile
    for (int64_t r = 0; r < count_; ++r)
      if (target(r) >= tile.first && target(r) < tile.last) visit(r, target(r));
  }

  // Fetches a row of D floats, or every `parts`th of its cache lines, into the second-level cache.
  template <bool kWrite>
  void fetch(const float* row, int64_t part = 0, int64_t parts = 1) const {
    for (int64_t d = part * 16; d < a_.D; d += parts * 16) __builtin_prefetch(row + d, kWrite, 2);
  }

  void pack_x() {
    for (int64_t r = 0; r < count_; ++r) {
      sources_[r] = a_.x + rows_[r] * a_.D;
      std::copy(sources_[r], sources_[r] + a_.D, x_ + r * depth());
    }
    pack_panels<kNarrow, true>(x_, depth(), depth(), lanes(), x_columns_, packed_depth<kNarrow>(depth()));
    if (grad_weight_) pack_rows<kNarrow>(sources_.data(), count_, features(), x_rows_);
  }

  // All scores of the chunk; what is kept of them, if anything, is exp(score - the greatest one of the tile).
  void summarize_chunk() {
    std::fill(most_, most_ + room_, kLeast);
    std::fill(total_, total_ + room_, 0.0f);
    each_tile_of_symbols([&](Range tile, int64_t index) {
      multiply_scores(tile);
      summarize(tile, tile_most_ + (keeps() ? index * room_ : 0));
    });
    std::copy(most_, most_ + room_, summary().most + member_ * room_);
    std::copy(total_, total_ + room_, summary().total + member_ * room_);
  }

  void multiply_scores(Range tile) {
    const int64_t steps = packed_depth<kNarrow>(depth());
    for (int64_t i = 0; i < tile.size(); ++i) {
      if (kNarrow) std::fill(narrow_ + i * steps + a_.D / 2, narrow_ + (i + 1) * steps, Item{});
      from_[i] = entering_row<kNarrow>(a_.weight + (tile.first + i) * a_.D, a_.D, narrow_ + i * steps);
      to_[i] = scores(tile) + i * stride_;
    }
    multiply<kNarrow>(tile.size(), from_.data(), depth(), x_columns_, lanes(), to_.data(), Start::kZero, nullptr, true);
  }

  void summarize(Range tile, float* tile_most) {
    float* const first = scores(tile);
    const float* bias = tile_bias(tile);
    each_target(tile, [&](int64_t r, int64_t symbol) {
      summary().targets[r] = first[(symbol - tile.first) * stride_ + r] + bias[symbol - tile.first];
    });
    // Meanwhile the weight's next rows come nearer.
    const int64_t next = std::min(tile.size(), symbols_.last - tile.last), blocks = (count_ + W - 1) / W;
    for (int64_t r = 0; r < count_; r += W) {
      vf most = splat(kLeast), total{};
      for (int64_t i = 0; i < tile.size(); ++i) most = greater(most, load(first + i * stride_ + r) + bias[i]);
      for (int64_t i = 0; i < tile.size(); ++i) {
        if (i < next) fetch<false>(a_.weight + (tile.last + i) * a_.D, r / W, blocks);
        float* place = first + i * stride_ + r;
        const vf exponential = vexp(load(place) + bias[i] - most);
        total += exponential;
        store(place, exponential);
      }
      store(tile_most + r, most);
      vf all_most = load(most_ + r), all_total = load(total_ + r);
      add_exponentials(all_most, all_total, most, total);
      store(most_ + r, all_most), store(total_ + r, all_total);
    }
  }

  // The softmax's denominators from the parts of all members, and the chunk's nats.
  double combine() {
    for (int64_t r = 0; r < count_; r += W) {
      vf most = load(summary().most + r), total = load(summary().total + r);
      for (int i = 1; i < members_; ++i)
        add_exponentials(most, total, load(summary().most + i * room_ + r), load(summary().total + i * room_ + r));
      store(most_ + r, most), store(total_ + r, total);
    }
    double nats = 0;
    for (int64_t r = 0; r < count_; ++r)
      nats += __builtin_log(double(total_[r])) + double(most_[r]) - double(summary().targets[r]);
    return nats;
  }

  // From exponentials, or from scores, to dS, and db.
  void make_gradients(Range tile, int64_t index) {
    for (int64_t r = 0; r < count_; r += W)
      store(factor_ + r, (keeps() ? vexp(load(tile_most_ + index * room_ + r) - load(most_ + r)) : splat(1.0f)) / load(total_ + r));
    for (int64_t v = tile.first; v < tile.last; ++v) {
      float* row = scores(tile) + (v - tile.first) * stride_;
      if (grad_weight_) fetch<true>(grad_weight_ + v * a_.D);
      if (a_.grad_x) fetch<false>(a_.weight + v * a_.D);
      const float bias = tile_bias(tile)[v - tile.first];
      vf sums{};
      for (int64_t r = 0; r < count_; r += W) {
        const vf kept = load(row + r), most = load(most_ + r);
        const vf p = (kRecomputes<kNarrow> ? vexp(kept + bias - most) : kept) * load(factor_ + r);
        store(row + r, p);
        if (r + W <= count_) sums += p;
      }
      float sum = sum_lanes(sums);
      for (int64_t r = count_ / W * W; r < count_; ++r) sum += row[r];
      if (grad_bias_) grad_bias_[v] = chunk_ == 0 ? sum : grad_bias_[v] + sum;
    }
    each_target(tile, [&](int64_t r, int64_t symbol) {
      scores(tile)[(symbol - tile.first) * stride_ + r] -= 1.0f;
      if (grad_bias_) grad_bias_[symbol] -= 1.0f;
    });
  }

  void weight_gradients(Range tile) {
    const int64_t steps = packed_depth<kNarrow>(count_);
    for (int64_t i = 0; i < tile.size(); ++i) {
      from_[i] = entering_row<kNarrow>(scores(tile) + i * stride_, count_, narrow_ + i * steps);
      to_[i] = grad_weight_ + (tile.first + i) * a_.D;
    }
    multiply<kNarrow>(tile.size(), from_.data(), count_, x_rows_, features(), to_.data(),
                      chunk_ == 0 ? Start::kZero : Start::kAccumulate, nullptr, false);
  }

  void x_gradients(Range tile, int64_t index) {
    for (int64_t i = 0; i < tile.size(); ++i) sources_[i] = a_.weight + (tile.first + i) * a_.D;
    pack_rows<kNarrow>(sources_.data(), tile.size(), features(), packed_weight_);
    for (int64_t i = 0; i < tile.size(); ++i) sources_[i] = scores(tile) + i * stride_;
    parts_.clear();
    each_tile(count_, kColumns<kNarrow>, [&](int64_t first, int count) {
      Item* packed = packed_scores_ + int64_t(parts_.size()) * kPart;
      pack_transposed<kNarrow>(sources_.data(), tile.size(), stride_, first, count, packed, nullptr);
      parts_.push_back({count, packed, own_grad_x() + first * padded_features().columns});
    });
    multiply_transposed<kNarrow>(parts_, tile.size(), packed_weight_, padded_features(), padded_features().columns,
                                 index == 0 ? Start::kZero : Start::kAccumulate);
  }

  void gather_x_gradients() {
    const Range mine = share_of(count_, member_, members_);
    for (int64_t r = mine.first; r < mine.last; ++r) {
      float* to = a_.grad_x + rows_[r] * a_.D;
      const float* part = shared_.grad_x + r * padded_features().columns;
      std::copy(part, part + a_.D, to);
      for (int i = 1; i < members_; ++i)
        for (int64_t d = 0; d < a_.D; ++d) to[d] += part[i * room_ * padded_features().columns + d];
    }
  }

  static constexpr float kLeast = std::numeric_limits<float>::lowest();  // less would make -infinity less itself a NaN

  const CrossEntropyArguments& a_;
  const int64_t* const all_rows_;
  const int64_t num_rows_;
  const CrossEntropyShared& shared_;
  const int member_, members_;
  Barrier& barrier_;
  float *const grad_weight_, *const grad_bias_;
  const bool gradients_;
  const Range symbols_;
  const int64_t room_, stride_, tiles_;  // rows of a chunk; floats in a row of scores; how many tiles
  Arena arena_;
  int64_t chunk_ = 0, count_ = 0;   // the chunk's number and how many rows it has
  const int64_t* rows_ = nullptr;   // and which
  float* scores_;                   // [own symbols, or those of a tile][stride]
  float* tile_most_;                // [tiles, or 1 where scores are not kept][room]
  float *factor_, *most_, *total_;  // [room]
  float* no_bias_;                  // [kTileSymbols<kNarrow>]
  float* x_;                        // [room][depth]
  Item *x_columns_, *x_rows_ = nullptr, *packed_weight_ = nullptr, *packed_scores_ = nullptr, *narrow_ = nullptr;
  std::vector<const Item*> from_;
  std::vector<float*> to_;
  std::vector<const float*> sources_;
  std::vector<PackedColumns<kNarrow>> parts_;
};

// Rows of x that are in memory at a time, in whole panels; all chunks of nearly equal size.
template <bool kNarrow>
int64_t chunk_rows(const CrossEntropyArguments& a, int64_t rows) {
  const int64_t symbols = a.wants_gradients() && !kRecomputes<kNarrow> ? a.V : 1;  // otherwise a tile's scores are forgotten
  const int64_t most = std::clamp<int64_t>(kMostScores / std::max<int64_t>(symbols, 1), 48, kChunkRows<kNarrow>);
  const int64_t chunks = (rows + most - 1) / most, size = (rows + chunks - 1) / chunks, panel = kTransposedVectors * W;
  return (size + panel - 1) / panel * panel;
}

template <bool kNarrow>
double linear_cross_entropy_as(const CrossEntropyArguments& a) {
  std::vector<int64_t> rows;  // those that count
  for (int64_t n = 0; n < a.N; ++n) {
    if (a.targets[n] != a.ignore_index) {
      rows.push_back(n);
    } else if (a.grad_x) {
      std::fill(a.grad_x + n * a.D, a.grad_x + (n + 1) * a.D, 0.0f);
    }
  }
  const int64_t size = a.V * a.D, count = rows.size();
  if (rows.empty()) {
    if (a.grad_weight) std::fill(a.grad_weight, a.grad_weight + size, 0.0f);
    if (a.grad_bias) std::fill(a.grad_bias, a.grad_bias + a.V, 0.0f);
    return 0;
  }
  // A thread is worth its start from some hundred thousand products on.
  const double products = double(count) * double(size);
  int threads = int(std::min<double>(a.threads, 1 + products / 5e5));
  const bool by_rows = a.V < kTileSymbols<kNarrow> * threads && size <= (int64_t{1} << 18) && count >= 2 * threads;
  std::vector<double> nats(threads, 0.0);
  Arena arena;
  if (!by_rows) {
    const CrossEntropyShared shared(arena, a, threads, chunk_rows<kNarrow>(a, count));
    run_team(threads, [&](int thread, Barrier& barrier, int members) {
      nats[thread] = CrossEntropyPart<kNarrow>(a, rows.data(), count, shared, thread, members, barrier, a.grad_weight,
                                               a.grad_bias).run();
    });
    return nats[0];
  }
  float* weights = a.grad_weight ? arena.take<float>(threads * size) : nullptr;
  float* biases = a.grad_bias ? arena.take<float>(threads * a.V) : nullptr;
  run_team(threads, [&](int thread, Barrier& barrier, int members) {
    const Range mine = share_of(count, thread, members);
    Arena own;
    Barrier alone(1);
    const CrossEntropyShared shared(own, a, 1, chunk_rows<kNarrow>(a, mine.size()));
    nats[thread] = CrossEntropyPart<kNarrow>(a, rows.data() + mine.first, mine.size(), shared, 0, 1, alone,
                                             weights ? weights + thread * size : nullptr,
                                             biases ? biases + thread * a.V : nullptr).run();
    barrier.wait();
    auto sum_parts = [&](float* sum, const float* parts, int64_t all) {
      const Range part = share_of(sum ? all : 0, thread, members);
      for (int64_t i = part.first; i < part.last; ++i) {
        float total = parts[i];
        for (int other = 1; other < members; ++other) total += parts[other * all + i];
        sum[i] = total;
      }
    };
    sum_parts(a.grad_weight, weights, size);
    sum_parts(a.grad_bias, biases, a.V);
  });
  double sum = 0;
  for (double part : nats) sum += part;
  return sum;
}

}  // namespace unspool::UNSPOOL_TARGET
