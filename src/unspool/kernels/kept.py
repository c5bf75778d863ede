"""Packed weights that outlive a call: for many short calls between which no weight is written to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.nn import Parameter

_made: ContextVar[dict[tuple[int, ...], Any] | None] = ContextVar("made", default=None)


@contextmanager
def unchanged_weights() -> Iterator[None]:
    """Within it the caller writes to no weight, so that what is packed for a step serves the next ones; also a decorator.

    Meant for searches: packing a decoder's weights takes a third of a step of a few rows.
    """
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def kept(make: Callable[[], Any], *weights: Tensor | None, narrow: bool) -> Any:
    """What is made of some parameters: once for all within `unchanged_weights`, None outside it and of other tensors."""
    made = _made.get()
    if made is None or not all(weight is None or isinstance(weight, Parameter) for weight in weights):
        return None
    key = (*map(id, weights), int(narrow))
    if key not in made:
        made[key] = make()
    return made[key]
