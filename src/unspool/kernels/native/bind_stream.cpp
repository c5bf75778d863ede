// Bindings of streams. Weights come by DLPack when they are packed; a step takes addresses, since handing over a tensor
// costs as much as a small step. The door that checks shapes is in Python (kernels/native_stream.py).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <vector>

#include "bindings.h"
#include "chance.h"
#include "targets.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace unspool {
namespace {

template <typename T>
using Dense = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Maybe = std::optional<Dense<const float>>;

const float* pointer(const Maybe& tensor) { return tensor && tensor->size() ? tensor->data() : nullptr; }

// Described layer by layer, then opened.
struct Stream {
  Stream(int64_t batch_size, int threads, bool narrow) : shape{batch_size, threads, narrow, {}, {}} {}

  // Sizes: I H G S vectors.
  void add_layer(const std::vector<int64_t>& sizes, bool product, bool summed, bool residual, bool normalizes,
                 double epsilon, const EncodedProgram& program, Dense<float> layer_states) {
    shape.layers.push_back({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], product, summed, residual, normalizes,
                            epsilon, program, layer_states.data()});
    states.push_back(layer_states);
  }
  void add_map(int64_t depth, int64_t columns) { shape.maps.push_back({depth, columns}); }
  void open() { stream = engine().open_stream(shape); }

  void set_layer(int64_t layer, Maybe weight_ih, Maybe bias_ih, Maybe weight_hh, Maybe bias_hh, Maybe vectors,
                 Maybe norm_weight, Maybe norm_bias) {
    stream->set_layer(layer, {pointer(weight_ih), pointer(bias_ih), pointer(weight_hh), pointer(bias_hh),
                              pointer(vectors), pointer(norm_weight), pointer(norm_bias)});
  }
  void set_map(int64_t map, Dense<const float> weight, Maybe bias) {
    stream->set_map(map, weight.data(), pointer(bias));
  }

  // Axes [B, I] and [B, O]; whose parameters a step follows; what it calls when one of them has changed or x is unfit.
  void watch(nb::object input_tensor, nb::object output_tensor, nb::list parameters, nb::callable changed,
             nb::callable refused) {
    input = input_tensor, input_data = nb::cast<Dense<float>>(input).data();
    output = output_tensor, output_data = nb::cast<Dense<float>>(output).data();
    type = nb::borrow(input.type()), dtype = input.attr("dtype"), size = input.attr("shape");
    watched.clear(), versions.clear();
    for (nb::handle parameter : parameters) {
      watched.push_back(nb::borrow(parameter));
      versions.push_back(nb::cast<int64_t>(parameter.attr("_version")));
    }
    on_change = changed, on_refusal = refused;
  }

  void follow() {
    for (size_t i = 0; i < watched.size(); ++i) {
      if (PyLong_AsLongLong(get(watched[i], names().version).ptr()) == versions[i]) continue;
      const nb::object changed = on_change;  // which takes another's place while it runs
      changed();
      return;
    }
  }

  nb::object step(nb::handle x) {
    follow();
    nb::object mended;
    const float* in = input_data;
    if (!x.is_none() && !x.is(input)) {
      if (!fits(x)) mended = on_refusal(x), x = mended;  // or it raises
      in = static_cast<const float*>(PyLong_AsVoidPtr(call(x, names().data_ptr).ptr()));
    }
    if (stream->threads() == 1) {  // some microseconds, in which no other Python thread would get far
      stream->step(in, output_data);
    } else {
      nb::gil_scoped_release unlocked;
      stream->step(in, output_data);
    }
    return output;
  }

  // Handing a tensor over by DLPack takes three microseconds, these questions a quarter of one.
  bool fits(nb::handle x) const {
    return x.type().is(type) && get(x, names().dtype).is(dtype) && get(x, names().is_cpu).ptr() == Py_True &&
           get(x, names().shape).equal(size) && call(x, names().is_contiguous).ptr() == Py_True;
  }

  struct Names {
    PyObject *version = PyUnicode_InternFromString("_version"), *dtype = PyUnicode_InternFromString("dtype"),
             *shape = PyUnicode_InternFromString("shape"), *is_cpu = PyUnicode_InternFromString("is_cpu"),
             *is_contiguous = PyUnicode_InternFromString("is_contiguous"),
             *data_ptr = PyUnicode_InternFromString("data_ptr");
  };
  static const Names& names() {
    static const Names made;
    return made;
  }
  static nb::object get(nb::handle object, PyObject* name) {
    const nb::object found = nb::steal(PyObject_GetAttr(object.ptr(), name));
    if (!found.is_valid()) throw nb::python_error();
    return found;
  }
  static nb::object call(nb::handle object, PyObject* name) {
    const nb::object found = nb::steal(PyObject_CallMethodNoArgs(object.ptr(), name));
    if (!found.is_valid()) throw nb::python_error();
    return found;
  }

  bool write(Dense<const float> embedding, Dense<int64_t> tokens, float temperature, int64_t top_k, double top_p,
             const std::vector<int64_t>& forbidden, uint64_t seed, uint64_t place) {
    follow();
    nb::gil_scoped_release unlocked;
    return stream->write({embedding.data(), tokens.data(), int64_t(tokens.shape(0)) - 1, temperature, top_k, top_p,
                          forbidden, seed, place});
  }

  StreamShape shape;
  std::vector<Dense<float>> states;
  std::unique_ptr<AnyStream> stream;
  nb::object input, output, type, dtype, size;
  float *input_data = nullptr, *output_data = nullptr;
  std::vector<nb::object> watched;
  std::vector<int64_t> versions;
  nb::object on_change, on_refusal;
};

}  // namespace

void bind_stream(nb::module_& m) {
  m.def("philox", &philox, "counter"_a, "key"_a, "Philox4x32-10: four random words for a counter and a key.");
  nb::class_<Stream>(m, "Stream", "A stack that takes one step after the other; see unspool.kernels.native_stream.")
      .def(nb::init<int64_t, int, bool>(), "batch_size"_a, "threads"_a, "narrow"_a)
      .def("add_layer", &Stream::add_layer, "sizes"_a, "product"_a, "summed"_a, "residual"_a, "normalizes"_a,
           "epsilon"_a, "program"_a, "states"_a)
      .def("add_map", &Stream::add_map, "depth"_a, "columns"_a)
      .def("open", &Stream::open)
      .def("set_layer", &Stream::set_layer, "layer"_a, "weight_ih"_a, "bias_ih"_a.none(), "weight_hh"_a.none(),
           "bias_hh"_a.none(), "vectors"_a.none(), "norm_weight"_a.none(), "norm_bias"_a.none())
      .def("set_map", &Stream::set_map, "map"_a, "weight"_a, "bias"_a.none())
      .def("watch", &Stream::watch, "input"_a, "output"_a, "parameters"_a, "changed"_a, "refused"_a)
      .def("step", &Stream::step, "x"_a = nb::none())
      .def("write", &Stream::write, "embedding"_a, "tokens"_a, "temperature"_a, "top_k"_a, "top_p"_a, "forbidden"_a,
           "seed"_a, "place"_a)
      .def_prop_ro("half", [](const Stream& self) { return self.stream->half(); })
      .def_prop_ro("threads", [](const Stream& self) { return self.stream->threads(); });
}

}  // namespace unspool
