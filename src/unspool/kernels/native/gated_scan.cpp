// Compiled once per target: the gated scan forwards.
#include "gated_scan.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

void scan_forward(const ScanArguments& a, const EncodedProgram& program) {
  a.narrow ? scan_forward_as<true>(a, program) : scan_forward_as<false>(a, program);
}

}  // namespace unspool::UNSPOOL_TARGET
