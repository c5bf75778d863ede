// The vector type that all algorithms are written over: W floats, one hardware register of the target.
//
// Only this file knows vector instructions. Every target compiles all headers anew within its own namespace
// UNSPOOL_TARGET, so that no function of one target can be linked into another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef UNSPOOL_TARGET
#define UNSPOOL_TARGET scalar
#endif

#define UNSPOOL_INLINE inline __attribute__((always_inline))

namespace unspool::UNSPOOL_TARGET {

#if defined(__AVX512F__)
inline constexpr int W = 16;
inline constexpr int kRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int W = 8;
inline constexpr int kRegisters = 16;
#elif defined(__aarch64__)
inline constexpr int W = 4;
inline constexpr int kRegisters = 32;
#else
inline constexpr int W = 4;
inline constexpr int kRegisters = 16;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef float vf_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t vu_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));

UNSPOOL_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
UNSPOOL_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
UNSPOOL_INLINE vu load(const uint32_t* p) { return *reinterpret_cast<const vu_unaligned*>(p); }
UNSPOOL_INLINE void store(uint32_t* p, vu v) { *reinterpret_cast<vu_unaligned*>(p) = v; }
UNSPOOL_INLINE vf splat(float x) { return x - vf{}; }  // no operation remains: the compiler knows that x - 0 is x
UNSPOOL_INLINE vu splat(uint32_t x) { return x - vu{}; }

UNSPOOL_INLINE vf as_float(vi x) { return reinterpret_cast<vf>(x); }
UNSPOOL_INLINE vf as_float(vu x) { return reinterpret_cast<vf>(x); }
UNSPOOL_INLINE vi as_int(vf x) { return reinterpret_cast<vi>(x); }
UNSPOOL_INLINE vu as_bits(vf x) { return reinterpret_cast<vu>(x); }

// a where the mask is all ones, b where it is zero; masks come from comparisons of vectors.
UNSPOOL_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }

// Whether a mask has a lane that is all ones.
UNSPOOL_INLINE bool any(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int32_t found = 0;
  for (int i = 0; i < W; ++i) found |= mask[i];
  return found != 0;
#endif
}

UNSPOOL_INLINE float sum_lanes(vf v) {  // in a fixed order, halves first
  float lanes[W];
  store(lanes, v);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// Two bfloat16 in 32 bits, the first in the low half: rounded to nearest, ties to even; a NaN stays a NaN.
UNSPOOL_INLINE uint32_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
UNSPOOL_INLINE uint32_t bfloat16_pair(float first, float second) {
  return to_bfloat16(first) | (to_bfloat16(second) << 16);
}

// Lanes of a as the first and lanes of b as the second of pairs.
UNSPOOL_INLINE vu pairs_of(vf a, vf b) {
#if defined(__AVX512BF16__)
  typedef uint16_t half __attribute__((vector_size(W * 2)));
  const vu first = __builtin_convertvector((half)_mm512_cvtneps_pbh((__m512)a), vu);
  return first | __builtin_convertvector((half)_mm512_cvtneps_pbh((__m512)b), vu) << 16;
#else
  auto narrow = [](vf x) {
    const vu bits = as_bits(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bits & 0x7fffffffu) > splat(0x7f800000u) ? (bits >> 16) | 0x40u : rounded;
  };
  return narrow(a) | narrow(b) << 16;
#endif
}

// W pairs of the 2 * W neighbouring floats from p on.
UNSPOOL_INLINE vu load_pairs(const float* p) {
#if defined(__AVX512BF16__)
  return (vu)_mm512_cvtne2ps_pbh((__m512)load(p + W), (__m512)load(p));
#else
  uint32_t pairs[W];
  for (int i = 0; i < W; ++i) pairs[i] = bfloat16_pair(p[2 * i], p[2 * i + 1]);
  return load(pairs);
#endif
}

UNSPOOL_INLINE vf multiply_add(vf sum, vf a, vf b) { return sum + a * b; }

// Of pairs of bfloat16: sum + first(a) * first(b) + second(a) * second(b) in each lane, accumulated in float.
UNSPOOL_INLINE vf multiply_add(vf sum, vu a, vu b) {
#if defined(__AVX512BF16__)
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  const vu high = splat(0xffff0000u);
  sum += as_float(a << 16) * as_float(b << 16);
  return sum + as_float(a & high) * as_float(b & high);
#endif
}

// The lower or the upper half of a and of b, lane by lane in turn.
template <bool kUpper>
UNSPOOL_INLINE vf interleave(vf a, vf b) {
#if defined(__clang__)
  vf mixed{};
  for (int i = 0; i < W; ++i) mixed[i] = (i % 2 ? b : a)[i / 2 + (kUpper ? W / 2 : 0)];
  return mixed;
#else
  vi from{};
  for (int i = 0; i < W; ++i) from[i] = i / 2 + i % 2 * W + (kUpper ? W / 2 : 0);
  return __builtin_shuffle(a, b, from);
#endif
}

// Rows of W floats become columns: log2(W) rounds, each of which interleaves the first half of the rows with the second.
UNSPOOL_INLINE void transpose(vf (&rows)[W]) {
  for (int round = 1; round < W; round *= 2) {
    vf next[W];
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = interleave<false>(rows[i], rows[i + W / 2]);
      next[2 * i + 1] = interleave<true>(rows[i], rows[i + W / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

}  // namespace unspool::UNSPOOL_TARGET
