"""Traced programs of cells, kept by class and settings, so that layers share them and a changed setting is seen."""

from collections.abc import Callable
from typing import Any

from torch import nn

from unspool.kernels import CellPrograms, Signature, trace, trace_adjoint
from unspool.kernels.dispatch import constant_to_compilers

_PROGRAMS: dict[Any, CellPrograms] = {}
"""Traced programs of all cells, by their class and settings: tracing takes tenths of a second, and layers share it."""

_STEP_PROGRAMS: dict[Any, str] = {}
"""The same of single steps, as `Stream` runs them."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@constant_to_compilers  # which take the programs as they are now
def trace_cell(cell: Any, probed: bool, *counts: int) -> CellPrograms:
    """Forward and adjoint of a gated cell's equations as they stand now; `counts` are those of their signature."""
    signature = Signature(*counts)
    key = (signature, probed, *(_settings(module) for module in cell.modules()))
    if key not in _PROGRAMS:
        name, equations = f"{type(cell).__name__}.pointwise", cell.probed if probed else cell.grouped
        forward = trace(equations, signature, name)
        adjoint = trace_adjoint(equations, signature, name)
        _PROGRAMS[key] = CellPrograms(forward.text, adjoint.text)
    return _PROGRAMS[key]


def trace_step(cell: nn.Module, step: Callable[..., Any], signature: Signature) -> str:
    """One step of a cell, forward only."""
    key = (signature, *(_settings(module) for module in cell.modules()))
    if key not in _STEP_PROGRAMS:
        _STEP_PROGRAMS[key] = trace(step, signature, type(cell).__name__).text
    return _STEP_PROGRAMS[key]


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """What a module's equations may depend on: its class, and its attributes that are no tensors or modules."""
    found = [(name, value) for name, value in vars(module).items() if name not in _OF_EVERY_MODULE]
    return (type(module), module.training, *((name, _setting(value)) for name, value in found))


def _setting(value: Any) -> Any:
    kind: Any = type(value)
    if callable(value):
        return value
    if kind.__repr__ is object.__repr__:  # its text is an address, which another object may have later
        return _Identity(value), repr(vars(value)) if hasattr(value, "__dict__") else ""
    return repr(value)


class _Identity:
    """An object as a key, kept alive; equal to itself alone."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
