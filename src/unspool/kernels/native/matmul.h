// Products of matrices: C (+)= A B with B packed into panels (panels.h), A given by rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "panels.h"

namespace unspool::UNSPOOL_TARGET {

// What a tile starts from.
enum class Start { kZero, kBias, kAccumulate };

// What a tile fetches into the second-level cache while it runs: at every step the line of memory at `at`, then at + step.
struct Ahead {
  uintptr_t at = 0;
  int64_t step = 0;  // bytes; 0: nothing
};
inline constexpr int64_t kLine = 64;

// One tile. A is rows of pointers, or packed [depth][MR] with a[0] its start. C is rows of pointers.
template <int MR, int V, bool kNarrow, bool kPackedA>
void tile(const element<kNarrow>* const* a, int64_t depth, const element<kNarrow>* b, float* const* c, Start start,
          const float* bias, Ahead ahead) {
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
  const auto run_down = [&](bool fetches) __attribute__((always_inline)) {  // twice, so that a tile that fetches nothing does not ask
    for (int64_t k = 0; k < depth; ++k, b += V * W) {
      if (fetches) __builtin_prefetch(reinterpret_cast<const void*>(ahead.at), 0, 2), ahead.at += ahead.step;
      decltype(load(b)) columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = load(b + v * W);
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) {
        const auto row = splat(rows[m][kPackedA ? k * MR : k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[m][v] = multiply_add(sums[m][v], row, columns[v]);
      }
    }
  };
  if (!kPackedA && ahead.step) run_down(true);
  else run_down(false);
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
                      const float*, Ahead);

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

#if defined(__AMX_BF16__)
// C[m][at ... at + wide) (+)= A B in tiles, of which C has `real` columns: straight where its rows are at equal distances and
// fill tiles, otherwise in a square beside it. The sums are the same to the bit.
inline void multiply_tiles_into(float* const* c, int64_t count, bool even, int64_t at, int64_t wide, int64_t real, Start start,
                                const float* bias, const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride,
                                int64_t steps) {
  alignas(64) float square[kTileRows * kTileRows];
  const bool direct = even && count % kTileSide == 0 && real == wide, biased = start == Start::kBias;
  for (int64_t m = 0; m < count && !direct && start != Start::kZero; ++m) {
    const float* from = (biased ? bias : c[m]) + at;
    std::copy(from, from + real, square + m * kTileRows);
  }
  float* const sums = direct ? c[0] + at : square;
  const int64_t stride = direct ? c[1] - c[0] : kTileRows;
  const float* first = start == Start::kZero ? nullptr : direct && biased ? bias + at : sums;
  multiply_tiles(count > kTileSide, wide > W, a, a_stride, b, b_stride, steps, first, direct && biased ? 0 : stride, sums, stride);
  for (int64_t m = 0; m < count && !direct; ++m) std::copy(square + m * kTileRows, square + m * kTileRows + real, c[m] + at);
}

// `multiply` of pairs in tiles.
inline void multiply_in_tiles(int64_t rows, const uint32_t* const* a, int64_t steps, const uint32_t* packed, Panels panels,
                              float* const* c, Start start, const float* bias, bool padded_c) {
  constexpr int64_t kAside = kDepth + 16;
  alignas(64) uint32_t beside[kTileRows * kAside];
  const TileRegisters registers;
  for (int64_t k = 0; k < steps; k += kDepth) {
    const int64_t part = std::min(kDepth, steps - k);
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t count = std::min(kTileRows, rows - row);
      // Rows of A that fill tiles and lie at equal distances, in whole cache lines (a tile takes four times as long to load
      // from halves of them), are read where they are, unless many columns read them again.
      const int64_t spacing = count > 1 ? a[row + 1] - a[row] : 0;
      bool aside = count % kTileSide || part % kTileSide || panels.columns > 256 ||
                   (reinterpret_cast<uintptr_t>(a[row]) | spacing * 4) % kLine;
      for (int64_t m = 2; m < count && !aside; ++m) aside = a[row + m] - a[row + m - 1] != spacing;
      for (int64_t m = 0; m < whole_tiles(count) && aside; ++m) {
        uint32_t* to = beside + m * kAside;
        const int64_t real = m < count ? part : 0;
        if (real) std::copy(a[row + m] + k, a[row + m] + k + real, to);
        std::fill(to + real, to + whole_tiles(part), 0u);
      }
      bool even = true;
      for (int64_t m = 2; m < count && even; ++m) even = c[row + m] - c[row + m - 1] == c[row + 1] - c[row];
      panels.each([&](int64_t first, int vectors) {
        for (int v = 0; v < vectors; v += 2) {
          const int64_t at = first + v * W, wide = std::min<int64_t>(2, vectors - v) * W;
          multiply_tiles_into(c + row, count, even, at, wide, padded_c ? wide : std::min(wide, panels.columns - at),
                              k == 0 ? start : Start::kAccumulate, bias, aside ? beside : a[row] + k,
                              aside ? kAside : spacing, packed + first * steps + k * vectors * W + v * W, vectors * W, part);
        }
      });
    }
  }
}
#endif

// C[m][0..columns) (+)= sum_k A[m][k] B[k][.]: rows of A and C by pointers, B packed.
// `padded_c`: C's rows have room for whole vectors. A bias, where given, has room for whole vectors too.
// `from_end`: the last panel comes first, with the same bits; tiles of AMX do not heed it. Steps that begin at either end in
// turn find in cache what of B the step before read last; of very many rows, only within a part of the depth.
//
// While the rows' tiles run down a part of a panel, they fetch the part that comes next, each its share: otherwise the first
// tile to run down a part that is far waits for memory, and the others leave memory idle (docs/results/engine.md).
template <bool kNarrow>
void multiply(int64_t rows, const element<kNarrow>* const* a, int64_t depth, const element<kNarrow>* packed,
              Panels panels, float* const* c, Start start, const float* bias, bool padded_c, bool from_end = false) {
  constexpr int64_t kBlockRows = 120, kNear = int64_t{1} << 18;  // elements of A that may be read again for each panel
  // Rows whose distance is a multiple of 2 KiB share few sets of the first-level cache: they are copied side by side.
  constexpr int64_t kAside = kDepth + 16;
  const bool crowded = rows >= kMaxRows && panels.columns >= 128 && depth >= kDepth &&
                       (reinterpret_cast<intptr_t>(a[1]) - reinterpret_cast<intptr_t>(a[0])) % 2048 == 0;
  const int64_t steps = packed_depth<kNarrow>(depth);
  if (steps == 0 && start != Start::kAccumulate)
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t n = 0; n < panels.columns; ++n) c[m][n] = bias && start == Start::kBias ? bias[n] : 0.0f;
#if defined(__AMX_BF16__)
  if constexpr (kNarrow)
    if (rows >= 4) return multiply_in_tiles(rows, a, steps, packed, panels, c, start, bias, padded_c);
#endif
  element<kNarrow> beside[kBlockRows * kAside];
  // `next`: how many elements lie between the beginnings of this part and of the next. It may be wrong where panels differ in
  // width, or the depth is no multiple of kDepth, or a block of rows ends: then something else is fetched, at no harm.
  auto run = [&](int64_t block, int64_t block_rows, int64_t k, int64_t first, int vectors, int64_t next) {
    const int64_t width = vectors * W, part = std::min(kDepth, steps - k), most = tile_rows(vectors);
    const element<kNarrow>* panel = packed + first * steps + k * width;
    const bool overhangs = first + width > panels.columns && !padded_c;
    const Start from = k == 0 ? start : Start::kAccumulate;
    const int64_t tiles = (block_rows + most - 1) / most;
    Ahead ahead;
    if (tiles > 1 && steps > kDepth)  // up to 256 units a weight is near in most cases; one tile alone has no time to spare
      ahead = {reinterpret_cast<uintptr_t>(panel) + next * 4, std::min((width * 4 + tiles - 1) / tiles, kLine)};
    each_tile(block_rows, most, [&](int64_t row, int count) {
      const element<kNarrow>* a_rows[kMaxRows];
      float* c_rows[kMaxRows];
      float aside[kMaxRows][kMaxVectors * W];
      for (int m = 0; m < count; ++m) {
        a_rows[m] = crowded ? beside + (row + m) * kAside : a[block + row + m] + k;
        c_rows[m] = overhangs ? aside[m] : c[block + row + m] + first;
      }
      const Start begin = overhangs && from == Start::kAccumulate ? Start::kZero : from;
      find_tile<kNarrow, false>(count, vectors)(a_rows, part, panel, c_rows, begin, bias ? bias + first : nullptr, ahead);
      ahead.at += part * ahead.step;
      if (!overhangs) return;
      for (int m = 0; m < count; ++m)
        for (int64_t n = first; n < panels.columns; ++n) {
          float& place = c[block + row + m][n];
          place = from == Start::kAccumulate ? place + aside[m][n - first] : aside[m][n - first];
        }
    });
  };
  if (rows <= kBlockRows && rows * steps <= kNear && !crowded)  // a panel is read in one go
    return panels.each([&](int64_t first, int vectors) {
      for (int64_t k = 0; k < steps; k += kDepth)
        run(0, rows, k, first, vectors, vectors * W * (from_end && k + kDepth >= steps ? -steps - k : kDepth));
    }, from_end);
  for (int64_t k = 0; k < steps; k += kDepth)
    for (int64_t block = 0; block < rows; block += kBlockRows) {
      const int64_t block_rows = std::min(kBlockRows, rows - block);
      for (int64_t m = 0; m < block_rows && crowded; ++m)
        std::copy(a[block + m] + k, a[block + m] + std::min(k + kDepth, steps), beside + m * kAside);
      panels.each([&](int64_t first, int vectors) {
        run(block, block_rows, k, first, vectors, vectors * W * (from_end ? -steps : steps));
      }, from_end);
    }
}

// C[m][n] (+)= sum_k a[k][m] b[k][n] for the columns m of A in `parts`: a gradient of a weight from rows of data.
// `packed_b` comes from pack_rows. All parts run down one panel before the next one begins.
template <bool kNarrow>
void multiply_transposed(const std::vector<PackedColumns<kNarrow>>& parts, int64_t depth,
                         const element<kNarrow>* packed_b, Panels panels, int64_t c_stride, Start start) {
  const int64_t steps = packed_depth<kNarrow>(depth);
#if defined(__AMX_BF16__)
  if constexpr (kNarrow) {
    const TileRegisters registers;
    panels.each([&](int64_t first, int vectors) {
      for (const auto& part : parts) {
        float* rows[kTileRows];
        for (int m = 0; m < part.count; ++m) rows[m] = part.c + m * c_stride;
        for (int v = 0; v < vectors; v += 2) {
          const int64_t at = first + v * W, wide = std::min<int64_t>(2, vectors - v) * W;
          multiply_tiles_into(rows, part.count, true, at, wide, std::min(wide, panels.columns - at), start, nullptr, part.packed,
                              whole_tiles(steps), packed_b + first * steps + v * W, vectors * W, steps);
        }
      }
    });
    return;
  }
#endif
  panels.each([&](int64_t first, int vectors) {
    const bool overhangs = first + vectors * W > panels.columns;
    for (const auto& part : parts) {
      float aside[kMaxRows][kMaxVectors * W];
      float* c_rows[kMaxRows];
      for (int m = 0; m < part.count; ++m) c_rows[m] = overhangs ? aside[m] : part.c + m * c_stride + first;
      find_tile<kNarrow, true>(part.count, vectors)(&part.packed, steps, packed_b + first * steps, c_rows,
                                                    overhangs ? Start::kZero : start, nullptr, {});
      for (int m = 0; m < part.count && overhangs; ++m)
        for (int64_t n = first; n < panels.columns; ++n) {
          float& place = part.c[m * c_stride + n];
          place = start == Start::kAccumulate ? place + aside[m][n - first] : aside[m][n - first];
        }
    }
  });
}

}  // namespace unspool::UNSPOOL_TARGET
