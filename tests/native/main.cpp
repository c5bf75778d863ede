// Tests of the engine's headers without Python, for one target; scripts/sanitize builds and runs them.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

#define UNSPOOL_STRIDE 29989  // math_test.h alone would take a minute in qemu

#include "check.h"
#include "detect.h"
#include "math_test.h"
#include "matmul_test.h"
#include "scan_test.h"
#include "simd.h"
#include "stream_test.h"

namespace {

using namespace unspool::UNSPOOL_TARGET;

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

float widened(uint32_t bfloat16) { return from_bits(bfloat16 << 16); }

void test_load_store() {
  float numbers[W + 1], copy[W + 1];
  for (int i = 0; i <= W; ++i) numbers[i] = 0.5f + static_cast<float>(i);
  store(copy + 1, load(numbers + 1));  // neither address is a multiple of a register
  for (int i = 1; i <= W; ++i) CHECK(copy[i] == numbers[i]);
  uint32_t bits[W + 1], same[W + 1];
  for (int i = 0; i <= W; ++i) bits[i] = 0x80000001u * static_cast<uint32_t>(i);
  store(same + 1, load(bits + 1));
  for (int i = 1; i <= W; ++i) CHECK(same[i] == bits[i]);
}

void test_splat() {
  for (float x : {1.5f, -3.0f, 0.0f, std::numeric_limits<float>::infinity()}) {
    const vf all = splat(x);
    for (int i = 0; i < W; ++i) CHECK(all[i] == x);
  }
  const vf negative_zero = splat(-0.0f);
  for (int i = 0; i < W; ++i) CHECK(std::signbit(negative_zero[i]));
  const vf nan = splat(std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < W; ++i) CHECK(std::isnan(nan[i]));
  const vu bits = splat(0xdeadbeefu);
  for (int i = 0; i < W; ++i) CHECK(bits[i] == 0xdeadbeefu);
}

void test_select() {
  vf a{}, b{};
  for (int i = 0; i < W; ++i) {
    a[i] = static_cast<float>(i % 3);
    b[i] = 1.0f;
  }
  const vf larger = select(a > b, a, b);
  for (int i = 0; i < W; ++i) CHECK(larger[i] == std::fmax(a[i], b[i]));
}

void test_sum_lanes() {
  vf numbers{};
  for (int i = 0; i < W; ++i) numbers[i] = static_cast<float>(1 << i);
  CHECK(sum_lanes(numbers) == static_cast<float>((1 << W) - 1));
}

void test_to_bfloat16() {
  CHECK(to_bfloat16(1.0f) == 0x3f80u);
  CHECK(to_bfloat16(-0.0f) == 0x8000u);
  CHECK(to_bfloat16(from_bits(0x3f808000u)) == 0x3f80u);  // a tie goes to the even neighbour: down
  CHECK(to_bfloat16(from_bits(0x3f818000u)) == 0x3f82u);  // and up
  CHECK(to_bfloat16(from_bits(0x3f807fffu)) == 0x3f80u);
  CHECK(to_bfloat16(from_bits(0x3f808001u)) == 0x3f81u);
  CHECK(to_bfloat16(from_bits(0xbf818000u)) == 0xbf82u);
  CHECK(to_bfloat16(std::numeric_limits<float>::max()) == 0x7f80u);  // past the largest: infinity
  CHECK(to_bfloat16(std::numeric_limits<float>::infinity()) == 0x7f80u);
  CHECK(to_bfloat16(-std::numeric_limits<float>::infinity()) == 0xff80u);
  for (uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7fc00000u}) {
    const uint32_t rounded = to_bfloat16(from_bits(nan));
    CHECK(std::isnan(widened(rounded)));
    CHECK((rounded >> 15) == (nan >> 31));
  }
  CHECK(bfloat16_pair(1.0f, -2.0f) == 0xc0003f80u);
}

void test_multiply_add() {
  vf sum{};
  vu a{}, b{};
  float expected[W];
  uint32_t state = 1;
  auto next = [&state] {  // numbers of seven bits: all products and sums are exact, in whatever order
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int>(state >> 25) - 64) / 8.0f;
  };
  for (int i = 0; i < W; ++i) {
    const float a0 = next(), a1 = next(), b0 = next(), b1 = next();
    sum[i] = next();
    a[i] = bfloat16_pair(a0, a1);
    b[i] = bfloat16_pair(b0, b1);
    expected[i] = sum[i] + a0 * b0 + a1 * b1;
  }
  const vf result = multiply_add(sum, a, b);
  for (int i = 0; i < W; ++i) CHECK(result[i] == expected[i]);
  const vf plain = multiply_add(splat(0.5f), splat(2.0f), splat(-3.0f));
  for (int i = 0; i < W; ++i) CHECK(plain[i] == -5.5f);
}

}  // namespace

int main() {
  unspool::runs_here("x86-64-v4-amx");  // which asks for the leave to use tiles, where there are any
  test_load_store();
  test_splat();
  test_select();
  test_sum_lanes();
  test_to_bfloat16();
  test_multiply_add();
  test_math();
  matmul_test::test();
  scan_test::test();
  stream_test::test();
  if (failures()) std::fprintf(stderr, "%d checks failed\n", failures());
  return failures() ? 1 : 0;
}
