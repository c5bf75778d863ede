"""Variational recurrent dropout: one mask on h for all steps of a sequence (Gal & Ghahramani 2016, arXiv 1512.05287)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unspool.cells.base import Cell, GatedCell
from unspool.cells.linear import LinearCell
from unspool.cells.modifier import GatedModifier, LinearModifier, check_probability
from unspool.errors import ConfigError
from unspool.types import Noise


class RecurrentDropout(GatedModifier):
    """A gated cell that hears its own h_{t-1} through a mask, the same at every step of a sequence.

    ::

        h_gates = W_hh (mask * h_{t-1}) + b_hh        mask = 0 with `probability`, else 1 / (1 - probability)

    What a cell carries on without weights (the GRU's z * h_{t-1}) is not masked. A cell without a recurrent product
    (IndRNN) sees the masked h in its equations.

    Args:
        cell: the cell to wrap; its parameters stay its own.
        probability: of a unit's being silent.
    """

    def __init__(self, cell: GatedCell, probability: float = 0.25):
        super().__init__(cell)
        self.probability = check_probability("recurrent dropout", probability)

    def draw_noise(self, num_steps: int, batch_size: int) -> Noise:
        noise = self.cell.draw_noise(num_steps, batch_size)
        if not self.training or not self.probability:
            return noise
        mask = _draw_mask(self.zeros(batch_size, self.hidden_size), self.probability)
        if not self.recurrent_product:
            return noise._replace(sequences=mask.unsqueeze(0))
        return noise._replace(recurrent_mask=mask if noise.recurrent_mask is None else noise.recurrent_mask * mask)

    def pointwise(self, x: Any, h: Any, state: Any, *others: Sequence[Tensor]) -> Any:
        if self.training and self.probability and not self.recurrent_product:
            *others, (mask,) = others  # type: ignore[assignment]
            state = state._replace(h=state.h * mask)
        return self.cell.pointwise(x, h, state, *others)


class LinearRecurrentDropout(LinearModifier):
    """A linear cell that hears its own h_{t-1} through a mask, the same at every step: a' = mask * a."""

    def __init__(self, cell: LinearCell, probability: float = 0.25):
        super().__init__(cell)
        self.probability = check_probability("recurrent dropout", probability)

    def draw_noise(self, num_steps: int, batch_size: int) -> Noise:
        noise = self.cell.draw_noise(num_steps, batch_size)
        if not self.training or not self.probability:
            return noise
        return noise._replace(recurrent_mask=_draw_mask(self.zeros(batch_size, self.hidden_size), self.probability))

    def noisy_coefficients(self, x: Sequence[Tensor], noise: Noise) -> tuple[Tensor, Tensor]:
        a, b = self.cell.noisy_coefficients(x, noise)
        return a if noise.recurrent_mask is None else a * noise.recurrent_mask, b


def recurrent_dropout(cell: Cell, probability: float = 0.25) -> Cell:
    """Any cell under recurrent dropout; see `RecurrentDropout` and `LinearRecurrentDropout`."""
    if any(isinstance(m, (RecurrentDropout, LinearRecurrentDropout)) for m in cell.modules()):
        raise ConfigError("recurrent dropout: the cell already has it; give one probability for both.")
    if isinstance(cell, LinearCell):
        return LinearRecurrentDropout(cell, probability)
    if not isinstance(cell, GatedCell):
        raise ConfigError(f"recurrent dropout wraps a GatedCell or a LinearCell, got {type(cell).__name__}.")
    return RecurrentDropout(cell, probability)


def _draw_mask(empty: Tensor, probability: float) -> Tensor:
    return empty.bernoulli_(1 - probability) / (1 - probability)
