"""The gated scan on the native engine: programs compiled for it, memory for it, and when it can run.

The C++ side (`native/gated_scan.h`) knows tensors and encoded programs; what it needs is made here once for each pair of
programs and kept.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unspool.kernels import isa
from unspool.kernels.encoding import encode
from unspool.kernels.program import Program, parse
from unspool.kernels.residuals import plan_training
from unspool.kernels.scan_inputs import DIFFERENTIABLE, ScanInputs


class NativePrograms(NamedTuple):
    """Programs of one cell as the engine holds them.

    Attributes:
        inference: inputs of the forward program; returns the states.
        training: returns the states and the saved values.
        backward: see `unspool.kernels.residuals.TrainingPlan`.
        saved: how many values a step saves.
        h_slots: for each gate, the slot in a row of the buffer that its h-gradient goes to; its x-gradient goes to its own.
        slots: values [H] in a row of the buffer.
    """

    inference: Any
    training: Any
    backward: Any
    saved: int
    h_slots: tuple[int, ...]
    slots: int


def refusal(inputs: ScanInputs) -> str | None:
    """Why the native engine cannot run on these tensors, or None where it can."""
    if isa._native is None:
        return isa.absence()
    if inputs.x.device.type != "cpu":
        return f"the tensors are on {inputs.x.device}; the native engine runs on a CPU"
    for name, tensor in zip(ScanInputs._fields, inputs, strict=True):
        if tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float32:
            return f"{name} is {tensor.dtype}; the native engine computes in float32"
    return None


def run_forward(
    forward: str, adjoint: str, inputs: ScanInputs, reverse: bool, narrow: bool, training: bool
) -> tuple[list[Tensor], Tensor]:
    """The states, and in training the buffer [real rows, slots, H] that the backward pass reads."""
    programs = compile_programs(forward, adjoint)
    num_steps, batch_size = inputs.x.shape[:2]
    hidden_size = inputs.initial_state.shape[-1]
    states = [inputs.x.new_empty((num_steps, batch_size, hidden_size)) for _ in range(len(inputs.initial_state))]
    rows = num_steps * batch_size if inputs.lengths is None else int(inputs.lengths.sum())
    buffer = inputs.x.new_empty((rows if training else 0, programs.slots, hidden_size))
    scan = _scan(programs, forward, inputs, states, buffer, reverse, narrow)
    scan.forward(programs.training if training else programs.inference)
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
    gradients: list[Tensor | None] = []
    for place in DIFFERENTIABLE:
        tensor = inputs[place]
        wanted = tensor is not None and needed[place]
        gradients.append(torch.empty_like(tensor, memory_format=torch.contiguous_format) if wanted else None)  # type: ignore[arg-type]
    steps = gradients[DIFFERENTIABLE.index(ScanInputs._fields.index("steps"))]
    if steps is not None and inputs.lengths is not None:
        steps.zero_()
    given = [None if g is None else g.contiguous() for g in grad_states]
    scan = _scan(programs, forward, inputs, states, buffer, reverse, narrow)
    scan.backward(programs.backward, given, programs.h_slots, *gradients)
    return gradients


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
    in_place = {num_states + j: j for j in range(min(saved, gates))}
    first_carry = len(backward.inputs) - num_states
    # an x-gradient, or an h-gradient of its own, is written over the saved value in the same slot; dL/ds over the carry
    back_in_place = {j: j for j in range(min(saved, gates + extra))}
    back_in_place |= {gates + extra + j: first_carry + j for j in range(num_states)}
    return NativePrograms(
        inference=_to_engine(inference),
        training=_to_engine(plan.forward, in_place),
        backward=_to_engine(backward, back_in_place),
        saved=saved,
        h_slots=h_slots,
        slots=max(gates + extra, saved),
    )


def _with_gate_gradients_once(
    backward: Program, same: Sequence[int | None], gates: int
) -> tuple[Program, tuple[int, ...]]:
    """The backward program without h-gradients that are their gates' x-gradients, and where each h-gradient goes."""
    own = [place for place, twin in enumerate(same) if twin != place]
    slots = tuple(place if place not in own else gates + own.index(place) for place in range(len(same)))
    x, h, rest = backward.outputs[:gates], backward.outputs[gates : gates + len(same)], backward.outputs[gates + len(same) :]
    outputs = (*x, *(h[place] for place in own), *rest)
    return Program(backward.sizes, backward.instructions, outputs), slots


def _to_engine(program: Program, aliases: dict[int, int] | None = None) -> Any:
    encoded = encode(program, aliases)
    return isa._native.Program(
        encoded.code,
        encoded.constants,
        encoded.width_constant,
        encoded.num_inputs,
        encoded.num_outputs,
        encoded.num_scratch,
        encoded.has_reduction,
    )


def _scan(
    programs: NativePrograms,
    forward: str,
    inputs: ScanInputs,
    states: Sequence[Tensor],
    buffer: Tensor,
    reverse: bool,
    narrow: bool,
) -> Any:
    sizes = dict(parse(forward).sizes)
    num_steps, batch_size, features = inputs.x.shape
    tensors = [None if t is None else t.detach().contiguous() for t in inputs]
    tensors[10] = None if inputs.lengths is None else inputs.lengths.long().contiguous()
    counts = (sizes.get(group, 0) for group in "vnq")
    saved = programs.saved if len(buffer) else 0
    shape = (num_steps, batch_size, features, inputs.initial_state.shape[-1], sizes["x"], sizes["s"], *counts)
    return isa._native.Scan(
        (*shape, saved, programs.slots),
        inputs.weight_hh is not None,
        narrow,
        reverse,
        torch.get_num_threads(),
        *tensors,
        [s.detach() for s in states],
        buffer,
    )
