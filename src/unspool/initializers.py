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
    nn.init.normal_(_recurrent(cell, "variance_"), std=math.sqrt(k / cell.hidden_size))


def orthogonal_(cell: HasGates, gain: float = 1.0) -> None:
    """Each gate's recurrent matrix orthogonal (Saxe et al. 2014, arXiv 1312.6120): its singular values are all `gain`."""
    for gate in _recurrent(cell, "orthogonal_").split(cell.hidden_size):
        nn.init.orthogonal_(gate, gain)


def identity_(cell: HasGates, scale: float = 1.0) -> None:
    """Each gate's recurrent matrix the identity times `scale`, biases zero: the IRNN (Le et al. 2015, arXiv 1504.00941)."""
    with torch.no_grad():
        for gate in _recurrent(cell, "identity_").split(cell.hidden_size):
            nn.init.eye_(gate).mul_(scale)
        for bias in (cell.bias_ih, cell.bias_hh):
            if bias is not None:
                bias.zero_()


def forget_bias_(cell: HasGates, value: float = 1.0) -> None:
    """The forget gate's bias b_f = value in all (Gers et al. 2000; Jozefowicz et al. 2015), so that memory begins open."""
    _set_bias(cell, "f", torch.full((cell.hidden_size,), float(value)))


def chrono_(cell: HasGates, max_lag: int) -> None:
    """Forget biases log(U(1, max_lag - 1)), input biases their negative (Tallec & Ollivier 2018, arXiv 1804.11188, eq. 16).

    Memory times are then spread from one step to `max_lag` steps. For cells with an update gate z that keeps the state
    (GRU), z takes the place of f.
    """
    if max_lag < 3:
        raise ConfigError(f"chrono_: max_lag must be at least 3 steps, got {max_lag}.")
    bias = torch.log(torch.empty(cell.hidden_size).uniform_(1.0, max_lag - 1.0))
    if "f" not in cell.gates and "z" in cell.gates:
        _set_bias(cell, "z", bias)
        return
    _set_bias(cell, "f", bias)
    if "i" in cell.gates:
        _set_bias(cell, "i", -bias)


def _recurrent(cell: HasGates, name: str) -> Tensor:
    if cell.weight_hh is None:
        raise ConfigError(f"{name}: {type(cell).__name__} has no recurrent matrix.")
    return cell.weight_hh


def _set_bias(cell: HasGates, gate: str, value: Tensor) -> None:
    if gate not in cell.gates or cell.bias_ih is None:
        raise ConfigError(
            f"{type(cell).__name__} has no bias of a gate {gate!r}; its gates are {' '.join(cell.gates)}."
        )
    rows = slice(cell.gates.index(gate) * cell.hidden_size, (cell.gates.index(gate) + 1) * cell.hidden_size)
    with torch.no_grad():
        cell.bias_ih[rows] = value.to(cell.bias_ih)
        if cell.bias_hh is not None:
            cell.bias_hh[rows] = 0.0
