// Bindings of the gated scan. Tensors come as addresses of dense float32 memory, which native_scan.py has checked: a
// training step passes some forty of them, and an exchange by DLPack would cost more than a short scan itself.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <vector>

#include "bindings.h"
#include "targets.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unspool {
namespace {

using Integers = std::vector<int64_t>;
template <typename T>
using Dense = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

// Hands out addresses in order; 0 is an absent tensor.
class Addresses {
 public:
  explicit Addresses(const Integers& addresses) : next_(addresses.data()) {}
  template <typename T>
  void operator()(T*& pointer) {
    pointer = reinterpret_cast<T*>(*next_++);
  }

 private:
  const int64_t* next_;
};

// sizes: T B I H G S vectors steps sequences saved slots product narrow reverse threads split.
// addresses: the fields of ScanInputs in their order, the buffer, the states.
ScanArguments arguments(const Integers& sizes, const Integers& addresses, KeptWeights* kept = nullptr) {
  ScanArguments a{};
  if (sizes.size() != 16 || addresses.size() != 14 + size_t(sizes[5])) throw nb::value_error("scan: wrong counts");
  a.T = sizes[0], a.B = sizes[1], a.I = sizes[2], a.H = sizes[3], a.G = sizes[4], a.S = sizes[5];
  a.num_vectors = sizes[6], a.num_steps = sizes[7], a.num_sequences = sizes[8];
  a.saved = sizes[9], a.slots = sizes[10], a.kept = kept;
  a.product = sizes[11], a.narrow = sizes[12], a.reverse = sizes[13], a.threads = int(sizes[14]);
  if (sizes[15]) a.split = Sharing(sizes[15] - 1);
  a.states.resize(a.S);
  Addresses take(addresses);
  take(a.x), take(a.weight_ih), take(a.bias_ih), take(a.weight_hh), take(a.bias_hh), take(a.initial);
  take(a.vectors), take(a.steps), take(a.sequences), take(a.mask), take(a.lengths), take(a.reset);
  take(a.reset_state), take(a.buffer);
  for (float*& state : a.states) take(state);
  return a;
}

void forward(const EncodedProgram& program, const Integers& sizes, const Integers& addresses, KeptWeights* kept) {
  const ScanArguments a = arguments(sizes, addresses, kept);
  const Engine& chosen = engine();
  nb::gil_scoped_release unlocked;
  chosen.scan_forward(a, program);
}

// gradients: of the states, in; then x weight_ih bias_ih weight_hh bias_hh initial vectors steps sequences reset_state, out.
void backward(const EncodedProgram& program, const Integers& sizes, const Integers& addresses, const Integers& h_slots,
              const Integers& gradients) {
  const ScanArguments a = arguments(sizes, addresses);
  if (gradients.size() != 10 + size_t(a.S)) throw nb::value_error("scan: wrong count of gradients");
  ScanGradients grads{};
  grads.h_slots = h_slots;
  grads.states.resize(a.S);
  Addresses take(gradients);
  for (const float*& state : grads.states) take(state);
  take(grads.x), take(grads.weight_ih), take(grads.bias_ih), take(grads.weight_hh), take(grads.bias_hh);
  take(grads.initial), take(grads.vectors), take(grads.steps), take(grads.sequences), take(grads.reset_state);
  const Engine& chosen = engine();
  nb::gil_scoped_release unlocked;
  chosen.scan_backward(a, grads, program);
}

// Who runs the loop of a scan with these sizes.
const char* split(int64_t T, int64_t B, int64_t I, int64_t H, int64_t G, bool product, bool narrow, int64_t real_rows, int threads) {
  ScanArguments a{};
  a.T = T, a.B = B, a.I = I, a.H = H, a.G = G, a.product = product, a.narrow = narrow, a.threads = threads;
  switch (engine().scan_split(a, double(real_rows)).sharing) {
    case Sharing::kUnits: return "units";
    case Sharing::kSequences: return "sequences";
    default: return "one thread";
  }
}

std::vector<const char*> operations() {
  std::vector<const char*> names;
#define X(name, text) names.push_back(text);
  UNSPOOL_OPERATIONS(X)
#undef X
  return names;
}

void make_program(EncodedProgram* self, Dense<int32_t> code, Dense<double> constants, int64_t width_constant,
                  int64_t inputs, int64_t outputs, int64_t scratch, bool has_reduction) {
  const auto* steps = reinterpret_cast<const Instruction*>(code.data());
  const double* numbers = constants.data();
  new (self) EncodedProgram{{steps, steps + code.size() / 5}, {numbers, numbers + constants.size()},
                            width_constant, inputs, outputs, scratch, has_reduction};
}

}  // namespace

void bind_scan(nb::module_& m) {
  m.def("operations", &operations, "Names of the interpreter's operations, in the order of their numbers.");
  nb::class_<EncodedProgram>(m, "Program", "A program that the interpreter runs; see unspool.kernels.encoding.")
      .def("__init__", &make_program, "code"_a, "constants"_a, "width_constant"_a, "inputs"_a, "outputs"_a, "scratch"_a,
           "has_reduction"_a);
  nb::class_<KeptWeights>(m, "KeptWeights", "Packed weights of one scan, kept between calls.").def(nb::init<>());
  m.def("scan_forward", &forward, "program"_a, "sizes"_a, "addresses"_a, "kept"_a.none(), "Runs a gated scan; see native_scan.py.");
  m.def("scan_split", &split, "T"_a, "B"_a, "I"_a, "H"_a, "G"_a, "product"_a, "narrow"_a, "real_rows"_a, "threads"_a,
        "Who runs the loop over time: 'units', 'sequences' (each thread its own) or 'one thread'.");
  m.def("scan_backward", &backward, "program"_a, "sizes"_a, "addresses"_a, "h_slots"_a, "gradients"_a,
        "Runs a gated scan's gradient; see native_scan.py.");
}

}  // namespace unspool
