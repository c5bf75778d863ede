// Bindings of the linear scan. As in bind_scan.cpp, tensors come as addresses of dense memory that Python has checked.
#include <nanobind/nanobind.h>

#include <cstdint>

#include "bindings.h"
#include "targets.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unspool {
namespace {

using Address = uintptr_t;  // 0: an absent tensor

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void forward(int64_t T, int64_t B, int64_t H, bool reverse, int threads, Address a, Address b, Address initial,
             Address lengths, Address reset, Address reset_state, Address states) {
  const LinearScanArguments given = {
      T, B, H, reverse, threads, at<const float>(a), at<const float>(b), at<const float>(initial),
      at<const int64_t>(lengths), at<const bool>(reset), at<const float>(reset_state), at<float>(states)};
  const Engine& chosen = engine();
  nb::gil_scoped_release unlocked;
  chosen.linear_scan_forward(given);
}

void backward(int64_t T, int64_t B, int64_t H, bool reverse, int threads, Address a, Address initial, Address lengths,
              Address reset, Address reset_state, Address states, Address grad_states, Address grad_a, Address grad_b,
              Address grad_initial, Address grad_reset_state) {
  const LinearScanArguments given = {
      T, B, H, reverse, threads, at<const float>(a), nullptr, at<const float>(initial),
      at<const int64_t>(lengths), at<const bool>(reset), at<const float>(reset_state), at<float>(states)};
  const LinearScanGradients grads = {at<const float>(grad_states), at<float>(grad_a), at<float>(grad_b),
                                     at<float>(grad_initial), at<float>(grad_reset_state)};
  const Engine& chosen = engine();
  nb::gil_scoped_release unlocked;
  chosen.linear_scan_backward(given, grads);
}

const char* split(int64_t T, int64_t B, int64_t H, int threads) {
  LinearScanArguments given{};
  given.T = T, given.B = B, given.H = H, given.threads = threads;
  switch (engine().linear_scan_split(given)) {
    case LinearSplit::kColumns: return "columns";
    case LinearSplit::kTime: return "time";
    default: return "one thread";
  }
}

}  // namespace

void bind_linear_scan(nb::module_& m) {
  m.def("linear_scan_forward", &forward, "T"_a, "B"_a, "H"_a, "reverse"_a, "threads"_a, "a"_a, "b"_a, "initial"_a,
        "lengths"_a, "reset"_a, "reset_state"_a, "states"_a);
  m.def("linear_scan_backward", &backward, "T"_a, "B"_a, "H"_a, "reverse"_a, "threads"_a, "a"_a, "initial"_a,
        "lengths"_a, "reset"_a, "reset_state"_a, "states"_a, "grad_states"_a, "grad_a"_a, "grad_b"_a,
        "grad_initial"_a, "grad_reset_state"_a);
  m.def("linear_scan_split", &split, "T"_a, "B"_a, "H"_a, "threads"_a,
        "How a team shares a linear scan: 'columns', 'time' or 'one thread'.");
}

}  // namespace unspool
