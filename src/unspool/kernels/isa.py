"""The native engine's door: the extension module where it was built, and the instruction set that it runs on.

The environment variable ``UNSPOOL_ISA`` names one of `instruction_sets`; without it the best one of this processor runs.
A name that is none of them is refused where the engine is first asked for, so that the command line can say it in a line.
"""

import os
import warnings

import torch  # noqa: F401  (before _native, so that the OpenMP library which torch carries serves both)

from unspool.errors import ConfigError, did_you_mean

__all__ = ["_native", "absence", "force_instruction_set", "instruction_set", "instruction_sets", "warn_absent"]

_absent = ""
_refused: ConfigError | None = None
try:
    import unspool.kernels._native as _native
except ModuleNotFoundError:
    _native = None  # type: ignore[assignment]
    _absent = "is not built"
except ImportError as error:
    _native = None  # type: ignore[assignment]
    _absent = f"cannot be loaded ({error})"


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets compiled in that this processor runs, the best last; none without the native engine."""
    return tuple(_native.targets()) if _native is not None else ()


def instruction_set() -> str | None:
    """The instruction set that the native engine runs on, or None where there is no native engine.

    Raises:
        ConfigError: ``UNSPOOL_ISA`` names none of `instruction_sets`.
    """
    _raise_refusal()
    return _native.target() if _native is not None else None


def force_instruction_set(name: str) -> None:
    """Runs the native engine on another instruction set from now on, in the whole process.

    Raises:
        ConfigError: the name is none of `instruction_sets`.
    """
    _raise_refusal()
    _choose(name, "no instruction set")


def _choose(name: str, where: str) -> None:
    known = instruction_sets()
    if not known:
        raise ConfigError(f"{where} {name!r}: the native engine {_absent}, so there is none to choose.")
    if name not in known:
        raise ConfigError(f"{where} {name!r} on this machine; there are {', '.join(known)}{did_you_mean(name, known)}.")
    _native.choose(name)


def warn_absent() -> None:
    """Says, once a process, that a scan which the native engine could run goes to the reference path."""
    global _warned
    _raise_refusal()
    if _native is None and not _warned:
        _warned = True
        warnings.warn(
            f"unspool's native engine {_absent}: everything runs on the reference path, exact but slow. "
            "To get it, install a C++20 compiler (g++ 11 or clang++ 16, or later) and Python's headers, "
            "and reinstall unspool.",
            RuntimeWarning,
            stacklevel=3,
        )


_warned = False
if _wanted := os.environ.get("UNSPOOL_ISA"):
    try:
        _choose(_wanted, "UNSPOOL_ISA: no instruction set")
    except ConfigError as error:
        _native, _refused = None, error  # type: ignore[assignment]


def _raise_refusal() -> None:
    if _refused is not None:
        raise _refused


def absence() -> str:
    """Why there is no native engine.

    Raises:
        ConfigError: ``UNSPOOL_ISA`` names none of `instruction_sets`.
    """
    _raise_refusal()
    return f"the native engine {_absent}"
