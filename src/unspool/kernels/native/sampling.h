// Drawing one symbol from logits: temperature, top-k, top-p, and numbers from a counter.
//
// Top-k: Fan et al. 2018 (arXiv 1805.04833). Top-p: Holtzman et al. 2019 (arXiv 1904.09751). The same distributions as
// unspool.search.filter_logits; of equally likely symbols the first ranks higher.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "chance.h"
#include "simd.h"
#include "stream_arguments.h"
#include "vector_math.h"

namespace unspool::UNSPOOL_TARGET {

// Draws for one thread; keeps its room from symbol to symbol.
class Sampler {
 public:
  explicit Sampler(int64_t symbols)
      : symbols_(symbols), weights_((symbols + W - 1) / W * W), ranked_(symbols) {}

  // A symbol, or -1 where there is none to draw. Overwrites the forbidden ones of `logits`, which has room for whole
  // vectors.
  int64_t draw(float* logits, const WriteArguments& a, uint64_t place, uint64_t row) {
    for (const int64_t symbol : a.forbidden) logits[symbol] = -std::numeric_limits<float>::infinity();
    const int64_t best = likeliest(logits);
    if (best < 0) return -1;
    if (a.temperature == 0.0f) return best;
    const double total = weigh(logits, logits[best], a.temperature);
    if (!(total < std::numeric_limits<double>::infinity())) return -1;
    const double chance = uniform(a.seed, place, row);
    const bool ranks_top = a.top_k > 0 && a.top_k < symbols_, ranks_nucleus = a.top_p < 1.0;
    if (!ranks_top && !ranks_nucleus) return walk(chance * total);
    for (int64_t i = 0; i < symbols_; ++i) ranked_[i] = {weights_[i], logits[i], static_cast<int32_t>(i)};
    int64_t kept = symbols_;
    double mass = total;
    if (ranks_top) {
      kept = a.top_k;
      std::nth_element(ranked_.begin(), ranked_.begin() + kept, ranked_.end(), above);
      mass = sum(0, kept);
    }
    if (ranks_nucleus) {
      kept = nucleus(kept, a.top_p * mass);
      mass = sum(0, kept);
    }
    return walk_ranked(kept, chance * mass);
  }

 private:
  struct Ranked {
    float weight, logit;
    int32_t symbol;
  };
  static bool above(const Ranked& a, const Ranked& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.symbol < b.symbol);
  }

  // The first of the largest logits; -1 where it is no finite number, or where a logit is NaN.
  int64_t likeliest(const float* logits) const {
    int64_t best = 0;
    bool numbers = true;
    for (int64_t i = 0; i < symbols_; ++i) {
      numbers &= logits[i] == logits[i];
      if (logits[i] > logits[best]) best = i;
    }
    return numbers && std::isfinite(logits[best]) ? best : -1;
  }

  // Weights in proportion to the probabilities at the temperature, the likeliest's 1; returns their sum.
  double weigh(const float* logits, float most, float temperature) {
    for (int64_t i = 0; i < symbols_; i += W) {
      const vf scaled = (load(logits + i) - most) / temperature;
      store(weights_.data() + i, select(scaled < -87.0f, vf{}, vexp(scaled)));
    }
    double total = 0;
    for (int64_t i = 0; i < symbols_; ++i) total += weights_[i];
    return total;
  }

  int64_t walk(double limit) const {
    int64_t last = 0;
    for (int64_t i = 0; i < symbols_; ++i) {
      if (weights_[i] <= 0.0f) continue;
      last = i;
      limit -= weights_[i];
      if (limit < 0) break;
    }
    return last;
  }

  int64_t walk_ranked(int64_t count, double limit) const {
    int64_t last = ranked_[0].symbol;
    for (int64_t i = 0; i < count; ++i) {
      if (ranked_[i].weight <= 0.0f) continue;
      last = ranked_[i].symbol;
      limit -= ranked_[i].weight;
      if (limit < 0) break;
    }
    return last;
  }

  double sum(int64_t first, int64_t last) const {
    double total = 0;
    for (int64_t i = first; i < last; ++i) total += ranked_[i].weight;
    return total;
  }

  // Brings to the front those of the first `count` that come, in falling order, before the sum has reached `target`.
  // Halves what is in question each time, so that most symbols are never sorted.
  int64_t nucleus(int64_t count, double target) {
    int64_t first = 0, last = count;
    double before = 0;
    while (last - first > 32) {
      const int64_t middle = (first + last) / 2;
      std::nth_element(ranked_.begin() + first, ranked_.begin() + middle, ranked_.begin() + last, above);
      const double mass = sum(first, middle);
      if (before + mass >= target) {
        last = middle;
      } else {
        before += mass, first = middle;
      }
    }
    std::sort(ranked_.begin() + first, ranked_.begin() + last, above);
    while (first < last && (first == 0 || before < target)) before += ranked_[first++].weight;
    return first;
  }

  const int64_t symbols_;
  std::vector<float> weights_;
  std::vector<Ranked> ranked_;
};

}  // namespace unspool::UNSPOOL_TARGET
