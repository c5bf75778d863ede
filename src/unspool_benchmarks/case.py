"""One case of a benchmark: contenders that must compute the same numbers before any of them is timed."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from unspool.errors import UnspoolError
from unspool_benchmarks.machine import Limits
from unspool_benchmarks.timing import Pace, interleave, ratio_spread, spread

OURS = "unspool"
FP32_TOLERANCE, BF16_TOLERANCE = 1e-3, 5e-2
Numbers = Mapping[str, np.ndarray]
Record = dict[str, Any]


class Size(NamedTuple):
    """Steps, rows, and units; the input has as many features as there are units."""

    num_steps: int
    batch_size: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.num_steps},{self.batch_size},{self.hidden_size}"


class AbsentError(UnspoolError):
    """A peer that cannot take part, and why."""


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        name: of the library, or of the way it is used.
        run: the call that is timed.
        numbers: what it computes, by name, to be compared; it may be slow.
        tolerance: largest difference from the reference, relative to the largest value of each tensor.
    """

    name: str
    run: Callable[[], object]
    numbers: Callable[[], Numbers]
    tolerance: float = FP32_TOLERANCE


@dataclass(frozen=True)
class Case:
    """Contenders for one problem, ours first.

    Attributes:
        settings: what was asked, for the record.
        contenders: to be timed in turn.
        reference: the right numbers; every contender must have all of them.
        floor_seconds: below which no program can go; None where there is no formula.
        absent: peers that do not take part, with the reason.
        derive: figures from each contender's median seconds.
    """

    settings: Record
    contenders: Sequence[Contender]
    reference: Callable[[], Numbers]
    floor_seconds: float | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda seconds: {}


@dataclass(frozen=True)
class Context:
    """What a section needs to know: threads, the machine's limits, sizes to use in place of its own, peers wanted."""

    threads: int
    limits: Limits
    peers: frozenset[str]
    sizes: tuple[Size, ...] = ()


class Plan(NamedTuple):
    """A case before it is built, so that only one is in memory at a time."""

    name: str
    run: Callable[[Pace], Record]


def plan(name: str, build: Callable[[], Case]) -> Plan:
    """A plan that builds a case, checks it and times it."""
    return Plan(name, lambda pace: run_case(build(), pace))


def import_peer(name: str) -> Any:
    """An optional package.

    Raises:
        AbsentError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"not installed ({error}); pip install 'unspool[bench]'") from error


def gather(context: Context, builders: Mapping[str, Callable[[], Contender]]) -> tuple[list[Contender], dict[str, str]]:
    """Builds the peers that were asked for; one that cannot be built is named with the reason."""
    found, absent = [], {}
    for name, build in builders.items():
        if name not in context.peers:
            absent[name] = "not asked for"
            continue
        try:
            found.append(build())
        except AbsentError as reason:
            absent[name] = str(reason)
        except Exception as error:  # a peer's own trouble must not end our run, and is in the record
            absent[name] = f"failed: {type(error).__name__}: {error}"
    return found, absent


def run_case(case: Case, pace: Pace) -> Record:
    """Checks all contenders, times in turn those that are right, and returns what is to be kept.

    Where our own numbers are wrong nothing is timed.
    """
    reference, absent, checks = case.reference(), dict(case.absent), {}
    for contender in case.contenders:
        try:
            checks[contender.name] = check(contender, reference)
        except Exception as error:
            if contender.name == OURS:
                raise
            absent[contender.name] = f"failed: {type(error).__name__}: {error}"  # torch lacks bf16 on some machines
    record: Record = {
        "settings": case.settings,
        "checks": checks,
        "passed": all(result["passed"] for result in checks.values()),
        "absent": absent,
    }
    right = [c for c in case.contenders if c.name in checks and checks[c.name]["passed"]]
    if not checks[OURS]["passed"]:
        return record
    begin = time.perf_counter()
    samples = interleave({c.name: c.run for c in right}, pace)
    medians = {name: spread(values).median for name, values in samples.items()}
    ours = samples[OURS]
    record |= {
        "rounds": len(ours),
        "measured_seconds": round(time.perf_counter() - begin, 2),
        "milliseconds": {name: spread([1e3 * v for v in values])._asdict() for name, values in samples.items()},
        "ratios": {name: ratio_spread(v, ours)._asdict() for name, v in samples.items() if name != OURS},
        "derived": dict(case.derive(medians)),
    }
    if case.floor_seconds is not None:
        record |= {"floor_ms": 1e3 * case.floor_seconds, "over_floor": medians[OURS] / case.floor_seconds}
    return record


def check(contender: Contender, reference: Numbers) -> Record:
    """The largest relative difference of a contender from the reference, and where."""
    numbers = contender.numbers()
    errors = {name: relative_error(numbers[name], wanted) for name, wanted in reference.items()}
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return {
        "worst": worst,
        "error": errors[worst] if np.isfinite(errors[worst]) else None,
        "tolerance": contender.tolerance,
        "passed": all(error <= contender.tolerance for error in errors.values()),
    }


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the largest value; infinite where shapes differ, NaN where a number is."""
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
