"""Cells by the names that users give, refused before any work where they cannot be built or run."""

from collections.abc import Callable
from typing import Any

import torch

from unspool import initializers
from unspool.cells import Cell, find_cell
from unspool.errors import ConfigError, UnspoolError
from unspool.layers import Recurrent


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
