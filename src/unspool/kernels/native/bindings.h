// What each file of bindings adds to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace unspool {

void bind_scan(nanobind::module_& m);

}  // namespace unspool
