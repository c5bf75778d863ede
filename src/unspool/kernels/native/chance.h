// Random numbers from a counter: any one of a sequence at once, in any order, without a state. The same for all targets.
#pragma once

#include <array>
#include <cstdint>

namespace unspool {

// Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3): four
// random words for each counter and key.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * counter[0], second = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  return counter;
}

// The number in [0, 1) of one draw in one row: 53 bits.
inline double uniform(uint64_t seed, uint64_t draw, uint64_t row) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto word = philox({low(draw), low(draw >> 32), low(row), low(row >> 32)}, {low(seed), low(seed >> 32)});
  return static_cast<double>((uint64_t{word[0]} << 21) ^ (word[1] >> 11)) * 0x1p-53;
}

}  // namespace unspool
