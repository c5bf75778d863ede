"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate by Gers, Schmidhuber & Cummins 2000)."""

from typing import NamedTuple

import torch

from unspool.cells.base import GatedCell, Gates
from unspool.types import Float, Tensor


class LSTMState(NamedTuple):
    """Hidden state h and cell c."""

    h: Float[Tensor, "B H"]
    c: Float[Tensor, "B H"]


class LSTM(GatedCell):
    """The LSTM as `torch.nn.LSTM` computes it.

    ::

        i = sigmoid(x_i + h_i)        f = sigmoid(x_f + h_f)
        g = tanh(x_g + h_g)           o = sigmoid(x_o + h_o)
        c_t = f * c_{t-1} + i * g
        h_t = o * tanh(c_t)

    Parameters: those of `GatedCell`, gates in the order i f g o.
    State: h, c [B, H].
    """

    gates = ("i", "f", "g", "o")
    keeping_gate = "f"
    state_type = LSTMState

    def pointwise(self, x: Gates, h: Gates, state: LSTMState) -> LSTMState:
        (x_i, x_f, x_g, x_o), (h_i, h_f, h_g, h_o) = x, h
        i, f = torch.sigmoid(x_i + h_i), torch.sigmoid(x_f + h_f)
        g, o = torch.tanh(x_g + h_g), torch.sigmoid(x_o + h_o)
        c = f * state.c + i * g
        return LSTMState(h=o * torch.tanh(c), c=c)
