// Tests of streams without Python: threads and narrow weights, on a stack whose second layer sums over its units.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "check.h"
#include "stream.h"

namespace stream_test {

using namespace unspool;
using namespace unspool::UNSPOOL_TARGET;

inline constexpr int64_t kBatch = 3, kUnits = 301, kSymbols = 37, kSteps = 40;

// h = tanh(x + h), or where it sums over the units tanh(x + h - sum(x) / H).
inline EncodedProgram program(bool sums) {
  const auto op = [](Operation operation, int32_t target, int32_t a, int32_t b) {
    return Instruction{static_cast<int32_t>(operation), target, a, b, 0};
  };
  // slots: x, h-gate, state | new state | H where it sums | two registers
  if (!sums) return {{op(Operation::kAdd, 4, 0, 1), op(Operation::kTanh, 3, 4, 0)}, {}, -1, 3, 1, 1, false};
  return {{op(Operation::kSum, 5, 0, 0), op(Operation::kDiv, 5, 5, 4), op(Operation::kAdd, 6, 0, 1),
           op(Operation::kSub, 6, 6, 5), op(Operation::kTanh, 3, 6, 0)},
          {0.0}, 0, 3, 1, 2, true};
}

inline std::vector<float> numbers(int64_t count) {
  std::vector<float> made(count);
  for (int64_t i = 0; i < count; ++i) made[i] = std::sin(0.7f * static_cast<float>(i)) * 0.1f;
  return made;
}

inline std::vector<int64_t> written(int threads, bool narrow) {
  const auto weight = numbers(kUnits * kUnits), bias = numbers(kUnits), table = numbers(kSymbols * kUnits);
  std::vector<float> states(2 * 2 * kBatch * kUnits);
  StreamShape shape{kBatch, threads, narrow, {}, {{kUnits, kSymbols}}};
  for (int64_t layer = 0; layer < 2; ++layer)
    shape.layers.push_back({kUnits, kUnits, 1, 1, 0, true, false, layer == 1, layer == 0, 1e-5, program(layer == 1),
                            states.data() + layer * 2 * kBatch * kUnits});
  const auto run = [&](AnyStream& stream) {
    for (int64_t layer = 0; layer < 2; ++layer)
      stream.set_layer(layer, {weight.data(), bias.data(), weight.data(), nullptr, nullptr, bias.data(), nullptr});
    stream.set_map(0, table.data(), nullptr);
    CHECK(stream.threads() == threads);
    std::vector<float> y(kBatch * kUnits);
    for (int i = 0; i < 10; ++i) stream.step(table.data(), y.data());  // from the ninth on with the team
    for (const float value : y) CHECK(std::isfinite(value));
    std::vector<int64_t> tokens((kSteps + 1) * kBatch);
    CHECK(stream.write({table.data(), tokens.data(), kSteps, 1.5f, 30, 0.9, {0}, 7, 0}));
    for (int64_t i = kBatch; i < int64_t(tokens.size()); ++i) CHECK(tokens[i] > 0 && tokens[i] < kSymbols);
    return tokens;
  };
  if (narrow) {
    Stream<true> stream(shape);
    return run(stream);
  }
  Stream<false> stream(shape);
  return run(stream);
}

// The share of calls that take the team, where a step takes so long alone and with it.
inline double share_of_team(double alone, double team, int64_t steps) {
  constexpr int kCalls = 20000;
  TeamOrAlone choice;
  int taken = 0;
  for (int i = 0; i < kCalls; ++i) {
    const bool takes = choice.takes_team();
    taken += takes;
    choice.took(takes ? team : alone, steps);
  }
  return double(taken) / kCalls;
}

inline void test_choice() {
  for (int64_t steps : {1, 20, 10000}) {  // of one call
    CHECK(share_of_team(1.0, 0.5, steps) > 0.98);
    CHECK(share_of_team(1.0, 2.0, steps) < 0.01);
    CHECK(share_of_team(1.0, 100.0, steps) < 0.002);
  }
}

inline void test() {
  test_choice();
  for (const bool narrow : {false, true}) CHECK(written(1, narrow) == written(2, narrow));
}

}  // namespace stream_test
