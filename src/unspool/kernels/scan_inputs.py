"""What a gated scan reads: the tensors of one pass, by name, and which of them have gradients."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class ScanInputs(NamedTuple):
    """The tensors of a gated scan; None where there is nothing.

    Attributes:
        x: [T, B, I]; or [T, B, G*H], the x-parts of the gates side by side, where there is no `weight_ih`.
        weight_ih: [G*H, I].
        bias_ih: [G*H].
        weight_hh: [G*H, H], or None for a cell without a recurrent product.
        bias_hh: [G*H].
        initial_state: [S, B, H]; the first state is the one that enters the recurrent product.
        vectors: [P, H], parameters such as peepholes.
        steps: [N, T, B, H], a value for every step, such as noise or probes.
        sequences: [M, B, H], a value for every sequence, such as a variational mask.
        recurrent_mask: [B, H], multiplies h before the recurrent product; not differentiable.
        lengths: [B] integers in 0..T; beyond its length a sequence's state stands still.
        reset: [T, B] booleans; where true, the step begins from `reset_state`.
        reset_state: [S, B, H]; zeros unless given.
    """

    x: Tensor
    weight_ih: Tensor | None
    bias_ih: Tensor | None
    weight_hh: Tensor | None
    bias_hh: Tensor | None
    initial_state: Tensor
    vectors: Tensor | None = None
    steps: Tensor | None = None
    sequences: Tensor | None = None
    recurrent_mask: Tensor | None = None
    lengths: Tensor | None = None
    reset: Tensor | None = None
    reset_state: Tensor | None = None


_WITH_GRADIENTS = (
    "x",
    "weight_ih",
    "bias_ih",
    "weight_hh",
    "bias_hh",
    "initial_state",
    "vectors",
    "steps",
    "sequences",
)
DIFFERENTIABLE = tuple(ScanInputs._fields.index(name) for name in (*_WITH_GRADIENTS, "reset_state"))
"""Places of the tensors that have gradients, in the order in which backward passes return them."""


def place_gradients(gradients: Sequence[Tensor | None], inputs: ScanInputs) -> list[Tensor | None]:
    """One gradient for each field of `inputs`, None where it has none."""
    placed: list[Tensor | None] = [None] * len(inputs)
    for place, gradient in zip(DIFFERENTIABLE, gradients, strict=True):
        placed[place] = gradient if inputs[place] is not None else None
    return placed
