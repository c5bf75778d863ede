"""Cells by the names that users give, refused before any work where they cannot be built or run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from unspool import initializers
from unspool.cells import Cell, find_cell
from unspool.config import setting
from unspool.errors import ConfigError, UnspoolError
from unspool.layers import Recurrent


@dataclass(frozen=True)
class CellSettings:
    """Which cell a network is built of."""

    cell: str = setting("lstm", "a cell of the catalogue, or your_module:YourCell")
    hidden_size: int = setting(256, "units of each layer")

    @property
    def cell_sizes(self) -> tuple[int, ...]:
        """Units of the layers that are built."""
        return (self.hidden_size,)

    @property
    def options(self) -> dict[str, Any]:
        """All settings but the cell, by name, for a model whose arguments have these names."""
        return {name: value for name, value in vars(self).items() if name != "cell"}

    def check(self) -> None:
        """Refuses a cell that cannot be built or run.

        Raises:
            ConfigError: the cell is not known, or not of these sizes.
        """
        for size in self.cell_sizes:
            check_cell(self.cell, size, self.build_cell)

    def build_cell(self, input_size: int, hidden_size: int) -> Cell:
        """A cell with orthogonal recurrent matrices and an open gate, where it has them."""
        cell: Cell = open_cell(self.cell, input_size, hidden_size)
        return cell


def cell_named(name: str, input_size: int, hidden_size: int) -> Any:
    """A cell of the catalogue, or of the user's own module.

    Raises:
        ConfigError: there is none of this name, or it cannot be built from the two sizes.
    """
    try:
        return find_cell(name)(input_size, hidden_size)
    except TypeError as error:
        raise ConfigError(f"cell {name!r} cannot be built from input_size and hidden_size: {error}.") from error


def open_cell(name: str, input_size: int, hidden_size: int) -> Any:
    """`cell_named` with orthogonal recurrent matrices and an open gate, where it has them."""
    cell = cell_named(name, input_size, hidden_size)
    if cell.weight_hh is not None and cell.weight_hh.shape[-1] == hidden_size:
        initializers.orthogonal_(cell)
    if cell.keeping_gate and cell.bias_ih is not None:
        initializers.forget_bias_(cell, 1.0)
    return cell


def check_cell(name: str, hidden_size: int, build: Callable[[int, int], Cell]) -> None:
    """Builds and runs a small layer, so that settings that do not go together are refused before any data is read.

    Raises:
        ConfigError: of the cell, its initialization or its modifiers.
    """
    try:
        Recurrent(build(2, hidden_size))(torch.zeros(2, 1, 2))
    except UnspoolError:
        raise
    except Exception as error:  # the cell may be somebody else's, and fail in any way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"cell {name!r} of {hidden_size} units cannot be run: {reason}") from error
