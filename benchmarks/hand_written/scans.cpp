// Both scans of one target, with the interpreter, or with BY_HAND in its place.
#include "program.h"
#if defined(BY_HAND)
#include "machine.h"
#define Machine HandWritten
#endif
#include "gated_scan_backward.h"

#define NAMED(name, target) name##_##target
#define OF(name, target) NAMED(name, target)

namespace unspool {
void OF(forward, UNSPOOL_TARGET)(const ScanArguments& a, const EncodedProgram& program) {
  UNSPOOL_TARGET::scan_forward_as<false>(a, program);
}
void OF(backward, UNSPOOL_TARGET)(const ScanArguments& a, const ScanGradients& grads, const EncodedProgram& program) {
  UNSPOOL_TARGET::scan_backward_as<false>(a, grads, program);
}
}  // namespace unspool
