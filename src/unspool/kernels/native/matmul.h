// Products of matrices: C (+)= A B with B packed into panels, A given by rows, in float or in bfloat16.
//
// A panel holds all K rows of V * W neighbouring columns of B, one row after the other, so that a tile of up to six rows
// of C lives in registers while it runs down a panel:
//
//        panel: [K][V * W]                 tile: MR rows x V vectors of C
//
// In bfloat16 two neighbouring rows of B (and two neighbouring entries of a row of A) share 32 bits; sums are float.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace unspool::UNSPOOL_TARGET {

inline constexpr int kMaxRows = 6;      // of a tile
inline constexpr int kMaxVectors = 8;   // of a tile
inline constexpr int64_t kDepth = 256;  // of the part of a panel that stays in the first-level cache

// Widest panel, in vectors, for a product with this many rows: as many sums as registers hold, at least eight in flight.
inline int panel_vectors(int64_t rows) {
  if constexpr (kRegisters == 32) return rows <= 3 ? 8 : 4;
  return rows == 1 ? 8 : rows <= 3 ? 4 : rows == 4 || rows == 7 || rows == 8 ? 3 : 2;
}

constexpr int tile_rows(int vectors) {  // most rows of a tile with this many vectors
  if (kRegisters == 32) return vectors == 8 ? 3 : kMaxRows;
  return vectors == 8 ? 1 : vectors == 4 ? 3 : vectors == 3 ? 4 : kMaxRows;
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

template <bool kNarrow>
struct Element;  // what one step down a panel takes: a float, or a pair of bfloat16
template <>
struct Element<false> {
  using type = float;
  static constexpr int per = 1;
};
template <>
struct Element<true> {
  using type = uint32_t;
  static constexpr int per = 2;
};
template <bool kNarrow>
using element = typename Element<kNarrow>::type;

template <bool kNarrow>
int64_t packed_depth(int64_t depth) {
  return (depth + Element<kNarrow>::per - 1) / Element<kNarrow>::per;
}

// What a tile starts from.
enum class Start { kZero, kBias, kAccumulate };

// One tile. A is rows of pointers, or packed [depth][MR] with a[0] its start. C is rows of pointers.
template <int MR, int V, bool kNarrow, bool kPackedA>
void tile(const element<kNarrow>* const* a, int64_t depth, const element<kNarrow>* b, float* const* c, Start start,
          const float* bias) {
  vf sums[MR][V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const vf first = start == Start::kBias ? load(bias + v * W) : vf{};
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) sums[m][v] = first;
  }
  const element<kNarrow>* rows[MR];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) rows[m] = kPackedA ? a[0] + m : a[m];
  for (int64_t k = 0; k < depth; ++k, b += V * W) {
    if constexpr (kNarrow) {
      vu columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load_bits(b + v * W);
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) {
        const vu row = splat_bits(rows[m][kPackedA ? k * MR : k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[m][v] = dot_bfloat16(sums[m][v], row, columns[v]);
      }
    } else {
      vf columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load(b + v * W);
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) {
        const vf row = splat(rows[m][kPackedA ? k * MR : k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[m][v] += row * columns[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      float* place = c[m] + v * W;
      store(place, start == Start::kAccumulate ? load(place) + sums[m][v] : sums[m][v]);
    }
  }
}

template <bool kNarrow>
using Tile = void (*)(const element<kNarrow>* const*, int64_t, const element<kNarrow>*, float* const*, Start,
                      const float*);

template <bool kNarrow, bool kPackedA, int V, int... Rows>
constexpr std::array<Tile<kNarrow>, kMaxRows + 1> tiles_of(std::integer_sequence<int, Rows...>) {
  return {nullptr, (Rows + 1 <= tile_rows(V) ? tile<(Rows + 1 <= tile_rows(V) ? Rows + 1 : 1), V, kNarrow, kPackedA>
                                             : nullptr)...};
}

template <bool kNarrow, bool kPackedA>
Tile<kNarrow> find_tile(int rows, int vectors) {
  using Counts = std::make_integer_sequence<int, kMaxRows>;
  static constexpr std::array<std::array<Tile<kNarrow>, kMaxRows + 1>, 5> table = {
      tiles_of<kNarrow, kPackedA, 1>(Counts{}), tiles_of<kNarrow, kPackedA, 2>(Counts{}),
      tiles_of<kNarrow, kPackedA, 3>(Counts{}), tiles_of<kNarrow, kPackedA, 4>(Counts{}),
      tiles_of<kNarrow, kPackedA, 8>(Counts{})};
  return table[vectors == 8 ? 4 : vectors - 1][rows];
}

// Columns cut into panels: as many of the widest as fit, then narrower ones; the last one's missing lanes are zero.
struct Panels {
  int64_t columns;
  int widest;

  int64_t padded() const { return (columns + W - 1) / W * W; }
  template <typename Visit>
  void each(Visit&& visit) const {  // visit(first column, vectors)
    int64_t at = 0;
    for (int vectors = widest; vectors >= 1; vectors = vectors == 3 ? 2 : vectors / 2)
      while (at + vectors * W <= padded()) {
        visit(at, vectors);
        at += vectors * W;
      }
  }
};

// Packs columns [0, columns) of B into panels, from one of two sources:
//   kTransposed: B[k][n] = source[n * stride + k]      (a weight [N, K], as PyTorch stores it)
//   otherwise:   B[k][n] = source[k * stride + n]
// The rows go to the steps from `at_step` on of panels that are `all_steps` long.
template <bool kNarrow, bool kTransposed>
void pack_panels(const float* source, int64_t stride, int64_t depth, Panels panels, element<kNarrow>* packed,
                 int64_t all_steps, int64_t at_step = 0) {
  const int64_t steps = packed_depth<kNarrow>(depth);
  panels.each([&](int64_t first, int vectors) {
    const int64_t width = vectors * W, real = std::min<int64_t>(width, panels.columns - first);
    element<kNarrow>* panel = packed + first * all_steps + at_step * width;
    auto at = [&](int64_t k, int64_t n) {
      if (k >= depth || n >= real) return 0.0f;
      return kTransposed ? source[(first + n) * stride + k] : source[k * stride + first + n];
    };
    if constexpr (kNarrow) {
      for (int64_t k = 0; k < steps; ++k)
        for (int64_t n = 0; n < width; ++n) panel[k * width + n] = bfloat16_pair(at(2 * k, n), at(2 * k + 1, n));
    } else if constexpr (kTransposed) {
      const int64_t whole_n = real / W * W, whole_k = depth / W * W;
      for (int64_t k = 0; k < whole_k; k += W)
        for (int64_t n = 0; n < whole_n; n += W) {
          vf block[W];
          for (int i = 0; i < W; ++i) block[i] = load(source + (first + n + i) * stride + k);
          transpose(block);
          for (int i = 0; i < W; ++i) store(panel + (k + i) * width + n, block[i]);
        }
      for (int64_t n = 0; n < real; ++n) {
        const float* row = source + (first + n) * stride;
        for (int64_t k = n < whole_n ? whole_k : 0; k < depth; ++k) panel[k * width + n] = row[k];
      }
      for (int64_t k = 0; k < depth && real < width; ++k) std::fill(panel + k * width + real, panel + (k + 1) * width, 0.0f);
    } else {
      for (int64_t k = 0; k < depth; ++k) {
        const float* row = source + k * stride + first;
        for (int64_t n = 0; n < real; ++n) panel[k * width + n] = row[n];
        std::fill(panel + k * width + real, panel + (k + 1) * width, 0.0f);
      }
    }
  });
}

// A row of A as [packed depth] pairs, for a narrow product.
inline void narrow_row(const float* row, int64_t depth, uint32_t* pairs) {
  int64_t k = 0;
  for (; k + 1 < depth; k += 2) pairs[k / 2] = bfloat16_pair(row[k], row[k + 1]);
  if (k < depth) pairs[k / 2] = bfloat16_pair(row[k], 0.0f);
}

// Calls visit(first, count) for tiles of nearly equal size, none above `most` rows.
template <typename Visit>
void each_tile(int64_t rows, int most, Visit&& visit) {
  const int64_t tiles = (rows + most - 1) / most;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = rows * i / tiles;
    visit(first, static_cast<int>(rows * (i + 1) / tiles - first));
  }
}

// C[m][0..columns) (+)= sum_k A[m][k] B[k][.]: rows of A and C by pointers, B packed.
// `padded_c`: C's rows have room for whole vectors. A bias, where given, has room for whole vectors too.
template <bool kNarrow>
void multiply(int64_t rows, const element<kNarrow>* const* a, int64_t depth, const element<kNarrow>* packed,
              Panels panels, float* const* c, Start start, const float* bias, bool padded_c) {
  constexpr int64_t kBlockRows = 120;
  // Rows whose distance is a multiple of 2 KiB share few sets of the first-level cache: they are copied side by side.
  constexpr int64_t kAside = kDepth + 16;
  const bool crowded = rows >= kMaxRows && panels.columns >= 128 && depth >= kDepth &&
                       (reinterpret_cast<intptr_t>(a[1]) - reinterpret_cast<intptr_t>(a[0])) % 2048 == 0;
  const int64_t steps = packed_depth<kNarrow>(depth);
  if (steps == 0) {
    for (int64_t m = 0; m < rows && start != Start::kAccumulate; ++m)
      for (int64_t n = 0; n < panels.columns; ++n) c[m][n] = bias && start == Start::kBias ? bias[n] : 0.0f;
    return;
  }
  for (int64_t k = 0; k < steps; k += kDepth) {
    const int64_t part = std::min(kDepth, steps - k);
    const Start from = k == 0 ? start : Start::kAccumulate;
    for (int64_t block = 0; block < rows; block += kBlockRows) {
      const int64_t block_rows = std::min(kBlockRows, rows - block);
      element<kNarrow> beside[kBlockRows * kAside];
      if (crowded)
        for (int64_t m = 0; m < block_rows; ++m) std::copy(a[block + m] + k, a[block + m] + k + part, beside + m * kAside);
      panels.each([&](int64_t first, int vectors) {
        const int64_t width = vectors * W;
        const element<kNarrow>* panel = packed + first * steps + k * width;
        const bool overhangs = first + width > panels.columns && !padded_c;
        each_tile(block_rows, tile_rows(vectors), [&](int64_t row, int count) {
          const element<kNarrow>* a_rows[kMaxRows];
          float* c_rows[kMaxRows];
          float aside[kMaxRows][kMaxVectors * W];
          for (int m = 0; m < count; ++m) {
            a_rows[m] = crowded ? beside + (row + m) * kAside : a[block + row + m] + k;
            c_rows[m] = overhangs ? aside[m] : c[block + row + m] + first;
          }
          const Start begin = overhangs && from == Start::kAccumulate ? Start::kZero : from;
          find_tile<kNarrow, false>(count, vectors)(a_rows, part, panel, c_rows, begin, bias ? bias + first : nullptr);
          if (!overhangs) return;
          for (int m = 0; m < count; ++m)
            for (int64_t n = first; n < panels.columns; ++n) {
              float& place = c[block + row + m][n];
              place = from == Start::kAccumulate ? place + aside[m][n - first] : aside[m][n - first];
            }
        });
      });
    }
  }
}

// Packs columns [first, first + count) of the rows of A as [steps][count], and adds the columns' sums to `totals`.
// `width`: how many columns a row has. `packed` needs room for W floats more.
template <bool kNarrow>
void pack_transposed(const float* const* rows, int64_t depth, int64_t width, int64_t first, int count,
                     element<kNarrow>* packed, float* totals) {
  float sums[std::max(kMaxRows, W)] = {};
  if (!kNarrow && first + W <= width && W >= kMaxRows) {
    vf sum{};
    for (int64_t k = 0; k < depth; ++k) {  // each store overlaps the next, which mends what it wrote too much
      const vf row = load(rows[k] + first);
      store(reinterpret_cast<float*>(packed) + k * count, row);
      sum += row;
    }
    store(sums, sum);
  } else {
    constexpr int per = Element<kNarrow>::per;
    for (int64_t k = 0; k < depth; k += per) {
      const float* row = rows[k] + first;
      const float* next = per == 2 && k + 1 < depth ? rows[k + 1] + first : nullptr;
      for (int m = 0; m < count; ++m) {
        const float second = next ? next[m] : 0.0f;
        if constexpr (kNarrow) {
          packed[k / 2 * count + m] = bfloat16_pair(row[m], second);
        } else {
          packed[k * count + m] = row[m];
        }
        sums[m] += row[m] + second;
      }
    }
  }
  if (totals)
    for (int m = 0; m < count; ++m) totals[first + m] += sums[m];
}

// Packs rows of data, given by pointers, as the panels of B: B[k][n] = rows[k][n].
template <bool kNarrow>
void pack_rows(const float* const* rows, int64_t depth, Panels panels, element<kNarrow>* packed) {
  const int64_t steps = packed_depth<kNarrow>(depth);
  panels.each([&](int64_t first, int vectors) {
    const int64_t width = vectors * W, real = std::min<int64_t>(width, panels.columns - first);
    element<kNarrow>* panel = packed + first * steps;
    for (int64_t k = 0; k < steps; ++k) {
      element<kNarrow>* to = panel + k * width;
      if constexpr (kNarrow) {
        const float* row = rows[2 * k] + first;
        const float* next = 2 * k + 1 < depth ? rows[2 * k + 1] + first : nullptr;
        for (int64_t n = 0; n < real; ++n) to[n] = bfloat16_pair(row[n], next ? next[n] : 0.0f);
      } else {
        const float* row = rows[k] + first;
        if (real == width)
          for (int v = 0; v < vectors; ++v) store(to + v * W, load(row + v * W));
        else
          for (int64_t n = 0; n < real; ++n) to[n] = row[n];
      }
      for (int64_t n = real; n < width; ++n) to[n] = 0;
    }
  });
}

// Widest panel, in vectors, for the product below: one that leaves registers for kMaxRows rows.
inline constexpr int kTransposedVectors = kRegisters == 32 ? 4 : 2;

// Some neighbouring columns of A, packed by pack_transposed, and where their rows of C begin.
template <bool kNarrow>
struct PackedColumns {
  int count;
  const element<kNarrow>* packed;
  float* c;
};

// C[m][n] (+)= sum_k a[k][m] b[k][n] for the columns m of A in `parts`: a gradient of a weight from rows of data.
// `packed_b` comes from pack_rows. All parts run down one panel before the next one begins.
template <bool kNarrow>
void multiply_transposed(const std::vector<PackedColumns<kNarrow>>& parts, int64_t depth,
                         const element<kNarrow>* packed_b, Panels panels, int64_t c_stride, Start start) {
  const int64_t steps = packed_depth<kNarrow>(depth);
  panels.each([&](int64_t first, int vectors) {
    const bool overhangs = first + vectors * W > panels.columns;
    for (const auto& part : parts) {
      float aside[kMaxRows][kMaxVectors * W];
      float* c_rows[kMaxRows];
      for (int m = 0; m < part.count; ++m) c_rows[m] = overhangs ? aside[m] : part.c + m * c_stride + first;
      find_tile<kNarrow, true>(part.count, vectors)(&part.packed, steps, packed_b + first * steps, c_rows,
                                                    overhangs ? Start::kZero : start, nullptr);
      for (int m = 0; m < part.count && overhangs; ++m)
        for (int64_t n = first; n < panels.columns; ++n) {
          float& place = part.c[m * c_stride + n];
          place = start == Start::kAccumulate ? place + aside[m][n - first] : aside[m][n - first];
        }
    }
  });
}

}  // namespace unspool::UNSPOOL_TARGET
