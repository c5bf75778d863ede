"""Streams: a layer or a stack that takes one step after the other and keeps its state, in one native call a step."""

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from unspool.cells import Cell, GatedCell, LinearCell
from unspool.errors import ConfigError, LoweringError, ShapeError
from unspool.kernels import isa
from unspool.kernels.native_stream import NativeStream, StreamLayer, StreamWeights
from unspool.layers.recurrent import Recurrent
from unspool.layers.stack import Stack
from unspool.state import map_state, state_tensors
from unspool.types import Float, Tensor


class Stream:
    """An open stream: what `step` of a layer computes, without handing the state to and fro.

    ::

        stream = Stream(stack.eval(), batch_size=1)
        for x in source:            # x: [1, I], float32
            use(stream.step(x))     # [1, O]
        stream.input.copy_(x)       # or: write into `input`,
        use(stream.step())          # which saves the checks, half a microsecond

    In float32 on a CPU a step is one call into the native engine, which takes next to no memory and keeps its own packed copy of
    the weights. Where that cannot be, the layer's own `step` runs, a warning says so, and `reason` says why.

    The weights follow the layer's parameters: those that an optimizer, `load_state_dict` or any other operation in place
    has changed are packed again before the next step. Parameters that were put in the place of others, written to through
    ``.data``, or changed by an optimizer with ``fused=True`` (which leaves no trace) are seen after `refresh`. Settings of
    cells, such as an activation, are read when the stream opens: open a new one after a change. There are no gradients. Not
    for two threads at once.

    Args:
        layer: a `Recurrent` or a `Stack`, in evaluation mode.
        batch_size: B, streams side by side.
        narrow: weights, and what they are multiplied with, in bfloat16; sums and states stay in float32.
        maps: linear maps of the output that a writer draws symbols from (`unspool.models.Writer`).

    Attributes:
        step: takes x [B, I] and returns the output [B, O]: always the same tensor, which the next step overwrites; clone
            it to keep it. Without x it reads `input`.
        input: [B, I], what `step` reads when it is given nothing.
        reason: why the native engine does not run this layer; None where it does.

    Raises:
        ConfigError: the layer is in training mode.
    """

    def __init__(
        self, layer: Recurrent | Stack, batch_size: int = 1, narrow: bool = False, maps: Sequence[nn.Linear] = ()
    ):
        if batch_size < 1:
            raise ShapeError(f"Stream: batch_size must be at least 1, got {batch_size}.")
        if any(module.training for module in (layer, *maps, *layer.modules())):
            raise ConfigError(
                "Stream: the layer is in training mode, in which chance takes part; call its eval() first."
            )
        self.layer, self.batch_size, self.narrow, self.maps = layer, batch_size, narrow, tuple(maps)
        self.reason = refusal(layer, maps)
        self.native: NativeStream | None = None
        self.step: Callable[..., Float[Tensor, "B O"]]
        if self.reason is None:
            sizes = [(m.in_features, m.out_features) for m in self.maps]
            self.native = NativeStream(_describe(layer), sizes, batch_size, narrow)
            self.step, self.input = self.native.step, self.native.input
            self.refresh()
        else:
            if has_faster_way(layer):
                warnings.warn(f"Stream: slow steps in PyTorch: {self.reason}.", RuntimeWarning, stacklevel=2)
            self.step = self._step_in_torch
            self.input = next(layer.parameters()).new_zeros((batch_size, layer.input_size))
            self._output: Tensor | None = None
        self._state: Any = None
        self.reset()

    def explain(self) -> str:
        """Which way a step takes, and why."""
        if self.native is None:
            return f"PyTorch: {self.reason}"
        kind = "bfloat16" if self.narrow else "float32"
        return f"native engine, {isa.instruction_set()}, threads: {self.native.threads}, weights in {kind}"

    @property
    def state(self) -> Any:
        """A copy of the present state: what the layer's own `step` would return."""
        if self.native is None:
            return map_state(torch.clone, self._state)
        return self._assemble([list(self.native.states(number).clone()) for number in range(len(self._cells()))])

    @state.setter
    def state(self, state: Any) -> None:
        given, own = state_tensors(state), state_tensors(self._present())
        if [t.shape for t in given] != [t.shape for t in own]:
            raise ShapeError(
                f"Stream: state must be tensors {[list(t.shape) for t in own]}, got {[list(t.shape) for t in given]}."
            )
        with torch.no_grad():
            for to, value in zip(own, given, strict=True):
                to.copy_(value)

    @torch.no_grad()
    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Begins anew, with the initial state, in the given streams; in all of them unless given."""
        fresh = self.layer.initial_state(self.batch_size)
        if self._state is None and self.native is None:
            self._state = map_state(torch.clone, fresh)
        for to, value in zip(state_tensors(self._present()), state_tensors(fresh), strict=True):
            if rows is None:
                to.copy_(value)
            else:
                to[list(rows)] = value[list(rows)]

    @torch.no_grad()
    def refresh(self) -> None:
        """Packs the weights anew.

        Raises:
            ConfigError: the layer has become one that the native engine cannot run.
        """
        if self.native is None:
            return
        reason = refusal(self.layer, self.maps)
        if reason is not None:
            raise ConfigError(f"Stream: {reason}; open a new stream.")
        for number, (cell, norm) in enumerate(zip(self._cells(), _norms(self.layer), strict=True)):
            gain = (norm.weight, norm.bias) if isinstance(norm, nn.LayerNorm) else (None, None)
            self.native.set_layer(number, StreamWeights(*cell.step_weights()[:5], *gain))
        for place, linear in enumerate(self.maps):
            self.native.set_map(place, linear.weight, linear.bias)
        self._watch()

    def _watch(self) -> None:
        assert self.native is not None
        found = [p for module in (self.layer, *self.maps) for p in module.parameters()]
        found = [p for p in dict.fromkeys(found) if not p.is_inference()]  # those count no versions
        stream, shape = weakref.ref(self), [self.batch_size, self.layer.input_size]

        def changed() -> None:
            if (alive := stream()) is not None:
                alive.refresh()

        def refused(x: Any) -> Tensor:
            return _mend(x, shape)

        self.native.watch(found, changed, refused)

    @torch.no_grad()
    def _step_in_torch(self, x: Tensor | None = None) -> Tensor:
        output, self._state = self.layer.step(self.input if x is None else x, self._state)
        self._output = output.clone() if self._output is None else self._output.copy_(output)
        return self._output

    def _cells(self) -> list[Cell]:
        return [layer.cell for layer in _layers(self.layer)]

    def _present(self) -> Any:
        if self.native is None:
            return self._state
        return self._assemble([list(self.native.states(number)) for number in range(len(self._cells()))])

    def _assemble(self, states: Sequence[Sequence[Tensor]]) -> Any:
        named = tuple(cell.state_type(*tensors) for cell, tensors in zip(self._cells(), states, strict=True))
        return named if isinstance(self.layer, Stack) else named[0]


def refusal(layer: Recurrent | Stack, maps: Sequence[nn.Linear] = ()) -> str | None:
    """Why the native engine cannot run a layer or a stack step by step, or None where it can."""
    if not isa.instruction_sets():
        return isa.absence()
    if type(layer) not in (Recurrent, Stack):
        return f"{type(layer).__name__} is neither a Recurrent nor a Stack"
    for below in _layers(layer):
        reason = _layer_refusal(below)
        if reason is not None:
            return reason
    for parameter in (p for module in (layer, *maps) for p in module.parameters()):
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return f"there are parameters of {parameter.dtype} on {parameter.device}; it takes float32 on a CPU"
    return None


def has_faster_way(module: nn.Module) -> bool:
    """Whether the native engine could run something like this: not in float64, and not elsewhere than on a CPU."""
    return all(p.device.type == "cpu" and p.dtype != torch.float64 for p in module.parameters())


def _layer_refusal(layer: nn.Module) -> str | None:
    if type(layer) is not Recurrent:
        return f"a layer is a {type(layer).__name__}; it takes Recurrent layers"
    cell = layer.cell
    name = type(cell).__name__
    if layer.reverse:
        return "a layer reads from the end"
    if not isinstance(cell, GatedCell | LinearCell):
        return f"{name} is neither a GatedCell nor a LinearCell"
    base = GatedCell if isinstance(cell, GatedCell) else LinearCell
    if type(cell).step is not base.step or type(cell).unroll is not base.unroll:
        return f"{name} has a step or unroll of its own"
    if isinstance(cell, GatedCell) and cell.reference_only:
        return f"{name} says reference_only"
    if any(t is not None for t in cell.draw_noise(1, 1)):
        return f"{name} draws random numbers in evaluation mode"
    h = cell.zeros(1, cell.hidden_size)
    if cell.readout(h, cell.zeros(1, cell.input_size)) is not h:
        return f"{name} reads out something else than its hidden state"
    try:
        cell.step_program()
    except LoweringError as error:
        return str(error)
    return None


def _layers(layer: Recurrent | Stack) -> list[Any]:
    return list(layer.layers) if isinstance(layer, Stack) else [layer]


def _norms(layer: Recurrent | Stack) -> list[Any]:
    return list(layer.norms) if isinstance(layer, Stack) else [nn.Identity()]


def _describe(layer: Recurrent | Stack) -> list[StreamLayer]:
    residual = isinstance(layer, Stack) and layer.residual
    return [
        StreamLayer(
            one.cell.step_program(),
            one.input_size,
            one.cell.hidden_size,
            residual and one.input_size == one.output_size,
            norm.eps if isinstance(norm, nn.LayerNorm) else None,
        )
        for one, norm in zip(_layers(layer), _norms(layer), strict=True)
    ]


def _mend(x: Any, shape: list[int]) -> Tensor:
    """x as a step takes it, where it only has a gradient or gaps; else a clear error."""
    if not isinstance(x, Tensor) or list(x.shape) != shape or x.dtype != torch.float32 or x.device.type != "cpu":
        found = f"{list(x.shape)} of {x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"Stream.step: x must be {shape} of torch.float32 on the CPU for this stream, got {found}.")
    return x.detach().contiguous()
