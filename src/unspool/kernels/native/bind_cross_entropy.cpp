// Bindings of the softmax of a linear map: its cross-entropy and its likeliest symbols; the doors that check are in Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings.h"
#include "targets.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unspool {
namespace {

template <typename T, int axes>
using Dense = nb::ndarray<T, nb::ndim<axes>, nb::c_contig, nb::device::cpu>;

template <typename Tensor>
auto* pointer(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->data() : decltype(tensor->data()){};
}

double linear_cross_entropy(Dense<const float, 2> x, Dense<const float, 2> weight,
                            std::optional<Dense<const float, 1>> bias, Dense<const int64_t, 1> targets,
                            int64_t ignore_index, bool narrow, int threads, std::optional<Dense<float, 2>> grad_x,
                            std::optional<Dense<float, 2>> grad_weight, std::optional<Dense<float, 1>> grad_bias) {
  const CrossEntropyArguments a{
      .N = int64_t(x.shape(0)),
      .D = int64_t(x.shape(1)),
      .V = int64_t(weight.shape(0)),
      .ignore_index = ignore_index,
      .narrow = narrow,
      .threads = threads,
      .x = x.data(),
      .weight = weight.data(),
      .bias = pointer(bias),
      .targets = targets.data(),
      .grad_x = pointer(grad_x),
      .grad_weight = pointer(grad_weight),
      .grad_bias = pointer(grad_bias),
  };
  const Engine& chosen = engine();
  nb::gil_scoped_release unlocked;
  return chosen.linear_cross_entropy(a);
}

void likeliest(Dense<const float, 2> x, Dense<const float, 2> weight, std::optional<Dense<const float, 1>> bias,
               std::optional<Dense<const int32_t, 2>> pairs, int64_t count, bool narrow, int threads,
               Dense<float, 2> values, Dense<int64_t, 2> symbols, Dense<float, 1> log_partition) {
  const LikeliestArguments a{
      .N = int64_t(x.shape(0)),
      .D = int64_t(x.shape(1)),
      .V = int64_t(weight.shape(0)),
      .count = count,
      .narrow = narrow,
      .threads = threads,
      .x = x.data(),
      .weight = weight.data(),
      .bias = pointer(bias),
      .pairs = reinterpret_cast<const uint32_t*>(pointer(pairs)),
      .values = values.data(),
      .symbols = symbols.data(),
      .log_partition = log_partition.data(),
  };
  const Engine& chosen = engine();
  nb::gil_scoped_release unlocked;
  chosen.likeliest(a);
}

}  // namespace

void bind_cross_entropy(nb::module_& m) {
  m.def("linear_cross_entropy", &linear_cross_entropy, "x"_a, "weight"_a, "bias"_a.none(), "targets"_a,
        "ignore_index"_a, "narrow"_a, "threads"_a, "grad_x"_a.none(), "grad_weight"_a.none(), "grad_bias"_a.none(),
        "The sum of nats; writes the gradients that have a place to go to.");
  m.def("likeliest", &likeliest, "x"_a, "weight"_a, "bias"_a.none(), "pairs"_a.none(), "count"_a,
        "narrow"_a, "threads"_a, "values"_a, "symbols"_a, "log_partition"_a, "Writes the likeliest symbols of each row with their log-probabilities.");
}

}  // namespace unspool
