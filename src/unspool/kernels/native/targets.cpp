// Compiled once per target: its table of functions, which the files beside this one define for the same target.
//
// No static variable here or in the headers may need a constructor: it would run, with these instructions, on any CPU.
#include "simd.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

extern const Engine engine;
constinit const Engine engine = {
    .vector_width = W,
    .scan_forward = scan_forward,
    .scan_backward = scan_backward,
    .scan_split = scan_split,
    .linear_cross_entropy = linear_cross_entropy,
    .likeliest = likeliest,
    .linear_scan_forward = linear_scan_forward,
    .linear_scan_backward = linear_scan_backward,
    .linear_scan_split = linear_scan_split,
    .open_stream = open_stream,
    .measure_multiplications = measure_multiplications,
    .measure_reads = measure_reads,
};

}  // namespace unspool::UNSPOOL_TARGET
