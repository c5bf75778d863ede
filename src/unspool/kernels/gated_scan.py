"""The gated scan: a cell's program folded over time, with exact backpropagation through time.

For every step t, in the direction of the scan::

    previous   = reset_state where reset[t] and t < lengths, else the state reached   [S, B, H]
    x_gates    = x[t] @ weight_ih.T + bias_ih                                         [B, G*H]
    h_gates    = (previous[0] * recurrent_mask) @ weight_hh.T + bias_hh               [B, G*H]
    state      = program(x_gates, h_gates, previous, vectors, steps[t], sequences)
    state      = state where t < lengths, else previous

Two paths compute it: the native engine (`unspool.kernels.native_scan`) in float32 on a CPU, and plain PyTorch
(`unspool.kernels.fold`) for everything else. Called from ordinary eager code the scan is an `autograd.Function`; under
torch.compile and torch.export it is a pair of `torch.library` operators with schema, fake and autograd; under the
transforms of torch.func (grad, vmap, jvp) it is the plain loop. Derivatives of any order are exact: those of the gradient
are autograd over the adjoint's own loop.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels import native_scan
from unspool.kernels.dispatch import constant_to_compilers, is_eager, is_transformed, warn_slow
from unspool.kernels.explanation import explain_scan, note
from unspool.kernels.fold import fold, fold_adjoint, run_program
from unspool.kernels.masks import reset_within
from unspool.kernels.program import parse
from unspool.kernels.scan_inputs import DIFFERENTIABLE, ScanInputs, place_gradients
from unspool.kernels.tracing import CellPrograms


def gated_scan(
    programs: CellPrograms, inputs: ScanInputs, *, reverse: bool = False, narrow: bool = False
) -> tuple[Tensor, ...]:
    """Runs a cell over a sequence and returns every state of every step.

    Args:
        programs: forward and adjoint of the cell, from `unspool.kernels.tracing`.
        inputs: the tensors.
        reverse: scan from the last step to the first.
        narrow: matrix products in bfloat16 (their sums in float32), all else in the type of x.

    Returns:
        S tensors [T, B, H]: the states after each step.

    Raises:
        ShapeError: sizes do not fit together.
    """
    _check(_counts(programs.forward), inputs)
    if inputs.recurrent_mask is not None and inputs.recurrent_mask.requires_grad:
        raise ShapeError("gated_scan: recurrent_mask is not differentiable; detach it.")
    if inputs.reset is not None:
        fresh = torch.zeros_like(inputs.initial_state) if inputs.reset_state is None else inputs.reset_state
        inputs = inputs._replace(reset=reset_within(inputs.reset, inputs.lengths), reset_state=fresh)
    elif inputs.reset_state is not None:
        inputs = inputs._replace(reset_state=None)
    if is_transformed():
        return tuple(fold(run_program(parse(programs.forward)), inputs, reverse=reverse, narrow=narrow))
    note(lambda: explain_scan(programs, inputs, narrow))
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if is_eager(inputs):
        if not training:
            return tuple(_forward(*programs, reverse, narrow, False, inputs)[0])
        return _EagerScan.apply(programs, reverse, narrow, *inputs)
    return tuple(_scan(*programs, reverse, narrow, training, *inputs)[:-1])


@constant_to_compilers
def _counts(program: str) -> tuple[int, ...]:
    """How many inputs of each group a program takes."""
    return parse(program).counts


def _check(counts: tuple[int, ...], inputs: ScanInputs) -> None:
    (_, batch_size, hidden_size), num_steps = inputs.initial_state.shape, inputs.x.shape[0]
    x, h, states, vectors, steps, sequences = counts
    rows = x * hidden_size
    features = rows if inputs.weight_ih is None else inputs.weight_ih.shape[-1]
    _check_shape("x", inputs.x, num_steps, batch_size, features)
    _check_shape("weight_hh", inputs.weight_hh, h * hidden_size, hidden_size)
    _check_shape("initial_state", inputs.initial_state, states, batch_size, hidden_size)
    _check_shape("vectors", inputs.vectors, vectors, hidden_size)
    _check_shape("steps", inputs.steps, steps, num_steps, batch_size, hidden_size)
    _check_shape("sequences", inputs.sequences, sequences, batch_size, hidden_size)
    if inputs.weight_ih is not None:
        _check_shape("weight_ih", inputs.weight_ih, rows, features)
    for name, tensor, shape in (
        ("bias_ih", inputs.bias_ih, (rows,)),
        ("bias_hh", inputs.bias_hh, (h * hidden_size,)),
        ("recurrent_mask", inputs.recurrent_mask, (batch_size, hidden_size)),
        ("lengths", inputs.lengths, (batch_size,)),
        ("reset", inputs.reset, (num_steps, batch_size)),
        ("reset_state", inputs.reset_state, (states, batch_size, hidden_size)),
    ):
        if tensor is not None:
            _check_shape(name, tensor, *shape)
    if inputs.reset is not None and inputs.reset.dtype != torch.bool:
        raise ShapeError(f"gated_scan: reset must be booleans, got {inputs.reset.dtype}.")


def _check_shape(name: str, tensor: Tensor | None, *wanted: int) -> None:
    if (wanted[0] == 0) if tensor is None else (tensor.shape == wanted):
        return
    found = [0] if tensor is None else list(tensor.shape)
    raise ShapeError(f"gated_scan: {name} must be {list(wanted)} for this program, got {found}.")


def _forward(
    forward: str, adjoint: str, reverse: bool, narrow: bool, training: bool, inputs: ScanInputs
) -> tuple[list[Tensor], Tensor]:
    """The states, and what the native backward pass reads; an empty tensor where there is no such pass."""
    reason = native_scan.refusal(inputs)
    if reason is None:
        return native_scan.run_forward(forward, adjoint, inputs, reverse, narrow, training)
    warn_slow(inputs, reason)
    states = fold(run_program(parse(forward)), inputs, reverse=reverse, narrow=narrow)
    return states, inputs.x.new_empty(0)


class _EagerScan(torch.autograd.Function):
    """The scan in ordinary eager code. The native backward pass writes over what the forward pass had saved for it."""

    @staticmethod
    def forward(ctx: Any, programs: CellPrograms, reverse: bool, narrow: bool, *tensors: Tensor | None) -> Any:
        inputs = ScanInputs(*tensors)  # type: ignore[arg-type]
        states, buffer = _forward(*programs, reverse, narrow, True, inputs)
        ctx.programs, ctx.reverse, ctx.narrow, ctx.consumed = programs, reverse, narrow, False
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *states, buffer)
        return tuple(states)

    @staticmethod
    def backward(ctx: Any, *grad_states: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        count = len(ScanInputs._fields)
        inputs, states, buffer = ScanInputs(*saved[:count]), saved[count:-1], saved[-1]
        if torch.is_grad_enabled() or not len(buffer):
            gradients: Sequence[Tensor | None] = fold_adjoint(
                grad_states, states, ctx.programs.adjoint, inputs, ctx.reverse, ctx.narrow
            )
        else:
            forward, adjoint = ctx.programs
            if ctx.consumed:
                _, buffer = _forward(forward, adjoint, ctx.reverse, ctx.narrow, True, inputs)
            ctx.consumed = True
            needed = ctx.needs_input_grad[3:]
            gradients = native_scan.run_backward(
                forward, adjoint, grad_states, states, buffer, inputs, ctx.reverse, ctx.narrow, needed
            )
        return (None, None, None, *place_gradients(gradients, inputs))


@torch.library.custom_op("unspool::gated_scan", mutates_args=())
def _scan(
    forward: str,
    adjoint: str,
    reverse: bool,
    narrow: bool,
    training: bool,
    x: Tensor,
    weight_ih: Tensor | None,
    bias_ih: Tensor | None,
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
) -> list[Tensor]:
    inputs = ScanInputs(x, weight_ih, bias_ih, weight_hh, bias_hh, initial_state, vectors, steps, sequences,
                        recurrent_mask, lengths, reset, reset_state)  # fmt: skip
    states, buffer = _forward(forward, adjoint, reverse, narrow, training, inputs)
    if len(buffer):  # an operator's result is its arguments' alone, unwritten memory is not
        buffer[:, native_scan.compile_programs(forward, adjoint).saved :] = 0
    return [*states, buffer]


@_scan.register_fake
def _scan_fake(forward, adjoint, reverse, narrow, training, *tensors):  # type: ignore[no-untyped-def]
    inputs = ScanInputs(*tensors)
    count, batch_size, hidden_size = inputs.initial_state.shape
    rows: tuple[Any, ...] = (0,)
    if training and native_scan.refusal(inputs) is None:
        # with lengths, how many rows are real is known only when the scan runs
        real = inputs.x.shape[0] * batch_size if inputs.lengths is None else torch.library.get_ctx().new_dynamic_size()
        rows = (real, native_scan.slots(forward, adjoint), hidden_size)
    states = [inputs.x.new_empty((inputs.x.shape[0], batch_size, hidden_size)) for _ in range(count)]
    return [*states, inputs.x.new_empty(rows)]


@torch.library.custom_op("unspool::gated_scan_backward", mutates_args=())
def _scan_backward(
    grad_states: Sequence[Tensor],
    states: Sequence[Tensor],
    buffer: Tensor,
    forward: str,
    adjoint: str,
    reverse: bool,
    narrow: bool,
    x: Tensor,
    weight_ih: Tensor | None,
    bias_ih: Tensor | None,
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
) -> list[Tensor]:
    inputs = ScanInputs(x, weight_ih, bias_ih, weight_hh, bias_hh, initial_state, vectors, steps, sequences,
                        recurrent_mask, lengths, reset, reset_state)  # fmt: skip
    if len(buffer):
        gradients: Sequence[Tensor | None] = native_scan.run_backward(
            forward, adjoint, grad_states, states, buffer.clone(), inputs, reverse, narrow, [True] * len(inputs)
        )
    else:
        gradients = fold_adjoint(grad_states, states, adjoint, inputs, reverse, narrow)
    # an operator returns no None and no tensor twice
    return [
        x.new_empty(0) if g is None or inputs[i] is None else g for i, g in zip(DIFFERENTIABLE, gradients, strict=True)
    ]


@_scan_backward.register_fake
def _scan_backward_fake(grad_states, states, buffer, forward, adjoint, reverse, narrow, *tensors):  # type: ignore[no-untyped-def]
    x = tensors[0]
    return [x.new_empty(0 if tensors[i] is None else tensors[i].shape) for i in DIFFERENTIABLE]


_NUM_SETTINGS = 5  # what the operator takes before its tensors


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.settings = inputs[:_NUM_SETTINGS]
    ctx.count = len(output)
    ctx.save_for_backward(*inputs[_NUM_SETTINGS:], *output)


def _backward(ctx, grads):  # type: ignore[no-untyped-def]
    forward, adjoint, reverse, narrow, _ = ctx.settings
    saved = ctx.saved_tensors
    tensors, states, buffer = saved[: -ctx.count], saved[-ctx.count : -1], saved[-1]
    given = [torch.zeros_like(s) if g is None else g for g, s in zip(grads, states, strict=False)]
    gradients = _scan_backward(given, list(states), buffer, forward, adjoint, reverse, narrow, *tensors)
    return (*[None] * _NUM_SETTINGS, *place_gradients(gradients, ScanInputs(*tensors)))


_scan.register_autograd(_backward, setup_context=_setup_context)


def _setup_context_backward(ctx, inputs, output):  # type: ignore[no-untyped-def]
    grad_states, states, _, _, ctx.adjoint, ctx.reverse, ctx.narrow, *tensors = inputs
    ctx.count = len(states)
    ctx.save_for_backward(*grad_states, *states, *tensors)


def _double_backward(ctx, cotangents):  # type: ignore[no-untyped-def]
    """The gradient of the gradient: autograd over the adjoint's own loop, exact to any order."""
    saved = ctx.saved_tensors
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        free = [t.view_as(t) if t is not None and t.is_floating_point() and t.requires_grad else t for t in saved]
        if not create_graph:
            free = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in free]
        grad_states, states, tensors = free[: ctx.count], free[ctx.count : 2 * ctx.count], free[2 * ctx.count :]
        outputs = fold_adjoint(grad_states, states, ctx.adjoint, ScanInputs(*tensors), ctx.reverse, ctx.narrow)
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
    first, second, rest = placed[: ctx.count], placed[ctx.count : 2 * ctx.count], placed[2 * ctx.count :]
    return (first, second, None, None, None, None, None, *rest)


_scan_backward.register_autograd(_double_backward, setup_context=_setup_context_backward)
