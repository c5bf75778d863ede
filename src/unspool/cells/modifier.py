"""What all modifiers share: a cell that wraps another cell and keeps its parameters, sizes and state."""

from typing import Any

from torch import Tensor

from unspool.cells.base import Cell, CellWeights, GatedCell, Gates
from unspool.cells.linear import LinearCell
from unspool.config import require
from unspool.errors import ConfigError
from unspool.types import Noise


class _Modifier(Cell):
    """What both kinds of modifiers hand on to the cell that they wrap."""

    def __init__(self, cell: Any):
        Cell.__init__(self, cell.input_size, cell.hidden_size)
        self.cell = cell
        self.gates, self.state_type, self.interpolable = cell.gates, cell.state_type, cell.interpolable  # type: ignore[misc]
        self.keeping_gate = cell.keeping_gate  # type: ignore[misc]

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def weights(self) -> CellWeights:
        return self.cell.weights()

    def project(self, x: Tensor, weights: CellWeights) -> Tensor:
        return self.cell.project(x, weights)

    def initial_state(self, batch_size: int) -> Any:
        return self.cell.initial_state(batch_size)

    def draw_noise(self, num_steps: int, batch_size: int) -> Noise:
        return self.cell.draw_noise(num_steps, batch_size)

    def readout(self, h: Tensor, x: Tensor) -> Tensor:
        return self.cell.readout(h, x)

    def reset_parameters(self) -> None:
        self.cell.reset_parameters()


class GatedModifier(_Modifier, GatedCell):
    """A gated cell around another; a subclass changes `pointwise`, `draw_noise` or both."""

    def __init__(self, cell: GatedCell):
        if not cell.modifiable:
            raise ConfigError(f"{type(self).__name__}: {type(cell).__name__} cannot be wrapped; see its docstring.")
        super().__init__(cell)
        self.vectors, self.recurrent_product = cell.vectors, cell.recurrent_product  # type: ignore[misc]
        self.reference_only = cell.reference_only  # type: ignore[misc]

    @property
    def linear_projection(self) -> bool:
        return self.cell.linear_projection

    def projection_vectors(self) -> Tensor | None:
        return self.cell.projection_vectors()

    def finish_projection(self, products: Gates, vectors: Gates) -> Gates:
        return self.cell.finish_projection(products, vectors)

    def pointwise(self, x: Any, h: Any, state: Any, *others: Any) -> Any:
        return self.cell.pointwise(x, h, state, *others)


class LinearModifier(_Modifier, LinearCell):
    """A linear cell around another; a subclass changes `noisy_coefficients`, `draw_noise` or both."""

    def coefficients(self, x: Any) -> tuple[Tensor, Tensor]:
        return self.cell.coefficients(x)


def check_probability(name: str, probability: float) -> float:
    """A probability below one, or a clear error."""
    require(0.0 <= probability < 1.0, f"{name}: probability", probability, "at least 0 and below 1")
    return probability
