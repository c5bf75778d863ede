"""Tracing: from a cell's Python equations to programs, with PyTorch's own differentiation for adjoint and tangent.

`make_fx` records the operations, `torch.func.vjp` and `torch.func.jvp` are recorded the same way, each for two numbers
of units, and `unspool.kernels.lowering` makes one program of the two recordings. What it does not know is refused by name.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from unspool.errors import LoweringError
from unspool.kernels.lowering import TRACED_ROWS, TRACED_WIDTHS, lower, outsiders
from unspool.kernels.program import GROUPS, Program

Pointwise = Callable[..., Sequence[Tensor]]


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
        LoweringError: the equations hold something that is neither pointwise nor a sum over the units, named in the message.
    """
    return _program(_flat(pointwise, signature), sum(signature), _sizes(signature, 0), where)


def trace_adjoint(pointwise: Pointwise, signature: Signature, where: str = "pointwise") -> Program:
    """The adjoint: takes the forward's inputs and a cotangent of each new state, returns the gradient of each input."""
    flat, count = _flat(pointwise, signature), sum(signature)

    def adjoint(*values: Tensor) -> tuple[Tensor, ...]:
        pull_back = torch.func.vjp(flat, *values[:count])[1]
        return tuple(pull_back(tuple(values[count:])))

    return _program(adjoint, count + signature.states, _sizes(signature, signature.states), where)


def _flat(pointwise: Pointwise, signature: Signature) -> Callable[..., tuple[Tensor, ...]]:
    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(pointwise(*signature.group(values)))

    return flat


def _sizes(signature: Signature, extra: int) -> list[tuple[str, int]]:
    return list(zip(GROUPS, (*signature, extra), strict=False))


def _program(
    function: Callable[..., tuple[Tensor, ...]], count: int, sizes: Sequence[tuple[str, int]], where: str
) -> Program:
    first = _record(function, count, TRACED_WIDTHS[0], where)
    if outsiders(first):
        raise LoweringError(
            f"{where}: the equations use a tensor that is not among their inputs; "
            "declare a parameter of shape [H] in `vectors`, or use a Python number."
        )
    return lower((first, _record(function, count, TRACED_WIDTHS[1], where)), sizes, where)


_ONE_AT_A_TIME = Lock()
"""PyTorch's tracer keeps state of the whole process."""


def _record(function: Callable[..., tuple[Tensor, ...]], count: int, width: int, where: str) -> GraphModule:
    """Records the operations in a thread of its own, where no autocast, hook, mode or transform of the caller holds."""
    with _ONE_AT_A_TIME, ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(_make_graph, function, count, width).result()
        except RuntimeError as error:
            if "tracing tensor" in str(error):
                raise LoweringError(
                    f"{where}: the equations ask for the value of a tensor (an if, float() or item()), which a "
                    "program cannot; use torch.where."
                ) from error
            reason = str(error).splitlines()[0]
            raise LoweringError(f"{where}: the equations failed on tensors of shape [2, {width}]: {reason}") from error


def _make_graph(function: Callable[..., tuple[Tensor, ...]], count: int, width: int) -> GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, needed once per new cell

    generator = torch.Generator().manual_seed(0)
    shape = (TRACED_ROWS, width)
    values = [torch.rand(shape, dtype=torch.float64, generator=generator) + 0.25 for _ in range(count)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, in its first forward-mode derivative
        return make_fx(torch.func.functionalize(function), decomposition_table=_decompositions())(*values)


@lru_cache(maxsize=1)
def _decompositions() -> Any:
    from torch._decomp import core_aten_decompositions

    return {**core_aten_decompositions(), torch.ops.aten.native_layer_norm.default: _layer_norm}


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Any, bias: Any, epsilon: float) -> tuple[Tensor, ...]:
    """`native_layer_norm`, which PyTorch leaves whole; its weight and bias are vectors, already one row for each of x."""
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + epsilon)
    normal = centred * scale
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias, mean, scale
