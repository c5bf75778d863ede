// Every function of vector_math.h against libm in double precision, over a sample of all float bit patterns: every
// 997th, or every UNSPOOL_STRIDE-th (1 for all: 20 minutes). The bounds asserted are those vector_math.h states.
//
// UNSPOOL_REPORT prints the errors found.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#include "check.h"
#include "vector_math.h"

namespace math_test {

using namespace unspool::UNSPOOL_TARGET;

#if defined(UNSPOOL_STRIDE)
inline constexpr uint64_t kStride = UNSPOOL_STRIDE;
#else
inline constexpr uint64_t kStride = 997;  // odd: no bit of the pattern stays the same
#endif

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// |got - exact| in units of the distance of floats at `exact`; infinite where one is a NaN and the other not.
inline double error_in_ulp(float got, double exact) {
  if (std::isnan(exact)) return std::isnan(got) ? 0.0 : kInfinity;
  if (got == exact) return 0.0;
  if (std::isnan(got)) return kInfinity;
  // Beyond the largest float, the infinity counts as the float that would come next.
  const double found = std::isinf(got) ? std::copysign(0x1p128, got) : got;
  const double wanted = std::clamp(exact, -0x1p128, 0x1p128), size = std::abs(wanted);
  // 2^(23 - exponent) from the bits, as ldexp and ilogb take longer than the functions tested.
  const uint64_t exponent = std::bit_cast<uint64_t>(std::clamp(size, 0x1p-126, 0x1p127)) >> 52;
  return std::abs(found - wanted) * std::bit_cast<double>((2 * 1023 + 23 - exponent) << 52);
}

struct Worst {
  bool flushes;  // may a denormal result be 0?
  double error = 0.0;
  float at = 0.0f, got = 0.0f;
  void see(float x, float y, double exact) {
    if (flushes && std::abs(exact) < 0x1p-126 && y == 0.0f) return;
    const double e = error_in_ulp(y, exact);
    if (e > error) *this = {flushes, e, x, y};
  }
};

template <typename Function, typename Exact>
void bounded(const char* name, double bound, bool flushes, Function&& function, Exact&& exact) {
  const float specials[] = {
      0.0f, -0.0f, 1.0f, -1.0f, INFINITY, -INFINITY, NAN, -NAN, std::bit_cast<float>(0x7f800001u),
      std::bit_cast<float>(0xffffffffu), std::bit_cast<float>(0xff812345u),
      // The ends of the range, where exp leaves it, the seams of vector_math.h.
      0x1p-126f, -0x1p-126f, 0x1p-149f, -0x1p-149f, 0x1.fffffep+127f, -0x1.fffffep+127f,
      88.72283f, 88.72284f, 89.0f, -87.33654f, -87.33655f, -88.72284f, -103.9f, -104.0f,
      9.01f, 9.02f, -9.02f, 0.26f, 0.88f, 3.92f, 4.0f, 1e4f, -1e4f, 0x1p+20f, 0x1.000002p+20f,
      0x1.6a09e6p-1f, 0x1.6a09e8p+0f, -0x1.fffffep-1f, -0x1.000002p+0f, 0x1.6a09e6p+126f, 0x1p+100f};
  Worst worst{flushes};
  float x[W], y[W];
  const auto check = [&] {
    store(y, function(load(x)));
    for (int i = 0; i < W; ++i) worst.see(x[i], y[i], exact(x[i]));
  };
  for (float special : specials) {
    std::fill(x, x + W, 0.5f);
    x[W - 1] = special;
    check();
  }
  for (uint64_t bits = 0; bits < (1ull << 32); bits += kStride * W) {
    for (int i = 0; i < W; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits + i * kStride));
    check();
  }
  char message[160];
  std::snprintf(message, sizeof message,
                "%s is off by %.4f ulp at %a: %a", name, worst.error, worst.at, worst.got);
#if defined(UNSPOOL_REPORT)
  std::puts(message);
#endif
  CHECK(worst.error <= bound, message);
}

// As if by == or both NaN, the sign of zero included where `signs`.
template <typename Function, typename Exact>
void same(const char* name, bool signs, Function&& function, Exact&& exact) {
  const float values[] = {0.0f, -0.0f, 1.0f, -1.0f, 2.5f, -0x1p-149f, 0x1p-149f, INFINITY, -INFINITY, NAN};
  for (float a : values)
    for (float b : values) {
      float got[W];
      store(got, function(splat(a), splat(b)));
      const float wanted = exact(a, b);
      const float found = got[W - 1];
      const bool right = std::isnan(wanted) ? std::isnan(found) : found == wanted;
      const bool signed_right = !signs || std::isnan(wanted) || std::signbit(found) == std::signbit(wanted);
      char message[160];
      std::snprintf(message, sizeof message, "%s(%a, %a) is %a, not %a", name, a, b, found, wanted);
      CHECK(right && signed_right, message);
    }
}

}  // namespace math_test

inline void test_math() {
  using namespace math_test;
#define BOUNDED(name, bound, flushes, exact) \
  bounded(#name, bound, flushes, [](vf x) { return v##name(x); }, [](double x) -> double { return exact; })
  BOUNDED(exp, 1.97, true, std::exp(x));
  BOUNDED(expm1, 1.76, false, std::expm1(x));
  BOUNDED(sigmoid, 2, true, 1.0 / (1.0 + std::exp(-x)));
  BOUNDED(tanh, 1.5, false, std::tanh(x));
  BOUNDED(log, 1, false, std::log(x));
  BOUNDED(log1p, 1.6, false, std::log1p(x));
  BOUNDED(erf, 1.5, false, std::erf(x));
  BOUNDED(sin, 1.7, false, std::sin(x));
  BOUNDED(cos, 1.7, false, std::cos(x));
  BOUNDED(sqrt, 0.5, false, std::sqrt(x));
  BOUNDED(rsqrt, 1.5, false, 1.0 / std::sqrt(x));
  BOUNDED(abs, 0, false, std::abs(x));
  BOUNDED(sign, 0, false, (x > 0) - (x < 0));
#undef BOUNDED
  same("max", true, [](vf a, vf b) { return vmax(a, b); },
       [](float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::max(a, b); });
  same("min", true, [](vf a, vf b) { return vmin(a, b); },
       [](float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::min(a, b); });
  same("pow", true, [](vf a, vf b) { return vpow(a, b); }, [](float a, float b) { return std::pow(a, b); });
}
