"""The LSTM with peephole connections (Gers & Schmidhuber 2000, "Recurrent nets that time and count")."""

import torch

from unspool.cells.base import GatedCell, Gates
from unspool.cells.lstm import LSTMState


class PeepholeLSTM(GatedCell):
    """An LSTM whose gates also see the cell, as in Graves 2013 (arXiv 1308.0850, equations 7 to 11).

    ::

        i = sigmoid(x_i + h_i + weight_ci * c_{t-1})
        f = sigmoid(x_f + h_f + weight_cf * c_{t-1})
        c_t = f * c_{t-1} + i * tanh(x_g + h_g)
        o = sigmoid(x_o + h_o + weight_co * c_t)
        h_t = o * tanh(c_t)

    Parameters: those of `GatedCell`, gates in the order i f g o; weight_ci, weight_cf, weight_co [H].
    State: h, c [B, H].
    """

    gates = ("i", "f", "g", "o")
    keeping_gate = "f"
    vectors = ("weight_ci", "weight_cf", "weight_co")
    state_type = LSTMState

    def pointwise(self, x: Gates, h: Gates, state: LSTMState, vectors: Gates) -> LSTMState:
        (x_i, x_f, x_g, x_o), (h_i, h_f, h_g, h_o) = x, h
        weight_ci, weight_cf, weight_co = vectors
        i = torch.sigmoid(x_i + h_i + weight_ci * state.c)
        f = torch.sigmoid(x_f + h_f + weight_cf * state.c)
        c = f * state.c + i * torch.tanh(x_g + h_g)
        o = torch.sigmoid(x_o + h_o + weight_co * c)
        return LSTMState(h=o * torch.tanh(c), c=c)
