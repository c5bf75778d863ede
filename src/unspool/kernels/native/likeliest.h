// The likeliest symbols of a softmax over a linear map, and its normalizer; scores exist for a tile of symbols at a time.
//
//     scores = x W^T + b     log_partition = log sum exp(scores)     values = the greatest scores - log_partition
//
// Held as in cross_entropy.h, a row of memory per symbol and a lane per row of x. The members of a team share the symbols
// among them; each keeps the greatest scores of its own in falling order, and of equal scores the lower symbol comes first,
// so that the result is that of one thread.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cross_entropy.h"
#include "likeliest_arguments.h"

namespace unspool::UNSPOOL_TARGET {

// What every member has found among its symbols, for the rows of a chunk.
struct LikeliestShared {
  LikeliestShared(Arena& arena, int64_t count, int members, int64_t rows)
      : room(rows), most(arena.take<float>(members * rows)), total(arena.take<float>(members * rows)),
        values(arena.take<float>(members * count * rows)), symbols(arena.take<uint32_t>(members * count * rows)) {}
  int64_t room;
  float *const most, *const total;  // [members][rows]
  float* const values;              // [members][count][rows]
  uint32_t* const symbols;
};

template <bool kNarrow>
class LikeliestPart {
 public:
  LikeliestPart(const LikeliestArguments& a, const LikeliestShared& shared, int member, int members, Barrier& barrier)
      : a_(a), shared_(shared), member_(member), members_(members), barrier_(barrier), room_(shared.room),
        symbols_(share_of(a.V, member, members, kColumns<kNarrow>)), stride_(((room_ + 15) / 16 | 1) * 16),
        most_(shared.most + member * room_), total_(shared.total + member * room_),
        values_(shared.values + member * room_ * a.count), found_(shared.symbols + member * room_ * a.count),
        scores_(arena_.take<float>(kTileSymbols<kNarrow> * stride_)), no_bias_(arena_.take<float>(kTileSymbols<kNarrow>)),
        packed_(arena_.take<Item>(packed_depth<kNarrow>(a.D) * room_)),
        narrow_(arena_.take<Item>(kNarrow ? kTileSymbols<kNarrow> * packed_depth<kNarrow>(a.D) : 0)) {
    std::fill(no_bias_, no_bias_ + kTileSymbols<kNarrow>, 0.0f);
  }

  void run() {
    for (int64_t first = 0; first < a_.N; first += room_) {
      const int64_t rows = std::min(room_, a_.N - first);
      search(a_.x + first * a_.D, rows);
      barrier_.wait();
      const Range mine = share_of(rows, member_, members_);
      for (int64_t r = mine.first; r < mine.last; ++r) merge(r, first + r);
      barrier_.wait();
    }
  }

 private:
  using Item = element<kNarrow>;
  static constexpr float kLeast = std::numeric_limits<float>::lowest();
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  void search(const float* x, int64_t rows) {
    const Panels lanes{rows, kTransposedVectors};
    const int64_t steps = packed_depth<kNarrow>(a_.D);
    pack_panels<kNarrow, true>(x, a_.D, a_.D, lanes, packed_, steps);
    std::fill(most_, most_ + room_, kLeast);
    std::fill(total_, total_ + room_, 0.0f);
    std::fill(values_, values_ + room_ * a_.count, kNone);
    std::fill(found_, found_ + room_ * a_.count, uint32_t(symbols_.first));
    const int64_t tiles = (symbols_.size() + kTileSymbols<kNarrow> - 1) / kTileSymbols<kNarrow>;
    const Item* from[kTileSymbols<kNarrow>];
    float* to[kTileSymbols<kNarrow>];
    for (int64_t t = 0; t < tiles; ++t) {
      const Range part = share_of(symbols_.size(), int(t), int(tiles), kColumns<kNarrow>);
      const int64_t begin = symbols_.first + part.first;
      for (int64_t i = 0; i < part.size(); ++i) from[i] = row(begin + i, narrow_ + i * steps), to[i] = scores_ + i * stride_;
      multiply<kNarrow>(part.size(), from, a_.D, packed_, lanes, to, Start::kZero, nullptr, true);
      for (int64_t r = 0; r < rows; r += W) take(begin, part.size(), r);
    }
  }

  // A symbol's weights, in pairs if need be.
  const Item* row(int64_t symbol, Item* room) const {
    if constexpr (kNarrow)
      if (a_.pairs) return a_.pairs + symbol * packed_depth<true>(a_.D);
    return entering_row<kNarrow>(a_.weight + symbol * a_.D, a_.D, room);
  }

  // A tile's symbols, for W rows.
  void take(int64_t begin, int64_t size, int64_t r) {
    const float* bias = a_.bias ? a_.bias + begin : no_bias_;
    vf most = splat(kLeast), total{};
    for (int64_t i = 0; i < size; ++i) {
      const vf score = load(scores_ + i * stride_ + r) + bias[i];
      if (any(score > load(values_ + (a_.count - 1) * room_ + r))) insert(score, uint32_t(begin + i), r);
      store(scores_ + i * stride_ + r, score);
      most = greater(most, score);
    }
    for (int64_t i = 0; i < size; ++i) total += vexp(load(scores_ + i * stride_ + r) - most);
    vf all_most = load(most_ + r), all_total = load(total_ + r);
    add_exponentials(all_most, all_total, most, total);
    store(most_ + r, all_most), store(total_ + r, all_total);
  }

  // Puts a symbol into its place in each of W lists; what it drives out goes on to the next place.
  void insert(vf score, uint32_t number, int64_t r) {
    vu symbol = splat(number);
    vi moves{};  // lanes in which the symbol has found its place: all that come after it move on
    for (int64_t k = 0; k < a_.count; ++k) {
      float* value = values_ + k * room_ + r;
      uint32_t* found = found_ + k * room_ + r;
      const vf held = load(value);
      const vu holder = load(found);
      moves |= score > held;
      store(value, select(moves, score, held)), store(found, moves ? symbol : holder);
      score = select(moves, held, score), symbol = moves ? holder : symbol;
    }
  }

  // Row r of the chunk, which is row n of all: what all members have found.
  void merge(int64_t r, int64_t n) {
    float most = kLeast, total = 0;
    for (int i = 0; i < members_; ++i) {
      vf all_most = splat(most), all_total = splat(total);
      add_exponentials(all_most, all_total, splat(shared_.most[i * room_ + r]), splat(shared_.total[i * room_ + r]));
      most = all_most[0], total = all_total[0];
    }
    const float log_partition = float(__builtin_log(double(total)) + double(most));
    a_.log_partition[n] = log_partition;
    std::vector<int64_t> heads(members_, 0);
    for (int64_t k = 0; k < a_.count; ++k) {
      int best = 0;
      for (int i = 1; i < members_; ++i)
        if (heads[i] < a_.count && (heads[best] == a_.count || value(i, r, heads[i]) > value(best, r, heads[best]))) best = i;
      a_.values[n * a_.count + k] = value(best, r, heads[best]) - log_partition;
      a_.symbols[n * a_.count + k] = shared_.symbols[(best * a_.count + heads[best]) * room_ + r];
      ++heads[best];
    }
  }

  float value(int member, int64_t r, int64_t k) const { return shared_.values[(member * a_.count + k) * room_ + r]; }

  const LikeliestArguments& a_;
  const LikeliestShared& shared_;
  const int member_, members_;
  Barrier& barrier_;
  const int64_t room_;
  const Range symbols_;
  const int64_t stride_;
  Arena arena_;
  float *const most_, *const total_;  // [room], own
  float* const values_;               // [count][room], own
  uint32_t* const found_;
  float* const scores_;   // [kTileSymbols<kNarrow>][stride]
  float* const no_bias_;  // [kTileSymbols<kNarrow>]
  Item* const packed_;    // [D][room]
  Item* const narrow_;    // [kTileSymbols<kNarrow>][D]
};

template <bool kNarrow>
void likeliest_as(const LikeliestArguments& a) {
  const double products = double(a.N) * double(a.V) * double(a.D);
  const int threads = int(std::min<double>(a.threads, 1 + products / 5e5));
  Arena arena;
  const int64_t panel = kTransposedVectors * W, chunks = (a.N - 1) / kChunkRows<kNarrow> + 1;  // one of no rows
  const LikeliestShared shared(arena, a.count, threads, ((a.N + chunks - 1) / chunks + panel - 1) / panel * panel);
  run_team(threads, [&](int member, Barrier& barrier, int members) {
    LikeliestPart<kNarrow>(a, shared, member, members, barrier).run();
  });
}

}  // namespace unspool::UNSPOOL_TARGET
