"""Packed weights that outlive a call: for many short calls between which no weight is written to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.nn import Parameter

# Of the running thread or task, as long as it is within `unchanged_weights`: what was made, beside the weights it was made of.
_made: ContextVar[dict[tuple[int, ...], tuple[Any, Any]] | None] = ContextVar("made", default=None)


@contextmanager
def unchanged_weights() -> Iterator[None]:
    """Within it the caller writes to no parameter, so that what is packed for one step serves the next; also a decorator.

    Every search is within it: packing a decoder's weights is a third of a step of some rows (docs/results/translation.md). Not
    for threads that share a context.
    """
    token = _made.set({} if (outer := _made.get()) is None else outer)
    try:
        yield
    finally:
        _made.reset(token)


def keep(make: Callable[[], Any], *weights: Tensor | None, narrow: bool) -> Any:
    """What is made of some parameters: once for all within `unchanged_weights`, None outside it and of other tensors."""
    made = _made.get()
    if made is None or not all(weight is None or isinstance(weight, Parameter) for weight in weights):
        return None
    key = (*map(id, weights), int(narrow))
    if key not in made:
        made[key] = weights, make()  # a weight that is held keeps its id
    return made[key][1]
