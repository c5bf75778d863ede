"""Cells of unspool for the equations of PyTorch's modules, and layers that share a module's parameters."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from unspool import cells
from unspool.cells import CellWeights
from unspool.layers import Recurrent
from unspool.types import Tensor

KINDS: dict[str, Callable[..., cells.GatedCell]] = {
    "RNN_TANH": cells.Elman,
    "RNN_RELU": partial(cells.Elman, activation=torch.relu),
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
}

# Equations alone, without numbers: a pass works with a module's parameters. Made here, as torch.compile cannot make them.
with torch.device("meta"):
    EQUATIONS: dict[str, cells.GatedCell] = {name: kind(1, 1) for name, kind in KINDS.items()}
    EQUATIONS["PROJECTED"] = cells.ProjectedLSTM(1, 1, 1)


def share_cell(mode: str, input_size: int, hidden_size: int, weights: CellWeights) -> Recurrent:
    """A layer whose cell has a module's parameters for its own: the same objects, of a parametrized one a copy of its value."""
    with torch.device("meta"):
        cell = KINDS[mode](input_size, hidden_size, bias=weights.bias_ih is not None)
    for name, tensor in zip(CellWeights._fields, weights, strict=True):
        if isinstance(tensor, Tensor):
            setattr(cell, name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach()))
    return Recurrent(cell)
