"""The simple recurrent network (Elman 1990, "Finding structure in time", Cognitive Science 14(2))."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unspool.cells.base import GatedCell, Gates, HiddenState
from unspool.types import Float

Activation = Callable[[Tensor], Tensor]


class Elman(GatedCell):
    """The textbook's recurrence, with any pointwise activation and an optional output map.

    ::

        h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
        y_t = g(W_yh h_t + b_y)          with `output_size`; else y_t = h_t

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are biases.
        activation: f, a pointwise function such as torch.tanh, torch.relu, torch.sigmoid or one's own.
        output_size: O, size of y_t.
        output_activation: g, any function of a tensor; the identity unless given.

    Parameters: those of `GatedCell`, with one gate; weight_yh [O, H] and bias_y [O] as `output_map`.
    State: h [B, H].
    """

    gates = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        activation: Activation = torch.tanh,
        output_size: int | None = None,
        output_activation: Activation | None = None,
    ):
        super().__init__(input_size, hidden_size, bias)
        self.activation, self.output_activation = activation, output_activation
        self.output_map = None if output_size is None else nn.Linear(hidden_size, output_size, bias)

    @property
    def output_size(self) -> int:
        return self.hidden_size if self.output_map is None else self.output_map.out_features

    def pointwise(self, x: Gates, h: Gates, state: HiddenState) -> HiddenState:
        return HiddenState(h=self.activation(x[0] + h[0]))

    def readout(self, h: Float[Tensor, "*N H"], x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        y = h if self.output_map is None else self.output_map(h)
        return y if self.output_activation is None else self.output_activation(y)
