// The gated scan, backwards: the adjoint program and the transposed recurrent product for every step in one parallel
// region, then all weight gradients and the gradient of x as large products.
//
// The program writes the gradients of the gates over what the forward scan had saved. The gradient of h that a step hands
// to the one before it is gathered in `carry`.
#pragma once

#include <vector>

#include "gated_scan.h"
#include "scan_weight_gradients.h"

namespace unspool::UNSPOOL_TARGET {

// A weight [G*H, N] packed for the product with rows of gate gradients: panels of columns, gate after gate in depth.
template <bool kNarrow>
class ColumnWeights {
 public:
  ColumnWeights(const ScanArguments& a, std::vector<Range> tiles, int64_t columns, int64_t rows)
      : tiles_(std::move(tiles)), gates_(a.G), H_(a.H), columns_(columns), widest_(panel_vectors(rows)) {
    for (const Range& tile : tiles_) offsets_.push_back(size_), size_ += (tile.size() + W - 1) / W * W * steps();
  }
  int64_t size() const { return size_; }
  int64_t steps() const { return gates_ * packed_depth<kNarrow>(H_); }
  int64_t depth() const { return steps() * Element<kNarrow>::per; }
  void place(element<kNarrow>* packed) { packed_ = packed; }
  void pack(const float* weight, int64_t tile) {
    for (int64_t g = 0; g < gates_; ++g)
      pack_panels<kNarrow, false>(weight + g * H_ * columns_ + tiles_[tile].first, columns_, H_, panels(tile),
                                  packed_ + offsets_[tile], steps(), g * packed_depth<kNarrow>(H_));
  }
  const std::vector<Range>& tiles() const { return tiles_; }
  Panels panels(int64_t tile) const { return {tiles_[tile].size(), widest_}; }
  const element<kNarrow>* at(int64_t tile) const { return packed_ + offsets_[tile]; }

 private:
  std::vector<Range> tiles_;
  std::vector<int64_t> offsets_;
  int64_t size_ = 0, gates_, H_, columns_;
  int widest_;
  element<kNarrow>* packed_ = nullptr;
};

// What the threads of a backward scan share.
template <bool kNarrow>
struct BackwardShared {
  float* carry;               // [S][B][H]
  const float* zeros;         // [H]
  element<kNarrow>* fed[2];   // [B][G * packed H + 16]: gate gradients for the product, where a row of the buffer does not serve
  element<kNarrow>* weight_hh;
  element<kNarrow>* weight_ih;
  float* vector_totals;       // [threads][num_vectors][H]
};

inline constexpr int64_t kColumnTile = 256;  // columns of weight_ih that are packed together

template <bool kNarrow>
class BackwardScan {
 public:
  BackwardScan(const ScanArguments& a, const ScanGradients& grads, const EncodedProgram& program, const Rows& rows,
               ScanSplit split, const BackwardShared<kNarrow>& shared, int thread, int threads, Barrier& barrier)
      : a_(a), grads_(grads), rows_(rows), split_(split), shared_(shared), thread_(thread), threads_(threads),
        barrier_(barrier), share_(a, rows, split, thread, threads), machine_(program, a.H, arena_),
        recurrent_(a, {share_.units()}, a.H, rows_of_thread(a, split)),
        input_(a, tiles_of({0, a.I}, kColumnTile), a.I, kMaxRows) {}

  void run() {
    prepare();
    barrier_.wait();
    for (int64_t n = a_.T - 1; n >= 0; --n) step(n);
    finish();
    barrier_.wait();
    sum_vectors();
    WeightGradients<kNarrow>(a_, grads_, rows_, share_, thread_, threads_, arena_).run();
    input_gradients();
  }

  static bool feeds(const ScanArguments& a, const ScanGradients& grads) {
    if (!a.product) return false;
    for (int64_t g = 0; g < a.G; ++g)
      if (grads.h_slots[g] != g) return true;
    return kNarrow || crowds(a.B, a.slots * a.H);
  }
  static int64_t recurrent_size(const ScanArguments& a) {
    return ColumnWeights<kNarrow>(a, {{0, a.H}}, a.H, kMaxRows).size();
  }
  static int64_t input_size(const ScanArguments& a) {
    return ColumnWeights<kNarrow>(a, tiles_of({0, a.I}, kColumnTile), a.I, kMaxRows).size();
  }

 private:
  int64_t time(int64_t n) const { return a_.reverse ? a_.T - 1 - n : n; }
  bool meets_in_rows() const { return split_.by_units() && machine_.whole_rows(); }
  float* carry(int64_t j, int64_t own) const { return shared_.carry + (j * a_.B + share_.place(own)) * a_.H; }
  float* totals() const { return shared_.vector_totals + thread_ * a_.num_vectors * a_.H; }

  void prepare() {
    const int64_t sequences = std::max<int64_t>(1, share_.sequences());
    from_.resize(sequences), to_.resize(sequences);
    width_ = machine_.width();
    aside_ = arena_.take<float>((a_.num_vectors + a_.num_steps + a_.num_sequences + 1) * width_);
    if (a_.product) {
      recurrent_.place(split_.by_units() ? arena_.take<element<kNarrow>>(recurrent_.size()) : shared_.weight_hh);
      if (split_.by_units() || thread_ == 0) recurrent_.pack(a_.weight_hh, 0);
    }
    if (a_.weight_ih && grads_.x) {
      input_.place(shared_.weight_ih);
      for (int64_t i = 0; i < int64_t(input_.tiles().size()); ++i)
        if ((i + 1) % threads_ == thread_) input_.pack(a_.weight_ih, i);
    }
    if (a_.mask) masked_ = arena_.take<float>(std::min<int64_t>(sequences, 60) * share_.units().size());
    std::fill(totals(), totals() + a_.num_vectors * a_.H, 0.0f);
    const Range units = share_.units();
    for (int64_t own = 0; own < share_.sequences(); ++own) {
      const int64_t b = share_.sequence(own);
      for (int64_t j = 0; j < a_.S; ++j) {
        std::fill(carry(j, own) + units.first, carry(j, own) + units.last, 0.0f);
        if (grads_.reset_state) fill_own(grads_.reset_state, j, b);
      }
      for (int64_t q = 0; q < a_.num_sequences && grads_.sequences; ++q) fill_own(grads_.sequences, q, b);
    }
  }
  void fill_own(float* tensor, int64_t j, int64_t b) {
    float* row = tensor + (j * a_.B + b) * a_.H;
    std::fill(row + share_.units().first, row + share_.units().last, 0.0f);
  }

  void step(int64_t n) {
    const int64_t t = time(n), active = share_.active(t);
    const Range units = share_.units();
    for (int64_t own = active; own < share_.sequences(); ++own)  // a state that stands still hands its gradient on
      for (int64_t j = 0; j < a_.S; ++j) {
        const float* given = outer(j, t, share_.sequence(own));
        float* sum = carry(j, own);
        for (int64_t u = units.first; u < units.last && given; ++u) sum[u] += given[u];
      }
    if (meets_in_rows()) {
      for (int64_t i = thread_; i < active; i += threads_) run_program(n, i, {0, a_.H});
    } else {
      for (int64_t u = units.first; u < units.last; u += width_) {
        const Range tile{u, std::min(units.last, u + width_)};
        for (int64_t i = 0; i < active; ++i) run_program(n, i, tile);
      }
    }
    if (split_.by_units() && (a_.product || meets_in_rows())) barrier_.wait();
    if (a_.product) multiply_recurrent(n, active);
    for (int64_t i = 0; i < active && a_.reset; ++i) take_reset(t, i);
    if (meets_in_rows()) barrier_.wait();
  }

  const float* outer(int64_t j, int64_t t, int64_t b) const {
    return grads_.states[j] ? grads_.states[j] + (t * a_.B + b) * a_.H : nullptr;
  }

  void run_program(int64_t n, int64_t own, Range units) {
    const int64_t t = time(n), b = share_.sequence(own), u = units.first;
    float* row = share_.buffer(t, own) + u;
    int64_t i = 0;
    for (int64_t r = 0; r < a_.saved; ++r) machine_.input(i++, row + r * a_.H);
    for (int64_t j = 0; j < a_.S; ++j) machine_.input(i++, share_.before(j, t, b) + u);
    for (int64_t j = 0; j < a_.S; ++j) machine_.input(i++, share_.state(j, t, b) + u);
    i = share_.point_others(machine_, i, t, b, u);
    for (int64_t j = 0; j < a_.S; ++j) {
      const float* given = outer(j, t, b);
      machine_.input(i++, given ? given + u : shared_.zeros);
    }
    for (int64_t j = 0; j < a_.S; ++j) machine_.input(i++, carry(j, own) + u);

    int64_t o = 0;
    for (int64_t g = 0; g < a_.G; ++g) machine_.output(o++, row + g * a_.H);
    for (int64_t g = 0; g < a_.G && a_.product; ++g)
      if (grads_.h_slots[g] != g) machine_.output(o++, row + grads_.h_slots[g] * a_.H);
    for (int64_t j = 0; j < a_.S; ++j) machine_.output(o++, carry(j, own) + u);
    float* aside = aside_;
    for (int64_t p = 0; p < a_.num_vectors; ++p, aside += width_) machine_.output(o++, aside);
    for (int64_t k = 0; k < a_.num_steps; ++k, aside += width_)
      machine_.output(o++, grads_.steps ? grads_.steps + ((k * a_.T + t) * a_.B + b) * a_.H + u : aside);
    for (int64_t q = 0; q < a_.num_sequences; ++q, aside += width_) machine_.output(o++, aside);
    machine_.run(units.size());

    aside = aside_;
    for (int64_t p = 0; p < a_.num_vectors; ++p, aside += width_) add(totals() + p * a_.H + u, aside, units.size());
    aside += a_.num_steps * width_;
    for (int64_t q = 0; q < a_.num_sequences && grads_.sequences; ++q, aside += width_)
      add(grads_.sequences + (q * a_.B + b) * a_.H + u, aside, units.size());
    if (feeds(a_, grads_)) feed(n, own, row, units);
  }

  static void add(float* sum, const float* part, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sum[i] += part[i];
  }

  // Copies a row's gate gradients to where the product reads them: gate after gate, narrow where it is.
  void feed(int64_t n, int64_t own, const float* row, Range units) {
    const int64_t depth = packed_depth<kNarrow>(a_.H);
    element<kNarrow>* to = shared_.fed[n % 2] + share_.place(own) * (a_.G * depth + 16);
    for (int64_t g = 0; g < a_.G; ++g, to += depth) {
      const float* from = row + grads_.h_slots[g] * a_.H;
      if constexpr (kNarrow) {
        narrow_row(from, units.size(), to + units.first / 2);
      } else {
        std::copy(from, from + units.size(), to + units.first);
      }
    }
  }

  void multiply_recurrent(int64_t n, int64_t active) {
    const int64_t t = time(n);
    const Range units = share_.units();
    for (int64_t i = 0; i < active; ++i) {
      if (feeds(a_, grads_)) {
        from_[i] = shared_.fed[n % 2] + share_.place(i) * (recurrent_.steps() + 16);
      } else if constexpr (!kNarrow) {
        from_[i] = share_.buffer(t, i);
      }
      to_[i] = carry(0, i) + units.first;
    }
    if (!a_.mask) {
      multiply<kNarrow>(active, from_.data(), recurrent_.depth(), recurrent_.at(0), recurrent_.panels(0), to_.data(),
                        Start::kAccumulate, nullptr, false, n % 2);
      return;
    }
    for (int64_t first = 0; first < active; first += 60) {
      const int64_t count = std::min<int64_t>(60, active - first);
      for (int64_t i = 0; i < count; ++i) to_[i] = masked_ + i * units.size();
      multiply<kNarrow>(count, from_.data() + first, recurrent_.depth(), recurrent_.at(0), recurrent_.panels(0),
                        to_.data(), Start::kZero, nullptr, false, n % 2);
      for (int64_t i = 0; i < count; ++i) {
        const float* mask = share_.mask(share_.sequence(first + i)) + units.first;
        float* sum = carry(0, first + i) + units.first;
        for (int64_t u = 0; u < units.size(); ++u) sum[u] += mask[u] * to_[i][u];
      }
    }
  }

  void take_reset(int64_t t, int64_t own) {
    const int64_t b = share_.sequence(own);
    if (!share_.resets(t, b)) return;
    const Range units = share_.units();
    for (int64_t j = 0; j < a_.S; ++j) {
      float* sum = carry(j, own);
      if (grads_.reset_state)
        add(grads_.reset_state + (j * a_.B + b) * a_.H + units.first, sum + units.first, units.size());
      std::fill(sum + units.first, sum + units.last, 0.0f);
    }
  }

  void finish() {
    const Range units = share_.units();
    for (int64_t own = 0; own < share_.sequences() && grads_.initial; ++own)
      for (int64_t j = 0; j < a_.S; ++j)
        std::copy(carry(j, own) + units.first, carry(j, own) + units.last,
                  grads_.initial + (j * a_.B + share_.sequence(own)) * a_.H + units.first);
  }

  void sum_vectors() {
    if (thread_ != 0 || !grads_.vectors) return;
    const int64_t count = a_.num_vectors * a_.H;
    std::copy(shared_.vector_totals, shared_.vector_totals + count, grads_.vectors);
    for (int i = 1; i < threads_; ++i) add(grads_.vectors, shared_.vector_totals + i * count, count);
  }

  // dx = dG W_ih for all real rows, zero beyond the lengths; without weight_ih, x is the gates and its gradient is dG.
  void input_gradients() {
    if (!grads_.x) return;
    const int64_t width = a_.weight_ih ? a_.I : a_.G * a_.H;
    const Range steps = share_of(a_.T, thread_, threads_);
    constexpr int64_t kBlock = 240;
    std::vector<const element<kNarrow>*> from(kBlock);
    std::vector<float*> to(kBlock), part(kBlock);
    auto* narrow = kNarrow && a_.weight_ih ? arena_.take<element<kNarrow>>(kBlock * input_.steps()) : nullptr;
    int64_t count = 0;
    auto flush = [&] {
      for (int64_t tile = 0; tile < int64_t(input_.tiles().size()) && count; ++tile) {
        for (int64_t i = 0; i < count; ++i) part[i] = to[i] + input_.tiles()[tile].first;
        multiply<kNarrow>(count, from.data(), input_.depth(), input_.at(tile), input_.panels(tile), part.data(),
                          Start::kZero, nullptr, false);
      }
      count = 0;
    };
    for (int64_t t = steps.first; t < steps.last; ++t)
      for (int64_t i = 0; i < a_.B; ++i) {
        float* to_row = grads_.x + (t * a_.B + rows_.order[i]) * width;
        if (i >= rows_.count[t]) {
          std::fill(to_row, to_row + width, 0.0f);
          continue;
        }
        const float* row = a_.buffer + (rows_.start[t] + i) * a_.slots * a_.H;
        if (!a_.weight_ih) {
          std::copy(row, row + width, to_row);
          continue;
        }
        if constexpr (kNarrow) {
          element<kNarrow>* pairs = narrow + count * input_.steps();
          from[count] = pairs;
          for (int64_t g = 0; g < a_.G; ++g, pairs += packed_depth<kNarrow>(a_.H)) narrow_row(row + g * a_.H, a_.H, pairs);
        } else {
          from[count] = row;
        }
        to[count++] = to_row;
        if (count == kBlock) flush();
      }
    flush();
  }

  const ScanArguments& a_;
  const ScanGradients& grads_;
  const Rows& rows_;
  const ScanSplit split_;
  const BackwardShared<kNarrow>& shared_;
  const int thread_, threads_;
  Barrier& barrier_;
  Arena arena_;
  Share share_;
  Machine machine_;
  ColumnWeights<kNarrow> recurrent_, input_;
  int64_t width_ = kTile;
  float *aside_ = nullptr, *masked_ = nullptr;
  std::vector<const element<kNarrow>*> from_;
  std::vector<float*> to_;
};

template <bool kNarrow>
void scan_backward_as(const ScanArguments& a, const ScanGradients& grads, const EncodedProgram& program) {
  const Rows rows(a.T, a.B, a.lengths);
  const ScanSplit split = choose_split(a, double(rows.total()));
  Arena arena;
  using Scan = BackwardScan<kNarrow>;
  BackwardShared<kNarrow> shared{};
  shared.carry = arena.take<float>(a.S * a.B * a.H);
  float* zeros = arena.take<float>(a.H);
  std::fill(zeros, zeros + a.H, 0.0f);
  shared.zeros = zeros;
  if (Scan::feeds(a, grads))
    for (auto& fed : shared.fed)
      fed = arena.take<element<kNarrow>>(a.B * (a.G * packed_depth<kNarrow>(a.H) + 16));
  if (!split.by_units() && a.product) shared.weight_hh = arena.take<element<kNarrow>>(Scan::recurrent_size(a));
  if (a.weight_ih && grads.x) shared.weight_ih = arena.take<element<kNarrow>>(Scan::input_size(a));
  shared.vector_totals = arena.take<float>(split.threads * a.num_vectors * a.H);
  run_team(split.threads, [&](int thread, Barrier& barrier, int threads) {
    Scan(a, grads, program, rows, split, shared, thread, threads, barrier).run();
  });
}

}  // namespace unspool::UNSPOOL_TARGET
