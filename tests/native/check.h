// The whole test framework: CHECK(condition[, message]) says what failed and goes on; failures() is the exit code's number.
#pragma once

#include <cstdio>

inline int& failures() {
  static int count = 0;
  return count;
}

#define CHECK(condition, ...) expect_that(static_cast<bool>(condition), __FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__)

inline void expect_that(bool holds, const char* file, int line, const char* condition, const char* message = "") {
  if (holds) return;
  std::fprintf(stderr, "%s:%d: failed: %s %s\n", file, line, condition, message);
  ++failures();
}
