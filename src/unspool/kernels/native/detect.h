#pragma once

#include <string_view>

namespace unspool {

// Whether this processor and its operating system run a target, by its public name: "x86-64-v3".
bool runs_here(std::string_view target);

}  // namespace unspool
