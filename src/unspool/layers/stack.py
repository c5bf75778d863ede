"""Layers on top of each other: any depth, residual connections, layer norm, dropout between them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from unspool.cells import Cell
from unspool.errors import ShapeError
from unspool.kernels import clear_padding
from unspool.layers.bptt import BPTT, FullBPTT
from unspool.layers.dropout import LockedDropout
from unspool.layers.recurrent import LayerOutput, Recurrent
from unspool.types import Bool, Float, Int, Tensor


class Stack(nn.Module):
    """A fold of layers; each reads what the one below writes.

    ::

        y_l = dropout(layer_l(norm(x_l)));  x_{l+1} = y_l, or x_l + y_l with `residual` where sizes allow

    Args:
        layers: from bottom to top; sizes must fit.
        dropout: probability for what is handed from layer to layer; not after the last.
        locked: the same units are dropped at every step of a sequence (Gal & Ghahramani 2016), else each step anew.
        residual: add a layer's input to its output where both have the same size.
        layer_norm: normalize each layer's input.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        dropout: float = 0.0,
        locked: bool = True,
        residual: bool = False,
        layer_norm: bool = False,
    ):
        super().__init__()
        if not layers:
            raise ShapeError("Stack: at least one layer is needed.")
        for below, above in zip(layers[:-1], layers[1:], strict=True):
            if below.output_size != above.input_size:
                raise ShapeError(
                    f"Stack: a layer writes {below.output_size} features and the next reads {above.input_size}."
                )
        self.layers = nn.ModuleList(layers)
        self.residual = residual
        self.dropout = LockedDropout(dropout) if locked else nn.Dropout(dropout)
        self.norms = nn.ModuleList(
            nn.LayerNorm(layer.input_size) if layer_norm else nn.Identity()
            for layer in layers  # type: ignore[arg-type]
        )

    @property
    def input_size(self) -> int:
        """Features of one input."""
        return int(self.layers[0].input_size)  # type: ignore[arg-type]

    @property
    def output_size(self) -> int:
        """Features of one output."""
        return int(self.layers[-1].output_size)  # type: ignore[arg-type]

    def initial_state(self, batch_size: int) -> Any:
        """One state for each layer."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)  # type: ignore[operator]

    def forward(
        self,
        x: Float[Tensor, "T B I"],
        state: Any = None,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
    ) -> LayerOutput:
        """Runs the whole sequence through all layers; arguments as in `Recurrent.forward`, one state for each layer."""

        def run(layer: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
            output: LayerOutput = layer(x, state, lengths, reset)
            return output.output, output.state

        return LayerOutput(*self._fold(run, clear_padding(x, lengths), state))

    def step(self, x: Float[Tensor, "B I"], state: Any) -> tuple[Float[Tensor, "B O"], Any]:
        """One step through all layers."""
        return self._fold(lambda layer, x, state: layer.step(x, state), x, state)  # type: ignore[operator]

    def _fold(
        self, run: Callable[[nn.Module, Tensor, Any], tuple[Tensor, Any]], x: Tensor, state: Any
    ) -> tuple[Tensor, Any]:
        before = [None] * len(self.layers) if state is None else state
        if len(before) != len(self.layers):
            raise ShapeError(f"Stack: state must hold one for each of {len(self.layers)} layers, got {len(before)}.")
        after = []
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y, new = run(layer, norm(x), before[number])
            if number < len(self.layers) - 1:
                y = self.dropout(y)
            x = x + y if self.residual and y.shape == x.shape else y
            after.append(new)
        return x, tuple(after)


def stack_cells(
    build: Callable[[int, int], Cell],
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bptt: BPTT = FullBPTT(),
    dropout: float = 0.0,
    locked: bool = True,
    residual: bool = False,
    layer_norm: bool = False,
) -> Stack:
    """A stack of one kind of cell: ``build(input_size, hidden_size)`` for each of `num_layers` layers."""
    if num_layers < 1:
        raise ShapeError(f"stack_cells: num_layers must be at least 1, got {num_layers}.")
    layers: list[Recurrent] = []
    for _ in range(num_layers):
        layers.append(Recurrent(build(layers[-1].output_size if layers else input_size, hidden_size), bptt))
    return Stack(layers, dropout, locked, residual, layer_norm)
