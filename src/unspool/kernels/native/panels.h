// How the factors of products are packed, in float or in bfloat16.
//
// A panel holds all K rows of V * W neighbouring columns of B, one row after the other, so that a tile of up to six rows
// of C lives in registers while it runs down a panel:
//
//        panel: [K][V * W]                 tile: MR rows x V vectors of C
//
// In bfloat16 two neighbouring rows of B (and two neighbouring entries of a row of A) share 32 bits; sums are float.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "simd.h"
#include "tiles.h"

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

#if defined(__AMX_BF16__)
inline constexpr bool kTiles = true;
#else
inline constexpr bool kTiles = false;
#endif
// Columns of A that are packed together for a product with its transpose; so many rows fill tiles.
template <bool kNarrow> inline constexpr int kColumns = kNarrow && kTiles ? 32 : kMaxRows;

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
template <bool kNarrow> using element = typename Element<kNarrow>::type;

template <bool kNarrow>
int64_t packed_depth(int64_t depth) {
  return (depth + Element<kNarrow>::per - 1) / Element<kNarrow>::per;
}

// Columns cut into panels: as many of the widest as fit, then narrower ones; the last one's missing lanes are zero.
struct Panels {
  int64_t columns;
  int widest;

  int64_t padded() const { return (columns + W - 1) / W * W; }
  template <typename Visit>
  void each(Visit&& visit, bool from_end = false) const {  // visit(first column, vectors)
    const int64_t wide = padded() / W / widest, rest = padded() / W % widest;
    for (int64_t i = 0; i < wide + 3; ++i) {  // the widest, then the bits of what is left: 4 vectors, 2 and 1
      const int64_t place = from_end ? wide + 2 - i : i, narrow = int64_t{4} >> std::max<int64_t>(place - wide, 0);
      if (place < wide) visit(place * widest * W, widest);
      else if (rest & narrow) visit((wide * widest + (rest & -2 * narrow)) * W, static_cast<int>(narrow));
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
      const int64_t whole_n = kTransposed ? real / W * W : real, whole_k = kTransposed ? depth / (2 * W) * W : 0;
      for (int64_t k = 0; k < whole_k; k += W)
        for (int64_t n = 0; n < whole_n; n += W) {
          vf block[W];
          for (int i = 0; i < W; ++i) block[i] = as_float(load_pairs(source + (first + n + i) * stride + 2 * k));
          transpose(block);
          for (int i = 0; i < W; ++i) store(panel + (k + i) * width + n, as_bits(block[i]));
        }
      for (int64_t k = 0; k < steps; ++k)
        for (int64_t n = k < whole_k ? whole_n : 0; n < width; ++n)
          panel[k * width + n] = bfloat16_pair(at(2 * k, n), at(2 * k + 1, n));
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
  for (; k + 2 * W <= depth; k += 2 * W) store(pairs + k / 2, load_pairs(row + k));
  for (; k + 1 < depth; k += 2) pairs[k / 2] = bfloat16_pair(row[k], row[k + 1]);
  if (k < depth) pairs[k / 2] = bfloat16_pair(row[k], 0.0f);
}

// A row of A as a product reads it: where it is, or as pairs in `room`.
template <bool kNarrow>
const element<kNarrow>* entering_row(const float* row, int64_t depth, element<kNarrow>* room) {
  if constexpr (!kNarrow) return row;
  else return narrow_row(row, depth, room), room;
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

// Packs columns [first, first + count) of the rows of A as [steps][count], and adds the columns' sums to `totals`.
// `width`: how many columns a row has. `packed` needs room for W floats more.
template <bool kNarrow>
void pack_transposed(const float* const* rows, int64_t depth, int64_t width, int64_t first, int count,
                     element<kNarrow>* packed, float* totals) {
#if defined(__AMX_BF16__)
  if constexpr (kNarrow) return pack_columns(rows, depth, first, count, packed, totals);
#endif
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
        int64_t n = 0;
        for (; n + W <= real && next; n += W) store(to + n, pairs_of(load(row + n), load(next + n)));
        for (; n < real; ++n) to[n] = bfloat16_pair(row[n], next ? next[n] : 0.0f);
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

}  // namespace unspool::UNSPOOL_TARGET
