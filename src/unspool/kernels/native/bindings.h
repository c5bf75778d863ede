// What each file of bindings adds to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace unspool {

void bind_cross_entropy(nanobind::module_& m);
void bind_linear_scan(nanobind::module_& m);
void bind_scan(nanobind::module_& m);
void bind_stream(nanobind::module_& m);

}  // namespace unspool
