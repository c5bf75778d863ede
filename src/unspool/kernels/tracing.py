"""Tracing: from a cell's Python equations to programs, with PyTorch's own differentiation for adjoint and tangent.

`make_fx` records the operations, `torch.func.vjp` and `torch.func.jvp` are recorded the same way, and a table lowers
each recorded ATen operation to the closed set of `unspool.kernels.program`. What has no entry is refused by name.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from unspool.errors import LoweringError
from unspool.kernels.program import COMPARISONS, GROUPS, LOGICAL, REAL_UNARY, Operand, Program, ProgramBuilder

Pointwise = Callable[..., Sequence[Tensor]]

_SHAPE = (2, 3)  # of every traced value: a node of another shape has reduced, reshaped or multiplied matrices


class Signature(NamedTuple):
    """How many inputs of each kind an equation takes; its call is ``pointwise(x, h, state, vectors, steps, sequences)``.

    Each argument is a tuple of tensors that broadcast to [B, H].
    """

    x: int
    h: int
    states: int
    vectors: int = 0
    steps: int = 0
    sequences: int = 0

    def group(self, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Cuts a flat list of inputs into the six groups."""
        bounds = [sum(self[:i]) for i in range(len(self) + 1)]
        return [tuple(values[a:b]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


class CellPrograms(NamedTuple):
    """Forward and adjoint of one cell, as text: all that an operator needs to know about it."""

    forward: str
    adjoint: str


def trace(pointwise: Pointwise, signature: Signature, where: str = "pointwise") -> Program:
    """The forward program: inputs in six groups, one output for each state.

    Args:
        pointwise: takes the six groups of `Signature` and returns the new states.
        signature: the number of inputs in each group.
        where: named in errors.

    Raises:
        LoweringError: the equations hold something that is not pointwise, named in the message.
    """
    return _lower(_record(_flat(pointwise, signature), sum(signature), where), _sizes(signature, 0), where)


def trace_adjoint(pointwise: Pointwise, signature: Signature, where: str = "pointwise") -> Program:
    """The adjoint: takes the forward's inputs and a cotangent of each new state, returns the gradient of each input."""
    flat, count = _flat(pointwise, signature), sum(signature)

    def adjoint(*values: Tensor) -> tuple[Tensor, ...]:
        pull_back = torch.func.vjp(flat, *values[:count])[1]
        return tuple(pull_back(tuple(values[count:])))

    graph = _record(adjoint, count + signature.states, where)
    return _lower(graph, _sizes(signature, signature.states), where)


def trace_tangent(pointwise: Pointwise, signature: Signature, where: str = "pointwise") -> Program:
    """The tangent: takes the forward's inputs and a tangent of each, returns the tangent of each new state."""
    flat, count = _flat(pointwise, signature), sum(signature)

    def tangent(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.jvp(flat, tuple(values[:count]), tuple(values[count:]))[1])

    return _lower(_record(tangent, 2 * count, where), _sizes(signature, count), where)


def _flat(pointwise: Pointwise, signature: Signature) -> Callable[..., tuple[Tensor, ...]]:
    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(pointwise(*signature.group(values)))

    return flat


def _sizes(signature: Signature, extra: int) -> list[tuple[str, int]]:
    return list(zip(GROUPS, (*signature, extra), strict=False))


def _record(function: Callable[..., tuple[Tensor, ...]], count: int, where: str) -> GraphModule:
    """Records the operations in a thread of its own, where no autocast, hook, mode or transform of the caller holds."""
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(_make_graph, function, count).result()
        except RuntimeError as error:
            if "tracing tensor" in str(error):
                raise LoweringError(
                    f"{where}: the equations ask for the value of a tensor (an if, float() or item()), which a "
                    "program cannot; use torch.where."
                ) from error
            reason = str(error).splitlines()[0]
            raise LoweringError(f"{where}: the equations failed on tensors of shape [2, 3]: {reason}") from error


def _make_graph(function: Callable[..., tuple[Tensor, ...]], count: int) -> GraphModule:
    from torch._decomp import core_aten_decompositions  # slow to import, needed once per new cell
    from torch.fx.experimental.proxy_tensor import make_fx

    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(_SHAPE, dtype=torch.float64, generator=generator) + 0.25 for _ in range(count)]
    table: Any = core_aten_decompositions()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, in its first forward-mode derivative
        return make_fx(torch.func.functionalize(function), decomposition_table=table)(*values)


def _lower(graph: GraphModule, sizes: Sequence[tuple[str, int]], where: str) -> Program:
    return _Lowering(graph, sizes, where).program()


class _Lowering:
    """Lowers the living nodes of a recorded graph in their order; dead code is never looked at."""

    def __init__(self, graph: GraphModule, sizes: Sequence[tuple[str, int]], where: str):
        self.builder = ProgramBuilder(sizes)
        self.where = where
        self.values: dict[Node, Operand] = {}
        self.logical: set[str] = set()
        self.nodes = list(graph.graph.nodes)
        self.outputs: list[Any] = list(self.nodes[-1].args[0])
        names = [f"{group}{i}" for group, size in sizes for i in range(size)]
        self.values.update(zip((n for n in self.nodes if n.op == "placeholder"), names, strict=True))

    def program(self) -> Program:
        alive = {output for output in self.outputs if isinstance(output, Node)}
        for node in reversed(self.nodes[:-1]):
            if node in alive:
                alive.update(node.all_input_nodes)
        for node in self.nodes[:-1]:
            if node in alive and node not in self.values:
                self.values[node] = self.lower(node)
        for output in self.outputs:
            shape = output.meta["val"].shape if isinstance(output, Node) else ()
            if tuple(shape) not in (_SHAPE, ()):
                raise LoweringError(f"{self.where}: a new state must have shape [B, H], got {list(shape)} for [2, 3].")
        return self.builder.build([self.real(output) for output in self.outputs])

    def value(self, argument: Any) -> Operand:
        return self.values[argument] if isinstance(argument, Node) else float(argument)

    def real(self, argument: Any) -> Operand:
        value = self.value(argument)
        if isinstance(value, bool):
            return float(value)
        return self.emit("where", value, 1.0, 0.0) if self.is_logical(value) else value

    def is_logical(self, value: Operand) -> bool:
        return isinstance(value, bool) or (isinstance(value, str) and value in self.logical)

    def emit(self, operation: str, *operands: Operand) -> Operand:
        result = self.builder.emit(operation, *operands)
        if operation in COMPARISONS or operation in LOGICAL:
            self.logical.add(str(result))
        return result

    def lower(self, node: Node) -> Operand:
        if node.op == "get_attr":
            raise LoweringError(
                f"{self.where}: the equations use a tensor that is not among their inputs; "
                "declare a parameter of shape [H] in `vectors`, or use a Python number."
            )
        packet = getattr(node.target, "overloadpacket", node.target)
        name = str(packet).split(".")[-1]
        value = node.meta.get("val")
        if isinstance(value, Tensor) and tuple(value.shape) not in (_SHAPE, ()):
            raise self.refusal(node, f"shape {list(value.shape)} from [2, 3]")
        if name not in _LOWERINGS:
            raise self.refusal(node, "not pointwise, or not known")
        return _LOWERINGS[name](self, node)

    def refusal(self, node: Node, why: str) -> LoweringError:
        return LoweringError(
            f"{self.where}: operation {node.target} cannot be part of a program ({why}); rewrite it with pointwise "
            "operations, or set `reference_only = True` on the cell to run it step by step in Python."
        )


def _unary(name: str) -> Callable[[_Lowering, Node], Operand]:
    return lambda walk, node: walk.emit(name, walk.real(node.args[0]))


def _binary(name: str) -> Callable[[_Lowering, Node], Operand]:
    def lower(walk: _Lowering, node: Node) -> Operand:
        a, b = walk.real(node.args[0]), walk.real(node.args[1])
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        return walk.emit(name, a, b if alpha == 1 else walk.emit("mul", b, walk.real(alpha)))

    return lower


def _rsub(walk: _Lowering, node: Node) -> Operand:
    return walk.emit("sub", walk.real(node.args[1]), walk.real(node.args[0]))


def _logical(name: str) -> Callable[[_Lowering, Node], Operand]:
    def lower(walk: _Lowering, node: Node) -> Operand:
        values = [walk.value(argument) for argument in node.args]
        if not all(walk.is_logical(v) for v in values):
            raise walk.refusal(node, "operands are not comparisons")
        return walk.emit(name, *values)

    return lower


def _where(walk: _Lowering, node: Node) -> Operand:
    condition = walk.value(node.args[0])
    if not walk.is_logical(condition):
        raise walk.refusal(node, "its condition is not a comparison")
    return walk.emit("where", condition, walk.real(node.args[1]), walk.real(node.args[2]))


def _pow(walk: _Lowering, node: Node) -> Operand:
    base, exponent = walk.real(node.args[0]), walk.real(node.args[1])
    if exponent == 2.0:
        return walk.emit("mul", base, base)
    if exponent == 3.0:
        return walk.emit("mul", base, walk.emit("mul", base, base))
    return walk.emit("sqrt", base) if exponent == 0.5 else walk.emit("pow", base, exponent)


def _copy(walk: _Lowering, node: Node) -> Operand:
    dtype = node.kwargs.get("dtype")
    if dtype not in (None, torch.float64, torch.bool):
        raise walk.refusal(node, f"conversion to {dtype}; a cell computes in one type")
    value = walk.value(node.args[0])
    if dtype == torch.bool and not walk.is_logical(value):
        return walk.emit("ne", value, 0.0)
    return walk.real(node.args[0]) if dtype == torch.float64 else value


def _alias(walk: _Lowering, node: Node) -> Operand:
    return walk.value(node.args[0])


def _constant(position: int) -> Callable[[_Lowering, Node], Operand]:
    return lambda walk, node: walk.value(node.args[position])


def _number(number: float) -> Callable[[_Lowering, Node], Operand]:
    return lambda walk, node: number


# The lowerings below choose the side of a kink as PyTorch's own derivative does, so that a derivative of the lowered
# text agrees with the derivative of the original there too.
def _relu(walk: _Lowering, node: Node) -> Operand:
    x = walk.real(node.args[0])
    return walk.emit("where", walk.emit("le", x, 0.0), 0.0, x)


def _leaky_relu(walk: _Lowering, node: Node) -> Operand:
    x = walk.real(node.args[0])
    slope = float(node.args[1]) if len(node.args) > 1 else 0.01  # type: ignore[arg-type]
    return walk.emit("where", walk.emit("gt", x, 0.0), x, walk.emit("mul", x, slope))


def _elu(walk: _Lowering, node: Node) -> Operand:
    x = walk.real(node.args[0])
    alpha, scale, input_scale = [float(a) for a in (*node.args[1:], *(1.0, 1.0, 1.0)[len(node.args) - 1 :])]  # type: ignore[arg-type]
    positive = walk.emit("gt", x, 0.0)
    below = walk.emit("where", positive, 0.0, x)
    curve = walk.emit("mul", walk.emit("expm1", walk.emit("mul", below, input_scale)), alpha * scale)
    return walk.emit("where", positive, walk.emit("mul", x, scale), curve)


def _clip(low: Operand | None, high: Operand | None, walk: _Lowering, x: Operand, *, open_bounds: bool) -> Operand:
    below, above = ("le", "ge") if open_bounds else ("lt", "gt")
    result = x if high is None else walk.emit("where", walk.emit(above, x, high), high, x)
    return result if low is None else walk.emit("where", walk.emit(below, x, low), low, result)


def _hardtanh(walk: _Lowering, node: Node) -> Operand:
    bounds: list[Any] = [*node.args[1:], *(-1.0, 1.0)[len(node.args) - 1 :]]
    return _clip(walk.real(bounds[0]), walk.real(bounds[1]), walk, walk.real(node.args[0]), open_bounds=True)


def _clamp(walk: _Lowering, node: Node) -> Operand:
    bounds = [*node.args[1:], None, None][:2]
    low, high = (None if bound is None else walk.real(bound) for bound in bounds)
    return _clip(low, high, walk, walk.real(node.args[0]), open_bounds=False)


def _gelu(walk: _Lowering, node: Node) -> Operand:
    x = walk.real(node.args[0])
    half = walk.emit("mul", x, 0.5)
    if node.kwargs.get("approximate", "none") == "tanh":
        cube = walk.emit("mul", walk.emit("mul", x, walk.emit("mul", x, x)), 0.044715)
        bend = walk.emit("tanh", walk.emit("mul", walk.emit("add", x, cube), (2 / torch.pi) ** 0.5))
    else:
        bend = walk.emit("erf", walk.emit("mul", x, 0.5**0.5))
    return walk.emit("mul", half, walk.emit("add", bend, 1.0))


def _softshrink_backward(walk: _Lowering, node: Node) -> Operand:
    cotangent, x, bound = (walk.real(argument) for argument in node.args[:3])
    inside = walk.emit("le", walk.emit("abs", x), bound)
    return walk.emit("where", inside, 0.0, cotangent)


def _isnan(walk: _Lowering, node: Node) -> Operand:
    x = walk.real(node.args[0])
    return walk.emit("ne", x, x)


def _reciprocal(walk: _Lowering, node: Node) -> Operand:
    return walk.emit("div", 1.0, walk.real(node.args[0]))


_LOWERINGS: dict[str, Callable[[_Lowering, Node], Operand]] = {
    **{name: _unary(name) for name in REAL_UNARY},
    **{name: _binary(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum", *COMPARISONS)},
    **dict.fromkeys(("alias", "detach", "clone", "view", "expand", "lift_fresh_copy", "contiguous"), _alias),
    **{name: _constant(1) for name in ("full_like", "full")},
    **{name: _number(0.0) for name in ("zeros_like", "zeros", "_efficientzerotensor", "new_zeros")},
    **{name: _number(1.0) for name in ("ones_like", "ones", "new_ones")},
    **{f"logical_{name}": _logical(name) for name in ("and", "or", "not")},
    **{f"bitwise_{name}": _logical(name) for name in ("and", "or", "not")},
    "scalar_tensor": _constant(0),
    "copy": _constant(1),
    "softshrink_backward": _softshrink_backward,
    "rsub": _rsub,
    "where": _where,
    "pow": _pow,
    "_to_copy": _copy,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "gelu": _gelu,
    "isnan": _isnan,
    "reciprocal": _reciprocal,
}
