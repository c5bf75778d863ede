"""The tree of errors: every message says where, what was expected, what was found, and what to do.

UnspoolError
├── ShapeError          a tensor of the wrong shape or type at a door           (also a ValueError)
├── LoweringError       a cell's equations that cannot become a program         (also a ValueError)
├── ConfigError         an unknown or impossible setting                        (also a ValueError)
├── DataError           a file of the user's that cannot be read as it should   (also a ValueError)
├── CheckpointError     a model folder that is missing, damaged or of another kind
└── DivergenceError     training that stopped because it no longer made sense
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UnspoolError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line and exits with code 2."""


class ShapeError(UnspoolError, ValueError):
    """A tensor does not have the axes that a function was promised."""


class LoweringError(UnspoolError, ValueError):
    """A cell's equations contain an operation that a program cannot hold."""


class ConfigError(UnspoolError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(UnspoolError, ValueError):
    """A file, folder or stream of the user's is missing, empty or malformed."""


class CheckpointError(UnspoolError):
    """A model folder cannot be used as asked."""


class DivergenceError(UnspoolError):
    """Losses or gradients were not finite too many times in a row."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a known word is near, else nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
