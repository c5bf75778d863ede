"""The gated scan: a cell's program folded over time, with exact backpropagation through time.

For every step t, in the direction of the scan::

    previous   = reset_state where reset[t] and t < lengths, else the state reached   [S, B, H]
    h_gates    = (previous[0] * recurrent_mask) @ weight_hh.T + bias_hh               [B, G*H]
    state      = program(x[t], h_gates, previous, vectors, steps[t], sequences)
    state      = state where t < lengths, else previous

`gated_scan` is a `torch.library` operator (schema, fake, autograd) whose gradient is a second one, `gated_scan_backward`,
differentiable in its turn. The loops themselves are in `unspool.kernels.fold`.
"""

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels.fold import fold, fold_adjoint, run_program
from unspool.kernels.masks import reset_within
from unspool.kernels.program import Program, parse
from unspool.kernels.tracing import CellPrograms


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
    reset = reset_within(reset, lengths)
    if reset is not None and reset_state is None:
        reset_state = torch.zeros_like(initial_state)
    tensors = (x, weight_hh, bias_hh, initial_state, vectors, steps, sequences)
    masks = (recurrent_mask, lengths, reset, reset_state if reset is not None else None)
    return _scan(programs.forward, programs.adjoint, *tensors, *masks, reverse)


def _check(
    program: Program,
    x: Tensor,
    weight_hh: Tensor | None,
    initial_state: Tensor,
    vectors: Tensor | None,
    steps: Tensor | None,
    sequences: Tensor | None,
) -> None:
    (_, batch_size, hidden_size), num_steps = initial_state.shape, x.shape[0]
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
    return fold_adjoint(grad_states, states, adjoint, *inputs, *masks, reverse)


@_scan_backward.register_fake
def _scan_backward_fake(  # type: ignore[no-untyped-def]
    grad_states, states, adjoint, x, weight_hh, bias_hh, initial_state, vectors, steps, sequences, mask, lengths, reset,
    reset_state, reverse,
):  # fmt: skip
    inputs = (x, weight_hh, bias_hh, initial_state, vectors, steps, sequences, reset_state)
    return [x.new_empty(0 if tensor is None else tensor.shape) for tensor in inputs]


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
        outputs = fold_adjoint(*free[:2], ctx.adjoint, *free[2:], ctx.reverse)  # type: ignore[call-arg]
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
