"""States as trees of tensors: detaching, moving, reordering and selecting what a recurrence carries."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def map_state(function: Callable[[Tensor], Tensor], state: Tree) -> Tree:
    """Applies a function to every tensor of a state, however nested; the structure is kept."""
    if isinstance(state, Tensor):
        return function(state)  # type: ignore[return-value]
    if isinstance(state, tuple):
        parts = [map_state(function, part) for part in state]
        kind = type(state)
        return kind(*parts) if kind is not tuple else kind(parts)  # type: ignore[return-value, arg-type, call-arg]
    raise TypeError(f"a state is made of tensors and tuples, got {type(state).__name__}")


def state_tensors(state: object) -> list[Tensor]:
    """All tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    assert isinstance(state, tuple)
    return [tensor for part in state for tensor in state_tensors(part)]


def detach_state(state: Tree) -> Tree:
    """The same values, cut off from the graph: where truncated backpropagation stops."""
    return map_state(lambda tensor: tensor.detach(), state)


def select_rows(state: Tree, rows: Tensor) -> Tree:
    """The state of the given batch rows, in that order; the reordering that a beam search needs.

    Args:
        state: a tree of tensors [B, H].
        rows: [K] integers in 0..B-1.
    """
    return map_state(lambda tensor: tensor.index_select(0, rows), state)


def is_finite(state: object) -> bool:
    """Whether no tensor of the state holds a NaN or +Inf; -Inf is the log of an empty memory and allowed."""
    return all(bool((t < torch.inf).all()) for t in state_tensors(state))
