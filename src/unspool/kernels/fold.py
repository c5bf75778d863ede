"""The loops of a gated scan: a cell's equations folded over time, and its adjoint folded back, in plain PyTorch.

`fold` is the reference that all else is measured against, and the path of cells that cannot become programs.
`fold_adjoint` is exact backpropagation through time from an adjoint program.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from unspool.kernels.masks import active_steps, clear_padding, per_row, reset_within
from unspool.kernels.program import Program, hoist, parse
from unspool.kernels.tracing import Pointwise

_BLOCK_ELEMENTS = 2**18  # of one value in the adjoint's early half: a block's values stay in cache


def fold(
    pointwise: Pointwise,
    x: Tensor,
    weight_hh: Tensor | None,
    bias_hh: Tensor | None,
    initial_state: Tensor,
    *,
    vectors: Tensor | None = None,
    steps: Tensor | None = None,
    sequences: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """The reference: the same as `gated_scan` for a Python function, as a plain loop that autograd sees through.

    Args:
        pointwise: takes the six groups of inputs (see `unspool.kernels.tracing.Signature`), returns the new states.

    The other arguments and the result are those of `gated_scan`.
    """
    num_steps, hidden_size = x.shape[0], initial_state.shape[-1]
    active = None if lengths is None else active_steps(lengths, num_steps).unsqueeze(-1)
    fresh = torch.zeros_like(initial_state) if reset_state is None else reset_state
    x, reset = clear_padding(x, lengths), reset_within(reset, lengths)
    p, q = _unbind(vectors), _unbind(sequences)
    states: list[Tensor] = [x.new_empty(0)] * num_steps
    state = list(initial_state.unbind(0))
    for t in _order(num_steps, reverse):
        if reset is not None:
            state = [torch.where(reset[t].unsqueeze(-1), f, s) for f, s in zip(fresh, state, strict=True)]
        fed = state[0] if recurrent_mask is None else state[0] * recurrent_mask
        h_gates = _split(_recurrent_product(fed, weight_hh, bias_hh), hidden_size)
        n = () if steps is None else steps[:, t].unbind(0)
        new = pointwise(_split(x[t], hidden_size), h_gates, tuple(state), p, n, q)
        if active is not None:
            new = [torch.where(active[t], a, b) for a, b in zip(new, state, strict=True)]
        state = list(new)
        states[t] = torch.stack(state)
    return torch.stack(states, 1) if states else initial_state.unsqueeze(1)[:, :0].clone()


def run_program(program: Program) -> Pointwise:
    """A program as a function of six groups of tensors, the form that `fold` takes."""

    def pointwise(*groups: Sequence[Tensor]) -> list[Tensor]:
        return program(*(value for group in groups for value in group))

    return pointwise


def fold_adjoint(
    grad_states: Tensor,
    states: Tensor,
    adjoint: str,
    x: Tensor,
    weight_hh: Tensor | None,
    bias_hh: Tensor | None,
    initial_state: Tensor,
    vectors: Tensor | None,
    steps: Tensor | None,
    sequences: Tensor | None,
    recurrent_mask: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    """Gradients of x, weight_hh, bias_hh, initial_state, vectors, steps, sequences, reset_state; empty where absent.

    All that does not depend on the cotangents (h-gates, activations, their slopes) is computed for blocks of many steps
    at once; the loop holds the rest of the adjoint and one product. Plain PyTorch without in-place writes, so that it can be
    differentiated again.
    """
    num_steps, hidden_size = x.shape[0], initial_state.shape[-1]
    early, late = _hoisted(adjoint)
    previous = _states_before(states, initial_state, reset, reset_state, reverse)  # [S, T, B, H]
    fed = previous[0] if recurrent_mask is None else previous[0] * recurrent_mask
    h_all = _recurrent_product(fed, weight_hh, bias_hh)
    h_gates = _split(h_all, hidden_size)
    x_gates = x.split(hidden_size, -1)
    p, n, q = _unbind(vectors), _unbind(steps), _unbind(sequences)

    def residuals_of(first: int, last: int) -> list[Tensor]:
        """The adjoint's early half for the steps first..last, each [last - first, B, H]."""
        timed = [value[first:last] for value in (*x_gates, *h_gates, *previous.unbind(0))]
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
        total = [g + c for g, c in zip(grad_states[:, t].unbind(0), carry, strict=True)]
        cotangents = total if active is None else [torch.where(active[t], g, zero) for g in total]
        gradients = late(*cotangents, *(r[t - first] for r in residuals))
        if active is not None:
            gradients = [torch.where(active[t], g, zero) for g in gradients]
        groups = [gradients[a:b] for a, b in zip(places[:-1], places[1:], strict=True)]
        side_by_side = torch.cat(groups[0], -1)
        grads_x.append(side_by_side)
        carry = groups[2]
        if weight_hh is not None:
            grads_h.append(side_by_side if same else torch.cat(groups[1], -1))
            through = (grads_h[-1].to(weight_hh.dtype) @ weight_hh).to(x.dtype)
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

    grad_x = over_time(grads_x, 0, x)
    grad_h = grad_x if same else over_time(grads_h, 0, None if weight_hh is None else h_all)
    product = None if weight_hh is None else weight_hh.dtype
    return [
        grad_x,
        x.new_empty(0) if weight_hh is None else grad_h.flatten(0, 1).T.to(product) @ fed.flatten(0, 1).to(product),
        x.new_empty(0) if bias_hh is None else grad_h.sum((0, 1)),
        torch.stack(carry),
        torch.stack(totals[: len(p)]).sum(1) if p else x.new_empty(0),
        over_time(grads_steps, 1, steps),
        torch.stack(totals[len(p) :]) if q else x.new_empty(0),
        torch.stack(grad_reset) if reset_state is not None else x.new_empty(0),
    ]


@lru_cache(maxsize=512)
def _hoisted(adjoint: str) -> tuple[Program, Program]:
    return hoist(parse(adjoint))


def _states_before(
    states: Tensor, initial_state: Tensor, reset: Tensor | None, reset_state: Tensor | None, reverse: bool
) -> Tensor:
    first = initial_state.unsqueeze(1)[:, : states.shape[1]]
    previous = torch.cat([states[:, 1:], first] if reverse else [first, states[:, :-1]], 1)
    if reset is None or reset_state is None:
        return previous
    return torch.where(per_row(reset), reset_state.unsqueeze(1), previous)


def _order(num_steps: int, reverse: bool) -> range:
    return range(num_steps - 1, -1, -1) if reverse else range(num_steps)


def _unbind(tensor: Tensor | None) -> tuple[Tensor, ...]:
    return () if tensor is None else tensor.unbind(0)


def _recurrent_product(fed: Tensor, weight_hh: Tensor | None, bias_hh: Tensor | None) -> Tensor | None:
    if weight_hh is None:
        return None
    if weight_hh.dtype == fed.dtype:
        return torch.nn.functional.linear(fed, weight_hh, bias_hh)
    product = torch.nn.functional.linear(fed.to(weight_hh.dtype), weight_hh).to(fed.dtype)
    return product if bias_hh is None else product + bias_hh


def _split(gates: Tensor | None, hidden_size: int) -> tuple[Tensor, ...]:
    return () if gates is None else gates.split(hidden_size, -1)
