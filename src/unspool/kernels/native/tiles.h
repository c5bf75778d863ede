// Products of pairs of bfloat16 in the tile registers of AMX: 16 x 16 sums, 16 rows of 16 pairs times 16 pairs of 16 columns.
//
// B lies in the panels of matmul.h as it is: 16 steps down a panel are a tile. Rows of A that do not
// fill tiles are copied side by side, with zeros up to whole ones. Sums begin as what is in memory, and go back there.
#pragma once

#include "simd.h"

#if defined(__AMX_BF16__)

#include <algorithm>
#include <cstdint>

namespace unspool::UNSPOOL_TARGET {

inline constexpr int64_t kTileSide = 16;
inline constexpr int64_t kTileRows = 2 * kTileSide;  // of A at a time; of sums as many columns

// The tile registers are ours while this lives: eight tiles of 16 rows of 64 bytes.
class TileRegisters {
 public:
  TileRegisters() {
    alignas(64) uint8_t layout[64] = {1};  // palette 1; bytes of each tile's row from 16 on, its rows from 48 on
    for (int tile = 0; tile < 8; ++tile) layout[16 + 2 * tile] = 64, layout[48 + tile] = 16;
    _tile_loadconfig(layout);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

constexpr int64_t whole_tiles(int64_t count) { return (count + kTileSide - 1) / kTileSide * kTileSide; }

// c[M * 16][V * 16] = first + A B, or A B where there is no `first`, which may be c itself or, with a stride of 0, one row for
// all. a: [M * 16][a_stride] pairs, zero from `steps` up to
// whole tiles; b: [steps][b_stride] pairs.
template <int M, int V>
void multiply_tiles(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t steps,
                    const float* first, int64_t first_stride, float* c, int64_t c_stride) {
  alignas(64) uint32_t last[kTileSide * V * kTileSide];
  if (first) {
    _tile_loadd(0, first, first_stride * 4);
    if constexpr (V == 2) _tile_loadd(1, first + kTileSide, first_stride * 4);
    if constexpr (M == 2) _tile_loadd(2, first + kTileSide * first_stride, first_stride * 4);
    if constexpr (M == 2 && V == 2) _tile_loadd(3, first + kTileSide * first_stride + kTileSide, first_stride * 4);
  } else {
    _tile_zero(0);
    if constexpr (V == 2) _tile_zero(1);
    if constexpr (M == 2) _tile_zero(2);
    if constexpr (M == 2 && V == 2) _tile_zero(3);
  }
  for (int64_t k = 0; k < steps; k += kTileSide) {
    const uint32_t* from = b + k * b_stride;
    int64_t stride = b_stride;
    if (steps - k < kTileSide) {  // what lies beyond may be no number
      std::fill(last, last + kTileSide * V * kTileSide, 0u);
      for (int64_t i = 0; i < steps - k; ++i)
        std::copy(from + i * stride, from + i * stride + V * kTileSide, last + i * V * kTileSide);
      from = last, stride = V * kTileSide;
    }
    _tile_loadd(4, a + k, a_stride * 4);
    _tile_loadd(6, from, stride * 4);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (V == 2) {
      _tile_loadd(7, from + kTileSide, stride * 4);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (M == 2) {
      _tile_loadd(5, a + kTileSide * a_stride + k, a_stride * 4);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (M == 2 && V == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_stride * 4);
  if constexpr (V == 2) _tile_stored(1, c + kTileSide, c_stride * 4);
  if constexpr (M == 2) _tile_stored(2, c + kTileSide * c_stride, c_stride * 4);
  if constexpr (M == 2 && V == 2) _tile_stored(3, c + kTileSide * c_stride + kTileSide, c_stride * 4);
}

template <typename... Rest>
void multiply_tiles(bool two_rows, bool two_columns, Rest... rest) {
  constexpr decltype(&multiply_tiles<1, 1>) sized[2][2] = {{multiply_tiles<1, 1>, multiply_tiles<1, 2>},
                                                           {multiply_tiles<2, 1>, multiply_tiles<2, 2>}};
  sized[two_rows][two_columns](rest...);
}

// Columns [first, first + count) of the rows of A as [whole tiles of columns][whole tiles of pairs], zeros in between;
// adds the columns' sums to `totals`.
inline void pack_columns(const float* const* rows, int64_t depth, int64_t first, int count, uint32_t* packed, float* totals) {
  const int64_t stride = whole_tiles((depth + 1) / 2);
  for (int64_t m = 0; m < count; m += kTileSide) {
    const __mmask16 lanes = __mmask16((1u << std::min<int64_t>(kTileSide, count - m)) - 1);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t k = 0; k < stride; k += kTileSide) {
      vf block[W];
      for (int64_t i = 0; i < kTileSide; ++i) {
        auto row = [&](int64_t at) {
          return at < depth ? _mm512_maskz_loadu_ps(lanes, rows[at] + first + m) : _mm512_setzero_ps();
        };
        const __m512 one = row(2 * (k + i)), two = row(2 * (k + i) + 1);
        sum = _mm512_add_ps(sum, _mm512_add_ps(one, two));
        block[i] = as_float(pairs_of((vf)one, (vf)two));
      }
      transpose(block);
      for (int64_t i = 0; i < kTileSide; ++i) store(reinterpret_cast<float*>(packed) + (m + i) * stride + k, block[i]);
    }
    if (totals) _mm512_mask_storeu_ps(totals + first + m, lanes, _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, totals + first + m)));
  }
}

}  // namespace unspool::UNSPOOL_TARGET

#endif
