"""Exact backpropagation through time from a few kept states (Chen et al. 2016, arXiv 1604.06174).

The forward pass keeps the states at the borders of segments; the backward pass runs one segment after the other anew, from
the last to the first. Outputs and gradients are written where they belong at once, so that nothing of the size of a
sequence exists twice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

Span = tuple[int, int]
"""The first step of a segment and the one after its last."""

RunSegment = Callable[[Span, Sequence[Tensor], Sequence[Any], Sequence[Any]], Sequence[Tensor]]
"""Runs a segment: its span, the state before it, what lies along time (already cut), the rest; gives its states."""


class Checkpoints(torch.autograd.Function):
    """The states [T, B, H] of all segments, run in the order of `spans`.

    Takes, after how to run: S tensors [B, H] of the initial state, values with time as the axis that `axes` names, and all
    else that `run` reads; None may be among them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        run: RunSegment,
        spans: Sequence[Span],
        reverse: bool,
        num_states: int,
        axes: Sequence[int],
        *values: Any,
    ) -> tuple[Tensor, ...]:
        ctx.run, ctx.spans, ctx.reverse, ctx.num_states, ctx.axes = run, spans, reverse, num_states, axes
        ctx.count, real = len(values), [v for v in values if v is not None and not v.is_meta]
        state, timed, rest = _groups(values, num_states, len(axes))
        ctx.chance = []
        borders: list[Tensor] = []
        states: list[Tensor] = []
        for span in spans:
            ctx.chance.append((torch.get_rng_state(), *get_device_states(*real)))
            borders += state
            part = run(span, state, _cut(timed, axes, span), rest)
            if not states:
                steps = max(last for _, last in spans)
                states = [p.new_empty((steps, *p.shape[1:])) for p in part]
            for whole, p in zip(states, part, strict=True):
                whole[span[0] : span[1]] = p
            state = [p[0 if reverse else -1].clone() for p in part]
        device = states[0].device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*values, *borders)
        return tuple(states)

    @staticmethod
    def backward(ctx: Any, *grad_states: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        values, borders = list(saved[: ctx.count]), saved[ctx.count :]
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[-ctx.count :]) if needed]
        device, dtype, enabled = ctx.autocast
        with torch.random.fork_rng(ctx.chance[0][1]), torch.autocast(device, dtype, enabled):
            if torch.is_grad_enabled():
                found = _differentiable(ctx, values, borders, grad_states, wanted)
            else:
                found = _one_by_one(ctx, values, borders, grad_states, wanted)
        placed: list[Tensor | None] = [None] * ctx.count
        for i, gradient in zip(wanted, found, strict=True):
            placed[i] = gradient
        return (None,) * 5 + tuple(placed)


def _one_by_one(
    ctx: Any, values: list[Any], borders: Sequence[Tensor], grad_states: Sequence[Tensor | None], wanted: list[int]
) -> list[Tensor | None]:
    """The gradients of the wanted values, one segment after the other."""
    num_states, first_rest = ctx.num_states, ctx.num_states + len(ctx.axes)
    found: dict[int, Tensor | None] = {i: None for i in wanted if i >= num_states}
    carry: list[Tensor | None] = [None] * num_states
    for number in reversed(range(len(ctx.spans))):
        span, kept = ctx.spans[number], borders[number * num_states : (number + 1) * num_states]
        _restore(ctx.chance[number])
        with torch.enable_grad():
            state = [s.detach().requires_grad_() for s in kept]
            timed = _cut(values[num_states:first_rest], ctx.axes, span)
            local = [*state, *timed, *values[first_rest:]]
            for i in found:
                local[i] = local[i].detach().requires_grad_()
            part = ctx.run(span, state, local[num_states:first_rest], local[first_rest:])
            ends = [p[0 if ctx.reverse else -1] for p in part]
        given = [None if g is None else g[span[0] : span[1]] for g in grad_states]
        outputs = [
            (p, g) for p, g in zip((*part, *ends), (*given, *carry), strict=True) if g is not None and p.requires_grad
        ]
        inputs = [*state, *(local[i] for i in found)]
        gradients = torch.autograd.grad([p for p, _ in outputs], inputs, [g for _, g in outputs], allow_unused=True)
        carry = list(gradients[:num_states])
        for i, gradient in zip(found, gradients[num_states:], strict=True):
            if gradient is not None:
                total = found[i]
                if total is None:
                    total = torch.zeros_like(values[i])
                _along(total, ctx.axes, i - num_states, span).add_(gradient)
                found[i] = total
    return [found[i] if i in found else carry[i] for i in wanted]


def _differentiable(
    ctx: Any, values: list[Any], borders: Sequence[Tensor], grad_states: Sequence[Tensor | None], wanted: list[int]
) -> list[Tensor | None]:
    """The same as one graph, for gradients of gradients."""
    values = [v.view_as(v) if i in wanted else v for i, v in enumerate(values)]  # no path from one of them to another
    state, timed, rest = _groups(values, ctx.num_states, len(ctx.axes))
    parts = []
    for span, chance in zip(ctx.spans, ctx.chance, strict=True):
        _restore(chance)
        part = ctx.run(span, state, _cut(timed, ctx.axes, span), rest)
        state = [p[0 if ctx.reverse else -1] for p in part]
        parts.append(part)
    states = [torch.cat(one) for one in zip(*(parts[::-1] if ctx.reverse else parts), strict=True)]
    outputs = [(s, g) for s, g in zip(states, grad_states, strict=True) if g is not None]
    sources = [values[i] for i in wanted]
    given = [g for _, g in outputs]
    return list(torch.autograd.grad([s for s, _ in outputs], sources, given, create_graph=True, allow_unused=True))


def _groups(values: Sequence[Any], num_states: int, num_timed: int) -> tuple[list[Any], list[Any], list[Any]]:
    first_rest = num_states + num_timed
    return list(values[:num_states]), list(values[num_states:first_rest]), list(values[first_rest:])


def _cut(timed: Sequence[Tensor | None], axes: Sequence[int], span: Span) -> list[Tensor | None]:
    return [
        None if t is None else t.narrow(axis, span[0], span[1] - span[0]) for t, axis in zip(timed, axes, strict=True)
    ]


def _along(gradient: Tensor, axes: Sequence[int], place: int, span: Span) -> Tensor:
    """The part of a value's gradient that a segment adds to."""
    return gradient.narrow(axes[place], span[0], span[1] - span[0]) if place < len(axes) else gradient


def _restore(chance: tuple[Any, ...]) -> None:
    torch.set_rng_state(chance[0])
    set_device_states(*chance[1:])
