"""Watching gradients while a model trains: a look now and then, at two hundredths of the time."""

import dataclasses
import math
import statistics
import time
from typing import Any, NamedTuple

from unspool.diagnostics import KnownTraining, Verdict, evaluating, gradient_flow, judge, saturation
from unspool.errors import ConfigError

_SHARE = 0.02  # of the time of training; measured by benchmarks/diagnosis/cost.py
_FIRST = 10  # updates before the first look
_SECOND = 100  # at most so many before the second; the first also traces the cells, which is no measure of its cost


class Look(NamedTuple):
    """What one look saw.

    Attributes:
        summary: for the progress line; of the layer with the longest horizon.
        values: for the metrics, of that layer and of each.
        news: lines to be said because a verdict has changed.
    """

    summary: str
    values: dict[str, Any]
    news: list[str]


class GradientWatch:
    """Decides when to look, and what of it is news.

    A look is one pass in evaluation mode, which draws no random numbers and writes no gradient: a watched run ends with
    the bits of one that was not watched.

    Args:
        model: a model with a `loss`.
        training: what is known of its training.
    """

    def __init__(self, model: Any, training: KnownTraining):
        self.model, self.training = model, training
        self.wait: float = _FIRST
        self.updates, self.seconds, self.clipped, self.looks = 0, 0.0, 0, 0  # the first three since the last look
        self.known: dict[str, str] = {}
        self.norms: list[float] = []

    def count_update(self, seconds: float, clipped: bool) -> bool:
        """Takes note of an update that took so long; returns whether to look after it."""
        self.updates, self.seconds, self.clipped = self.updates + 1, self.seconds + seconds, self.clipped + clipped
        return self.updates >= self.wait

    def look(self, last_step: Any, state: Any, norm: float) -> Look:
        """Looks at the present weights.

        Args:
            last_step: a batch whose last step alone counts.
            state: what training began the batch from.
            norm: the gradient's, of this update.
        """
        began = time.monotonic()
        self.norms = [*self.norms[-30:], *([norm] if math.isfinite(norm) else [])]
        known = dataclasses.replace(self.training, gradient_norm=statistics.median(self.norms) if self.norms else None)
        try:
            with evaluating(self.model):
                flows, recordings = gradient_flow(self.model, lambda: self.model.loss(last_step, state).sum)
        except ConfigError as error:
            self.wait = math.inf
            return Look("", {}, [f"gradients cannot be watched: {error}"])
        saturations = [saturation(recording, most_rows=512) for recording in recordings]
        verdicts = judge(flows, saturations, recordings, known)
        longest, rate = max(flows, key=lambda flow: flow.memory_horizon), self.clipped / max(1, self.updates)
        summary = f"horizon {longest.reach}  growth {longest.growth:.3f}  clipped {rate:.0%}"
        values = {
            "memory_horizon": longest.memory_horizon, "growth": longest.growth, "clip_rate": rate, "verdict": verdicts[0].kind
        }  # fmt: skip
        for flow in flows:
            values |= {f"memory_horizon/{flow.layer}": flow.memory_horizon, f"growth/{flow.layer}": flow.growth}
        self._plan(time.monotonic() - began)
        return Look(summary, values, self._news(verdicts))

    def _plan(self, cost: float) -> None:
        """When to look again, after a look that took so long."""
        per_update = max(self.seconds / max(1, self.updates), 1e-9)
        self.wait = max(_FIRST, math.ceil(cost / (_SHARE * per_update)))
        self.wait = self.wait if self.looks else min(self.wait, _SECOND)
        self.updates, self.seconds, self.clipped, self.looks = 0, 0.0, 0, self.looks + 1

    def _news(self, verdicts: list[Verdict]) -> list[str]:
        now = {verdict.layer: verdict.kind for verdict in verdicts if verdict.kind != "healthy"}
        news = []
        for verdict in verdicts:
            if verdict.layer in now and self.known.get(verdict.layer) != verdict.kind:
                news.append(str(verdict) + (f" Remedy: {verdict.remedies[0]}." if verdict.remedies else ""))
        news += [f"{layer}: no longer {kind}." for layer, kind in self.known.items() if layer not in now]
        self.known = now
        return news
