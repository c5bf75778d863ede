// A program as encoding.py spells it: numbers for operations and slots. The same for all targets.
#pragma once

#include <cstdint>
#include <vector>

namespace unspool {

// In the order of OPERATIONS_IN_ORDER in encoding.py; a test compares the two.
#define UNSPOOL_OPERATIONS(X)                                                                                     \
  X(Mov, "mov") X(Neg, "neg") X(Abs, "abs") X(Sign, "sign") X(Exp, "exp") X(Expm1, "expm1") X(Log, "log")         \
  X(Log1p, "log1p") X(Sqrt, "sqrt") X(Rsqrt, "rsqrt") X(Sin, "sin") X(Cos, "cos") X(Tanh, "tanh")                 \
  X(Sigmoid, "sigmoid") X(Erf, "erf") X(Add, "add") X(Sub, "sub") X(Mul, "mul") X(Div, "div") X(Pow, "pow")       \
  X(Maximum, "maximum") X(Minimum, "minimum") X(Lt, "lt") X(Le, "le") X(Gt, "gt") X(Ge, "ge") X(Eq, "eq")         \
  X(Ne, "ne") X(Not, "not") X(And, "and") X(Or, "or") X(Where, "where") X(Sum, "sum") X(Fma, "fma")               \
  X(Fnma, "fnma") X(Fms, "fms")

enum class Operation : int32_t {
#define X(name, text) k##name,
  UNSPOOL_OPERATIONS(X)
#undef X
};

struct Instruction {
  int32_t operation, target, a, b, c;
};

struct EncodedProgram {
  std::vector<Instruction> code;
  std::vector<double> constants;
  int64_t width_constant;  // which of the constants is H, or -1
  int64_t inputs, outputs, scratch;
  bool has_reduction;
};

}  // namespace unspool
