#include "detect.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace unspool {

#if defined(__x86_64__)

namespace {

// What -march=x86-64-v3 lets the compiler use, of which not every compiler's __builtin_cpu_supports knows the names.
bool has_f16c_movbe_lzcnt() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 29)) || !(c & (1u << 22))) return false;
  return __get_cpuid(0x80000001u, &a, &b, &c, &d) && (c & (1u << 5));
}

bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") && has_f16c_movbe_lzcnt();
}

bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

// Tiles of bfloat16, and the leave of Linux to use their registers, which has to be asked for.
bool has_tiles() {
#if defined(__linux__)
  constexpr int kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & (1u << 22)) || !(d & (1u << 24))) return false;
  return syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool runs_here(std::string_view target) {
  __builtin_cpu_init();
  if (target == "x86-64-v3") return has_v3();
  if (target == "x86-64-v4") return has_v4();
  if (target == "x86-64-v4-bf16") return has_v4() && __builtin_cpu_supports("avx512bf16");
  if (target == "x86-64-v4-amx") return has_v4() && __builtin_cpu_supports("avx512bf16") && has_tiles();
  return target == "scalar";
}

#elif defined(__aarch64__)

bool runs_here(std::string_view target) { return target == "neon" || target == "scalar"; }  // 64-bit ARM has NEON

#else

bool runs_here(std::string_view target) { return target == "scalar"; }

#endif

}  // namespace unspool
