// Compiled once per target: the gated scan backwards.
#include "gated_scan_backward.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

void scan_backward(const ScanArguments& a, const ScanGradients& grads, const EncodedProgram& program) {
  a.narrow ? scan_backward_as<true>(a, grads, program) : scan_backward_as<false>(a, grads, program);
}

}  // namespace unspool::UNSPOOL_TARGET
