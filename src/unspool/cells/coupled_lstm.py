"""The LSTM with coupled input and forget gate (Greff et al. 2015, "LSTM: a search space odyssey", arXiv 1503.04069)."""

import torch

from unspool.cells.base import GatedCell, Gates
from unspool.cells.lstm import LSTMState


class CoupledLSTM(GatedCell):
    """CIFG: what is forgotten is what is written, i = 1 - f; a quarter of the weights are saved.

    ::

        f = sigmoid(x_f + h_f)        g = tanh(x_g + h_g)        o = sigmoid(x_o + h_o)
        c_t = f * c_{t-1} + (1 - f) * g
        h_t = o * tanh(c_t)

    Parameters: those of `GatedCell`, gates in the order f g o.
    State: h, c [B, H].
    """

    gates = ("f", "g", "o")
    keeping_gate = "f"
    state_type = LSTMState

    def pointwise(self, x: Gates, h: Gates, state: LSTMState) -> LSTMState:
        (x_f, x_g, x_o), (h_f, h_g, h_o) = x, h
        f, g, o = torch.sigmoid(x_f + h_f), torch.tanh(x_g + h_g), torch.sigmoid(x_o + h_o)
        c = f * state.c + (1 - f) * g
        return LSTMState(h=o * torch.tanh(c), c=c)
