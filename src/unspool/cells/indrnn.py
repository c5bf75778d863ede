"""The independently recurrent network (Li et al. 2018, arXiv 1803.04831)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unspool.cells.base import GatedCell, Gates, HiddenState


class IndRNN(GatedCell):
    """Every unit hears only itself; depth mixes the units.

    ::

        h_t = f(x_h + weight_u * h_{t-1})       (equation 3)

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there is a bias.
        activation: f, a pointwise function; ReLU as in the paper.

    Parameters: weight_ih [H, I], bias_ih [H]; weight_u [H], uniform in 0..1 (section 4.1).
    State: h [B, H].
    """

    gates = ("h",)
    vectors = ("weight_u",)
    recurrent_product = False

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, activation: Callable[[Tensor], Tensor] = torch.relu
    ):
        super().__init__(input_size, hidden_size, bias)
        self.activation = activation

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.uniform_(self.get_parameter("weight_u"), 0.0, 1.0)

    def pointwise(self, x: Gates, h: Gates, state: HiddenState, vectors: Gates) -> HiddenState:
        return HiddenState(h=self.activation(x[0] + vectors[0] * state.h))
