// Compiled once per target: the softmax with its cross-entropy.
#include "cross_entropy.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

double linear_cross_entropy(const CrossEntropyArguments& a) {
  return a.narrow ? linear_cross_entropy_as<true>(a) : linear_cross_entropy_as<false>(a);
}

}  // namespace unspool::UNSPOOL_TARGET
