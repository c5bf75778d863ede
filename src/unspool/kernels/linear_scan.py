"""The linear scan: h_t = a_t * h_{t-1} + b_t for every step at once.

In float32 on a CPU the native engine runs it (`unspool.kernels.native_linear_scan`); everything else in O(T) work and
O(log T) rounds of PyTorch: two neighbouring steps compose into one of the same form, (a2 a1, a2 b1 + b2); pairs are
composed, the half as long sequence is scanned the same way, and the steps between are filled in (Blelloch, 1990, "Prefix
sums and their applications", section 1.4). The gradient of a linear scan is a linear scan in the other direction, so the
scan is differentiable to any order by itself.
"""

from typing import Any

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels import native_linear_scan
from unspool.kernels.dispatch import is_eager, is_transformed, warn_slow
from unspool.kernels.explanation import explain_linear_scan, note
from unspool.kernels.masks import active_steps
from unspool.kernels.native_linear_scan import LinearInputs


def linear_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Runs the recurrence over a sequence and returns the state after every step.

    Args:
        a: [T, B, H], what is kept of the state.
        b: [T, B, H], what is added.
        initial_state: [B, H].
        lengths: [B] integers in 0..T; beyond its length a sequence's state stands still.
        reset: [T, B] booleans; where true, the step begins from `reset_state`.
        reset_state: [B, H]; zeros unless given.
        reverse: scan from the last step to the first.

    Returns:
        [T, B, H].

    Raises:
        ShapeError: sizes do not fit together.
    """
    if reset is None:
        reset_state = None
    elif reset_state is None:
        reset_state = torch.zeros_like(initial_state)
    inputs = LinearInputs(a, b, initial_state, lengths, reset, reset_state)
    _check(inputs)
    if is_transformed():
        a, b = _masked(*inputs)
        return fold_linear(a, b, initial_state, reverse=reverse)
    note(lambda: explain_linear_scan(inputs))
    if not is_eager(inputs) or native_linear_scan.refusal(inputs) is not None:
        return _scan(*inputs, reverse)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _EagerScan.apply(reverse, *inputs)
    return native_linear_scan.run_forward(inputs, reverse)


def _check(inputs: LinearInputs) -> None:
    a, b, initial_state, lengths, reset, reset_state = inputs
    if a.dim() != 3 or a.shape != b.shape or a.shape[1:] != initial_state.shape:
        found = f"{list(a.shape)}, {list(b.shape)} and {list(initial_state.shape)}"
        raise ShapeError(f"linear_scan: a and b must be [T, B, H] and initial_state [B, H], got {found}.")
    if lengths is not None and (lengths.shape != a.shape[1:2] or lengths.is_floating_point()):
        raise ShapeError(
            f"linear_scan: lengths must be [{a.shape[1]}] integers, got {list(lengths.shape)} of {lengths.dtype}."
        )
    if reset is not None and (reset.shape != a.shape[:2] or reset.dtype != torch.bool):
        raise ShapeError(
            f"linear_scan: reset must be {list(a.shape[:2])} booleans, got {list(reset.shape)} of {reset.dtype}."
        )
    if reset_state is not None and reset_state.shape != initial_state.shape:
        raise ShapeError(
            f"linear_scan: reset_state must be {list(initial_state.shape)}, got {list(reset_state.shape)}."
        )


def fold_linear(a: Tensor, b: Tensor, initial_state: Tensor, *, reverse: bool = False) -> Tensor:
    """The reference: one step after the other; arguments and result as in `linear_scan`."""
    states, state = [b.new_empty(0)] * len(a), initial_state
    for t in range(len(a) - 1, -1, -1) if reverse else range(len(a)):
        state = a[t] * state + b[t]
        states[t] = state
    return torch.stack(states) if states else torch.empty_like(a)


def _compose(a: Tensor, b: Tensor) -> Tensor:
    """All states from a zero initial state, time in axis 0."""
    if len(a) < 2:
        return b
    even_a, even_b, odd_a, odd_b = a[0:-1:2], b[0:-1:2], a[1::2], b[1::2]
    after_odd = _compose(odd_a * even_a, odd_a * even_b + odd_b)
    later_even = a[2::2] * after_odd[: (len(a) - 1) // 2] + b[2::2]
    result = torch.empty_like(b)
    result[0] = b[0]
    result[1::2] = after_odd
    result[2::2] = later_even
    return result


def _masked(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Lengths and resets written into the coefficients."""
    if reset is not None and reset_state is not None:
        begins = reset.unsqueeze(-1)
        b = torch.where(begins, a * reset_state + b, b)
        a = torch.where(begins, a.new_zeros(()), a)
    if lengths is not None:
        active = active_steps(lengths, len(a)).unsqueeze(-1)
        a = torch.where(active, a, a.new_ones(()))
        b = torch.where(active, b, b.new_zeros(()))
    return a, b


class _EagerScan(torch.autograd.Function):
    """The scan in ordinary eager code, on the native engine."""

    @staticmethod
    def forward(ctx: Any, reverse: bool, *tensors: Any) -> Tensor:
        states = native_linear_scan.run_forward(LinearInputs(*tensors), reverse)
        ctx.reverse = reverse
        ctx.save_for_backward(states, *tensors)
        return states

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor) -> Any:
        states, *tensors = ctx.saved_tensors
        inputs = LinearInputs(*tensors)
        if torch.is_grad_enabled():  # as autograd over operators, which is differentiable again
            gradients = _gradients(grad_states, states, inputs, ctx.reverse)
        else:
            gradients = native_linear_scan.run_backward(grad_states, states, inputs, ctx.reverse)
        a, b, initial, fresh = gradients
        return None, a, b, initial, None, None, fresh


@torch.library.custom_op("unspool::linear_scan", mutates_args=())
def _scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: bool,
) -> Tensor:
    inputs = LinearInputs(a, b, initial_state, lengths, reset, reset_state)
    reason = native_linear_scan.refusal(inputs)
    if reason is None:
        return native_linear_scan.run_forward(inputs, reverse)
    warn_slow(inputs, reason)
    a, b = _masked(*inputs)
    if len(b):
        first = len(b) - 1 if reverse else 0
        b = b.clone()
        b[first] += a[first] * initial_state
    states = _compose(a.flip(0), b.flip(0)).flip(0) if reverse else _compose(a, b)
    return states.clone()


@_scan.register_fake
def _scan_fake(a, b, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(output, *tensors)


def _backward(ctx, grad_states):  # type: ignore[no-untyped-def]
    states, *tensors = ctx.saved_tensors
    a, b, initial, fresh = _gradients(grad_states, states, LinearInputs(*tensors), ctx.reverse)
    return a, b, initial, None, None, fresh, None


def _gradients(
    grad_states: Tensor, states: Tensor, inputs: LinearInputs, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of a, b, the initial state and the reset state, differentiable."""
    a, b, initial_state, lengths, reset, reset_state = inputs
    if not len(a):
        fresh = None if reset_state is None else torch.zeros_like(reset_state)
        return torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(initial_state), fresh
    zero = a.new_zeros(())
    active = None if lengths is None else active_steps(lengths, len(a)).unsqueeze(-1)
    begins = None if reset is None else reset.unsqueeze(-1)
    keeps = a if begins is None else torch.where(begins, zero, a)
    keeps = keeps if active is None else torch.where(active, keeps, a.new_ones(()))

    before, nothing = initial_state.unsqueeze(0), torch.zeros_like(initial_state).unsqueeze(0)
    if reverse:
        previous, handed_on = torch.cat([states[1:], before]), torch.cat([nothing, keeps[:-1]])
    else:
        previous, handed_on = torch.cat([before, states[:-1]]), torch.cat([keeps[1:], nothing])
    total = _scan(handed_on, grad_states, torch.zeros_like(initial_state), None, None, None, not reverse)

    grad_b = total if active is None else torch.where(active, total, zero)
    grad_reset = None
    if begins is not None and reset_state is not None:
        previous = torch.where(begins, reset_state, previous)
        grad_reset = torch.where(begins & (active if active is not None else True), a * grad_b, zero).sum(0)
    grad_a = grad_b * previous if active is None else torch.where(active, grad_b * previous, zero)
    first = len(a) - 1 if reverse else 0
    return grad_a, grad_b, keeps[first] * total[first], grad_reset


_scan.register_autograd(_backward, setup_context=_setup_context)
