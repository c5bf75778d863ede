// What stands in the interpreter's place here: LSTM and Elman steps written by hand, every value in a register.
//
// Ports are those of the programs in tests/native/programs.h, so that the scan around it is the same.
#pragma once

#include <cstdlib>

#include "parallel.h"
#include "program.h"

namespace unspool::UNSPOOL_TARGET {

class HandWritten {
 public:
  HandWritten(const EncodedProgram& program, int64_t, Arena&) : program_(program) {}
  static constexpr int64_t width() { return kTile; }
  static constexpr bool whole_rows() { return false; }
  void input(int64_t i, const float* place) { in_[i] = place; }
  void output(int64_t i, float* place) { out_[i] = place; }

  void run(int64_t units) {  // a whole number of vectors
    switch (program_.inputs * 10 + program_.outputs) {
      case 102: return lstm<false>(units);
      case 106: return lstm<true>(units);
      case 126: return lstm_back(units);
      case 31: return elman(units);
      case 42: return elman_back(units);
      default: std::abort();  // programs.h has changed
    }
  }

 private:
  template <bool kTraining>
  void lstm(int64_t units) {
    for (int64_t u = 0; u < units; u += W) {
      const vf i = vsigmoid(at(0, u) + at(4, u)), f = vsigmoid(at(1, u) + at(5, u));
      const vf g = vtanh(at(2, u) + at(6, u)), o = vsigmoid(at(3, u) + at(7, u));
      const vf c = f * at(9, u) + i * g;
      put(0, u, o * vtanh(c)), put(1, u, c);
      if constexpr (kTraining) put(2, u, i), put(3, u, f), put(4, u, g), put(5, u, o);
    }
  }
  void lstm_back(int64_t units) {
    const vf one = splat(1.0f);
    for (int64_t u = 0; u < units; u += W) {
      const vf i = at(0, u), f = at(1, u), g = at(2, u), o = at(3, u), y = vtanh(at(7, u));
      const vf dh = at(8, u) + at(10, u), dc = at(9, u) + at(11, u) + dh * o * (one - y * y);
      const vf before = at(5, u);
      put(4, u, vf{}), put(5, u, dc * f);
      put(0, u, dc * g * (i * (one - i))), put(1, u, dc * before * (f * (one - f)));
      put(2, u, dc * i * (one - g * g)), put(3, u, dh * y * (o * (one - o)));
    }
  }
  void elman(int64_t units) {
    for (int64_t u = 0; u < units; u += W) put(0, u, vtanh(at(0, u) + at(1, u)));
  }
  void elman_back(int64_t units) {
    for (int64_t u = 0; u < units; u += W) {
      const vf h = at(1, u);
      put(0, u, (at(2, u) + at(3, u)) * (splat(1.0f) - h * h)), put(1, u, vf{});
    }
  }

  UNSPOOL_INLINE vf at(int i, int64_t u) const { return load(in_[i] + u); }
  UNSPOOL_INLINE void put(int i, int64_t u, vf value) { store(out_[i] + u, value); }

  const EncodedProgram& program_;
  const float* in_[12];
  float* out_[6];
};

}  // namespace unspool::UNSPOOL_TARGET
