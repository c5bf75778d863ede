// Bindings of the gated scan: tensors come by DLPack, dense and in float32; the door that checks shapes is in Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <vector>

#include "bindings.h"
#include "targets.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unspool {
namespace {

template <typename T>
using Dense = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <typename T>
using MaybeDense = std::optional<Dense<T>>;

template <typename T>
T* pointer(const MaybeDense<T>& tensor) {
  return tensor && tensor->size() ? tensor->data() : nullptr;
}

EncodedProgram make_program(Dense<const int32_t> code, Dense<const double> constants, int64_t width_constant,
                            int64_t inputs, int64_t outputs, int64_t scratch, bool has_reduction) {
  EncodedProgram program{{}, {}, width_constant, inputs, outputs, scratch, has_reduction};
  const auto* steps = reinterpret_cast<const Instruction*>(code.data());
  program.code.assign(steps, steps + code.size() / 5);
  program.constants.assign(constants.data(), constants.data() + constants.size());
  return program;
}

// Sizes: T B I H G S vectors steps sequences saved slots.
struct Scan {
  Scan(const std::vector<int64_t>& sizes, bool product, bool narrow, bool reverse, int threads,
       MaybeDense<const float> x, MaybeDense<const float> weight_ih, MaybeDense<const float> bias_ih,
       MaybeDense<const float> weight_hh, MaybeDense<const float> bias_hh, MaybeDense<const float> initial,
       MaybeDense<const float> vectors, MaybeDense<const float> steps, MaybeDense<const float> sequences,
       MaybeDense<const float> mask, MaybeDense<const int64_t> lengths, MaybeDense<const bool> reset,
       MaybeDense<const float> reset_state, const std::vector<Dense<float>>& states, MaybeDense<float> buffer) {
    a.T = sizes[0], a.B = sizes[1], a.I = sizes[2], a.H = sizes[3], a.G = sizes[4], a.S = sizes[5];
    a.num_vectors = sizes[6], a.num_steps = sizes[7], a.num_sequences = sizes[8];
    a.saved = sizes[9], a.slots = sizes[10];
    a.product = product, a.narrow = narrow, a.reverse = reverse, a.threads = threads;
    a.x = pointer(x), a.weight_ih = pointer(weight_ih), a.bias_ih = pointer(bias_ih);
    a.weight_hh = pointer(weight_hh), a.bias_hh = pointer(bias_hh), a.initial = pointer(initial);
    a.vectors = pointer(vectors), a.steps = pointer(steps), a.sequences = pointer(sequences), a.mask = pointer(mask);
    a.lengths = pointer(lengths), a.reset = pointer(reset), a.reset_state = pointer(reset_state);
    for (const auto& state : states) a.states.push_back(state.data());
    a.buffer = pointer(buffer);
  }

  void forward(const EncodedProgram& program) const {
    nb::gil_scoped_release unlocked;
    engine().scan_forward(a, program);
  }

  void backward(const EncodedProgram& program, const std::vector<MaybeDense<const float>>& grad_states,
                const std::vector<int64_t>& h_slots, MaybeDense<float> x, MaybeDense<float> weight_ih,
                MaybeDense<float> bias_ih, MaybeDense<float> weight_hh, MaybeDense<float> bias_hh,
                MaybeDense<float> initial, MaybeDense<float> vectors, MaybeDense<float> steps,
                MaybeDense<float> sequences, MaybeDense<float> reset_state) const {
    ScanGradients grads;
    for (const auto& grad : grad_states) grads.states.push_back(pointer(grad));
    grads.h_slots = h_slots;
    grads.x = pointer(x), grads.weight_ih = pointer(weight_ih), grads.bias_ih = pointer(bias_ih);
    grads.weight_hh = pointer(weight_hh), grads.bias_hh = pointer(bias_hh), grads.initial = pointer(initial);
    grads.vectors = pointer(vectors), grads.steps = pointer(steps), grads.sequences = pointer(sequences);
    grads.reset_state = pointer(reset_state);
    nb::gil_scoped_release unlocked;
    engine().scan_backward(a, grads, program);
  }

  ScanArguments a;
};

}  // namespace

void bind_scan(nb::module_& m) {
  m.def("operations", [] {
    std::vector<const char*> names;
#define X(name, text) names.push_back(text);
    UNSPOOL_OPERATIONS(X)
#undef X
    return names;
  }, "Names of the interpreter's operations, in the order of their numbers.");

  nb::class_<EncodedProgram>(m, "Program", "A program that the interpreter runs; see unspool.kernels.encoding.")
      .def("__init__",
           [](EncodedProgram* self, Dense<const int32_t> code, Dense<const double> constants, int64_t width_constant,
              int64_t inputs, int64_t outputs, int64_t scratch, bool has_reduction) {
             new (self) EncodedProgram(
                 make_program(code, constants, width_constant, inputs, outputs, scratch, has_reduction));
           },
           "code"_a, "constants"_a, "width_constant"_a, "inputs"_a, "outputs"_a, "scratch"_a, "has_reduction"_a);

  using F = MaybeDense<const float>;
  nb::class_<Scan>(m, "Scan", "The tensors of one gated scan, which must outlive it.")
      .def(nb::init<const std::vector<int64_t>&, bool, bool, bool, int, F, F, F, F, F, F, F, F, F, F,
                    MaybeDense<const int64_t>, MaybeDense<const bool>, F, const std::vector<Dense<float>>&,
                    MaybeDense<float>>(),
           "sizes"_a, "product"_a, "narrow"_a, "reverse"_a, "threads"_a, "x"_a.none(), "weight_ih"_a.none(),
           "bias_ih"_a.none(), "weight_hh"_a.none(), "bias_hh"_a.none(), "initial"_a.none(), "vectors"_a.none(),
           "steps"_a.none(), "sequences"_a.none(), "mask"_a.none(), "lengths"_a.none(), "reset"_a.none(),
           "reset_state"_a.none(), "states"_a, "buffer"_a.none())
      .def("forward", &Scan::forward, "program"_a)
      .def("backward", &Scan::backward, "program"_a, "grad_states"_a, "h_slots"_a, "x"_a.none(), "weight_ih"_a.none(),
           "bias_ih"_a.none(), "weight_hh"_a.none(), "bias_hh"_a.none(), "initial"_a.none(), "vectors"_a.none(),
           "steps"_a.none(), "sequences"_a.none(), "reset_state"_a.none());
}

}  // namespace unspool
