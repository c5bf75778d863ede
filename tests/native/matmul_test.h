// Tests of matmul.h: every way to pack and multiply against a plain triple loop, on numbers whose sums are exact.
#pragma once

#include <cstdint>
#include <vector>

#include "check.h"
#include "matmul.h"

namespace matmul_test {

using namespace unspool::UNSPOOL_TARGET;

// Multiples of an eighth up to 1: exact in bfloat16, and their products' sums are exact in float.
inline std::vector<float> eighths(int64_t count, uint32_t seed) {
  std::vector<float> made(count);
  for (float& x : made) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<int>(seed >> 28) - 8) / 8.0f;
  }
  return made;
}

// A matrix whose rows lie apart and in memory of their own size, so that a read beyond an end is seen.
struct Matrix {
  Matrix(int64_t rows, int64_t columns, uint32_t seed) : rows(rows), columns(columns) {
    for (int64_t i = 0; i < rows; ++i) data.push_back(eighths(columns, seed + i));
    for (auto& row : data) places.push_back(row.data());
  }
  float at(int64_t i, int64_t j) const { return data[i][j]; }
  int64_t rows, columns;
  std::vector<std::vector<float>> data;
  std::vector<float*> places;
};

template <bool kNarrow>
std::vector<std::vector<element<kNarrow>>> elements(const Matrix& a) {
  std::vector<std::vector<element<kNarrow>>> made;
  for (const auto& row : a.data) {
    made.emplace_back(packed_depth<kNarrow>(a.columns));
    if constexpr (kNarrow) {
      narrow_row(row.data(), a.columns, made.back().data());
    } else {
      made.back() = row;
    }
  }
  return made;
}

template <bool kNarrow, bool kTransposed>
void product(int64_t rows, int64_t depth, int64_t columns, Start start, bool padded, int64_t stride = 0,
             bool from_end = false) {
  const Matrix a(rows, depth, 1);
  const auto b = eighths(depth * columns, 2);  // [columns, depth] or [depth, columns]
  const Panels panels{columns, panel_vectors(rows)};
  const int64_t steps = packed_depth<kNarrow>(depth);
  std::vector<element<kNarrow>> packed(steps * panels.padded());
  pack_panels<kNarrow, kTransposed>(b.data(), kTransposed ? depth : columns, depth, panels, packed.data(), steps);
  auto from = elements<kNarrow>(a);
  std::vector<element<kNarrow>> one(rows * stride);  // where a stride is given, all rows lie in one piece
  std::vector<const element<kNarrow>*> a_rows;
  for (int64_t i = 0; i < rows; ++i) {
    if (stride) std::copy(from[i].begin(), from[i].end(), one.begin() + i * stride);
    a_rows.push_back(stride ? one.data() + i * stride : from[i].data());
  }
  Matrix c(rows, padded ? panels.padded() : columns, 3);
  const Matrix before = c;
  const int64_t wide = c.columns + 5;
  std::vector<float> one_c(rows * wide, 77.0f);  // of C too, with something between its rows
  for (int64_t i = 0; i < rows && stride; ++i) {
    std::copy(c.data[i].begin(), c.data[i].end(), one_c.begin() + i * wide);
    c.places[i] = one_c.data() + i * wide;
  }
  const auto bias = eighths(panels.padded(), 4);
  multiply<kNarrow>(rows, a_rows.data(), depth, packed.data(), panels, c.places.data(), start,
                    start == Start::kBias ? bias.data() : nullptr, padded, from_end);
  int wrong = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      float sum = start == Start::kZero ? 0.0f : start == Start::kBias ? bias[j] : before.at(i, j);
      for (int64_t k = 0; k < depth; ++k) sum += a.at(i, k) * (kTransposed ? b[j * depth + k] : b[k * columns + j]);
      wrong += sum != c.places[i][j];
    }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = c.columns; j < wide; ++j) wrong += one_c[i * wide + j] != 77.0f;
  CHECK(wrong == 0);
}

template <bool kNarrow>
void products() {
  int turn = 0;
  for (int64_t rows : {0, 1, 2, 3, 5, 7, 13, 61, 121})
    for (int64_t depth : {0, 1, 2, 7, 9, 33, 257, 515})
      for (int64_t columns : {1, W - 1, W, W + 1, 3 * W, 7 * W + 2, 15 * W + 1}) {
        if (rows * depth > 20000) continue;
        for (int i = 0; i < 3; ++i, ++turn) {  // all starts, with each of the eight other choices in turn
          const Start start = static_cast<Start>(i);
          if (turn / 2 % 2) {
            product<kNarrow, true>(rows, depth, columns, start, turn % 2, 0, turn / 4 % 2);
          } else {
            product<kNarrow, false>(rows, depth, columns, start, turn % 2, 0, turn / 4 % 2);
          }
        }
      }
  for (int64_t rows : {6, 7, 125})  // rows that crowd the cache, which are copied aside
    for (bool from_end : {false, true})
      product<kNarrow, true>(rows, 515 * Element<kNarrow>::per - 1, 131, Start::kBias, false, 1024, from_end);
  for (int64_t rows : {16, 32, 48, 70})  // rows at equal distances, which may fill tiles
    for (const Start start : {Start::kZero, Start::kBias, Start::kAccumulate})
      for (int64_t depth : {33, 1030})
        for (int64_t columns : {2 * W, 3 * W, 7 * W + 2}) {
          product<kNarrow, true>(rows, depth, columns, start, false, depth + 7);
          product<kNarrow, true>(rows, depth, columns, start, true, depth + 7);
        }
}

// C = A^T B as the weight gradients compute it: groups of columns of A, some rows of data at a time.
template <bool kNarrow>
void gradient(int64_t depth, int64_t a_columns, int64_t b_columns, Start start) {
  const Matrix a(depth, a_columns, 5), b(depth, b_columns, 6);
  const Panels panels{b_columns, kTransposedVectors};
  const int64_t steps = packed_depth<kNarrow>(depth);
  std::vector<element<kNarrow>> packed_b(steps * panels.padded());
  pack_rows<kNarrow>(b.places.data(), depth, panels, packed_b.data());
  auto c = eighths(a_columns * b_columns, 7);
  const auto before = c;
  std::vector<float> totals(a_columns, 1.0f);
  std::vector<std::vector<element<kNarrow>>> packed_a;
  std::vector<PackedColumns<kNarrow>> parts;
  each_tile(a_columns, kColumns<kNarrow>, [&](int64_t first, int count) {
    packed_a.emplace_back((steps + 16) * kColumns<kNarrow> + W);
    pack_transposed<kNarrow>(a.places.data(), depth, a_columns, first, count, packed_a.back().data(), totals.data());
    parts.push_back({count, packed_a.back().data(), c.data() + first * b_columns});
  });
  multiply_transposed<kNarrow>(parts, depth, packed_b.data(), panels, b_columns, start);
  int wrong = 0;
  for (int64_t m = 0; m < a_columns; ++m) {
    float total = 1.0f;
    for (int64_t k = 0; k < depth; ++k) total += a.at(k, m);
    wrong += total != totals[m];
    for (int64_t n = 0; n < b_columns; ++n) {
      float sum = start == Start::kZero ? 0.0f : before[m * b_columns + n];
      for (int64_t k = 0; k < depth; ++k) sum += a.at(k, m) * b.at(k, n);
      wrong += sum != c[m * b_columns + n];
    }
  }
  CHECK(wrong == 0);
}

inline void test_transpose() {
  vf rows[W];
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) rows[i][j] = static_cast<float>(i * W + j);
  transpose(rows);
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) CHECK(rows[i][j] == static_cast<float>(j * W + i));
}

inline void test() {
  test_transpose();
  products<false>();
  products<true>();
  for (const Start start : {Start::kZero, Start::kAccumulate})
    for (int64_t depth : {1, 2, 5, 64, 255})
      for (int64_t a_columns : {1, 5, 6, 7, 20, 33})
        for (int64_t b_columns : {1, W - 1, W, 5 * W + 1, 70}) {
          gradient<false>(depth, a_columns, b_columns, start);
          gradient<true>(depth, a_columns, b_columns, start);
        }
}

}  // namespace matmul_test
