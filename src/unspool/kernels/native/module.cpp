// The Python module unspool.kernels._native. What runs is the chosen target's Engine; Python chooses (kernels/isa.py).
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <pthread.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings.h"
#include "detect.h"
#include "parallel.h"
#include "targets.h"

namespace nb = nanobind;

namespace unspool {
namespace {

struct Target {
  std::string name;  // "x86-64-v3", of the namespace x86_64_v3
  const Engine* engine;
};

// What is compiled in and runs on this processor, the best last.
std::vector<Target> runnable_targets() {
  std::vector<Target> targets;
#define X(target) targets.push_back({#target, &target::engine});
  UNSPOOL_TARGETS
#undef X
  for (Target& target : targets) std::replace(target.name.begin(), target.name.end(), '_', '-');
  std::erase_if(targets, [](const Target& target) { return !runs_here(target.name); });
  return targets;
}

const std::vector<Target>& targets() {
  static const std::vector<Target> found = runnable_targets();
  return found;
}

const Target* chosen = nullptr;

const Target& target() { return chosen ? *chosen : targets().back(); }

void choose(const std::string& name) {
  std::string known;
  for (const Target& target : targets()) {
    if (target.name == name) {
      chosen = &target;
      return;
    }
    known += (known.empty() ? "" : ", ") + target.name;
  }
  throw nb::value_error(("no instruction set " + name + " here; there are: " + known).c_str());
}

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const Target& target : targets()) names.push_back(target.name);
  return names;
}

}  // namespace

const Engine& engine() { return *target().engine; }

}  // namespace unspool

NB_MODULE(_native, m) {
  using namespace unspool;
  pthread_atfork(nullptr, nullptr, [] { pool_is_lost = true; });
  m.doc() = "The native engine: scans compiled for several instruction sets. Its door is unspool.kernels.isa.";
  m.def("targets", &target_names, "Instruction sets compiled in that run here, the best last.");
  m.def("target", [] { return target().name; }, "The instruction set in use.");
  m.def("choose", &choose, nb::arg("name"), "Use this instruction set from now on; it must be one of targets().");
  m.def("vector_width", [] { return engine().vector_width; }, "Floats in a register of the instruction set in use.");
  m.def("measure_multiplications", [](double seconds, int threads) { return engine().measure_multiplications(seconds, threads); },
        nb::arg("seconds"), nb::arg("threads"), "Float operations a second (a multiply-add is two) of all threads together.");
  m.def("measure_reads", [](int64_t bytes, double seconds, int threads) { return engine().measure_reads(bytes, seconds, threads); },
        nb::arg("bytes"), nb::arg("seconds"), nb::arg("threads"),
        "Bytes a second of all threads together, each of which reads so many of its own again and again.");
  bind_cross_entropy(m);
  bind_linear_scan(m);
  bind_scan(m);
  bind_stream(m);
}
