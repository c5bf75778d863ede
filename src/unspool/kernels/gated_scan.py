"""The gated scan: a cell's program folded over time, with exact backpropagation through time.

For every step t, in the direction of the scan::

    previous   = reset_state where reset[t], else the state reached          [S, B, H]
    h_gates    = (previous[0] * recurrent_mask) @ weight_hh.T + bias_hh      [B, G*H]
    state      = program(x[t], h_gates, previous, vectors, steps[t], sequences)
    state      = state where t < lengths, else previous

`gated_scan` is a `torch.library` operator (schema, fake, autograd) whose gradient is a second one, `gated_scan_backward`,
differentiable in its turn. `fold` is the same loop over any Python function, differentiated by PyTorch itself: the
reference that all else is measured against, and the path of cells that cannot become programs.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels.masks import active_steps, per_row
from unspool.kernels.program import Program, hoist, parse
from unspool.kernels.tracing import CellPrograms, Pointwise


_BLOCK_ELEMENTS = 2**18  # of one value in the adjoint's early half: a block's values stay in cache


def gated_scan(
    programs: CellPrograms,
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
    """Runs a cell over a sequence and returns all states of all steps.

    Args:
        programs: forward and adjoint of the cell, from `unspool.kernels.tracing`.
        x: [T, B, G*H], all that depends on the input alone, gates side by side.
        weight_hh: [G*H, H], or None for a cell without a recurrent product. In a narrower type than x, such as bfloat16,
            the products are computed in that type and all else in the type of x.
        bias_hh: [G*H] or None.
        initial_state: [S, B, H]; the first state is the one that enters the recurrent product.
        vectors: [P, H], parameters such as peepholes.
        steps: [N, T, B, H], a value for every step, such as noise or probes.
        sequences: [M, B, H], a value for every sequence, such as a variational mask.
        recurrent_mask: [B, H], multiplies h before the recurrent product; not differentiable.
        lengths: [B] integers in 0..T; beyond its length a sequence's state stands still.
        reset: [T, B] booleans; where true, the step begins from `reset_state`.
        reset_state: [S, B, H]; zeros unless given.
        reverse: scan from the last step to the first.

    Returns:
        [S, T, B, H]: the state after each step.

    Raises:
        ShapeError: sizes do not fit together.
    """
    _check(parse(programs.forward), x, weight_hh, initial_state, vectors, steps, sequences)
    if recurrent_mask is not None and recurrent_mask.requires_grad:
        raise ShapeError("gated_scan: recurrent_mask is not differentiable; detach it.")
    if reset is not None and reset_state is None:
        reset_state = torch.zeros_like(initial_state)
    tensors = (x, weight_hh, bias_hh, initial_state, vectors, steps, sequences)
    masks = (recurrent_mask, lengths, reset, reset_state if reset is not None else None)
    return _scan(programs.forward, programs.adjoint, *tensors, *masks, reverse)


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
    if active is not None:  # so that no derivative ever meets what stands in the padding
        x = torch.where(active, x, x.new_zeros(()))
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
    return torch.stack(states, 1) if states else initial_state.new_empty((len(state), 0, *initial_state.shape[1:]))


def run_program(program: Program) -> Pointwise:
    """A program as a function of six groups of tensors, the form that `fold` takes."""

    def pointwise(*groups: Sequence[Tensor]) -> list[Tensor]:
        return program(*(value for group in groups for value in group))

    return pointwise


def _check(
    program: Program,
    x: Tensor,
    weight_hh: Tensor | None,
    initial_state: Tensor,
    vectors: Tensor | None,
    steps: Tensor | None,
    sequences: Tensor | None,
) -> None:
    (count, batch_size, hidden_size), num_steps = initial_state.shape, x.shape[0]
    gates = program.size("x")
    wanted: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("x", x, (num_steps, batch_size, gates * hidden_size)),
        ("weight_hh", weight_hh, (program.size("h") * hidden_size, hidden_size)),
        ("initial_state", initial_state, (program.size("s"), batch_size, hidden_size)),
        ("vectors", vectors, (program.size("v"), hidden_size)),
        ("steps", steps, (program.size("n"), num_steps, batch_size, hidden_size)),
        ("sequences", sequences, (program.size("q"), batch_size, hidden_size)),
    ]
    for name, tensor, shape in wanted:
        found = (0,) if tensor is None else tuple(tensor.shape)
        if found != shape and not (tensor is None and shape[0] == 0):
            raise ShapeError(f"gated_scan: {name} must be {list(shape)} for this program, got {list(found)}.")


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


@torch.library.custom_op("unspool::gated_scan", mutates_args=())
def _scan(
    forward: str,
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
) -> Tensor:
    return fold(
        run_program(parse(forward)),
        x,
        weight_hh,
        bias_hh,
        initial_state,
        vectors=vectors,
        steps=steps,
        sequences=sequences,
        recurrent_mask=recurrent_mask,
        lengths=lengths,
        reset=reset,
        reset_state=reset_state,
        reverse=reverse,
    )


@_scan.register_fake
def _scan_fake(forward, adjoint, x, weight_hh, bias_hh, initial_state, *rest):  # type: ignore[no-untyped-def]
    count, batch_size, hidden_size = initial_state.shape
    return x.new_empty((count, x.shape[0], batch_size, hidden_size))


@torch.library.custom_op("unspool::gated_scan_backward", mutates_args=())
def _scan_backward(
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
    inputs = (x, weight_hh, bias_hh, initial_state, vectors, steps, sequences)
    masks = (recurrent_mask, lengths, reset, reset_state)
    return _adjoint_fold(grad_states, states, adjoint, *inputs, *masks, reverse)


@_scan_backward.register_fake
def _scan_backward_fake(  # type: ignore[no-untyped-def]
    grad_states, states, adjoint, x, weight_hh, bias_hh, initial_state, vectors, steps, sequences, mask, lengths, reset,
    reset_state, reverse,
):  # fmt: skip
    inputs = (x, weight_hh, bias_hh, initial_state, vectors, steps, sequences, reset_state)
    return [x.new_empty(0 if tensor is None else tensor.shape) for tensor in inputs]


def _adjoint_fold(
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


_DIFFERENTIABLE = (0, 1, 2, 3, 4, 5, 6, 10)  # of the eleven tensors that both operators take


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    forward, adjoint, *tensors, reverse = inputs
    ctx.adjoint, ctx.reverse = adjoint, reverse
    ctx.save_for_backward(output, *tensors)


def _backward(ctx, grad_states):  # type: ignore[no-untyped-def]
    states, *tensors = ctx.saved_tensors
    gradients = _scan_backward(grad_states, states, ctx.adjoint, *tensors, ctx.reverse)
    placed: list[Tensor | None] = [None] * len(tensors)
    for place, gradient in zip(_DIFFERENTIABLE, gradients, strict=True):
        placed[place] = gradient if tensors[place] is not None else None
    return (None, None, *placed, None)


_scan.register_autograd(_backward, setup_context=_setup_context)


def _setup_context_backward(ctx, inputs, output):  # type: ignore[no-untyped-def]
    grad_states, states, adjoint, *tensors, reverse = inputs
    ctx.adjoint, ctx.reverse = adjoint, reverse
    ctx.save_for_backward(grad_states, states, *tensors)


def _double_backward(ctx, cotangents):  # type: ignore[no-untyped-def]
    """The gradient of the gradient: autograd over the adjoint's own loop, exact to any order."""
    saved = ctx.saved_tensors
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        free = [t.view_as(t) if t is not None and t.is_floating_point() and t.requires_grad else t for t in saved]
        if not create_graph:
            free = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in free]
        outputs = _adjoint_fold(*free[:2], ctx.adjoint, *free[2:], ctx.reverse)
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad and c is not None]
        wanted = [t for t in free if t is not None and t.requires_grad]
        gradients = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [c for _, c in pairs], create_graph=create_graph, allow_unused=True
            )
            if pairs
            else [None] * len(wanted)
        )
    placed = [next(gradients) if t is not None and t.requires_grad else None for t in free]
    return (*placed[:2], None, *placed[2:], None)


_scan_backward.register_autograd(_double_backward, setup_context=_setup_context_backward)
