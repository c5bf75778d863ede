"""The gated scan on the native engine: programs compiled for it, memory for it, and when it can run.

The C++ side (`native/gated_scan.h`) knows tensors and encoded programs; what it needs is made here once for each pair of
programs and kept.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels import dispatch, isa
from unspool.kernels.encoding import encode
from unspool.kernels.kept import keep
from unspool.kernels.program import Program, parse
from unspool.kernels.residuals import plan_training
from unspool.kernels.scan_inputs import DIFFERENTIABLE, ScanInputs

SPLIT = 0
"""How threads share a scan: 0 as measured to be best, 1 by units, 2 by sequences, 3 not. The tests set it."""

_STEPS = DIFFERENTIABLE.index(ScanInputs._fields.index("steps"))


class NativePrograms(NamedTuple):
    """Programs of one cell as the engine holds them.

    Attributes:
        inference: takes the forward program's inputs; returns the states.
        training: returns the states and the saved values.
        backward: see `unspool.kernels.residuals.TrainingPlan`.
        saved: how many values a step saves.
        h_slots: for each gate, the slot in a row of the buffer that its h-gradient goes to; its x-gradient goes to its own.
        slots: values [H] in a row of the buffer.
        gates: G.
    """

    inference: Any
    training: Any
    backward: Any
    saved: int
    h_slots: tuple[int, ...]
    slots: int
    gates: int


def refusal(inputs: ScanInputs) -> str | None:
    """Why the native engine cannot run on these tensors, or None where it can."""
    return dispatch.refusal(ScanInputs._fields, inputs)


def run_forward(
    forward: str, adjoint: str, inputs: ScanInputs, reverse: bool, narrow: bool, training: bool
) -> tuple[list[Tensor], Tensor]:
    """The states, and in training the buffer [real rows, slots, H] that the backward pass reads."""
    programs = compile_programs(forward, adjoint)
    num_steps, batch_size, _ = inputs.x.shape
    num_states, _, hidden_size = inputs.initial_state.shape
    states = [inputs.x.new_empty((num_steps, batch_size, hidden_size)) for _ in range(num_states)]
    rows = num_steps * batch_size
    if inputs.lengths is not None and batch_size:
        lengths = inputs.lengths.tolist()  # once: each question to the tensor costs as much as some steps of a scan
        if min(lengths) < 0 or max(lengths) > num_steps:
            raise ShapeError(f"gated_scan: lengths must lie in 0..{num_steps}, got {min(lengths)}..{max(lengths)}.")
        rows = sum(lengths)
    buffer = inputs.x.new_empty((rows if training else 0, programs.slots, hidden_size))
    packed = None if training else keep(isa._native.KeptWeights, inputs.weight_ih, inputs.weight_hh, narrow=narrow)
    inputs = _dense(inputs)
    program = programs.training if training else programs.inference
    sizes = _sizes(programs, inputs, training and rows > 0, reverse, narrow)
    isa._native.scan_forward(program, sizes, _addresses((*inputs, buffer, *states)), packed)
    return states, buffer


def run_backward(
    forward: str,
    adjoint: str,
    grad_states: Sequence[Tensor | None],
    states: Sequence[Tensor],
    buffer: Tensor,
    inputs: ScanInputs,
    reverse: bool,
    narrow: bool,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients in the order of `DIFFERENTIABLE`, None where an input is absent or needs none. Overwrites `buffer`."""
    programs = compile_programs(forward, adjoint)
    wanted = (inputs[place] if needed[place] else None for place in DIFFERENTIABLE)
    gradients = [None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format) for t in wanted]
    steps = gradients[_STEPS]
    if steps is not None and inputs.lengths is not None:
        steps.zero_()
    inputs, states = _dense(inputs), [s.contiguous() for s in states]
    given = [None if g is None else g.resolve_neg().contiguous() for g in grad_states]
    isa._native.scan_backward(
        programs.backward,
        _sizes(programs, inputs, True, reverse, narrow),
        _addresses((*inputs, buffer, *states)),
        programs.h_slots,
        _addresses((*given, *gradients)),
    )
    return gradients


def split(inputs: ScanInputs, narrow: bool) -> str:
    """How a team shares a scan of these inputs: 'units', 'sequences' or 'one thread'."""
    (num_steps, batch_size, features), hidden_size = inputs.x.shape, inputs.initial_state.shape[-1]
    gates = (features if inputs.weight_ih is None else len(inputs.weight_ih)) // hidden_size
    rows = num_steps * batch_size if inputs.lengths is None else int(inputs.lengths.sum())
    product, threads = inputs.weight_hh is not None, torch.get_num_threads()
    return isa._native.scan_split(num_steps, batch_size, features, hidden_size, gates, product, narrow, rows, threads)


def slots(forward: str, adjoint: str) -> int:
    """Values [H] in a row of the buffer."""
    return compile_programs(forward, adjoint).slots


@lru_cache(maxsize=512)
def compile_programs(forward: str, adjoint: str) -> NativePrograms:
    """Plans, encodes and hands to the engine what it runs of one cell."""
    inference, plan = parse(forward), plan_training(parse(forward), parse(adjoint))
    gates, saved = inference.size("x"), plan.num_saved
    backward, h_slots = _with_gate_gradients_once(plan.backward, plan.same, gates)
    extra = sum(slot >= gates for slot in h_slots)
    num_states = inference.size("s")
    # a gate that is saved as it is must be moved: without weight_ih it does not lie in the buffer, and a partial tile is
    # staged elsewhere
    raw = [plan.forward.outputs[num_states + j] == f"x{j}" for j in range(min(saved, gates))]
    in_place = {num_states + j: j for j, is_raw in enumerate(raw) if not is_raw}
    first_carry = len(backward.inputs) - num_states
    # an x-gradient, or an h-gradient of its own, is written over the saved value in the same slot; dL/ds over the carry
    back_in_place = {j: j for j in range(min(saved, gates + extra))}
    back_in_place |= {gates + extra + j: first_carry + j for j in range(num_states)}
    return NativePrograms(
        inference=to_engine(inference),
        training=to_engine(plan.forward, in_place),
        backward=to_engine(backward, back_in_place),
        saved=saved,
        h_slots=h_slots,
        slots=max(gates + extra, saved),
        gates=gates,
    )


def _with_gate_gradients_once(
    backward: Program, same: Sequence[int | None], gates: int
) -> tuple[Program, tuple[int, ...]]:
    """The backward program without h-gradients that are their gates' x-gradients, and where each h-gradient goes."""
    own = [place for place, twin in enumerate(same) if twin != place]
    slots = tuple(place if place not in own else gates + own.index(place) for place in range(len(same)))
    x, h, rest = (
        backward.outputs[:gates],
        backward.outputs[gates : gates + len(same)],
        backward.outputs[gates + len(same) :],
    )
    outputs = (*x, *(h[place] for place in own), *rest)
    return Program(backward.sizes, backward.instructions, outputs), slots


def to_engine(program: Program, aliases: dict[int, int] | None = None) -> Any:
    """A program as the engine holds it; aliases as in `unspool.kernels.encoding.encode`."""
    return isa._native.Program(*encode(program, aliases))


def _dense(inputs: ScanInputs) -> ScanInputs:
    """The same tensors in row-major order without gaps, and lengths in 64 bits."""
    if inputs.lengths is not None:
        inputs = inputs._replace(lengths=inputs.lengths.long())
    return ScanInputs(*map(dispatch.dense, inputs))  # type: ignore[arg-type]


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _sizes(programs: NativePrograms, inputs: ScanInputs, saves: bool, reverse: bool, narrow: bool) -> list[int]:
    num_states, _, hidden_size = inputs.initial_state.shape
    counts = (0 if tensor is None else len(tensor) for tensor in (inputs.vectors, inputs.steps, inputs.sequences))
    saved = programs.saved if saves else 0
    return [
        *inputs.x.shape, hidden_size, programs.gates, num_states, *counts, saved, programs.slots,
        inputs.weight_hh is not None, narrow, reverse, torch.get_num_threads(), SPLIT,
    ]  # fmt: skip
