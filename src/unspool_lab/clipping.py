"""Clipping the norm of the gradient (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, algorithm 1)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Generator, nn

from unspool import Recurrent
from unspool.diagnostics import COLOURS
from unspool_lab.experiment import Experiment, Figure, Result, Row, Say
from unspool_lab.long_range import UNITS, adding, irnn

_LAG, _UPDATES, _RATE, _MOMENTUM, _CLIP = 20, 2500, 0.03, 0.9, 0.3
_CHANCE = 1 / 6  # variance of the sum of two numbers from 0..1: the error of always saying 1


class _Run(NamedTuple):
    errors: list[float]
    norms: list[float]
    diverged: bool


def _train(clip: float, seed: int) -> _Run:
    torch.manual_seed(seed)
    generator: Generator = torch.Generator().manual_seed(seed + 1)
    layer, head = Recurrent(irnn(2)), nn.Linear(UNITS, 1)
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=_RATE, momentum=_MOMENTUM)
    errors: list[float] = []
    norms: list[float] = []
    for _ in range(_UPDATES):
        x, wanted = adding(_LAG, generator)
        loss = (head(layer(x).output[-1]).squeeze(-1) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, clip or math.inf))
        errors.append(float(loss.detach()))
        norms.append(norm)
        if not math.isfinite(norm) or not errors[-1] < 1e6:
            return _Run(errors, norms, True)
        optimizer.step()
    return _Run(errors, norms, False)


def run(seed: int, say: Say) -> Result:
    """The same run, the same seed, with and without clipping."""
    runs: dict[float, _Run] = {}
    rows: list[Row] = []
    for clip in (0.0, _CLIP):
        say(f"up to {_UPDATES} updates, " + (f"clipped at norm {clip:g}" if clip else "not clipped"))
        one = runs[clip] = _train(clip, seed)
        tail = one.errors[-50:]
        rows.append(
            {"clip": clip, "diverged": one.diverged, "updates": len(one.errors), "largest_norm": max(one.norms),
             "final_error": None if one.diverged else math.fsum(tail) / len(tail), "chance": _CHANCE}
        )  # fmt: skip
    without, clipped = rows
    learned = clipped["final_error"] is not None and float(clipped["final_error"]) < _CHANCE / 3
    holds = bool(without["diverged"]) and learned
    words = (
        f"An IRNN on the adding problem (lag {_LAG}, SGD with momentum, learning rate {_RATE:g}): without clipping "
        + ("it diverges" if without["diverged"] else "it does not diverge")
        + f" in {without['updates']} updates, the largest norm of its gradient being {without['largest_norm']:.2g}; clipped at {_CLIP:g} it "
        + (
            f"learns: squared error {clipped['final_error']:.3f}, chance {_CHANCE:.3f}."
            if learned
            else "does not learn."
        )
    )

    def paint(figure: Any) -> None:
        errors, norms = figure.subplots(1, 2)
        for colour, (clip, one) in zip((COLOURS[3], COLOURS[0]), runs.items(), strict=True):
            label = f"clipped at {clip:g}" if clip else "not clipped"
            mark = "o-" if len(one.errors) < 50 else "-"
            errors.plot(range(1, len(one.errors) + 1), one.errors, mark, color=colour, lw=0.8, ms=3, label=label)
            norms.plot(range(1, len(one.norms) + 1), one.norms, mark, color=colour, lw=0.8, ms=3, label=label)
        errors.axhline(_CHANCE, color="#555555", ls=":", lw=0.8)
        errors.set(
            xscale="log", yscale="log", xlabel="update", title="squared error (dotted: chance)", ylim=(1e-3, 1e3)
        )
        norms.set(xscale="log", yscale="log", xlabel="update", title="norm of the gradient before clipping")
        norms.legend()

    return Result(rows, words, holds, [Figure("Clipping", "One seed, two runs.", paint)])


EXPERIMENT = Experiment(
    "clipping", "Where gradients explode now and then, scaling them down to a largest norm lets a run learn that would diverge.", run
)  # fmt: skip
