"""A cell folded over time: the whole sequence with `forward`, one step with `step`, equal by law."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from unspool.cells import Cell
from unspool.errors import ShapeError
from unspool.kernels import check_lengths, check_reset, clear_padding
from unspool.layers.bptt import BPTT, FullBPTT
from unspool.state import map_state, state_tensors
from unspool.types import Bool, Float, Int, Tensor


class LayerOutput(NamedTuple):
    """What a layer returns: the output of every step, and the state after the last."""

    output: Float[Tensor, "T B O"]
    state: Any


class Trajectory(NamedTuple):
    """A layer's output with the states of all steps: a NamedTuple of tensors [T, B, H]."""

    output: Float[Tensor, "T B O"]
    states: Any
    state: Any


class Layer(Protocol):
    """The two faces of everything that can be stacked."""

    input_size: int

    @property
    def output_size(self) -> int: ...

    def initial_state(self, batch_size: int) -> Any: ...

    def __call__(
        self, x: Tensor, state: Any = None, lengths: Tensor | None = None, reset: Tensor | None = None
    ) -> LayerOutput: ...

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Recurrent(nn.Module):
    """A cell over time.

    Args:
        cell: any cell.
        bptt: how gradients run through time.
        reverse: read the sequence from its end; with lengths, each from its own.
    """

    def __init__(self, cell: Cell, bptt: BPTT = FullBPTT(), reverse: bool = False):
        super().__init__()
        self.cell, self.bptt, self.reverse = cell, bptt, reverse
        self.input_size = cell.input_size

    @property
    def output_size(self) -> int:
        """Features of one output."""
        return self.cell.output_size

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step."""
        return self.cell.initial_state(batch_size)

    def forward(
        self,
        x: Float[Tensor, "T B I"],
        state: Any = None,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
    ) -> LayerOutput:
        """Runs the whole sequence.

        Args:
            x: [T, B, I]; T and B may be 0.
            state: tensors [B, H]; the cell's initial state unless given.
            lengths: [B] integers in 0..T. Beyond its length a sequence's state stands still.
            reset: [T, B] booleans; where true, the step begins from the cell's initial state.

        Returns:
            The outputs [T, B, O] and the state after the last step. Beyond a length the outputs are those of the state
            that stands still; mask them in a loss.

        Raises:
            ShapeError: an argument has other axes than these.
        """
        trajectory = self.unroll(x, state, lengths, reset)
        return LayerOutput(trajectory.output, trajectory.state)

    def unroll(
        self,
        x: Float[Tensor, "T B I"],
        state: Any = None,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
    ) -> Trajectory:
        """`forward` with the states of all steps, differentiable."""
        cell = self.cell  # asked for once: a module looks its modules up slowly
        _check_input(x, cell)
        num_steps, batch_size = x.shape[:2]
        check_lengths(lengths, num_steps, batch_size, "Recurrent.forward")
        check_reset(reset, (num_steps, batch_size), "Recurrent.forward")
        lengths = None if lengths is None else lengths.to(x.device, torch.long)
        reset = None if reset is None else reset.to(x.device)
        if state is None:
            state = cell.initial_state(batch_size)
        else:
            _check_state(state, cell, batch_size)
        noise = cell.draw_noise(num_steps, batch_size)
        states = self.bptt.unroll(cell, x, state, cell.weights(), noise, lengths, reset, self.reverse)
        final = map_state(lambda s: s[0 if self.reverse else -1], states) if num_steps else state
        output = cell.readout(states[0], clear_padding(x, lengths)) if cell.reads_out else states[0]
        return Trajectory(output, states, final)

    def step(self, x: Float[Tensor, "B I"], state: Any) -> tuple[Float[Tensor, "B O"], Any]:
        """Runs one step: the output and the new state. Folding it over a sequence gives `forward`.

        Raises:
            ShapeError: the layer reads from the end, so that a single step has no meaning.
        """
        if self.reverse:
            raise ShapeError("Recurrent.step: a reversed layer needs the whole sequence; call forward.")
        if x.dim() != 2 or x.shape[-1] != self.input_size:
            raise ShapeError(f"Recurrent.step: x must be [B, {self.input_size}] for this cell, got {list(x.shape)}.")
        _check_state(state, self.cell, len(x))
        return self.cell.step(x, state)


def _check_input(x: Tensor, cell: Cell) -> None:
    if x.dim() != 3 or x.shape[-1] != cell.input_size:
        raise ShapeError(
            f"Recurrent.forward: x must be [T, B, {cell.input_size}] for this cell, got {list(x.shape)}; "
            + (f"build the cell with input_size={x.shape[-1]}." if x.dim() == 3 else "time is the first axis.")
        )
    wanted = cell.any_parameter().dtype
    if x.dtype != wanted and not torch.is_autocast_enabled(x.device.type):
        raise ShapeError(f"Recurrent.forward: x must be {wanted} like the cell's parameters, got {x.dtype}.")


def _check_state(state: Any, cell: Cell, batch_size: int) -> None:
    fields = cell.state_type._fields
    if not isinstance(state, tuple) or len(state) != len(fields):
        raise ShapeError(
            f"Recurrent.forward: state must be a {cell.state_type.__name__} ({', '.join(fields)}), "
            f"got {type(state).__name__}; see the cell's initial_state."
        )
    for name, size, tensor in zip(fields, cell.state_sizes, state_tensors(state), strict=True):
        if tensor.shape != (batch_size, size):
            raise ShapeError(
                f"Recurrent.forward: {name} of state must be [{batch_size}, {size}], got {list(tensor.shape)}."
            )
