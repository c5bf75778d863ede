// The face that every target shows: a table of functions. The bindings call the engine through it and by no other way.
#pragma once

#include "encoded.h"
#include "scan_arguments.h"

namespace unspool {

// All members are constants, so that the table is filled by the compiler and not by code run at import.
struct Engine {
  int vector_width;  // floats in a register
  void (*scan_forward)(const ScanArguments&, const EncodedProgram&);
  void (*scan_backward)(const ScanArguments&, const ScanGradients&, const EncodedProgram&);
};

// The chosen target's table.
const Engine& engine();

// What each file that is compiled once per target defines in its namespace.
#if defined(UNSPOOL_TARGET)
namespace UNSPOOL_TARGET {
void scan_forward(const ScanArguments&, const EncodedProgram&);                         // gated_scan.cpp
void scan_backward(const ScanArguments&, const ScanGradients&, const EncodedProgram&);  // gated_scan_backward.cpp
}  // namespace UNSPOOL_TARGET
#endif

// One table per target compiled in, in its namespace. CMake gives the list: X(scalar) X(x86_64_v3) ...
#if defined(UNSPOOL_TARGETS)
#define X(target)              \
  namespace target {           \
  extern const Engine engine;  \
  }
UNSPOOL_TARGETS
#undef X
#endif

}  // namespace unspool
