// The face that every target shows: a table of functions. The bindings call the engine through it and by no other way.
#pragma once

#include <memory>

#include "cross_entropy_arguments.h"
#include "encoded.h"
#include "likeliest_arguments.h"
#include "linear_scan_arguments.h"
#include "scan_arguments.h"
#include "stream_arguments.h"

namespace unspool {

// All members are constants, so that the table is filled by the compiler and not by code run at import.
struct Engine {
  int vector_width;  // floats in a register
  void (*scan_forward)(const ScanArguments&, const EncodedProgram&);
  void (*scan_backward)(const ScanArguments&, const ScanGradients&, const EncodedProgram&);
  ScanSplit (*scan_split)(const ScanArguments&, double real_rows);  // looks at the sizes alone
  double (*linear_cross_entropy)(const CrossEntropyArguments&);  // the sum of nats
  void (*likeliest)(const LikeliestArguments&);
  void (*linear_scan_forward)(const LinearScanArguments&);
  void (*linear_scan_backward)(const LinearScanArguments&, const LinearScanGradients&);
  LinearSplit (*linear_scan_split)(const LinearScanArguments&);  // looks at the sizes alone
  std::unique_ptr<AnyStream> (*open_stream)(const StreamShape&);
  double (*measure_multiplications)(double seconds, int threads);
  double (*measure_reads)(int64_t bytes, double seconds, int threads);
};

// The chosen target's table.
const Engine& engine();

// What each file that is compiled once per target defines in its namespace.
#if defined(UNSPOOL_TARGET)
namespace UNSPOOL_TARGET {
void scan_forward(const ScanArguments&, const EncodedProgram&);                         // gated_scan.cpp
void scan_backward(const ScanArguments&, const ScanGradients&, const EncodedProgram&);  // gated_scan_backward.cpp
ScanSplit scan_split(const ScanArguments&, double real_rows);                           // gated_scan.cpp
double linear_cross_entropy(const CrossEntropyArguments&);                              // cross_entropy.cpp
void likeliest(const LikeliestArguments&);                                              // likeliest.cpp
void linear_scan_forward(const LinearScanArguments&);                                   // linear_scan.cpp
void linear_scan_backward(const LinearScanArguments&, const LinearScanGradients&);
LinearSplit linear_scan_split(const LinearScanArguments&);
std::unique_ptr<AnyStream> open_stream(const StreamShape&);                             // stream.cpp
double measure_multiplications(double seconds, int threads);                            // limits.cpp
double measure_reads(int64_t bytes, double seconds, int threads);
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
