"""The minGRU (Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201, section 3.1)."""

from collections.abc import Sequence

import torch

from unspool.cells.linear import LinearCell
from unspool.types import Tensor


class MinGRU(LinearCell):
    """A GRU whose gates do not see the state, so that all steps run at once.

    ::

        z = sigmoid(x_z)
        h_t = (1 - z) * h_{t-1} + z * x_n

    Parameters: weight_ih [2H, I], bias_ih [2H], gates in the order z n.
    State: h [B, H].
    """

    gates = ("z", "n")

    def coefficients(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x_z, x_n = x
        z = torch.sigmoid(x_z)
        return 1 - z, z * x_n
