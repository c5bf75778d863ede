"""Interleaved timing: all contenders in one process, in turn, so that a noisy minute hits each of them alike."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 101
_PATIENCE = 5  # times the budget, after which fewer rounds must do
_WARM_UPS = 2


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: samples of each contender; None for as many as fit into `seconds`, from 5 to 101.
        seconds: budget of one case, where `rounds` is None.
        sample_seconds: a sample repeats its call until it lasts about this long.
        settle_seconds: pause before each sample, in which the threads of the one before stop spinning (ONNX Runtime's
            spin for 50 ms).
    """

    rounds: int | None = None
    seconds: float = 3.0
    sample_seconds: float = 0.02
    settle_seconds: float = 0.1


class Spread(NamedTuple):
    """A median with its quartiles."""

    median: float
    low: float
    high: float


Samples = dict[str, list[float]]
"""Seconds of one call, for each contender one number a round."""


def interleave(calls: Mapping[str, Callable[[], object]], pace: Pace) -> Samples:
    """Times calls in turn; the order rotates from round to round.

    Args:
        calls: what to time, by name.
        pace: how long.

    Returns:
        Seconds of one call of each, in every round.
    """
    counts = {name: _calls_per_sample(call, pace) for name, call in calls.items()}
    samples: Samples = {name: [] for name in calls}
    names = list(calls)
    begin = time.perf_counter()
    for turn in range(pace.rounds or _MOST_ROUNDS):
        cut = turn % len(names)
        for name in names[cut:] + names[:cut]:
            samples[name].append(_sample(calls[name], counts[name], pace.settle_seconds))
        if pace.rounds is None and _enough(turn + 1, time.perf_counter() - begin, pace.seconds):
            break
    return samples


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of a single value, that value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio_spread(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Median and quartiles of the ratio within each round."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def _enough(rounds: int, elapsed: float, budget: float) -> bool:
    return elapsed >= budget and (rounds >= _FEWEST_ROUNDS or elapsed >= _PATIENCE * budget)


def _calls_per_sample(call: Callable[[], object], pace: Pace) -> int:
    for _ in range(_WARM_UPS):
        begin = time.perf_counter()
        call()
        once = time.perf_counter() - begin
        if once > pace.seconds:  # warm enough
            break
    rough = max(1, math.ceil(pace.sample_seconds / once))
    return max(1, math.ceil(pace.sample_seconds / _time_calls(call, rough))) if rough > 1 else 1


def _sample(call: Callable[[], object], count: int, settle_seconds: float) -> float:
    time.sleep(settle_seconds)
    if count > 1:  # a short call finds its caches and threads cold after the pause
        call()
    return _time_calls(call, count)


def _time_calls(call: Callable[[], object], count: int) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begin) / count
    finally:
        if collecting:
            gc.enable()
