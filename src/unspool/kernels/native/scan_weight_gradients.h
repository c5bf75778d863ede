// The last part of a backward scan: gradients of the weights and biases, as products over all real steps at once.
#pragma once

#include <vector>

#include "gated_scan.h"

namespace unspool::UNSPOOL_TARGET {

// One thread's share: some columns of the gate gradients, which are rows of the weights.
template <bool kNarrow>
class WeightGradients {
 public:
  WeightGradients(const ScanArguments& a, const ScanGradients& grads, const Rows& rows, const Share& share, int thread,
                  int threads, Arena& arena)
      : a_(a), grads_(grads), rows_(rows), share_(share), thread_(thread), threads_(threads), arena_(arena) {}

  // dW = sum over all real rows of dG^T [h before | x], in blocks of rows; the columns of dG are shared by the threads.
  void run() {
    const bool for_x = grads_.weight_ih || grads_.bias_ih, for_h = grads_.weight_hh || grads_.bias_hh;
    if (!for_x && !for_h) return;
    std::vector<Group> groups;
    for (int64_t g = 0; g < a_.G; ++g)
      each_tile(a_.H, kColumns<kNarrow>, [&](int64_t first, int count) { groups.push_back({g, first, count}); });
    const Range mine = share_of(groups.size(), thread_, threads_);
    for (int64_t i = mine.first; i < mine.last; ++i) clear(groups[i]);
    constexpr int64_t kBlock = kDepth * Element<kNarrow>::per, kTogether = 16;  // rows of data; groups of columns
    const Panels h_panels{a_.H, kTransposedVectors}, x_panels{a_.I, kTransposedVectors};
    constexpr int64_t kPart = kDepth * kColumns<kNarrow> + W;
    auto* packed_g = arena_.take<element<kNarrow>>(kTogether * kPart);
    auto* packed_h = arena_.take<element<kNarrow>>(grads_.weight_hh ? kDepth * h_panels.padded() : 0);
    auto* packed_x = arena_.take<element<kNarrow>>(grads_.weight_ih ? kDepth * x_panels.padded() : 0);
    float* masked = a_.mask && grads_.weight_hh ? arena_.take<float>(kBlock * a_.H) : nullptr;
    std::vector<const float*> g_rows(kBlock), gate_rows(kBlock), h_rows(kBlock), x_rows(kBlock);
    std::vector<PackedColumns<kNarrow>> parts;
    int64_t count = 0;
    bool first = true;
    // Packs the gradients of some groups, from slots of their own or of their h-part, and multiplies them with one side.
    auto gather = [&](Range some, bool of_h, float* totals) {
      for (int64_t i = some.first; i < some.last; ++i) {
        const Group& group = groups[i];
        const int64_t slot = of_h ? grads_.h_slots[group.gate] : group.gate;
        for (int64_t k = 0; k < count; ++k) gate_rows[k] = g_rows[k] + slot * a_.H;
        pack_transposed<kNarrow>(gate_rows.data(), count, a_.H, group.first, group.count,
                                 packed_g + (i - some.first) * kPart, totals ? totals + group.gate * a_.H : nullptr);
      }
    };
    auto multiply_with = [&](Range some, const element<kNarrow>* packed, Panels panels, float* weight) {
      if (!weight) return;
      parts.clear();
      for (int64_t i = some.first; i < some.last; ++i)
        parts.push_back({groups[i].count, packed_g + (i - some.first) * kPart,
                         weight + (groups[i].gate * a_.H + groups[i].first) * panels.columns});
      multiply_transposed<kNarrow>(parts, count, packed, panels, panels.columns,
                                   first ? Start::kZero : Start::kAccumulate);
    };
    auto flush = [&] {
      if (!count) return;
      if (grads_.weight_hh) pack_rows<kNarrow>(h_rows.data(), count, h_panels, packed_h);
      if (grads_.weight_ih) pack_rows<kNarrow>(x_rows.data(), count, x_panels, packed_x);
      for (int64_t i = mine.first; i < mine.last;) {
        const bool same = same_gradient(groups[i].gate);
        Range some{i, i};
        while (some.last < mine.last && some.size() < kTogether && groups[some.last].gate == groups[i].gate) ++some.last;
        if (for_x || same) gather(some, false, grads_.bias_ih ? grads_.bias_ih : same ? grads_.bias_hh : nullptr);
        multiply_with(some, packed_x, x_panels, grads_.weight_ih);
        if (!same && for_h) gather(some, true, grads_.bias_hh);
        multiply_with(some, packed_h, h_panels, grads_.weight_hh);
        i = some.last;
      }
      first = false;
      count = 0;
    };
    for (int64_t t = 0; t < a_.T; ++t)
      for (int64_t i = 0; i < rows_.count[t]; ++i) {
        const int64_t b = rows_.order[i];
        g_rows[count] = a_.buffer + (rows_.start[t] + i) * a_.slots * a_.H;
        x_rows[count] = share_.x(t, b);
        if (grads_.weight_hh) h_rows[count] = share_.before(0, t, b);
        if (masked) {
          float* row = masked + count * a_.H;
          for (int64_t u = 0; u < a_.H; ++u) row[u] = h_rows[count][u] * a_.mask[b * a_.H + u];
          h_rows[count] = row;
        }
        if (++count == kBlock) flush();
      }
    flush();
    for (int64_t i = mine.first; i < mine.last && grads_.bias_hh && grads_.bias_ih; ++i)
      if (same_gradient(groups[i].gate)) {  // the same gradient, summed once
        const int64_t row = groups[i].gate * a_.H + groups[i].first;
        std::copy(grads_.bias_ih + row, grads_.bias_ih + row + groups[i].count, grads_.bias_hh + row);
      }
  }

 private:
  // Whether a gate's h-gradient is its x-gradient.
  bool same_gradient(int64_t gate) const { return grads_.h_slots.empty() || grads_.h_slots[gate] == gate; }

  struct Group {  // some columns of one gate
    int64_t gate, first;
    int count;
  };

  void clear(const Group& group) {
    const int64_t row = group.gate * a_.H + group.first;
    auto zero = [&](float* tensor, int64_t columns) {
      if (tensor) std::fill(tensor + row * columns, tensor + (row + group.count) * columns, 0.0f);
    };
    zero(grads_.bias_ih, 1), zero(grads_.bias_hh, 1);
    if (rows_.total() == 0) zero(grads_.weight_ih, a_.I), zero(grads_.weight_hh, a_.H);
  }

  const ScanArguments& a_;
  const ScanGradients& grads_;
  const Rows& rows_;
  const Share& share_;
  const int thread_, threads_;
  Arena& arena_;
};

}  // namespace unspool::UNSPOOL_TARGET
