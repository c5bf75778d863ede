"""The sLSTM: exponential gates, a normalizer and a stabilizer (Beck et al. 2024, xLSTM, arXiv 2405.04517, section 2.2)."""

from typing import NamedTuple

import torch
from torch import nn

from unspool.cells.base import CellWeights, GatedCell, Gates
from unspool.errors import ShapeError
from unspool.types import Float, Tensor


class SLSTMState(NamedTuple):
    """Hidden state h, cell c, normalizer n, stabilizer m; c and n are stored divided by exp(m)."""

    h: Float[Tensor, "B H"]
    c: Float[Tensor, "B H"]
    n: Float[Tensor, "B H"]
    m: Float[Tensor, "B H"]


class SLSTM(GatedCell):
    """The scalar-memory LSTM of xLSTM with exponential input gate and sigmoid forget gate.

    ::

        z = tanh(x_z + h_z)            o = sigmoid(x_o + h_o)
        log i = x_i + h_i              log f = logsigmoid(x_f + h_f)
        m_t = max(log f + m_{t-1}, log i)                                        (equation 15)
        c_t = exp(log f + m_{t-1} - m_t) * c_{t-1} + exp(log i - m_t) * z        (equations 8, 16, 17)
        n_t = exp(log f + m_{t-1} - m_t) * n_{t-1} + exp(log i - m_t)            (equation 9)
        h_t = o * c_t / n_t                                                      (equation 10)

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are biases.
        num_heads: the recurrent matrices are block-diagonal with this many blocks; must divide H.

    Parameters: those of `GatedCell`, gates in the order i f z o; weight_hh is [4H, H / num_heads], one block below the
    other within each gate.
    State: h, c, n [B, H], zero at first; m [B, H], -inf at first: the log-scale of an empty memory.
    """

    gates = ("i", "f", "z", "o")
    keeping_gate = "f"
    state_type = SLSTMState
    interpolable = ("h",)

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, num_heads: int = 1):
        super().__init__(input_size, hidden_size, bias)
        if num_heads < 1 or hidden_size % num_heads:
            raise ShapeError(f"SLSTM: num_heads must divide hidden_size {hidden_size}, got {num_heads}.")
        self.num_heads = num_heads
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size // num_heads))
        self.reset_parameters()

    def initial_state(self, batch_size: int) -> SLSTMState:
        zero = self.zeros(batch_size, self.hidden_size)
        return SLSTMState(h=zero, c=zero, n=zero, m=torch.full_like(zero, -torch.inf))

    def weights(self) -> CellWeights:
        weights = super().weights()
        if self.num_heads == 1 or weights.weight_hh is None:
            return weights
        gates = weights.weight_hh.split(self.hidden_size)
        blocks = [torch.block_diag(*gate.split(self.hidden_size // self.num_heads)) for gate in gates]
        return weights._replace(weight_hh=torch.cat(blocks))

    def pointwise(self, x: Gates, h: Gates, state: SLSTMState) -> SLSTMState:
        (x_i, x_f, x_z, x_o), (h_i, h_f, h_z, h_o) = x, h
        z, o = torch.tanh(x_z + h_z), torch.sigmoid(x_o + h_o)
        log_i, log_f = x_i + h_i, nn.functional.logsigmoid(x_f + h_f)
        m = torch.maximum(log_f + state.m, log_i)
        write, keep = torch.exp(log_i - m), torch.exp(log_f + state.m - m)
        c = keep * state.c + write * z
        n = keep * state.n + write
        return SLSTMState(h=o * c / n, c=c, n=n, m=m)
