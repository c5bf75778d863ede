"""The gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), in the form that cuDNN and PyTorch compute."""

import torch

from unspool.cells.base import GatedCell, Gates, HiddenState


class GRU(GatedCell):
    """The GRU as `torch.nn.GRU` computes it: the reset gate scales the h-part of n after its product.

    ::

        r = sigmoid(x_r + h_r)        z = sigmoid(x_z + h_z)
        n = tanh(x_n + r * h_n)
        h_t = (1 - z) * n + z * h_{t-1}

    Differs from the paper, where r scales h before the product (equation 8).

    Parameters: those of `GatedCell`, gates in the order r z n.
    State: h [B, H].
    """

    gates = ("r", "z", "n")
    keeping_gate = "z"

    def pointwise(self, x: Gates, h: Gates, state: HiddenState) -> HiddenState:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x, h
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return HiddenState(h=(1 - z) * n + z * state.h)
