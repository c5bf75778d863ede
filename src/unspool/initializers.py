"""Initial weights for recurrences, written into a cell's parameters in place.

All take a cell with PyTorch's four parameters and return nothing. `uniform_` is what a cell is born with.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unspool.errors import ConfigError
from unspool.types import HasGates


def uniform_(parameters: Iterable[Tensor], hidden_size: int) -> None:
    """PyTorch's default for recurrent layers: uniform in +-1/sqrt(H)."""
    bound = 1.0 / math.sqrt(hidden_size)
    with torch.no_grad():
        for parameter in parameters:
            parameter.uniform_(-bound, bound)


def variance_(cell: HasGates, k: float) -> None:
    """Recurrent weights normal with variance k/H.

    In a ReLU network E|h|^2 changes by the factor k/2 a step, forward and backward: k = 2 keeps it (He et al. 2015,
    "Delving deep into rectifiers", arXiv 1502.01852, equation 10), 3 explodes, 1.5 vanishes.
    """
    if k <= 0:
        raise ConfigError(f"variance_: k must be positive, got {k}.")
    weight = _recurrent(cell, "variance_")
    nn.init.normal_(weight, std=math.sqrt(k / weight.shape[-1]))


def orthogonal_(cell: HasGates, gain: float = 1.0) -> None:
    """Each gate's recurrent matrix orthogonal (Saxe et al. 2014, arXiv 1312.6120): its singular values are all `gain`."""
    for block in _blocks(cell, "orthogonal_"):
        nn.init.orthogonal_(block, gain)


def identity_(cell: HasGates, scale: float = 1.0) -> None:
    """Each gate's recurrent matrix the identity times `scale`, biases zero: the IRNN (Le et al. 2015, arXiv 1504.00941)."""
    with torch.no_grad():
        for block in _blocks(cell, "identity_"):
            nn.init.eye_(block).mul_(scale)
        for bias in (cell.bias_ih, cell.bias_hh):
            if bias is not None:
                bias.zero_()


def forget_bias_(cell: HasGates, value: float = 1.0) -> None:
    """The bias of the gate that keeps the state, b_f = value in all (Gers et al. 2000; Jozefowicz et al. 2015), so that memory begins open."""
    _set_bias(cell, _keeping(cell), torch.full((cell.hidden_size,), float(value)))


def chrono_(cell: HasGates, max_lag: int) -> None:
    """Forget biases log(U(1, max_lag - 1)), input biases their negative (Tallec & Ollivier 2018, arXiv 1804.11188, eq. 16).

    Memory times are then spread from one step to `max_lag` steps. The gate is the cell's `keeping_gate`: f for LSTMs, z
    for the GRU.
    """
    if max_lag < 3:
        raise ConfigError(f"chrono_: max_lag must be at least 3 steps, got {max_lag}.")
    bias = torch.log(torch.empty(cell.hidden_size).uniform_(1.0, max_lag - 1.0))
    _set_bias(cell, _keeping(cell), bias)
    if "i" in cell.gates:
        _set_bias(cell, "i", -bias)


def _recurrent(cell: HasGates, name: str) -> Tensor:
    if cell.weight_hh is None:
        raise ConfigError(f"{name}: {type(cell).__name__} has no recurrent matrix.")
    return cell.weight_hh


def _blocks(cell: HasGates, name: str) -> tuple[Tensor, ...]:
    """The square matrices of a cell: one for each gate, and for each head where it has heads."""
    weight = _recurrent(cell, name)
    return weight.split(weight.shape[-1])


def _keeping(cell: HasGates) -> str:
    if cell.keeping_gate is None:
        raise ConfigError(f"{type(cell).__name__} names no gate that keeps its state (keeping_gate).")
    return cell.keeping_gate


def _set_bias(cell: HasGates, gate: str, value: Tensor) -> None:
    if gate not in cell.gates or cell.bias_ih is None:
        raise ConfigError(f"{type(cell).__name__} has no bias of a gate {gate!r}; its gates: {' '.join(cell.gates)}.")
    rows = slice(cell.gates.index(gate) * cell.hidden_size, (cell.gates.index(gate) + 1) * cell.hidden_size)
    with torch.no_grad():
        cell.bias_ih[rows] = value.to(cell.bias_ih)
        if cell.bias_hh is not None:
            cell.bias_hh[rows] = 0.0
