// The interpreter: runs a program (see encoding.py) over one tile of a row.
//
// Every value lies in a slot, a pointer to floats: inputs, outputs, constants, scratch registers, in this order. A tile is
// kTile units, or the whole row where the program reduces over H. An operation costs a jump that is always predicted,
// and one pass over the tile in the first-level cache; there is no equation of any cell in C++.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "encoded.h"
#include "vector_math.h"
#include "parallel.h"
#include "simd.h"

namespace unspool::UNSPOOL_TARGET {

inline constexpr int64_t kTile = W == 16 ? 128 : 64;  // units

// A program's slots for one thread.
class Machine {
 public:
  // `units`: H; the number that the program calls H.
  Machine(const EncodedProgram& program, int64_t units, Arena& arena) : program_(program) {
    width_ = program.has_reduction ? (units + W - 1) / W * W : kTile;
    const int64_t ports = program.inputs + program.outputs, constants = program.constants.size();
    slots_.resize(ports + constants + program.scratch);
    places_.resize(ports);
    float* room = arena.take<float>((constants + program.scratch + ports) * width_);
    staging_ = room + (constants + program.scratch) * width_;
    std::fill(staging_, staging_ + ports * width_, 0.0f);
    for (int64_t i = 0; i < constants + program.scratch; ++i) {
      slots_[ports + i] = room + i * width_;
      const float value = i == program.width_constant ? static_cast<float>(units)
                          : i < constants             ? static_cast<float>(program.constants[i])
                                                      : 0.0f;
      std::fill(slots_[ports + i], slots_[ports + i] + width_, value);
    }
  }

  int64_t width() const { return width_; }
  bool whole_rows() const { return program_.has_reduction; }

  void input(int64_t i, const float* place) { slots_[i] = const_cast<float*>(place); }
  void output(int64_t i, float* place) { slots_[program_.inputs + i] = place; }

  // Runs over `units` units; the slots of inputs and outputs point at them.
  void run(int64_t units) {
    if (units % W == 0) return execute(units / W, units);
    const int64_t ports = program_.inputs + program_.outputs;
    for (int64_t i = 0; i < ports; ++i) {  // no vector may reach beyond the end of a row
      float* aside = staging_ + i * width_;
      places_[i] = std::exchange(slots_[i], aside);
      if (i < program_.inputs) std::copy(places_[i], places_[i] + units, aside);
    }
    execute((units + W - 1) / W, units);
    for (int64_t i = 0; i < ports; ++i) {
      slots_[i] = places_[i];
      const float* aside = staging_ + i * width_;
      if (i >= program_.inputs) std::copy(aside, aside + units, slots_[i]);
    }
  }

 private:
  template <typename Function>
  UNSPOOL_INLINE void unary(const Instruction& step, int64_t vectors, Function&& function) {
    float* to = slots_[step.target];
    const float* a = slots_[step.a];
    for (int64_t v = 0; v < vectors; ++v) store(to + v * W, function(load(a + v * W)));
  }
  template <typename Function>
  UNSPOOL_INLINE void binary(const Instruction& step, int64_t vectors, Function&& function) {
    float* to = slots_[step.target];
    const float *a = slots_[step.a], *b = slots_[step.b];
    for (int64_t v = 0; v < vectors; ++v) store(to + v * W, function(load(a + v * W), load(b + v * W)));
  }
  template <typename Function>
  UNSPOOL_INLINE void ternary(const Instruction& step, int64_t vectors, Function&& function) {
    float* to = slots_[step.target];
    const float *a = slots_[step.a], *b = slots_[step.b], *c = slots_[step.c];
    for (int64_t v = 0; v < vectors; ++v)
      store(to + v * W, function(load(a + v * W), load(b + v * W), load(c + v * W)));
  }
  template <typename Function>
  UNSPOOL_INLINE void compare(const Instruction& step, int64_t vectors, Function&& function) {
    binary(step, vectors, [&](vf a, vf b) { return select(function(a, b), splat(1.0f), vf{}); });
  }

  void execute(int64_t vectors, int64_t units) {
    for (const Instruction& step : program_.code) switch (static_cast<Operation>(step.operation)) {
        case Operation::kMov: unary(step, vectors, [](vf a) { return a; }); break;
        case Operation::kNeg: unary(step, vectors, [](vf a) { return -a; }); break;
        case Operation::kAbs: unary(step, vectors, [](vf a) { return vabs(a); }); break;
        case Operation::kSign: unary(step, vectors, [](vf a) { return vsign(a); }); break;
        case Operation::kExp: unary(step, vectors, [](vf a) { return vexp(a); }); break;
        case Operation::kExpm1: unary(step, vectors, [](vf a) { return vexpm1(a); }); break;
        case Operation::kLog: unary(step, vectors, [](vf a) { return vlog(a); }); break;
        case Operation::kLog1p: unary(step, vectors, [](vf a) { return vlog1p(a); }); break;
        case Operation::kSqrt: unary(step, vectors, [](vf a) { return vsqrt(a); }); break;
        case Operation::kRsqrt: unary(step, vectors, [](vf a) { return vrsqrt(a); }); break;
        case Operation::kSin: unary(step, vectors, [](vf a) { return vsin(a); }); break;
        case Operation::kCos: unary(step, vectors, [](vf a) { return vcos(a); }); break;
        case Operation::kTanh: unary(step, vectors, [](vf a) { return vtanh(a); }); break;
        case Operation::kSigmoid: unary(step, vectors, [](vf a) { return vsigmoid(a); }); break;
        case Operation::kErf: unary(step, vectors, [](vf a) { return verf(a); }); break;
        case Operation::kAdd: binary(step, vectors, [](vf a, vf b) { return a + b; }); break;
        case Operation::kSub: binary(step, vectors, [](vf a, vf b) { return a - b; }); break;
        case Operation::kMul: binary(step, vectors, [](vf a, vf b) { return a * b; }); break;
        case Operation::kDiv: binary(step, vectors, [](vf a, vf b) { return a / b; }); break;
        case Operation::kPow: binary(step, vectors, [](vf a, vf b) { return vpow(a, b); }); break;
        case Operation::kMaximum: binary(step, vectors, [](vf a, vf b) { return vmax(a, b); }); break;
        case Operation::kMinimum: binary(step, vectors, [](vf a, vf b) { return vmin(a, b); }); break;
        case Operation::kLt: compare(step, vectors, [](vf a, vf b) { return a < b; }); break;
        case Operation::kLe: compare(step, vectors, [](vf a, vf b) { return a <= b; }); break;
        case Operation::kGt: compare(step, vectors, [](vf a, vf b) { return a > b; }); break;
        case Operation::kGe: compare(step, vectors, [](vf a, vf b) { return a >= b; }); break;
        case Operation::kEq: compare(step, vectors, [](vf a, vf b) { return a == b; }); break;
        case Operation::kNe: compare(step, vectors, [](vf a, vf b) { return a != b; }); break;
        case Operation::kNot: unary(step, vectors, [](vf a) { return splat(1.0f) - a; }); break;
        case Operation::kAnd: binary(step, vectors, [](vf a, vf b) { return a * b; }); break;
        case Operation::kOr: binary(step, vectors, [](vf a, vf b) { return vmax(a, b); }); break;
        case Operation::kWhere:
          ternary(step, vectors, [](vf condition, vf a, vf b) { return select(condition != vf{}, a, b); });
          break;
        case Operation::kSum: sum(step, units); break;
        case Operation::kFma: ternary(step, vectors, [](vf a, vf b, vf c) { return a * b + c; }); break;
        case Operation::kFnma: ternary(step, vectors, [](vf a, vf b, vf c) { return c - a * b; }); break;
        case Operation::kFms: ternary(step, vectors, [](vf a, vf b, vf c) { return a * b - c; }); break;
      }
  }

  void sum(const Instruction& step, int64_t units) {
    const float* a = slots_[step.a];
    vf lanes{};
    int64_t i = 0;
    for (; i + W <= units; i += W) lanes += load(a + i);
    float total = sum_lanes(lanes);
    for (; i < units; ++i) total += a[i];
    std::fill(slots_[step.target], slots_[step.target] + width_, total);
  }

  const EncodedProgram& program_;
  int64_t width_;
  std::vector<float*> slots_, places_;
  float* staging_;
};

}  // namespace unspool::UNSPOOL_TARGET
