"""How gradients run through time: an object given to a recurrent layer.

`FullBPTT` keeps everything; `TruncatedBPTT` lets no gradient pass from one segment to the one before (Williams & Peng
1990); `CheckpointedBPTT` keeps the states at the borders of segments and computes the rest twice (Chen et al. 2016,
arXiv 1604.06174), so that its gradients are those of `FullBPTT`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from unspool.cells import Cell, CellWeights
from unspool.config import require
from unspool.kernels.dispatch import is_eager, is_transformed
from unspool.layers.checkpoints import Checkpoints, Span
from unspool.state import detach_state, state_tensors
from unspool.types import Bool, Float, Int, Noise, Tensor


class BPTT(ABC):
    """A way to unroll a cell over a sequence."""

    @abstractmethod
    def unroll(
        self,
        cell: Cell,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        """The state after every step, tensors [T, B, H]."""


@dataclass(frozen=True)
class FullBPTT(BPTT):
    """Gradients run through the whole sequence."""

    def unroll(
        self,
        cell: Cell,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        return cell.unroll(x, state, weights, noise, lengths, reset, reverse)


class _SegmentedBPTT(BPTT):
    """Cuts the sequence into segments and hands the state on between them."""

    @abstractmethod
    def segment_size(self, num_steps: int) -> int:
        """Steps in one segment."""

    def spans(self, num_steps: int) -> list[Span]:
        """The segments, the first one first."""
        size = self.segment_size(num_steps)
        return [(first, min(first + size, num_steps)) for first in range(0, num_steps, size)]

    def hand_on(self, state: Any) -> Any:
        """The state that the next segment begins from."""
        return state

    @abstractmethod
    def unroll_segment(self, cell: Cell, x: Tensor, state: Any, *others: Any) -> Any:
        """The states of one segment."""

    def unroll(
        self,
        cell: Cell,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        num_steps = len(x)
        if num_steps == 0:
            return cell.unroll(x, state, weights, noise, lengths, reset, reverse)
        spans, parts = self.spans(num_steps), []
        pieces = x.split(self.segment_size(num_steps))  # at once: a slice's gradient would be as large as x each time
        for piece, (first, last) in list(zip(pieces, spans, strict=True))[:: -1 if reverse else 1]:
            left = _lengths_within(lengths, (first, last))
            begins = None if reset is None else reset[first:last]
            part = self.unroll_segment(cell, piece, state, weights, noise.between(first, last), left, begins, reverse)
            state = self.hand_on(type(part)(*(tensor[0 if reverse else -1] for tensor in part)))
            parts.append(part)
        ordered = parts[::-1] if reverse else parts
        return type(parts[0])(*(torch.cat(tensors) for tensors in zip(*ordered, strict=True)))


def _lengths_within(lengths: Tensor | None, span: Span) -> Tensor | None:
    """How much of each sequence lies in a segment."""
    first, last = span
    return None if lengths is None else (lengths - first).clamp(0, last - first)


@dataclass(frozen=True)
class TruncatedBPTT(_SegmentedBPTT):
    """Gradients run through at most `steps` steps; the state itself is handed on exactly."""

    steps: int

    def __post_init__(self) -> None:
        require(self.steps >= 1, "TruncatedBPTT: steps", self.steps, "at least 1")

    def segment_size(self, num_steps: int) -> int:
        return self.steps

    def hand_on(self, state: Any) -> Any:
        return detach_state(state)

    def unroll_segment(self, cell: Cell, x: Tensor, state: Any, *others: Any) -> Any:
        return cell.unroll(x, state, *others)


@dataclass(frozen=True)
class CheckpointedBPTT(_SegmentedBPTT):
    """Exact gradients from the states at the borders of `segments` segments; by default sqrt(T), at most 256 of them.

    More would keep hardly less, since all states are kept in any case, and each costs half a millisecond of Python.
    """

    segments: int | None = None

    def __post_init__(self) -> None:
        require(self.segments is None or self.segments >= 1, "CheckpointedBPTT: segments", self.segments, "at least 1")

    def segment_size(self, num_steps: int) -> int:
        return math.ceil(num_steps / (self.segments or min(math.isqrt(num_steps), 256)))

    def unroll_segment(self, cell: Cell, x: Tensor, state: Any, *others: Any) -> Any:
        return checkpoint(cell.unroll, x, state, *others, use_reentrant=False)

    def unroll(
        self,
        cell: Cell,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        unrolled = _Unroll(cell)
        own, count = dict(unrolled.named_parameters()), len(weights.matrices)
        timed = (x, noise.steps, reset)  # probes are not among them; who uses them unrolls the whole sequence
        rest = (lengths, noise.sequences, noise.recurrent_mask, *weights[:-1], *weights.matrices, *own.values())
        tensors = (*state_tensors(state), *timed, *rest)
        if len(x) == 0 or not torch.is_grad_enabled() or not is_eager(tensors) or is_transformed():
            return super().unroll(cell, x, state, weights, noise, lengths, reset, reverse)

        def run(span: Span, state: Sequence[Tensor], timed: Sequence[Any], rest: Sequence[Any]) -> Sequence[Tensor]:
            x, steps, reset = timed
            plain = 2 + len(weights)  # lengths, noise, and what of the weights is one tensor
            lengths, drawn, matrices = rest[0], rest[1:3], tuple(rest[plain : plain + count])
            left = _lengths_within(lengths, span)
            given = CellWeights._make((*rest[3:plain], matrices))
            parameters = dict(zip(own, rest[plain + count :], strict=True))
            before = cell.state_type(*state)
            return functional_call(unrolled, parameters, (x, before, given, Noise(steps, *drawn), left, reset, reverse))

        spans = self.spans(len(x))
        order = spans[::-1] if reverse else spans
        return cell.state_type(*Checkpoints.apply(run, order, reverse, len(state), (0, 1, 0), *tensors))


class _Unroll(nn.Module):
    """`Cell.unroll` as a module, so that it can be called with other tensors in its parameters' place."""

    def __init__(self, cell: Cell):
        super().__init__()
        self.cell = cell

    def forward(self, *arguments: Any) -> Any:
        return self.cell.unroll(*arguments)
