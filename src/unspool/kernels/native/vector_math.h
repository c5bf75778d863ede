// Functions of float32 over whole vectors.
//
// The bounds below are on the error against libm in double precision, in ulp (the distance between the two
// floats around the exact result), with and without fused multiply-add. tests/native/math_test.h measured
// them over every 61st bit pattern of a float, and left some room; a bound called exhaustive is measured over
// all floats with 2^-14 <= |x| < 128 besides, between which the function goes through its whole range.
//
// Unless a comment says otherwise a NaN gives a NaN, infinities give the limits, and denormals are kept.
// Coefficients are minimax fits (a linear program over Chebyshev nodes) of the relative error. Each was
// rounded to float in turn, from the lowest power, and the rest fitted again.
#pragma once

#include <cstdint>
#include <limits>

#include "simd.h"

namespace unspool::UNSPOOL_TARGET {

namespace math {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kLog2e = 0x1.715476p+0f;
inline constexpr float kLn2High = 0x1.62e4p-1f;  // 15 bits: times an exponent it is exact, also without fma
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;

// Bounds that let a NaN pass.
UNSPOOL_INLINE vf at_most(float bound, vf x) { return select(x > bound, splat(bound), x); }
UNSPOOL_INLINE vf at_least(float bound, vf x) { return select(x < bound, splat(bound), x); }

// c[0] + c[1] x + ..., in pairs over x^2 (Estrin's first step): hardly more operations than Horner's, and
// half the chain.
template <int N>
UNSPOOL_INLINE vf polynomial(vf x, const float (&c)[N]) {
  if constexpr (N == 3) return (c[2] * x + c[1]) * x + c[0];
  const vf square = x * x;
  const auto pair = [&](int i) { return i + 1 < N ? splat(c[i + 1]) * x + c[i] : splat(c[i]); };
  constexpr int last = (N - 1) / 2 * 2;
  vf sum = pair(last);
  for (int i = last - 2; i >= 0; i -= 2) sum = sum * square + pair(i);
  return sum;
}

// x = n ln 2 + rest, |rest| <= ln 2 / 2, and `power` = 2^(n + shift), for n + shift from -127 (power 0) to
// 127. A greater n is cut to that, and the rest grows instead, up to infinity; a lesser one must not occur.
struct Reduced {
  vf rest, power;
};
template <int shift>
UNSPOOL_INLINE Reduced reduce(vf x) {
  constexpr float magic = 0x1.8p+23f + (127 + shift);  // the sum's last bits are the exponent of the power
  vi bits = as_int(x * kLog2e + magic);
  const vi most = as_int(splat(0x1.8p+23f + 254));
  bits = bits < most ? bits : most;
  const vf n = as_float(bits) - magic;
  return {x - n * kLn2High - n * kLn2Low, as_float(bits << 23)};
}

// exp(x) - 1 for |x| <= ln 2 / 2, to 0.12 ulp before rounding.
UNSPOOL_INLINE vf expm1_rest(vf x) {
  const vf tail = polynomial(x, {0x1p-1f, 0x1.5554bp-3f, 0x1.5554dap-5f, 0x1.1227acp-7f, 0x1.6d5f62p-10f});
  return x * x * tail + x;
}
// The same for x <= ln 2, to 0.45 ulp of exp(x); beyond ln 2 / 2, where a cut power leads, to 1.1 ulp.
UNSPOOL_INLINE vf exp_rest(vf x) {
  const vf tail = polynomial(x, {0x1.00004p-1f, 0x1.5555cep-3f, 0x1.54feep-5f, 0x1.116c2p-7f,
                                 0x1.a2bd5ep-10f});
  return x * x * tail + x;
}

}  // namespace math

// Exact.
UNSPOOL_INLINE vf vabs(vf x) { return as_float(as_bits(x) & 0x7fffffffu); }

// Correctly rounded.
UNSPOOL_INLINE vf vsqrt(vf x) {
  vf root;
  for (int i = 0; i < W; ++i) root[i] = __builtin_sqrtf(x[i]);  // compilers make it one instruction
  return root;
}

// As torch.sign: 0 for a NaN.
UNSPOOL_INLINE vf vsign(vf x) {
  const vi one = as_int(splat(1.0f));
  return as_float((x > 0.0f) & one) - as_float((x < 0.0f) & one);
}

// As torch.maximum and torch.minimum: a NaN on either side gives a NaN. Of zeros of two signs, a.
UNSPOOL_INLINE vf vmax(vf a, vf b) { return select((a >= b) | (a != a), a, b); }
UNSPOOL_INLINE vf vmin(vf a, vf b) { return select((a <= b) | (a != a), a, b); }

// Within 1.5 ulp.
UNSPOOL_INLINE vf vrsqrt(vf x) { return 1.0f / vsqrt(x); }

// Within 1.31 ulp up to 2^127.5, within 1.97 beyond (exhaustive). Results from 2^-126.5 to 2^-126 are
// denormal, lesser ones 0.
UNSPOOL_INLINE vf vexp(vf x) {
  const math::Reduced y = math::reduce<0>(math::at_least(-88.0f, x));
  return math::exp_rest(y.rest) * y.power + y.power;
}

// Within 1.76 ulp (exhaustive).
UNSPOOL_INLINE vf vexpm1(vf x) {
  const math::Reduced y = math::reduce<-1>(math::at_least(-40.0f, x));  // half the power, as 2^128 is none
  const vf half = math::expm1_rest(y.rest) * y.power + (y.power - 0.5f);
  return half + half;
}

// Within 2 ulp (exhaustive), also where the result is small. Results from 2^-128 to 2^-126 are denormal,
// lesser ones 0.
UNSPOOL_INLINE vf vsigmoid(vf x) {
  const math::Reduced y = math::reduce<0>(-math::at_most(40.0f, x));
  // In this order, as power + 1 would lose the 1 where the power is 2^24: 2.5 ulp.
  return 1.0f / ((math::exp_rest(y.rest) * y.power + 1.0f) + y.power);
}

// Within 1.5 ulp (exhaustive); odd to the bit.
UNSPOOL_INLINE vf vtanh(vf x) {
  const vi sign = as_int(x) & INT32_MIN;
  const vf size = math::at_most(9.02f, vabs(x));  // from 9.011 on the nearest float is 1
  // expm1(2 size) / (expm1(2 size) + 2), the powers at most 2^26: a simpler reduction than `reduce` will do.
  const vf doubled = size + size;
  constexpr float magic = 0x1.8p+23f + 127;
  const vf shifted = doubled * math::kLog2e + magic;
  const vf n = shifted - magic, power = as_float(as_int(shifted) << 23);
  const vf expm1 = math::expm1_rest(doubled - n * 0x1.62e43p-1f) * power + (power - 1.0f);
  const vf ratio = expm1 / (expm1 + 2.0f);
  // Below 0.26 three roundings would add up to 2.6 ulp.
  const vf square = size * size;
  const vf tail = math::polynomial(square, {-0x1.555506p-2f, 0x1.10d942p-3f, -0x1.a3a33p-5f});
  const vf small = square * size * tail + size;
  return as_float(as_int(select(size < 0.26f, small, ratio)) | sign);
}

namespace math {

// log(2^n (1 + f)) for sqrt(1/2) <= 1 + f <= sqrt(2).
UNSPOOL_INLINE vf log_parts(vf n, vf f) {
  const vf tail = polynomial(f, {0x1.555554p-2f, -0x1.000228p-2f, 0x1.99a022p-3f, -0x1.5471fap-3f,
                                 0x1.22d82ap-3f, -0x1.0d8704p-3f, 0x1.0568bp-3f, -0x1.38c8e2p-4f});
  const vf square = f * f;
  const vf low = n * kLn2Low + square * (f * tail - 0.5f);
  return n * kLn2High + (f + low);
}

// n of x = 2^n (1 + f); 0x3f3504f3 is sqrt(1/2). Of what is no positive number, anything.
UNSPOOL_INLINE vi exponent(vf x) { return reinterpret_cast<vi>(as_bits(x) - 0x3f3504f3u) >> 23; }
UNSPOOL_INLINE vu exponent_bits(vi n) { return reinterpret_cast<vu>(n) << 23; }

// Puts right what the logarithm of x is where x is no positive finite number.
UNSPOOL_INLINE vf log_limits(vf x, vf logarithm) {
  const vf improper = select(x == 0.0f, splat(-kInfinity), splat(kNaN));
  return select(x <= 0.0f, improper, select(x < kInfinity, logarithm, x));
}

}  // namespace math

// Within 1 ulp; -infinity at 0, NaN below.
UNSPOOL_INLINE vf vlog(vf x) {
  const vi denormal = x < 0x1p-126f;
  const vf normal = select(denormal, x * 0x1p+23f, x);
  const vi n = math::exponent(normal);
  const vf f = as_float(as_bits(normal) - math::exponent_bits(n)) - 1.0f;
  return math::log_limits(x, math::log_parts(__builtin_convertvector(n + (denormal & -23), vf), f));
}

// Within 1.6 ulp; -infinity at -1, NaN below.
UNSPOOL_INLINE vf vlog1p(vf x) {
  const vi large = x > 0x1p+100f;  // smaller, lest the scale below become denormal
  const vf reduced = select(large, x * 0x1p-32f, x);
  const vf sum = reduced + 1.0f;  // rounded, so that only its exponent is taken
  const vi n = math::exponent(sum);
  const vf scale = as_float(math::exponent_bits(127 - n));
  const vf f = reduced * scale + (scale - 1.0f);  // (1 + x) / 2^n - 1, rounded once
  return math::log_limits(sum, math::log_parts(__builtin_convertvector(n + (large & 32), vf), f));
}

// Within 1.5 ulp; odd to the bit.
UNSPOOL_INLINE vf verf(vf x) {
  const vi sign = as_int(x) & INT32_MIN;
  const vf size = math::at_most(4.0f, vabs(x));  // from 3.92 on the nearest float is 1
  const vf tail = math::polynomial(size * size, {0x1.06eba6p-3f, -0x1.8126ecp-2f, 0x1.ce1b86p-4f,
                                                 -0x1.b69b96p-6f, 0x1.479c9ep-8f, -0x1.3ba9cep-11f});
  const vf log_erfc = math::polynomial(size, {-0x1.254a64p-13f, -0x1.20beacp+0f, -0x1.46087cp-1f,
                                              -0x1.ab2796p-4f, 0x1.6efea4p-6f, -0x1.949dd4p-9f,
                                              0x1.a45aaap-13f});
  const vf erf = select(size < 0.88f, size * tail + size, 1.0f - vexp(log_erfc));
  return as_float(as_int(erf) | sign);
}

namespace math {

typedef double vd __attribute__((vector_size(W * 8)));

inline constexpr float kLargestAngle = 0x1p+20f;  // for which `turn` is exact enough

// x = n pi/2 + rest, |rest| <= pi/4; in double, as float would want five parts of pi where there is no fma.
struct Angle {
  vi n;
  vf rest;
};
UNSPOOL_INLINE Angle turn(vf x) {
  const vd angle = __builtin_convertvector(x, vd);
  const vd n = (angle * 0x1.45f306dc9c883p-1 + 0x1.8p+52) - 0x1.8p+52;
  const vd rest = angle - n * 0x1.921fb544p+0 - n * 0x1.0b4611a626331p-34;
  return {__builtin_convertvector(__builtin_convertvector(n, vf), vi), __builtin_convertvector(rest, vf)};
}

// The sine of n pi/2 + rest.
UNSPOOL_INLINE vf sine(vi n, vf x) {
  const vf square = x * x;
  const vf sine = square * x * polynomial(square, {-0x1.555546p-3f, 0x1.110776p-7f, -0x1.9952fap-13f}) + x;
  const vf tail = polynomial(square, {0x1.55554ap-5f, -0x1.6c0c28p-10f, 0x1.99e80cp-16f});
  const vf cosine = square * square * tail + (1.0f - 0.5f * square);
  return as_float(as_int(select((n & 1) == 0, sine, cosine)) ^ ((n & 2) << 30));
}

// Lane by lane: for what is too rare to be worth a vector form.
template <typename Function>
UNSPOOL_INLINE vf each(vf a, vf b, Function&& function) {
  for (int i = 0; i < W; ++i) a[i] = function(a[i], b[i]);
  return a;
}

}  // namespace math

// Within 1.7 ulp. A vector with a lane beyond 2^20 goes to the C library.
UNSPOOL_INLINE vf vsin(vf x) {
  if (any(~(vabs(x) <= math::kLargestAngle))) [[unlikely]]
    return math::each(x, x, [](float a, float) { return __builtin_sinf(a); });
  const math::Angle angle = math::turn(x);
  return math::sine(angle.n, angle.rest);
}
UNSPOOL_INLINE vf vcos(vf x) {
  if (any(~(vabs(x) <= math::kLargestAngle))) [[unlikely]]
    return math::each(x, x, [](float a, float) { return __builtin_cosf(a); });
  const math::Angle angle = math::turn(x);
  return math::sine(angle.n + 1, angle.rest);
}

// As the C library's powf.
UNSPOOL_INLINE vf vpow(vf x, vf exponent) {
  return math::each(x, exponent, [](float a, float b) { return __builtin_powf(a, b); });
}

}  // namespace unspool::UNSPOOL_TARGET
