"""What an experiment is: a claim, rows of theory beside measurement, figures, and whether the claim held."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Say = Callable[[str], None]
"""Takes a line of progress."""

Row = dict[str, float | int | str | bool | None]


class Figure(NamedTuple):
    """A picture: its title, what is to be seen, and how it is drawn into a matplotlib Figure."""

    title: str
    words: str
    paint: Callable[[Any], None]
    height: float = 3.2


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Attributes:
        rows: theory beside measurement.
        words: what that says, for people.
        holds: whether the claim held.
        figures: to be drawn.
    """

    rows: list[Row]
    words: str
    holds: bool
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Experiment:
    """One claim of a textbook and the way to put it to the test.

    Attributes:
        name: as the command line knows it.
        claim: what the textbook says.
        run: takes a seed and where to report progress.
    """

    name: str
    claim: str
    run: Callable[[int, Say], Result]


def slope(values: Sequence[float]) -> float:
    """Of the least-squares line through values at 0, 1, 2, ..."""
    middle, mean = (len(values) - 1) / 2, math.fsum(values) / len(values)
    across = math.fsum((t - middle) * (v - mean) for t, v in enumerate(values))
    return across / math.fsum((t - middle) ** 2 for t in range(len(values)))
