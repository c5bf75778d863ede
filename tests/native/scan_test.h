// Tests of whole gated scans, forwards and backwards, against plain loops in double precision: six cells with every
// option, for one, two and three threads that share the work by units and by sequences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "check.h"
#include "gated_scan_backward.h"
#include "programs.h"

namespace scan_test {

using namespace unspool;
using namespace unspool::UNSPOOL_TARGET;

using Row = std::vector<double>;  // [H]
using Values = std::vector<Row>;

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// What a cell is here: new states from x- and h-parts of the gates, states and others; and, for cotangents d of the new
// states, the gradients of x, h, s and others, each a list of rows. Others: a vector, a step's value, a sequence's.
struct Gradients {
  Values x, h, s, others;
};
struct Cell {
  const Programs* programs;
  void (*step)(const Values& x, const Values& h, const Values& s, const Values& others, Values& out);
  void (*back)(const Values& x, const Values& h, const Values& s, const Values& others, const Values& d, Gradients& g);
};

inline double mean(const Row& row) {
  double sum = 0.0;
  for (const double value : row) sum += value;
  return sum / static_cast<double>(row.size());
}

inline const Cell kRnn = {
    &rnn_programs,
    [](const Values& x, const Values& h, const Values&, const Values&, Values& out) {
      for (size_t u = 0; u < x[0].size(); ++u) out[0][u] = std::tanh(x[0][u] + h[0][u]);
    },
    [](const Values& x, const Values& h, const Values&, const Values&, const Values& d, Gradients& g) {
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double y = std::tanh(x[0][u] + h[0][u]);
        g.x[0][u] = g.h[0][u] = d[0][u] * (1 - y * y);
        g.s[0][u] = 0.0;
      }
    }};

inline const Cell kLstm = {
    &lstm_programs,
    [](const Values& x, const Values& h, const Values& s, const Values&, Values& out) {
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double i = sigmoid(x[0][u] + h[0][u]), f = sigmoid(x[1][u] + h[1][u]);
        const double k = std::tanh(x[2][u] + h[2][u]), o = sigmoid(x[3][u] + h[3][u]);
        out[1][u] = f * s[1][u] + i * k;
        out[0][u] = o * std::tanh(out[1][u]);
      }
    },
    [](const Values& x, const Values& h, const Values& s, const Values&, const Values& d, Gradients& g) {
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double i = sigmoid(x[0][u] + h[0][u]), f = sigmoid(x[1][u] + h[1][u]);
        const double k = std::tanh(x[2][u] + h[2][u]), o = sigmoid(x[3][u] + h[3][u]);
        const double y = std::tanh(f * s[1][u] + i * k), dc = d[1][u] + d[0][u] * o * (1 - y * y);
        const double gates[4] = {dc * k * i * (1 - i), dc * s[1][u] * f * (1 - f), dc * i * (1 - k * k),
                                 d[0][u] * y * o * (1 - o)};
        for (int j = 0; j < 4; ++j) g.x[j][u] = g.h[j][u] = gates[j];
        g.s[0][u] = 0.0;
        g.s[1][u] = dc * f;
      }
    }};

inline const Cell kGru = {
    &gru_programs,
    [](const Values& x, const Values& h, const Values& s, const Values&, Values& out) {
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double r = sigmoid(x[0][u] + h[0][u]), z = sigmoid(x[1][u] + h[1][u]);
        out[0][u] = (1 - z) * std::tanh(x[2][u] + r * h[2][u]) + z * s[0][u];
      }
    },
    [](const Values& x, const Values& h, const Values& s, const Values&, const Values& d, Gradients& g) {
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double r = sigmoid(x[0][u] + h[0][u]), z = sigmoid(x[1][u] + h[1][u]);
        const double n = std::tanh(x[2][u] + r * h[2][u]), dn = d[0][u] * (1 - z) * (1 - n * n);
        g.x[0][u] = g.h[0][u] = dn * h[2][u] * r * (1 - r);
        g.x[1][u] = g.h[1][u] = d[0][u] * (s[0][u] - n) * z * (1 - z);
        g.x[2][u] = dn;
        g.h[2][u] = dn * r;
        g.s[0][u] = d[0][u] * z;
      }
    }};

inline const Cell kEverything = {
    &everything_programs,
    [](const Values& x, const Values& h, const Values& s, const Values& others, Values& out) {
      const double middle = mean(h[0]);
      for (size_t u = 0; u < x[0].size(); ++u)
        out[0][u] = std::tanh(x[0][u] + h[0][u] - middle) * others[0][u] + others[1][u] + others[2][u] * s[0][u];
    },
    [](const Values& x, const Values& h, const Values& s, const Values& others, const Values& d, Gradients& g) {
      const double middle = mean(h[0]);
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double y = std::tanh(x[0][u] + h[0][u] - middle);
        g.x[0][u] = d[0][u] * others[0][u] * (1 - y * y);
        g.s[0][u] = d[0][u] * others[2][u];
        g.others[0][u] = d[0][u] * y;
        g.others[1][u] = d[0][u];
        g.others[2][u] = d[0][u] * s[0][u];
      }
      const double slope = mean(g.x[0]);
      for (size_t u = 0; u < x[0].size(); ++u) g.h[0][u] = g.x[0][u] - slope;
    }};

inline const Cell kMultiplicative = {
    &multiplicative_programs,
    [](const Values& x, const Values& h, const Values& s, const Values&, Values& out) {
      for (size_t u = 0; u < x[0].size(); ++u) out[0][u] = x[0][u] * h[0][u] + 0.5 * s[0][u];
    },
    [](const Values& x, const Values& h, const Values&, const Values&, const Values& d, Gradients& g) {
      for (size_t u = 0; u < x[0].size(); ++u) {
        g.x[0][u] = d[0][u] * h[0][u];
        g.h[0][u] = d[0][u] * x[0][u];
        g.s[0][u] = d[0][u] * 0.5;
      }
    }};

inline const Cell kWithoutProduct = {
    &without_product_programs,
    [](const Values& x, const Values&, const Values& s, const Values&, Values& out) {
      const double middle = mean(x[0]);
      for (size_t u = 0; u < x[0].size(); ++u) out[0][u] = std::tanh(x[0][u] - middle + s[0][u]);
    },
    [](const Values& x, const Values&, const Values& s, const Values&, const Values& d, Gradients& g) {
      const double middle = mean(x[0]);
      for (size_t u = 0; u < x[0].size(); ++u) {
        const double y = std::tanh(x[0][u] - middle + s[0][u]);
        g.s[0][u] = d[0][u] * (1 - y * y);
      }
      const double slope = mean(g.s[0]);
      for (size_t u = 0; u < x[0].size(); ++u) g.x[0][u] = g.s[0][u] - slope;
    }};

struct Options {
  int64_t T, B, I, H;
  bool reverse = false, lengths = false, resets = false, mask = false, narrow = false, gates_given = false;
};

inline std::vector<float> numbers(int64_t count, uint32_t seed, float size = 1.0f) {
  std::vector<float> made(count);
  for (float& x : made) {
    seed = seed * 1664525u + 1013904223u;
    x = (static_cast<float>(seed >> 8) / static_cast<float>(1 << 23) - 1.0f) * size;
  }
  return made;
}

// The tensors of one pass, their gradients, and the same from the plain loop.
class Pass {
 public:
  Pass(const Cell& cell, const Options& o) : cell_(cell), p_(*cell.programs), o_(o) {
    const int64_t rows = p_.G * o.H;
    width_ = o.gates_given ? rows : o.I;
    const float small = 1.0f / std::sqrt(static_cast<float>(o.H));
    x = numbers(o.T * o.B * width_, 1), initial = numbers(p_.S * o.B * o.H, 2), fresh = numbers(p_.S * o.B * o.H, 3);
    if (!o.gates_given) weight_ih = numbers(rows * o.I, 4, small), bias_ih = numbers(rows, 5);
    if (p_.products) weight_hh = numbers(rows * o.H, 6, small), bias_hh = numbers(rows, 7);
    vectors = numbers(p_.vectors * o.H, 8), steps = numbers(p_.steps * o.T * o.B * o.H, 9);
    sequences = numbers(p_.sequences * o.B * o.H, 10);
    for (int64_t i = 0; i < o.B * o.H && o.mask; ++i) mask.push_back(i % 3 ? 1.5f : 0.0f);
    length.assign(o.B, o.T);
    for (int64_t b = 0; b < o.B && o.lengths; ++b) length[b] = (b * 3 + 2) % (o.T + 1);  // some whole, some empty
    for (int64_t i = 0; i < o.T * o.B && o.resets; ++i) reset.push_back((i * 7 + 3) % 4 == 0 && i / o.B < length[i % o.B]);
    for (int64_t t = 0; t < o.T; ++t)
      for (int64_t b = 0; b < o.B; ++b)
        if (t >= length[b]) std::fill_n(x.begin() + (t * o.B + b) * width_, width_, kNan);  // never read
    for (int64_t j = 0; j < p_.S; ++j) given.push_back(numbers(o.T * o.B * o.H, 11 + j));
    if (p_.S > 1) given[1].clear();  // nothing comes to the second state from outside
    expect();
  }

  // Runs the engine and compares; `threads` of a team, shared as `split` says.
  void run(int threads, int split) {
    const int64_t real = [&] { int64_t sum = 0; for (int64_t n : length) sum += n; return sum; }();
    std::vector<std::vector<float>> states(p_.S, std::vector<float>(o_.T * o_.B * o_.H, kNan));
    std::vector<float> buffer(real * p_.slots * o_.H, kNan);
    ScanArguments a{o_.T, o_.B, width_, o_.H, p_.G, p_.S, p_.vectors, p_.steps, p_.sequences, 0, p_.slots,
                    p_.products > 0, o_.narrow, o_.reverse, threads, Sharing(split), at(x), at(weight_ih), at(bias_ih), at(weight_hh),
                    at(bias_hh), at(initial), at(vectors), at(steps), at(sequences), at(mask),
                    o_.lengths ? length.data() : nullptr, o_.resets ? reinterpret_cast<const bool*>(reset.data()) : nullptr,
                    o_.resets ? at(fresh) : nullptr, {}, nullptr, &kept_};
    for (auto& state : states) a.states.push_back(state.data());
    forward(a, p_.inference);
    forward(a, p_.inference);  // with weights that are packed already
    a.kept = nullptr;
    for (int64_t j = 0; j < p_.S; ++j) compare("state in inference", j, states[j], want_states_[j], threads, split);
    for (auto& state : states) std::fill(state.begin(), state.end(), kNan);
    if (real) a.saved = p_.saved, a.buffer = buffer.data();
    forward(a, p_.training);
    for (int64_t j = 0; j < p_.S; ++j) compare("state", j, states[j], want_states_[j], threads, split);
    if (!real) return;

    std::vector<std::vector<float>> found;
    for (const auto& wanted : want_) found.emplace_back(wanted.size(), kNan);
    std::fill(found[kSteps].begin(), found[kSteps].end(), 0.0f);  // as native_scan.py has it beyond the lengths
    ScanGradients grads{};
    for (auto& g : given) grads.states.push_back(at(g));
    grads.h_slots = p_.h_slots;
    float** places[] = {&grads.x, &grads.weight_ih, &grads.bias_ih, &grads.weight_hh, &grads.bias_hh, &grads.initial,
                        &grads.vectors, &grads.steps, &grads.sequences, &grads.reset_state};
    for (int i = 0; i < kCount; ++i) *places[i] = found[i].empty() ? nullptr : found[i].data();
    if (o_.narrow) {
      scan_backward_as<true>(a, grads, p_.backward);
    } else {
      scan_backward_as<false>(a, grads, p_.backward);
    }
    for (int i = 0; i < kCount; ++i) compare("gradient", i, found[i], want_[i], threads, split);
  }

 private:
  KeptWeights kept_;  // by all ways of sharing the work in turn
  enum { kX, kWeightIh, kBiasIh, kWeightHh, kBiasHh, kInitial, kVectors, kSteps, kSequences, kFresh, kCount };
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

  static const float* at(const std::vector<float>& tensor) { return tensor.empty() ? nullptr : tensor.data(); }

  void forward(const ScanArguments& a, const EncodedProgram& program) const {
    if (o_.narrow) {
      scan_forward_as<true>(a, program);
    } else {
      scan_forward_as<false>(a, program);
    }
  }

  void compare(const char* what, int64_t which, const std::vector<float>& found, const Row& wanted, int threads,
               int split) const {
    double size = 1.0, worst = 0.0;
    for (const double value : wanted) size = std::max(size, std::abs(value));
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double error = std::abs(static_cast<double>(found[i]) - wanted[i]) / size;
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
    char message[200];
    std::snprintf(message, sizeof message,
                  "%s %d is off by %.2g: G %d T %d B %d H %d, threads %d split %d, reverse %d lengths %d resets %d mask %d narrow %d",
                  what, int(which), worst, int(p_.G), int(o_.T), int(o_.B), int(o_.H), threads, split, o_.reverse,
                  o_.lengths, o_.resets, o_.mask, o_.narrow);
    CHECK(worst <= (o_.narrow ? 0.03 : 2e-5), message);
  }

  struct Step {  // what a step of one sequence began from
    Values x, h, s, others;
    Row fed;
  };

  Row row(const std::vector<float>& tensor, int64_t place, int64_t size) const {
    return {tensor.begin() + place * size, tensor.begin() + (place + 1) * size};
  }
  Values rows_of(const std::vector<float>& tensor, int64_t b) const {  // of [S, B, H]
    Values made;
    for (int64_t j = 0; j < p_.S; ++j) made.push_back(row(tensor, j * o_.B + b, o_.H));
    return made;
  }
  Values product(const Row& from, const std::vector<float>& weight, const std::vector<float>& bias) const {
    Values gates(p_.G, Row(o_.H));
    for (int64_t r = 0; r < p_.G * o_.H; ++r) {
      double sum = bias[r];
      for (size_t k = 0; k < from.size(); ++k) sum += weight[r * from.size() + k] * from[k];
      gates[r / o_.H][r % o_.H] = sum;
    }
    return gates;
  }
  // The gradients of from, weight and bias.
  void product_back(const Values& d, const Row& from, const std::vector<float>& weight, Row& grad_weight, Row& grad_bias,
                    Row& grad_from) const {
    for (int64_t r = 0; r < p_.G * o_.H; ++r) {
      const double g = d[r / o_.H][r % o_.H];
      grad_bias[r] += g;
      for (size_t k = 0; k < from.size(); ++k) {
        grad_weight[r * from.size() + k] += g * from[k];
        grad_from[k] += g * weight[r * from.size() + k];
      }
    }
  }
  static void add(Row& sum, int64_t place, const Row& part) {
    for (size_t i = 0; i < part.size(); ++i) sum[place * part.size() + i] += part[i];
  }

  void expect() {
    const std::vector<float>* tensors[] = {&x, &weight_ih, &bias_ih, &weight_hh, &bias_hh, &initial, &vectors, &steps,
                                           &sequences, &fresh};
    for (int i = 0; i < kCount; ++i) want_.emplace_back(i == kFresh && !o_.resets ? 0 : tensors[i]->size());
    want_states_.assign(p_.S, Row(o_.T * o_.B * o_.H));
    for (int64_t b = 0; b < o_.B; ++b) expect_sequence(b);
  }

  void expect_sequence(int64_t b) {
    const int64_t count = length[b];
    auto time = [&](int64_t n) { return o_.reverse ? count - 1 - n : n; };
    auto resets = [&](int64_t t) { return o_.resets && reset[t * o_.B + b]; };
    std::vector<Step> trace;
    Values state = rows_of(initial, b);
    auto keep = [&](int64_t t) {
      for (int64_t j = 0; j < p_.S; ++j) std::copy(state[j].begin(), state[j].end(), want_states_[j].begin() + (t * o_.B + b) * o_.H);
    };
    if (o_.reverse)
      for (int64_t t = count; t < o_.T; ++t) keep(t);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t t = time(n);
      if (resets(t)) state = rows_of(fresh, b);
      Step step{{}, {}, state, {}, state[0]};
      for (int64_t u = 0; u < o_.H && o_.mask; ++u) step.fed[u] *= mask[b * o_.H + u];
      const Row input = row(x, t * o_.B + b, width_);
      if (o_.gates_given) {
        for (int64_t g = 0; g < p_.G; ++g) step.x.emplace_back(input.begin() + g * o_.H, input.begin() + (g + 1) * o_.H);
      } else {
        step.x = product(input, weight_ih, bias_ih);
      }
      if (p_.products) step.h = product(step.fed, weight_hh, bias_hh);
      if (p_.vectors) step.others = {row(vectors, 0, o_.H), row(steps, t * o_.B + b, o_.H), row(sequences, b, o_.H)};
      cell_.step(step.x, step.h, step.s, step.others, state);
      trace.push_back(step);
      keep(t);
    }
    if (!o_.reverse)
      for (int64_t t = count; t < o_.T; ++t) keep(t);

    Values carry(p_.S, Row(o_.H));
    auto receive = [&](int64_t t) {
      for (int64_t j = 0; j < p_.S; ++j)
        if (!given[j].empty()) add(carry[j], 0, row(given[j], t * o_.B + b, o_.H));
    };
    if (!o_.reverse)
      for (int64_t t = count; t < o_.T; ++t) receive(t);
    for (int64_t n = count - 1; n >= 0; --n) {
      const int64_t t = time(n);
      const Step& step = trace[n];
      receive(t);
      Gradients g{Values(p_.G, Row(o_.H)), Values(p_.G, Row(o_.H)), Values(p_.S, Row(o_.H)), Values(3, Row(o_.H))};
      cell_.back(step.x, step.h, step.s, step.others, carry, g);
      if (o_.gates_given) {
        Row side_by_side;
        for (const Row& gate : g.x) side_by_side.insert(side_by_side.end(), gate.begin(), gate.end());
        add(want_[kX], t * o_.B + b, side_by_side);
      } else {
        Row grad_x(o_.I);
        product_back(g.x, row(x, t * o_.B + b, o_.I), weight_ih, want_[kWeightIh], want_[kBiasIh], grad_x);
        add(want_[kX], t * o_.B + b, grad_x);
      }
      Row grad_fed(o_.H);
      if (p_.products) product_back(g.h, step.fed, weight_hh, want_[kWeightHh], want_[kBiasHh], grad_fed);
      carry = g.s;
      for (int64_t u = 0; u < o_.H; ++u) carry[0][u] += grad_fed[u] * (o_.mask ? mask[b * o_.H + u] : 1.0f);
      if (p_.vectors) {
        add(want_[kVectors], 0, g.others[0]);
        add(want_[kSteps], t * o_.B + b, g.others[1]);
        add(want_[kSequences], b, g.others[2]);
      }
      if (resets(t))
        for (int64_t j = 0; j < p_.S; ++j) {
          add(want_[kFresh], j * o_.B + b, carry[j]);
          carry[j].assign(o_.H, 0.0);
        }
    }
    if (o_.reverse)
      for (int64_t t = count; t < o_.T; ++t) receive(t);
    for (int64_t j = 0; j < p_.S; ++j) add(want_[kInitial], j * o_.B + b, carry[j]);
  }

  const Cell& cell_;
  const Programs& p_;
  const Options o_;
  int64_t width_;
  std::vector<float> x, weight_ih, bias_ih, weight_hh, bias_hh, initial, vectors, steps, sequences, fresh, mask;
  std::vector<int64_t> length;
  std::vector<char> reset;
  std::vector<std::vector<float>> given;
  std::vector<Row> want_, want_states_;
};

inline void every_team(const Cell& cell, const Options& options) {
  Pass pass(cell, options);
  pass.run(1, 0);
  for (const int threads : {2, 3})
    for (const int split : {0, 1}) pass.run(threads, split);
}

inline void test() {
  for (const Cell* cell : {&kRnn, &kLstm, &kGru, &kEverything, &kMultiplicative, &kWithoutProduct}) {
    for (int bits = 0; bits < 16; ++bits)
      for (Options options : {Options{5, 1, 7, 130}, Options{6, 5, 9, 20}}) {
        options.reverse = bits & 1, options.lengths = bits & 2, options.resets = bits & 4, options.mask = bits & 8;
        every_team(*cell, options);
      }
    for (Options options : {Options{5, 5, 7, 20}, Options{4, 3, 3, 35}}) {
      options.narrow = options.reverse = options.lengths = options.resets = options.mask = true;
      every_team(*cell, options);
      options.narrow = false, options.gates_given = true;
      every_team(*cell, options);
    }
    every_team(*cell, {1, 1, 1, 1});
    every_team(*cell, {5, 130, 3, 9});  // more rows than one block of any kind
  }
  every_team(kRnn, {2, 7, 3, 512});    // rows that crowd the same cache sets
}

}  // namespace scan_test
