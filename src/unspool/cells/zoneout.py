"""Zoneout: some units keep their old value (Krueger et al. 2016, arXiv 1606.01305)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unspool.cells.base import Cell, GatedCell
from unspool.cells.linear import LinearCell
from unspool.cells.modifier import GatedModifier, LinearModifier, check_probability
from unspool.errors import ConfigError
from unspool.types import Noise


class Zoneout(GatedModifier):
    """A gated cell under zoneout.

    ::

        s_t = d * s_{t-1} + (1 - d) * s~_t        d = 1 with the state's probability, drawn for each unit and step

    s~ is the wrapped cell's new state. In evaluation d is its mean. States that are not interpolable (the sLSTM's
    normalizer) are left alone.

    Args:
        cell: the cell to wrap; its parameters stay its own.
        hidden: probability for h.
        memory: probability for the cell state c.
    """

    def __init__(self, cell: GatedCell, hidden: float = 0.1, memory: float = 0.1):
        super().__init__(cell)
        self.hidden, self.memory = check_probability("zoneout", hidden), check_probability("zoneout", memory)

    def draw_noise(self, num_steps: int, batch_size: int) -> Noise:
        noise = self.cell.draw_noise(num_steps, batch_size)
        if not self.training:
            return noise
        probabilities = self._probabilities()
        uniform = self.zeros(len(probabilities), num_steps, batch_size, self.hidden_size).uniform_()
        limits = torch.tensor(probabilities, dtype=uniform.dtype, device=uniform.device).view(-1, 1, 1, 1)
        kept = (uniform < limits).to(uniform.dtype)
        return noise._replace(steps=kept if noise.steps is None else torch.cat([noise.steps, kept]))

    def pointwise(self, x: Any, h: Any, state: Any, *others: Sequence[Tensor]) -> Any:
        kept: Sequence[Tensor | float] = self._probabilities()
        if self.training:
            place = 1 if self.vectors else 0  # of the steps among the groups that are not empty
            steps = others[place]
            mine = len(steps) - len(kept)
            kept = steps[mine:]
            others = (*others[:place], *([steps[:mine]] if mine else []), *others[place + 1 :])
        new = self.cell.pointwise(x, h, state, *others)
        mixed = dict(zip(self._mixed(), kept, strict=True))
        return self.state_type(
            *(
                d * old + (1 - d) * fresh if (d := mixed.get(name)) is not None else fresh
                for name, old, fresh in zip(self.state_type._fields, state, new, strict=True)
            )
        )

    def _mixed(self) -> list[str]:
        return [name for name in self.state_type._fields if name in self.cell.interpolable]

    def _probabilities(self) -> list[float]:
        return [self.hidden if name == self.state_type._fields[0] else self.memory for name in self._mixed()]


class LinearZoneout(LinearModifier):
    """A linear cell under zoneout, which is linear again: a' = d + (1 - d) a and b' = (1 - d) b."""

    def __init__(self, cell: LinearCell, hidden: float = 0.1):
        super().__init__(cell)
        self.hidden = check_probability("zoneout", hidden)

    def draw_noise(self, num_steps: int, batch_size: int) -> Noise:
        noise = self.cell.draw_noise(num_steps, batch_size)
        if not self.training:
            return noise
        uniform = self.zeros(1, num_steps, batch_size, self.hidden_size).uniform_()
        kept = (uniform < self.hidden).to(uniform.dtype)
        return noise._replace(steps=kept if noise.steps is None else torch.cat([noise.steps, kept]))

    def noisy_coefficients(self, x: Sequence[Tensor], noise: Noise) -> tuple[Tensor, Tensor]:
        inner = noise
        kept: Tensor | float = self.hidden
        if self.training:
            assert noise.steps is not None
            kept, rest = noise.steps[-1], noise.steps[:-1]
            inner = noise._replace(steps=rest if len(rest) else None)
        a, b = self.cell.noisy_coefficients(x, inner)
        return kept + (1 - kept) * a, (1 - kept) * b


def zoneout(cell: Cell, hidden: float = 0.1, memory: float = 0.1) -> Cell:
    """Any cell under zoneout; see `Zoneout` and `LinearZoneout`."""
    if isinstance(cell, LinearCell):
        return LinearZoneout(cell, hidden)
    if not isinstance(cell, GatedCell):
        raise ConfigError(f"zoneout wraps a GatedCell or a LinearCell, got {type(cell).__name__}.")
    return Zoneout(cell, hidden, memory)
