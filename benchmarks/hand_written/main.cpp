// A traced program against the same cell written by hand, in the same scan: training passes in turn, medians of ratios.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "programs.h"
#include "scan_arguments.h"

namespace unspool {
void forward_traced(const ScanArguments&, const EncodedProgram&);
void backward_traced(const ScanArguments&, const ScanGradients&, const EncodedProgram&);
void forward_hand(const ScanArguments&, const EncodedProgram&);
void backward_hand(const ScanArguments&, const ScanGradients&, const EncodedProgram&);
}  // namespace unspool

using namespace unspool;
using Floats = std::vector<float>;

static Floats numbers(int64_t count, float size) {
  Floats made(count);
  static uint32_t seed = 1;
  for (float& x : made) seed = seed * 1664525u + 1013904223u, x = (seed >> 8) * size / (1 << 23) - size;
  return made;
}

struct Pass {
  Pass(const scan_test::Programs& p, int64_t T, int64_t B, int64_t H, int threads) : programs(p) {
    const int64_t rows = p.G * H;
    const float small = 1.0f / std::sqrt(float(H));
    x = numbers(T * B * H, 1), w = numbers(rows * H, small), r = numbers(rows * H, small), b = numbers(rows, small);
    initial = numbers(p.S * B * H, 1), given = numbers(T * B * H, 1), buffer.resize(T * B * p.slots * H);
    a = {T, B, H, H, p.G, p.S, 0, 0, 0, p.saved, p.slots, true, false, false, threads, {}, x.data(), w.data(), b.data(),
         r.data(), b.data(), initial.data(), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {},
         buffer.data()};
    for (int64_t j = 0; j < p.S; ++j) states.emplace_back(T * B * H);
    for (Floats& state : states) a.states.push_back(state.data());
    grads.h_slots = p.h_slots, grads.states.assign(p.S, nullptr), grads.states[0] = given.data();
    for (int64_t size : {T * B * H, rows * H, rows, rows * H, rows, p.S * B * H}) out.emplace_back(size);
    grads.x = out[0].data(), grads.weight_ih = out[1].data(), grads.bias_ih = out[2].data();
    grads.weight_hh = out[3].data(), grads.bias_hh = out[4].data(), grads.initial = out[5].data();
  }
  void run(bool traced) {
    (traced ? forward_traced : forward_hand)(a, programs.training);
    (traced ? backward_traced : backward_hand)(a, grads, programs.backward);
  }
  double seconds(bool traced, int calls) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) run(traced);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls;
  }
  const scan_test::Programs& programs;
  Floats x, w, r, b, initial, given, buffer;
  std::vector<Floats> states, out;
  ScanArguments a{};
  ScanGradients grads{};
};

static double median(Floats values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 2;
  const int64_t sizes[][3] = {{128, 1, 64}, {128, 1, 128}, {128, 1, 256}, {128, 4, 64}, {128, 4, 256}, {64, 8, 128},
                              {128, 8, 256}, {128, 16, 128}, {128, 32, 64}, {128, 32, 256}};
  std::printf("threads %d; training pass, milliseconds; traced over by hand: median, quartiles; largest difference\n", threads);
  bool right = true;
  for (const auto* cell : {"LSTM", "RNN"})
    for (const auto& [T, B, H] : sizes) {
      Pass pass(cell[0] == 'L' ? scan_test::lstm_programs : scan_test::rnn_programs, T, B, H, threads);
      pass.run(false);
      const std::vector<Floats> by_hand = pass.out;
      pass.run(true);
      double difference = 0, largest = 0;
      for (size_t i = 0; i < by_hand.size(); ++i)
        for (size_t k = 0; k < by_hand[i].size(); ++k) {
          difference = std::max<double>(difference, std::fabs(by_hand[i][k] - pass.out[i][k]));
          largest = std::max<double>(largest, std::fabs(by_hand[i][k]));
        }
      right &= difference <= 1e-4 * largest;
      const int calls = std::max(1, int(0.01 / pass.seconds(true, 3)));
      Floats ratios, traced;
      for (int round = 0; round < 41; ++round) {
        const bool first = round % 2;
        double seconds[2];
        seconds[first] = pass.seconds(first, calls), seconds[!first] = pass.seconds(!first, calls);
        traced.push_back(seconds[1]), ratios.push_back(seconds[1] / seconds[0]);
      }
      std::sort(ratios.begin(), ratios.end());
      std::printf("%-5s %4ld,%2ld,%3ld %8.3f  %.3f (%.3f to %.3f)  %.1e of %.1e\n", cell, long(T), long(B), long(H),
                  1e3 * median(traced), ratios[20], ratios[10], ratios[30], difference, largest);
    }
  return right ? 0 : 1;
}
