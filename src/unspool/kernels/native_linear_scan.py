"""The linear scan on the native engine (`native/linear_scan.h`): memory for it, and when it can run."""

from typing import NamedTuple

import torch
from torch import Tensor

from unspool.kernels import dispatch, isa


class LinearInputs(NamedTuple):
    """The tensors of a linear scan; see `unspool.kernels.linear_scan`."""

    a: Tensor
    b: Tensor
    initial_state: Tensor
    lengths: Tensor | None = None
    reset: Tensor | None = None
    reset_state: Tensor | None = None


def refusal(inputs: LinearInputs) -> str | None:
    """Why the native engine cannot run on these tensors, or None where it can."""
    return dispatch.refusal(LinearInputs._fields, inputs)


def split(num_steps: int, batch_size: int, hidden_size: int) -> str:
    """How a team of threads shares a scan: 'columns', 'time' or 'one thread'."""
    return isa._native.linear_scan_split(num_steps, batch_size, hidden_size, torch.get_num_threads())


def run_forward(inputs: LinearInputs, reverse: bool) -> Tensor:
    """The states [T, B, H]."""
    states = inputs.a.new_empty(inputs.a.shape)
    tensors = (*_dense(inputs), states)
    isa._native.linear_scan_forward(*states.shape, reverse, torch.get_num_threads(), *map(_address, tensors))
    return states


def run_backward(
    grad_states: Tensor, states: Tensor, inputs: LinearInputs, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of a, b, the initial state and the reset state; None for the last where there is none."""
    a, _, *others = _dense(inputs)
    grad_a, grad_b, grad_initial = (states.new_empty(t.shape) for t in (states, states, inputs.initial_state))
    fresh = None if inputs.reset_state is None else states.new_empty(inputs.reset_state.shape)
    tensors = (a, *others, states, grad_states.resolve_neg().contiguous(), grad_a, grad_b, grad_initial, fresh)
    isa._native.linear_scan_backward(*states.shape, reverse, torch.get_num_threads(), *map(_address, tensors))
    return grad_a, grad_b, grad_initial, fresh


def _dense(inputs: LinearInputs) -> LinearInputs:
    """The same tensors in row-major order without gaps, and lengths in 64 bits."""
    if inputs.lengths is not None:
        inputs = inputs._replace(lengths=inputs.lengths.long())
    return LinearInputs(*map(dispatch.dense, inputs))  # type: ignore[arg-type]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
