"""The linear scan: h_t = a_t * h_{t-1} + b_t for every step at once, in O(T) work and O(log T) rounds.

Two neighbouring steps compose into one of the same form, (a2 a1, a2 b1 + b2); pairs are composed, the half as long
sequence is scanned the same way, and the steps between are filled in (Blelloch, 1990, "Prefix sums and their
applications", section 1.4). The gradient of a linear scan is a linear scan in the other direction, so the operator is
differentiable to any order by itself.
"""

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels.masks import active_steps


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
    if a.shape != b.shape or a.shape[1:] != initial_state.shape:
        found = f"{list(a.shape)}, {list(b.shape)} and {list(initial_state.shape)}"
        raise ShapeError(f"linear_scan: a and b must be [T, B, H] and initial_state [B, H], got {found}.")
    if reset is None:
        reset_state = None
    elif reset_state is None:
        reset_state = torch.zeros_like(initial_state)
    return _scan(a, b, initial_state, lengths, reset, reset_state, reverse)


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


def _effective(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Lengths, resets and the initial state written into the coefficients."""
    if reset is not None and reset_state is not None:
        begins = reset.unsqueeze(-1)
        b = torch.where(begins, a * reset_state + b, b)
        a = torch.where(begins, a.new_zeros(()), a)
    if lengths is not None:
        active = active_steps(lengths, len(a)).unsqueeze(-1)
        a = torch.where(active, a, a.new_ones(()))
        b = torch.where(active, b, b.new_zeros(()))
    if len(b):
        first = len(b) - 1 if reverse else 0
        b = b.clone()
        b[first] += a[first] * initial_state
    return a, b


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
    a, b = _effective(a, b, initial_state, lengths, reset, reset_state, reverse)
    states = _compose(a.flip(0), b.flip(0)).flip(0) if reverse else _compose(a, b)
    return states.clone()


@_scan.register_fake
def _scan_fake(a, b, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    a, b, initial_state, lengths, reset, reset_state, reverse = inputs
    ctx.reverse = reverse
    ctx.save_for_backward(output, a, initial_state, lengths, reset, reset_state)


def _backward(ctx, grad_states):  # type: ignore[no-untyped-def]
    states, a, initial_state, lengths, reset, reset_state = ctx.saved_tensors
    if not len(a):
        return torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(initial_state), None, None, None, None
    zero, reverse = a.new_zeros(()), ctx.reverse
    active = None if lengths is None else active_steps(lengths, len(a)).unsqueeze(-1)
    begins = None if reset is None else reset.unsqueeze(-1)
    keeps = a if begins is None else torch.where(begins, zero, a)
    keeps = keeps if active is None else torch.where(active, keeps, a.new_ones(()))

    first, nothing = initial_state.unsqueeze(0), torch.zeros_like(initial_state).unsqueeze(0)
    if reverse:
        previous, handed_on = torch.cat([states[1:], first]), torch.cat([nothing, keeps[:-1]])
    else:
        previous, handed_on = torch.cat([first, states[:-1]]), torch.cat([keeps[1:], nothing])
    total = _scan(handed_on, grad_states, torch.zeros_like(initial_state), None, None, None, not reverse)

    grad_b = total if active is None else torch.where(active, total, zero)
    grad_reset = None
    if begins is not None:
        previous = torch.where(begins, reset_state, previous)
        grad_reset = torch.where(begins & (active if active is not None else True), a * grad_b, zero).sum(0)
    grad_a = grad_b * previous if active is None else torch.where(active, grad_b * previous, zero)
    last = len(a) - 1 if reverse else 0
    return grad_a, grad_b, keeps[last] * total[last], None, None, grad_reset, None


_scan.register_autograd(_backward, setup_context=_setup_context)
