// Compiled once per target: streams.
#include "stream.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {

std::unique_ptr<AnyStream> open_stream(const StreamShape& shape) {
  if (shape.narrow) return std::make_unique<Stream<true>>(shape);
  return std::make_unique<Stream<false>>(shape);
}

}  // namespace unspool::UNSPOOL_TARGET
