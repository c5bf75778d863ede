// Compiled once per target: the likeliest symbols of a linear map's softmax.
#include "likeliest.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

void likeliest(const LikeliestArguments& a) { a.narrow ? likeliest_as<true>(a) : likeliest_as<false>(a); }

}  // namespace unspool::UNSPOOL_TARGET
