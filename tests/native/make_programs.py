"""Writes programs.h: encoded programs of some cells, as the engine gets them, for the tests without Python.

.venv/bin/python tests/native/make_programs.py > tests/native/programs.h
"""

import torch

from unspool import GRU, LSTM, Elman
from unspool.kernels import CellPrograms, Signature, native_scan, trace, trace_adjoint
from unspool.kernels.encoding import encode


def everything(x, h, s, v, n, q):
    """All kinds of inputs, and a mean over the units: tanh(x + h - mean(h)) * v + n + q * s."""
    return [torch.tanh(x[0] + h[0] - h[0].mean(-1, keepdim=True)) * v[0] + n[0] + q[0] * s[0]]


def multiplicative(x, h, s, v, n, q):
    """A gate is saved as it is: x * h + s / 2."""
    return [x[0] * h[0] + 0.5 * s[0]]


def without_product(x, h, s, v, n, q):
    """A mean over the units in a cell without a recurrent product: tanh(x - mean(x) + s)."""
    return [torch.tanh(x[0] - x[0].mean(-1, keepdim=True) + s[0])]


OWN = {
    "everything": (everything, Signature(1, 1, 1, 1, 1, 1)),
    "multiplicative": (multiplicative, Signature(1, 1, 1)),
    "without_product": (without_product, Signature(1, 0, 1)),
}


def cells():
    for name, kind in (("rnn", Elman), ("lstm", LSTM), ("gru", GRU)):
        cell = kind(2, 2)
        yield name, cell.programs(), cell.signature()
    for name, (equations, signature) in OWN.items():
        programs = CellPrograms(trace(equations, signature).text, trace_adjoint(equations, signature).text)
        yield name, programs, signature


def literal(encoded):
    code = ", ".join("{" + ", ".join(map(str, line)) + "}" for line in encoded.code.tolist())
    constants = ", ".join("0.0" if c != c else repr(float(c)) for c in encoded.constants)
    rest = (encoded.width_constant, encoded.num_inputs, encoded.num_outputs, encoded.num_scratch)
    return (
        f"    {{{{{code}}},\n     {{{constants}}}, {', '.join(map(str, rest))}, {str(encoded.has_reduction).lower()}}},"
    )


def main():
    native_scan.to_engine = lambda program, aliases=None: encode(program, aliases)
    print(
        "// Made by make_programs.py, which says what the cells are: inference, training and backward programs of each."
    )
    print('#pragma once\n\n#include "encoded.h"\n\nnamespace scan_test {\n')
    print("struct Programs {")
    print("  unspool::EncodedProgram inference, training, backward;")
    print("  int64_t G, products, S, vectors, steps, sequences, saved, slots;")
    print("  std::vector<int64_t> h_slots;\n};\n\n// clang-format off")
    for name, programs, signature in cells():
        made = native_scan.compile_programs.__wrapped__(*programs)
        print(f"inline const Programs {name}_programs = {{")
        for encoded in (made.inference, made.training, made.backward):
            print(literal(encoded))
        sizes = (signature.x, signature.h, signature.states, *signature[3:], made.saved, made.slots)
        print(f"    {', '.join(map(str, sizes))}, {{{', '.join(map(str, made.h_slots))}}}}};\n")
    print("}  // namespace scan_test")


if __name__ == "__main__":
    main()
