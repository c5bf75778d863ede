// Compiled once per target: the gated scan forwards.
#include "gated_scan.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

void scan_forward(const ScanArguments& a, const EncodedProgram& program) {
  a.narrow ? scan_forward_as<true>(a, program) : scan_forward_as<false>(a, program);
}

ScanSplit scan_split(const ScanArguments& a, double real_rows) { return choose_split(a, real_rows); }

}  // namespace unspool::UNSPOOL_TARGET
