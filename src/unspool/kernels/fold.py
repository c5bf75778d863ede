"""The loops of a gated scan: a cell's equations folded over time, and its adjoint folded back, in plain PyTorch.

`fold` is the reference that all else is measured against, and the path of cells that cannot become programs.
`fold_adjoint` is exact backpropagation through time from an adjoint program.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from unspool.kernels.masks import active_steps, clear_padding, reset_within
from unspool.kernels.program import Program, hoist, parse
from unspool.kernels.scan_inputs import ScanInputs
from unspool.kernels.tracing import Pointwise

_BLOCK_ELEMENTS = 2**18  # of one value in the adjoint's early half: a block's values stay in cache


def fold(pointwise: Pointwise, inputs: ScanInputs, *, reverse: bool = False, narrow: bool = False) -> list[Tensor]:
    """The reference: the same as `gated_scan` for a Python function, as a plain loop that autograd sees through.

    Args:
        pointwise: takes the six groups of inputs (see `unspool.kernels.tracing.Signature`), returns the new states.

    The other arguments and the result are those of `gated_scan`.
    """
    num_steps, (_, _, hidden_size) = len(inputs.x), inputs.initial_state.shape
    inputs = _rounded_once(inputs, narrow)
    lengths, initial_state = inputs.lengths, inputs.initial_state
    active = None if lengths is None else active_steps(lengths, num_steps).unsqueeze(-1)
    fresh = torch.zeros_like(initial_state) if inputs.reset_state is None else inputs.reset_state
    x, reset = project(inputs, narrow), reset_within(inputs.reset, lengths)
    p, q = _unbind(inputs.vectors), _unbind(inputs.sequences)
    trajectory: list[list[Tensor]] = [[]] * num_steps
    state = list(initial_state.unbind(0))
    for t in _order(num_steps, reverse):
        if reset is not None:
            state = [torch.where(reset[t].unsqueeze(-1), f, s) for f, s in zip(fresh, state, strict=True)]
        fed = state[0] if inputs.recurrent_mask is None else state[0] * inputs.recurrent_mask
        h_gates = _split(_recurrent_product(fed, inputs, narrow), hidden_size)
        n = () if inputs.steps is None else inputs.steps[:, t].unbind(0)
        new = pointwise(_split(x[t], hidden_size), h_gates, tuple(state), p, n, q)
        if active is not None:
            new = [torch.where(active[t], a, b) for a, b in zip(new, state, strict=True)]
        state = list(new)
        trajectory[t] = state
    if not trajectory:
        return [s.unsqueeze(0)[:0].clone() for s in initial_state.unbind(0)]
    return [torch.stack(states) for states in zip(*trajectory, strict=True)]


def project(inputs: ScanInputs, narrow: bool) -> Tensor:
    """The x-parts of the gates [T, B, G*H], zero beyond the lengths."""
    x = clear_padding(inputs.x, inputs.lengths)
    if inputs.weight_ih is None:
        return x
    return clear_padding(_product(x, inputs.weight_ih, inputs.bias_ih, narrow), inputs.lengths)


def run_program(program: Program) -> Pointwise:
    """A program as a function of six groups of tensors, the form that `fold` takes."""

    def pointwise(*groups: Sequence[Tensor]) -> list[Tensor]:
        return program(*(value for group in groups for value in group))

    return pointwise


def fold_adjoint(
    grad_states: Sequence[Tensor | None],
    states: Sequence[Tensor],
    adjoint: str,
    inputs: ScanInputs,
    reverse: bool,
    narrow: bool,
) -> list[Tensor]:
    """Gradients of the inputs named in `DIFFERENTIABLE`, in that order; empty where an input is absent.

    All that does not depend on the cotangents (gates, activations, their slopes) is computed for blocks of many steps
    at once; the loop holds the rest of the adjoint and one product. Plain PyTorch without in-place writes, so that it can be
    differentiated again.
    """
    inputs = _rounded_once(inputs, narrow)
    initial_state, recurrent_mask = inputs.initial_state, inputs.recurrent_mask
    lengths, reset = inputs.lengths, inputs.reset
    num_steps, hidden_size = len(inputs.x), initial_state.shape[-1]
    early, late = _hoisted(adjoint)
    x = project(inputs, narrow)
    previous = _states_before(states, inputs, reverse)
    fed = previous[0] if recurrent_mask is None else previous[0] * recurrent_mask
    h_all = _recurrent_product(fed, inputs, narrow)
    h_gates = _split(h_all, hidden_size)
    x_gates = x.split(hidden_size, -1)
    p, n, q = _unbind(inputs.vectors), _unbind(inputs.steps), _unbind(inputs.sequences)
    given = [torch.zeros_like(s) if g is None else g for g, s in zip(grad_states, states, strict=True)]

    def residuals_of(first: int, last: int) -> list[Tensor]:
        """The adjoint's early half for the steps first..last, each [last - first, B, H]."""
        timed = [value[first:last] for value in (*x_gates, *h_gates, *previous)]
        values = early(*timed, *p, *(value[first:last] for value in n), *q)
        return [value.expand(timed[0].shape) for value in values]

    active = None if lengths is None else active_steps(lengths, num_steps).unsqueeze(-1)
    zero = x.new_zeros(())
    counts = (len(x_gates), len(h_gates), len(previous), len(p), len(n), len(q))
    places = [sum(counts[:i]) for i in range(7)]
    same = late.outputs[places[0] : places[1]] == late.outputs[places[1] : places[2]]
    grads_x, grads_h = list[Tensor](), list[Tensor]()
    grads_steps, totals = list[Tensor](), [torch.zeros_like(initial_state[0])] * (len(p) + len(q))
    carry = [torch.zeros_like(s) for s in initial_state.unbind(0)]
    grad_reset = [torch.zeros_like(s) for s in initial_state.unbind(0)]
    block, first, residuals = max(1, _BLOCK_ELEMENTS // max(1, initial_state[0].numel())), -1, list[Tensor]()
    for t in _order(num_steps, not reverse):
        if t // block * block != first:
            first = t // block * block
            residuals = residuals_of(first, min(first + block, num_steps))
        total = [g + c for g, c in zip((g[t] for g in given), carry, strict=True)]
        cotangents = total if active is None else [torch.where(active[t], g, zero) for g in total]
        gradients = late(*cotangents, *(r[t - first] for r in residuals))
        if active is not None:
            gradients = [torch.where(active[t], g, zero) for g in gradients]
        groups = [gradients[a:b] for a, b in zip(places[:-1], places[1:], strict=True)]
        side_by_side = torch.cat(groups[0], -1)
        grads_x.append(side_by_side)
        carry = groups[2]
        if inputs.weight_hh is not None:
            grads_h.append(side_by_side if same else torch.cat(groups[1], -1))
            through = _product(grads_h[-1], inputs.weight_hh.T, None, narrow)
            carry[0] = carry[0] + (through if recurrent_mask is None else through * recurrent_mask)
        totals = [total + g for total, g in zip(totals, (*groups[3], *groups[5]), strict=True)]
        if n:
            grads_steps.append(torch.stack(groups[4]))
        if active is not None:
            carry = [torch.where(active[t], c, g) for c, g in zip(carry, total, strict=True)]
        if reset is not None:
            begins = reset[t].unsqueeze(-1)
            grad_reset = [r + torch.where(begins, c, zero) for r, c in zip(grad_reset, carry, strict=True)]
            carry = [torch.where(begins, zero, c) for c in carry]

    def over_time(gathered: list[Tensor], axis: int, like: Tensor | None) -> Tensor:
        """All steps in the order of time; the loop ran against the direction of the scan."""
        if not gathered:
            return x.new_empty(0) if like is None else torch.zeros_like(like)
        return torch.stack(gathered if reverse else gathered[::-1], axis)

    grad_gates = over_time(grads_x, 0, x)
    grad_h = grad_gates if same else over_time(grads_h, 0, None if inputs.weight_hh is None else h_all)
    absent, raw = x.new_empty(0), clear_padding(inputs.x, lengths)
    weight_ih = inputs.weight_ih
    return [
        grad_gates if weight_ih is None else _product(grad_gates, weight_ih.T, None, narrow),
        absent if weight_ih is None else _weight_gradient(grad_gates, raw, narrow),
        absent if inputs.bias_ih is None else grad_gates.sum((0, 1)),
        absent if inputs.weight_hh is None else _weight_gradient(grad_h, fed, narrow),
        absent if inputs.bias_hh is None else grad_h.sum((0, 1)),
        torch.stack(carry),
        torch.stack(totals[: len(p)]).sum(1) if p else absent,
        over_time(grads_steps, 1, inputs.steps),
        torch.stack(totals[len(p) :]) if q else absent,
        torch.stack(grad_reset) if inputs.reset_state is not None else absent,
    ]


@lru_cache(maxsize=512)
def _hoisted(adjoint: str) -> tuple[Program, Program]:
    return hoist(parse(adjoint))


def _states_before(states: Sequence[Tensor], inputs: ScanInputs, reverse: bool) -> list[Tensor]:
    """What each step began from, [T, B, H] for each state."""
    first = inputs.initial_state.unsqueeze(1)[:, : len(states[0])]
    previous = [
        torch.cat([state[1:], begin] if reverse else [begin, state[:-1]])
        for state, begin in zip(states, first, strict=True)
    ]
    if inputs.reset is None or inputs.reset_state is None:
        return previous
    begins = inputs.reset.unsqueeze(-1)
    return [torch.where(begins, fresh, state) for fresh, state in zip(inputs.reset_state, previous, strict=True)]


def _order(num_steps: int, reverse: bool) -> range:
    return range(num_steps - 1, -1, -1) if reverse else range(num_steps)


def _unbind(tensor: Tensor | None) -> tuple[Tensor, ...]:
    return () if tensor is None else tensor.unbind(0)


def _rounded_once(inputs: ScanInputs, narrow: bool) -> ScanInputs:
    """The recurrent weight rounded once, unless gradients flow through it: their sum over steps is float32's."""
    weight = inputs.weight_hh
    if not narrow or weight is None or (torch.is_grad_enabled() and weight.requires_grad):
        return inputs
    return inputs._replace(weight_hh=weight.to(torch.bfloat16))


def _recurrent_product(fed: Tensor, inputs: ScanInputs, narrow: bool) -> Tensor | None:
    return None if inputs.weight_hh is None else _product(fed, inputs.weight_hh, inputs.bias_hh, narrow)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, narrow: bool) -> Tensor:
    """x weight^T + bias; with `narrow` both factors are rounded to bfloat16 first."""
    if not narrow:
        return torch.nn.functional.linear(x, weight, bias)
    product = torch.nn.functional.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).to(x.dtype)
    return product if bias is None else product + bias


def _weight_gradient(gates: Tensor, fed: Tensor, narrow: bool) -> Tensor:
    """The sum over all steps and sequences of gates^T fed."""
    a, b = gates.flatten(0, 1).T, fed.flatten(0, 1)
    return (a.to(torch.bfloat16) @ b.to(torch.bfloat16)).to(gates.dtype) if narrow else a @ b


def _split(gates: Tensor | None, hidden_size: int) -> tuple[Tensor, ...]:
    return () if gates is None else gates.split(hidden_size, -1)
