"""The minLSTM (Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201, section 3.2)."""

from collections.abc import Sequence

import torch

from unspool.cells.linear import LinearCell
from unspool.types import Tensor


class MinLSTM(LinearCell):
    """An LSTM whose gates do not see the state and sum to one, so that all steps run at once.

    ::

        f = sigmoid(x_f)              i = sigmoid(x_i)
        h_t = f / (f + i) * h_{t-1} + i / (f + i) * x_n

    Parameters: weight_ih [3H, I], bias_ih [3H], gates in the order f i n.
    State: h [B, H].
    """

    gates = ("f", "i", "n")
    keeping_gate = "f"

    def coefficients(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x_f, x_i, x_n = x
        # f / (f + i) = 1 / (1 + i / f), written with the logarithms so that neither gate can underflow
        log_f, log_i = torch.nn.functional.logsigmoid(x_f), torch.nn.functional.logsigmoid(x_i)
        return torch.sigmoid(log_f - log_i), torch.sigmoid(log_i - log_f) * x_n
