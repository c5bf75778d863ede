"""The catalogue of cells: one file, one cell, one paper."""

import importlib
import inspect

from unspool.cells.base import Cell, CellWeights, GatedCell, Gates, HiddenState
from unspool.cells.coupled_lstm import CoupledLSTM
from unspool.cells.elman import Elman
from unspool.cells.gru import GRU
from unspool.cells.indrnn import IndRNN
from unspool.cells.layer_norm_lstm import LayerNormLSTM
from unspool.cells.linear import LinearCell
from unspool.cells.lstm import LSTM, LSTMState
from unspool.cells.mingru import MinGRU
from unspool.cells.minlstm import MinLSTM
from unspool.cells.peephole_lstm import PeepholeLSTM
from unspool.cells.projected_lstm import ProjectedLSTM, ProjectedState
from unspool.cells.recurrent_dropout import LinearRecurrentDropout, RecurrentDropout, recurrent_dropout
from unspool.cells.slstm import SLSTM, SLSTMState
from unspool.cells.zoneout import LinearZoneout, Zoneout, zoneout
from unspool.errors import ConfigError, did_you_mean

CELLS: dict[str, type[Cell]] = {
    "elman": Elman,
    "lstm": LSTM,
    "gru": GRU,
    "peephole_lstm": PeepholeLSTM,
    "coupled_lstm": CoupledLSTM,
    "layer_norm_lstm": LayerNormLSTM,
    "projected_lstm": ProjectedLSTM,
    "indrnn": IndRNN,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "slstm": SLSTM,
}
"""Cells by name; one of somebody else's is named ``their_package.their_module:TheirCell``."""


def find_cell(name: str) -> type[Cell]:
    """The cell class of a name in the catalogue, or of a ``module:Class`` that can be imported.

    Raises:
        ConfigError: there is no such cell; the message proposes the nearest name.
    """
    if ":" not in name:
        if name not in CELLS:
            raise ConfigError(f"unknown cell {name!r}{did_you_mean(name, CELLS)}; cells are {', '.join(CELLS)}.")
        return CELLS[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the module is somebody else's, and may fail in any way
        raise ConfigError(f"cell {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    concrete = isinstance(found, type) and issubclass(found, GatedCell | LinearCell) and not inspect.isabstract(found)
    if not concrete:
        raise ConfigError(f"cell {name!r} must be a subclass of unspool.GatedCell or unspool.LinearCell.")
    return found


__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "SLSTM",
    "Cell",
    "CellWeights",
    "CoupledLSTM",
    "Elman",
    "GatedCell",
    "Gates",
    "HiddenState",
    "IndRNN",
    "LSTMState",
    "LayerNormLSTM",
    "LinearCell",
    "LinearRecurrentDropout",
    "LinearZoneout",
    "MinGRU",
    "MinLSTM",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "ProjectedState",
    "RecurrentDropout",
    "SLSTMState",
    "Zoneout",
    "find_cell",
    "recurrent_dropout",
    "zoneout",
]
