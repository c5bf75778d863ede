"""How gradients run through time: an object given to a recurrent layer.

`FullBPTT` keeps everything; `TruncatedBPTT` lets no gradient pass from one segment to the one before (Williams & Peng
1990); `CheckpointedBPTT` keeps the states at the borders of segments and computes the rest twice (Chen et al. 2016,
arXiv 1604.06174), so that its gradients are those of `FullBPTT`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from unspool.cells import Cell, CellWeights
from unspool.errors import ConfigError
from unspool.state import detach_state
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
        size = self.segment_size(num_steps)
        starts = list(range(0, num_steps, size))
        parts = []
        for first in reversed(starts) if reverse else starts:
            last = min(first + size, num_steps)
            left = None if lengths is None else (lengths - first).clamp(0, last - first)
            begins = None if reset is None else reset[first:last]
            part = self.unroll_segment(
                cell, x[first:last], state, weights, noise.between(first, last), left, begins, reverse
            )
            state = self.hand_on(type(part)(*(tensor[0 if reverse else -1] for tensor in part)))
            parts.append(part)
        ordered = parts[::-1] if reverse else parts
        return type(parts[0])(*(torch.cat(tensors) for tensors in zip(*ordered, strict=True)))


@dataclass(frozen=True)
class TruncatedBPTT(_SegmentedBPTT):
    """Gradients run through at most `steps` steps; the state itself is handed on exactly."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"TruncatedBPTT: steps must be at least 1, got {self.steps}.")

    def segment_size(self, num_steps: int) -> int:
        return self.steps

    def hand_on(self, state: Any) -> Any:
        return detach_state(state)

    def unroll_segment(self, cell: Cell, x: Tensor, state: Any, *others: Any) -> Any:
        return cell.unroll(x, state, *others)


@dataclass(frozen=True)
class CheckpointedBPTT(_SegmentedBPTT):
    """Exact gradients from the states at the borders of `segments` segments; by default about sqrt(T) of them."""

    segments: int | None = None

    def __post_init__(self) -> None:
        if self.segments is not None and self.segments < 1:
            raise ConfigError(f"CheckpointedBPTT: segments must be at least 1, got {self.segments}.")

    def segment_size(self, num_steps: int) -> int:
        return math.ceil(num_steps / (self.segments or math.isqrt(num_steps)))

    def unroll_segment(self, cell: Cell, x: Tensor, state: Any, *others: Any) -> Any:
        return checkpoint(cell.unroll, x, state, *others, use_reentrant=False)
