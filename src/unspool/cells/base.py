"""What a cell is: the equations of one step, and what a scan needs to fold them over time.

`GatedCell` asks a subclass for `pointwise`, `LinearCell` (`unspool.cells.linear`) for `coefficients`; everything else (projection, recurrent
product, exact backpropagation through time, streaming) is inherited. See docs/add-a-cell.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from unspool import initializers
from unspool.cells.programs import trace_cell, trace_step
from unspool.errors import LoweringError, ShapeError
from unspool.kernels import CellPrograms, ScanInputs, Signature, clear_padding, fold, gated_scan
from unspool.kernels.dispatch import warn_slow
from unspool.kernels.explanation import explain_scan, note
from unspool.types import Bool, Float, Int, Noise

Gates: TypeAlias = tuple[Tensor, ...]
"""One tensor [B, H] for each gate, in the order of the cell's `gates`."""


class HiddenState(NamedTuple):
    """The state of a cell that carries h alone."""

    h: Float[Tensor, "B H"]


class CellWeights(NamedTuple):
    """The tensors that one pass works with, read once, so that a parametrization (weight drop) is drawn once."""

    weight_ih: Float[Tensor, "GH I"]
    bias_ih: Float[Tensor, " GH"] | None
    weight_hh: Float[Tensor, "GH H"] | None
    bias_hh: Float[Tensor, " GH"] | None
    vectors: Float[Tensor, "P H"] | None
    matrices: tuple[Tensor, ...] = ()  # what else the `unroll` of a cell reads

    def map(self, function: Callable[[Tensor], Tensor]) -> "CellWeights":
        """The same with a function applied to every tensor."""
        plain = [None if weight is None else function(weight) for weight in self[:-1]]
        return CellWeights._make([*plain, tuple(map(function, self.matrices))])


class Cell(nn.Module, ABC):
    """The equations of one step of a recurrence.

    Attributes:
        input_size: I, features of one input.
        hidden_size: H, units of each state.
        state_type: a NamedTuple class; its first field is the hidden state h that is read out.
        interpolable: the states for which a weighted mean of two values is a value again.
        keeping_gate: the gate that keeps the old state where it is near 1, if there is one; initializers open it.
    """

    state_type: ClassVar[type[Any]] = HiddenState
    interpolable: ClassVar[tuple[str, ...]] = ("h", "c")
    keeping_gate: ClassVar[str | None] = None

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ShapeError(
                f"{type(self).__name__}: input_size and hidden_size must be at least 1, got {input_size}, {hidden_size}."
            )
        self.input_size, self.hidden_size = input_size, hidden_size

    @property
    def output_size(self) -> int:
        """Features of one output."""
        return self.hidden_size

    @property
    def reads_out(self) -> bool:
        """Whether its output may be another than its hidden state."""
        return type(self).readout is not Cell.readout

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of each state."""
        return (self.hidden_size,) * len(self.state_type._fields)

    @abstractmethod
    def weights(self) -> CellWeights:
        """The tensors that one pass works with."""

    @abstractmethod
    def unroll(
        self,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        """The state after every step: `state_type` of tensors [T, B, H]. Beyond the lengths x may hold anything.

        Where `noise` has probes, each is added to its state at every step before that is read out and handed on.
        """

    @abstractmethod
    def step(self, x: Float[Tensor, "B I"], state: Any, noise: Noise | None = None) -> tuple[Tensor, Any]:
        """One step: the output [B, output_size] and the new state. Without `noise` a training cell draws its own."""

    def draw_noise(self, num_steps: int, batch_size: int) -> Noise:
        """What is random in one pass of a cell in training mode; nothing, unless a subclass says so."""
        return Noise()

    def step_program(self) -> str:
        """One step without noise as a program, from the products of `step_weights`; what a stream runs.

        Raises:
            LoweringError: the equations cannot become a program.
        """
        raise LoweringError(f"{type(self).__name__} has no program of one step")

    def step_weights(self) -> CellWeights:
        """The weights that `step_program` takes."""
        return self.weights()

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step: zeros."""
        zero = self.zeros(batch_size, self.hidden_size)
        return self.state_type(*(zero for _ in self.state_type._fields))

    def readout(self, h: Float[Tensor, "*N H"], x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """The output of a step from its hidden state; the hidden state itself, unless a subclass says otherwise."""
        return h

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the type and on the device of the cell's parameters."""
        return self.any_parameter().new_zeros(shape)

    def any_parameter(self) -> Tensor:
        """One of the cell's parameters, for its type and its device."""
        own = next((parameter for parameter in self._parameters.values() if parameter is not None), None)
        return next(self.parameters()) if own is None else own

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class GatedCell(Cell):
    """A cell whose gates are linear in x and h; the subclass writes what is pointwise in them.

    A subclass names its gates in `gates` and writes ``pointwise(x, h, state)``. ``x`` and ``h`` are tuples with one
    tensor for each gate: the x-part ``W_ih x + b_ih`` and the h-part ``W_hh h + b_hh``, apart, because some gates
    scale one of them alone. It returns a new state.

    Parameters (PyTorch's names, orders and initialization, uniform in +-1/sqrt(H)):
        weight_ih: [G*H, I];  weight_hh: [G*H, H];  bias_ih, bias_hh: [G*H], None with ``bias=False``.

    Attributes:
        gates: names of the gates in the order of the weights.
        vectors: names of parameters of shape [H] that `pointwise` receives, in this order.
        recurrent_product: False for a cell that has no weight_hh.
        reference_only: True for equations that cannot become a program; they run step by step in Python.
        modifiable: False for a cell that zoneout and recurrent dropout cannot wrap.
    """

    gates: ClassVar[tuple[str, ...]]
    vectors: ClassVar[tuple[str, ...]] = ()
    recurrent_product: ClassVar[bool] = True
    reference_only: ClassVar[bool] = False
    modifiable: ClassVar[bool] = True

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__(input_size, hidden_size)
        if not self.gates:
            raise ShapeError(f"{type(self).__name__}: a gated cell needs at least one gate; name it in `gates`.")
        rows = len(self.gates) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size)) if self.recurrent_product else None
        self.bias_ih = nn.Parameter(torch.empty(rows)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(rows)) if bias and self.recurrent_product else None
        for name in self.vectors:
            self.register_parameter(name, nn.Parameter(torch.empty(hidden_size)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's default: every parameter uniform in +-1/sqrt(H)."""
        initializers.uniform_(self.parameters(recurse=False), self.hidden_size)

    @abstractmethod
    def pointwise(self, *inputs: Any, **none: Any) -> Any:  # so typed that a subclass may take just what it needs
        """The equations of one step: ``pointwise(x, h, state)``, and ``vectors`` where the cell declares some.

        Args:
            x: a tuple with the x-part of each gate, [B, H].
            h: a tuple with the h-part of each gate, [B, H]; empty without a recurrent product.
            state: the state before the step, tensors [B, H].
            vectors: a tuple with the declared parameters, [H].

        Returns:
            The new state.
        """

    def weights(self) -> CellWeights:
        vectors = torch.stack([getattr(self, name) for name in self.vectors]) if self.vectors else None
        return CellWeights(self.weight_ih, self.bias_ih, self.weight_hh, self.bias_hh, vectors)

    @property
    def linear_projection(self) -> bool:
        """Whether `project` is ``W_ih x + b_ih`` and no more, which the scan then does."""
        return type(self).project is GatedCell.project

    def project(self, x: Float[Tensor, "*N I"], weights: CellWeights) -> Float[Tensor, "*N GH"]:
        """All that depends on x alone, for all steps at once."""
        return nn.functional.linear(x, weights.weight_ih, weights.bias_ih)

    def signature(self, noise: Noise = Noise()) -> Signature:
        """How many inputs of each kind `pointwise` takes."""
        steps, sequences = (0 if t is None else len(t) for t in (noise.steps, noise.sequences))
        products, probes = len(self.gates) if self.recurrent_product else 0, len(noise.probes or ())
        states, vectors = len(self.state_type._fields), len(self.vectors)
        return Signature(len(self.gates), products, states, vectors, steps + probes, sequences)

    def programs(self, noise: Noise = Noise()) -> CellPrograms:
        """Forward and adjoint of the equations as they stand now; traced again when a setting of the cell changes.

        Raises:
            LoweringError: the equations cannot become a program.
        """
        return trace_cell(self, noise.probes is not None, *self.signature(noise))

    def projection_vectors(self) -> Float[Tensor, "Q H"] | None:
        """What `finish_projection` takes; None for a cell without one."""
        return None

    def finish_projection(self, products: Gates, vectors: Gates) -> Gates:
        """What the cell's own `project` does to ``W_ih x``, so that a stream may run it; only with `projection_vectors`."""
        raise NotImplementedError

    def step_program(self) -> str:
        if self.linear_projection:
            return self.programs().forward
        extra = self.projection_vectors()
        if extra is None:
            raise LoweringError(f"{type(self).__name__} has an input projection of its own")
        signature = self.signature()
        signature = signature._replace(vectors=signature.vectors + len(extra))
        return trace_step(self, self._finished_step, signature)

    def step_weights(self) -> CellWeights:
        weights, extra = self.weights(), self.projection_vectors()
        if self.linear_projection or extra is None:
            return weights
        vectors = extra if weights.vectors is None else torch.cat([weights.vectors, extra])
        return weights._replace(bias_ih=None, vectors=vectors)

    def _finished_step(self, x: Gates, h: Gates, state: Gates, vectors: Gates, *none: Gates) -> Any:
        own = len(self.vectors)
        return self.grouped(self.finish_projection(x, vectors[own:]), h, state, vectors[:own])

    def unroll(
        self,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        initial = torch.stack(tuple(state))
        x = x.to(initial.dtype)
        inputs = ScanInputs(
            x if self.linear_projection else self.project(clear_padding(x, lengths), weights).to(initial.dtype),
            weights.weight_ih if self.linear_projection else None,
            weights.bias_ih if self.linear_projection else None,
            weights.weight_hh,
            weights.bias_hh,
            initial,
            weights.vectors,
            _with_probes(noise),
            noise.sequences,
            noise.recurrent_mask,
            lengths,
            reset,
            self._reset_state(reset, x.shape[1]),
        )
        narrow = torch.is_autocast_enabled(x.device.type)
        if self.reference_only:
            reason = f"{type(self).__name__} says reference_only"
            warn_slow(inputs, reason, "docs/add-a-cell.md says what can be traced")
            note(lambda: explain_scan(None, inputs, narrow, reason))
            equations = self.grouped if noise.probes is None else self.probed
            return self.state_type(*fold(equations, inputs, reverse=reverse, narrow=narrow))
        return self.state_type(*gated_scan(self.programs(noise), inputs, reverse=reverse, narrow=narrow))

    def _reset_state(self, reset: Tensor | None, batch_size: int) -> Tensor | None:
        """What a marked step begins from, where that is something else than zeros."""
        if reset is None or type(self).initial_state is Cell.initial_state:
            return None
        return torch.stack(tuple(self.initial_state(batch_size)))

    def step(self, x: Float[Tensor, "B I"], state: Any, noise: Noise | None = None) -> tuple[Tensor, Any]:
        weights = self.weights()
        noise = self.draw_noise(1, x.shape[0]) if noise is None else noise
        h = state[0] if noise.recurrent_mask is None else state[0] * noise.recurrent_mask
        h_gates: Sequence[Tensor] = ()
        if weights.weight_hh is not None:
            h_gates = nn.functional.linear(h, weights.weight_hh, weights.bias_hh).split(self.hidden_size, -1)
        x_gates = self.project(x, weights).split(self.hidden_size, -1)
        vectors = () if weights.vectors is None else weights.vectors.unbind(0)
        steps = () if noise.steps is None else noise.steps[:, 0].unbind(0)
        sequences = () if noise.sequences is None else noise.sequences.unbind(0)
        new = self.grouped(x_gates, h_gates, state, vectors, steps, sequences)
        return self.readout(new[0], x), new

    def grouped(self, x: Any, h: Any, state: Any, *others: Any) -> Any:
        """`pointwise` of groups of tensors, without those groups that are empty."""
        return self.pointwise(x, h, self.state_type(*state), *(group for group in others if group))

    def probed(self, x: Any, h: Any, state: Any, vectors: Any, steps: Any, sequences: Any) -> Any:
        """`grouped` with a probe added to each new state; the probes are the last of the steps."""
        first = len(steps) - len(state)
        new = self.grouped(x, h, state, vectors, steps[:first], sequences)
        return self.state_type(*(value + probe for value, probe in zip(new, steps[first:], strict=True)))


def _with_probes(noise: Noise) -> Tensor | None:
    """What differs from step to step: the noise of steps, then the probes."""
    if noise.probes is None:
        return noise.steps
    probes = torch.stack(noise.probes)
    return probes if noise.steps is None else torch.cat([noise.steps, probes])
