"""Cells whose state is linear in the state before, so that a scan runs over all steps at once."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unspool import initializers
from unspool.cells.base import Cell, CellWeights, Gates
from unspool.cells.programs import trace_step
from unspool.kernels import Signature, clear_padding, linear_scan
from unspool.types import Bool, Float, Int, Noise


class LinearCell(Cell):
    """A cell whose state is linear in the state before: h_t = a_t * h_{t-1} + b_t, a and b from x alone.

    A subclass writes ``coefficients``; the scan runs over all steps at once.

    Parameters (uniform in +-1/sqrt(H)):
        weight_ih: [G*H, I];  bias_ih: [G*H], None with ``bias=False``.
    """

    gates: ClassVar[tuple[str, ...]]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__(input_size, hidden_size)
        rows = len(self.gates) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.bias_ih = nn.Parameter(torch.empty(rows)) if bias else None
        self.weight_hh, self.bias_hh = None, None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every parameter uniform in +-1/sqrt(H)."""
        initializers.uniform_(self.parameters(recurse=False), self.hidden_size)

    @abstractmethod
    def coefficients(self, x: Sequence[Float[Tensor, "*N H"]]) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        """a and b from the gates ``W_ih x + b_ih``, one tensor for each name in `gates`."""

    def weights(self) -> CellWeights:
        return CellWeights(self.weight_ih, self.bias_ih, None, None, None)

    def project(self, x: Float[Tensor, "*N I"], weights: CellWeights) -> Float[Tensor, "*N GH"]:
        """All that depends on x alone, for all steps at once."""
        return nn.functional.linear(x, weights.weight_ih, weights.bias_ih)

    def noisy_coefficients(
        self, x: Sequence[Float[Tensor, "*N H"]], noise: Noise
    ) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        """`coefficients` under what was drawn in this pass; a modifier's place."""
        return self.coefficients(x)

    def step_program(self) -> str:
        return trace_step(self, self._one_step, Signature(len(self.gates), 0, 1))

    def _one_step(self, x: Gates, _: Gates, state: Gates, *none: Gates) -> Gates:
        a, b = self.noisy_coefficients(x, Noise())
        return (a * state[0] + b,)

    def unroll(
        self,
        x: Float[Tensor, "T B I"],
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> Any:
        gates = self.project(clear_padding(x, lengths), weights).to(state[0].dtype)
        a, b = self.noisy_coefficients(gates.split(self.hidden_size, -1), noise)
        b = b if noise.probes is None else b + noise.probes[0]
        fresh = None if reset is None else self.initial_state(x.shape[1])[0]
        states = linear_scan(a, b, state[0], lengths=lengths, reset=reset, reset_state=fresh, reverse=reverse)
        return self.state_type(states)

    def step(self, x: Float[Tensor, "B I"], state: Any, noise: Noise | None = None) -> tuple[Tensor, Any]:
        noise = self.draw_noise(1, x.shape[0]) if noise is None else noise
        gates = self.project(x.unsqueeze(0), self.weights()).split(self.hidden_size, -1)
        a, b = self.noisy_coefficients(gates, noise)
        h = a[0] * state[0] + b[0]
        return self.readout(h, x), self.state_type(h)
