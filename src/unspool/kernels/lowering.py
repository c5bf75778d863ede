"""Lowering: from recorded ATen operations to the closed set of `unspool.kernels.program`; what has no entry is refused.

The same equations come recorded twice, for two numbers of units, and both recordings are walked in lock-step: a number
that is the same in both is a constant, one that grows with the units (a mean's derivative holds one) is lowered to H.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from unspool.errors import LoweringError
from unspool.kernels.program import COMPARISONS, LOGICAL, REAL_UNARY, WIDTH, Operand, Program, ProgramBuilder

TRACED_ROWS = 2
TRACED_WIDTHS = (3, 8)  # no simple function of one is the same function of the other times or over the number of units


class Differing(NamedTuple):
    """A number that is not the same in the two recordings."""

    first: float
    second: float


class Recorded(NamedTuple):
    """One node of both recordings.

    Attributes:
        target: the ATen operation.
        args: nodes of the first recording, numbers, `Differing` numbers, and what else an operation takes.
        kwargs: the same, by name.
        shapes: of the value in the two recordings; None where it is no tensor.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None


def outsiders(graph: GraphModule) -> bool:
    """Whether a recording uses tensors that are not among its inputs."""
    return any(node.op == "get_attr" for node in _alive(graph))


def lower(graphs: tuple[GraphModule, GraphModule], sizes: Sequence[tuple[str, int]], where: str) -> Program:
    """The program of equations that were recorded with each of `TRACED_WIDTHS`.

    Args:
        graphs: the two recordings.
        sizes: of the program's input groups.
        where: named in errors.

    Raises:
        LoweringError: something cannot be part of a program, or the equations depend on H in a way that a program
            cannot express.
    """
    return Lowering(graphs, sizes, where).program()


class Lowering:
    """Lowers the living nodes of the recordings in their order; dead code is never looked at."""

    def __init__(self, graphs: tuple[GraphModule, GraphModule], sizes: Sequence[tuple[str, int]], where: str):
        self.builder = ProgramBuilder(sizes)
        self.where = where
        self.values: dict[Node, Operand] = {}
        self.logical: set[str] = set()
        self.graph = graphs[0]
        nodes = [list(graph.graph.nodes) for graph in graphs]
        if len(nodes[0]) != len(nodes[1]):
            raise self.another_course()
        self.partners: dict[Node, Node] = dict(zip(*nodes, strict=True))
        self.outputs: list[Any] = list(self.merge(*(n[-1].args[0] for n in nodes)))
        names = [f"{group}{i}" for group, size in sizes for i in range(size)]
        self.values.update(zip((n for n in nodes[0] if n.op == "placeholder"), names, strict=True))

    def program(self) -> Program:
        for node in _alive(self.graph):
            if node not in self.values:
                self.values[node] = self.lower(self.recorded(node))
        for output in self.outputs:
            shapes = self.recorded(output).shapes if isinstance(output, Node) else None
            if shapes is not None and not (_is_whole(shapes) or _is_row(shapes) or shapes == ((), ())):
                raise LoweringError(f"{self.where}: a new state must be [B, H], got {list(shapes[0])} for [2, 3].")
        return self.builder.build([self.real(output) for output in self.outputs])

    def recorded(self, node: Node) -> Recorded:
        partner = self.partners[node]
        if node.op != partner.op or node.target != partner.target:
            raise self.another_course()
        values = node.meta.get("val"), partner.meta.get("val")
        shapes = None
        if isinstance(values[0], Tensor) and isinstance(values[1], Tensor):
            shapes = tuple(values[0].shape), tuple(values[1].shape)
        kwargs = self.merge(dict(node.kwargs), dict(partner.kwargs))
        return Recorded(node.target, tuple(self.merge(node.args, partner.args)), kwargs, shapes)

    def merge(self, first: Any, second: Any) -> Any:
        """Arguments of a node in both recordings as one: a node of the first, `Differing` where numbers differ."""
        if isinstance(first, Node) and self.partners[first] is second:
            return first
        if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
            return {key: self.merge(value, second[key]) for key, value in first.items()}
        if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
            return [self.merge(a, b) for a, b in zip(first, second, strict=True)]
        if isinstance(first, int | float) and isinstance(second, int | float):
            return first if first == second or first != first != second != second else Differing(first, second)
        if type(first) is not type(second) or first != second:
            raise self.another_course()
        return first

    def value(self, argument: Any) -> Operand:
        if isinstance(argument, Differing):
            return self.of_width(argument)
        return self.values[argument] if isinstance(argument, Node) else float(argument)

    def of_width(self, number: Differing) -> Operand:
        """A number that differs, as c H, c / H, c (H - 1) or c / (H - 1)."""
        for less in (0, 1):
            widths = [width - less for width in TRACED_WIDTHS]
            units = self.emit("sub", WIDTH, float(less))
            for operation, factors in (
                ("mul", (number.first / widths[0], number.second / widths[1])),
                ("div", (number.first * widths[0], number.second * widths[1])),
            ):
                if math.isclose(*factors, rel_tol=1e-12):
                    factor = float(round(factors[0])) if math.isclose(factors[0], round(factors[0])) else factors[0]
                    return self.emit(operation, *((units, factor) if operation == "mul" else (factor, units)))
        raise LoweringError(
            f"{self.where}: a number depends on the number of units ({number.first:g} with H = {TRACED_WIDTHS[0]}, "
            f"{number.second:g} with H = {TRACED_WIDTHS[1]}) in a way that a program cannot express; write it with "
            "sums and means over the last axis, or as c * H, c / H, c * (H - 1), c / (H - 1)."
        )

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

    def sum(self, node: Recorded, value: Operand) -> Operand:
        """The sum of a value over the axes that a reducing node reduces: the units, or the one unit of a row value."""
        operand = self.recorded(node.args[0]).shapes if isinstance(node.args[0], Node) else None
        if operand is None or node.shapes is None or not _is_row(node.shapes) or node.kwargs.get("dtype") is not None:
            raise self.refusal(node, "it reduces over more than the units, the last axis")
        return self.emit("sum", value) if _is_whole(operand) else value

    def mean(self, node: Recorded, value: Operand) -> Operand:
        """The mean of a value over the axes that a reducing node reduces."""
        total = self.sum(node, value)
        return self.emit("div", total, WIDTH) if total != value else value

    def lower(self, node: Recorded) -> Operand:
        packet = getattr(node.target, "overloadpacket", node.target)
        name = str(packet).split(".")[-1]
        if name not in _LOWERINGS:
            raise self.refusal(node, "not pointwise, or not known")
        if node.shapes is not None and not (_is_whole(node.shapes) or _is_row(node.shapes) or node.shapes == ((), ())):
            raise self.refusal(node, f"shape {list(node.shapes[0])} from [2, 3]")
        return _LOWERINGS[name](self, node)

    def refusal(self, node: Recorded, why: str) -> LoweringError:
        return LoweringError(
            f"{self.where}: operation {node.target} cannot be part of a program ({why}); rewrite it with pointwise "
            "operations and sums over the last axis, or set `reference_only = True` on the cell to run it step by step "
            "in Python."
        )

    def another_course(self) -> LoweringError:
        return LoweringError(
            f"{self.where}: the equations are not the same operations for every number of units H (traced with "
            f"{TRACED_WIDTHS[0]} and {TRACED_WIDTHS[1]}); a program must be."
        )


def _alive(graph: GraphModule) -> list[Node]:
    """The nodes that the outputs depend on, in their order."""
    *nodes, output = graph.graph.nodes
    alive = set(output.all_input_nodes)
    for node in reversed(nodes):
        if node in alive:
            alive.update(node.all_input_nodes)
    return [node for node in nodes if node in alive]


def _is_whole(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    return shapes == ((TRACED_ROWS, TRACED_WIDTHS[0]), (TRACED_ROWS, TRACED_WIDTHS[1]))


def _is_row(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    return shapes[0] == shapes[1] and shapes[0] in ((TRACED_ROWS, 1), (TRACED_ROWS,))


def _unary(name: str) -> Callable[[Lowering, Recorded], Operand]:
    return lambda walk, node: walk.emit(name, walk.real(node.args[0]))


def _binary(name: str) -> Callable[[Lowering, Recorded], Operand]:
    def lower(walk: Lowering, node: Recorded) -> Operand:
        if node.kwargs.get("rounding_mode"):
            raise LoweringError("a division that rounds has no derivative and is no operation of programs")
        a, b = walk.real(node.args[0]), walk.real(node.args[1])
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        return walk.emit(name, a, b if alpha == 1 else walk.emit("mul", b, walk.real(alpha)))

    return lower


def _rsub(walk: Lowering, node: Recorded) -> Operand:
    return walk.emit("sub", walk.real(node.args[1]), walk.real(node.args[0]))


def _logical(name: str) -> Callable[[Lowering, Recorded], Operand]:
    def lower(walk: Lowering, node: Recorded) -> Operand:
        values = [walk.value(argument) for argument in node.args]
        if not all(walk.is_logical(v) for v in values):
            raise walk.refusal(node, "operands are not comparisons")
        return walk.emit(name, *values)

    return lower


def _where(walk: Lowering, node: Recorded) -> Operand:
    condition = walk.value(node.args[0])
    if not walk.is_logical(condition):
        raise walk.refusal(node, "its condition is not a comparison")
    return walk.emit("where", condition, walk.real(node.args[1]), walk.real(node.args[2]))


def _pow(walk: Lowering, node: Recorded) -> Operand:
    base, exponent = walk.real(node.args[0]), walk.real(node.args[1])
    if exponent == 1.0:
        return base
    if exponent == 2.0:
        return walk.emit("mul", base, base)
    if exponent == 3.0:
        return walk.emit("mul", base, walk.emit("mul", base, base))
    return walk.emit("sqrt", base) if exponent == 0.5 else walk.emit("pow", base, exponent)


def _copy(walk: Lowering, node: Recorded) -> Operand:
    dtype = node.kwargs.get("dtype")
    if dtype not in (None, torch.float64, torch.bool):
        raise walk.refusal(node, f"conversion to {dtype}; a cell computes in one type")
    value = walk.value(node.args[0])
    if dtype == torch.bool and not walk.is_logical(value):
        return walk.emit("ne", value, 0.0)
    return walk.real(node.args[0]) if dtype == torch.float64 else value


def _alias(walk: Lowering, node: Recorded) -> Operand:
    return walk.value(node.args[0])


def _constant(position: int) -> Callable[[Lowering, Recorded], Operand]:
    return lambda walk, node: walk.value(node.args[position])


def _number(number: float) -> Callable[[Lowering, Recorded], Operand]:
    return lambda walk, node: number


# The lowerings below choose the side of a kink as PyTorch's own derivative does, so that a derivative of the lowered
# text agrees with the derivative of the original there too.
def _relu(walk: Lowering, node: Recorded) -> Operand:
    x = walk.real(node.args[0])
    return walk.emit("where", walk.emit("le", x, 0.0), 0.0, x)


def _leaky_relu(walk: Lowering, node: Recorded) -> Operand:
    x = walk.real(node.args[0])
    slope = walk.real(node.args[1]) if len(node.args) > 1 else 0.01
    return walk.emit("where", walk.emit("gt", x, 0.0), x, walk.emit("mul", x, slope))


def _elu(walk: Lowering, node: Recorded) -> Operand:
    x = walk.real(node.args[0])
    alpha, scale, input_scale = [walk.real(a) for a in (*node.args[1:], *(1.0, 1.0, 1.0)[len(node.args) - 1 :])]
    positive = walk.emit("gt", x, 0.0)
    below = walk.emit("where", positive, 0.0, x)
    curve = walk.emit("mul", walk.emit("expm1", walk.emit("mul", below, input_scale)), walk.emit("mul", alpha, scale))
    return walk.emit("where", positive, walk.emit("mul", x, scale), curve)


def _clip(low: Operand | None, high: Operand | None, walk: Lowering, x: Operand, *, open_bounds: bool) -> Operand:
    below, above = ("le", "ge") if open_bounds else ("lt", "gt")
    result = x if low is None else walk.emit("where", walk.emit(below, x, low), low, x)  # where low > high, high wins
    return result if high is None else walk.emit("where", walk.emit(above, result, high), high, result)


def _hardtanh(walk: Lowering, node: Recorded) -> Operand:
    bounds: list[Any] = [*node.args[1:], *(-1.0, 1.0)[len(node.args) - 1 :]]
    return _clip(walk.real(bounds[0]), walk.real(bounds[1]), walk, walk.real(node.args[0]), open_bounds=True)


def _clamp(walk: Lowering, node: Recorded) -> Operand:
    bounds = [*node.args[1:], None, None][:2]
    low, high = (None if bound is None else walk.real(bound) for bound in bounds)
    return _clip(low, high, walk, walk.real(node.args[0]), open_bounds=False)


def _gelu(walk: Lowering, node: Recorded) -> Operand:
    x = walk.real(node.args[0])
    half = walk.emit("mul", x, 0.5)
    if node.kwargs.get("approximate", "none") == "tanh":
        cube = walk.emit("mul", walk.emit("mul", x, walk.emit("mul", x, x)), 0.044715)
        bend = walk.emit("tanh", walk.emit("mul", walk.emit("add", x, cube), (2 / torch.pi) ** 0.5))
    else:
        bend = walk.emit("erf", walk.emit("mul", x, 0.5**0.5))
    return walk.emit("mul", half, walk.emit("add", bend, 1.0))


def _softshrink_backward(walk: Lowering, node: Recorded) -> Operand:
    cotangent, x, bound = (walk.real(argument) for argument in node.args[:3])
    inside = walk.emit("le", walk.emit("abs", x), bound)
    return walk.emit("where", inside, 0.0, cotangent)


def _sum(walk: Lowering, node: Recorded) -> Operand:
    return walk.sum(node, walk.real(node.args[0]))


def _mean(walk: Lowering, node: Recorded) -> Operand:
    return walk.mean(node, walk.real(node.args[0]))


def _var(walk: Lowering, node: Recorded) -> Operand:
    x, correction = walk.real(node.args[0]), node.kwargs.get("correction")
    centred = walk.emit("sub", x, walk.mean(node, x))
    squares = walk.sum(node, walk.emit("mul", centred, centred))
    return walk.emit("div", squares, walk.emit("sub", WIDTH, 1.0 if correction is None else walk.real(correction)))


def _vector_norm(walk: Lowering, node: Recorded) -> Operand:
    x, order = walk.real(node.args[0]), walk.real(node.args[1]) if len(node.args) > 1 else 2.0
    if order != 2.0:
        raise walk.refusal(node, f"a norm of order {order}")
    return walk.emit("sqrt", walk.sum(node, walk.emit("mul", x, x)))


def _isnan(walk: Lowering, node: Recorded) -> Operand:
    x = walk.real(node.args[0])
    return walk.emit("ne", x, x)


def _reciprocal(walk: Lowering, node: Recorded) -> Operand:
    return walk.emit("div", 1.0, walk.real(node.args[0]))


_LOWERINGS: dict[str, Callable[[Lowering, Recorded], Operand]] = {
    **{name: _unary(name) for name in REAL_UNARY},
    **{name: _binary(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum", *COMPARISONS)},
    **dict.fromkeys(
        ("alias", "detach", "clone", "view", "expand", "lift_fresh_copy", "contiguous", "squeeze", "unsqueeze"), _alias
    ),
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
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "linalg_vector_norm": _vector_norm,
}
