"""Two cells, one reading forwards and one backwards (Schuster & Paliwal 1997, "Bidirectional recurrent neural networks")."""

from typing import Any

import torch
from torch import nn

from unspool.cells import Cell
from unspool.errors import ShapeError
from unspool.kernels import backward_resets
from unspool.layers.bptt import BPTT, FullBPTT
from unspool.layers.recurrent import LayerOutput, Recurrent
from unspool.types import Bool, Float, Int, Tensor


class Bidirectional(nn.Module):
    """The outputs of both directions side by side, [T, B, O_forward + O_backward].

    With lengths, the backward cell begins at each sequence's own end. `reset` marks where a new sequence begins; the
    backward cell begins anew at the step before such a mark, which is that sequence's end.

    Args:
        forward_cell: reads from the first step to the last.
        backward_cell: reads from the last step to the first.
        bptt: how gradients run through time.
    """

    def __init__(self, forward_cell: Cell, backward_cell: Cell, bptt: BPTT = FullBPTT()):
        super().__init__()
        if forward_cell.input_size != backward_cell.input_size:
            raise ShapeError(
                f"Bidirectional: both cells read the same input, got sizes {forward_cell.input_size} and "
                f"{backward_cell.input_size}."
            )
        self.forward_layer = Recurrent(forward_cell, bptt)
        self.backward_layer = Recurrent(backward_cell, bptt, reverse=True)
        self.input_size = forward_cell.input_size

    @property
    def output_size(self) -> int:
        """Features of one output."""
        return self.forward_layer.output_size + self.backward_layer.output_size

    def initial_state(self, batch_size: int) -> Any:
        """The states of both directions."""
        return self.forward_layer.initial_state(batch_size), self.backward_layer.initial_state(batch_size)

    def forward(
        self,
        x: Float[Tensor, "T B I"],
        state: Any = None,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
    ) -> LayerOutput:
        """Runs both directions; arguments as in `Recurrent.forward`, the state a pair (forward, backward)."""
        ahead, behind = (None, None) if state is None else state
        onward = self.forward_layer(x, ahead, lengths, reset)
        backward = self.backward_layer(x, behind, lengths, backward_resets(reset, lengths))
        output = torch.cat([onward.output, backward.output], -1)
        return LayerOutput(output, (onward.state, backward.state))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Refused: the backward direction would need the future.

        Raises:
            ShapeError: always.
        """
        raise ShapeError("Bidirectional.step: the backward direction needs the whole sequence; call forward.")
