"""ReLU and the variance k/n: E|h|^2 grows by k/2 a step, forward and backward (He et al. 2015, arXiv 1502.01852)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unspool import Elman, Recurrent
from unspool.diagnostics import COLOURS, gradient_flow, student_quantile
from unspool.initializers import variance_
from unspool_lab.experiment import Experiment, Figure, Result, Row, Say, slope

VARIANCES = (1.0, 1.5, 2.0, 3.0)
_UNITS, _STEPS, _DRAWS, _SEQUENCES = 1024, 12, 20, 8


def _draw(k: float) -> tuple[Tensor, Tensor]:
    """|h_t|^2 by step and |dL/dh_t|^2 by lag, one draw of the weights, both beginning at 1."""
    cell = Elman(1, _UNITS, bias=False, activation=torch.relu)
    variance_(cell, k)
    layer, x = Recurrent(cell), torch.zeros(_STEPS, _SEQUENCES, 1)
    begin = type(cell.initial_state(1))(torch.randn(_SEQUENCES, _UNITS) / math.sqrt(_UNITS))
    end = torch.randn(_SEQUENCES, _UNITS) / math.sqrt(_UNITS)
    (flow,), (one,) = gradient_flow(layer, lambda: (layer(x, begin).output[-1] * end).sum())
    sizes = torch.cat([begin.h.unsqueeze(0), one.states.h]).double().square().sum(-1).mean(1)
    return sizes, flow.total.square()


def _row(k: float, direction: str, draws: Sequence[Tensor], quantile: float) -> Row:
    """Slope of log E over all draws; its interval from leaving out one draw at a time (the jackknife)."""
    whole = torch.stack(list(draws))
    measured = slope(whole.mean(0).log().tolist())
    without = [slope(torch.cat([whole[:i], whole[i + 1 :]]).mean(0).log().tolist()) for i in range(len(whole))]
    centre = math.fsum(without) / len(without)
    error = math.sqrt((len(without) - 1) / len(without) * math.fsum((s - centre) ** 2 for s in without))
    theory = math.log(k / 2)
    low, high = measured - quantile * error, measured + quantile * error
    return {
        "k": k, "direction": direction, "theory": theory, "measured": measured, "low": low, "high": high,
        "within": low <= theory <= high,
    }  # fmt: skip


def run(seed: int, say: Say) -> Result:
    """Twenty draws of a recurrent matrix of 1,024 units for each variance."""
    torch.manual_seed(seed)
    count = 2 * len(VARIANCES)
    quantile = student_quantile(1 - 0.025 / count, _DRAWS - 1)
    rows: list[Row] = []
    curves: dict[tuple[float, str], Tensor] = {}
    for k in VARIANCES:
        say(f"variance {k:g}/n: {_DRAWS} draws of {_UNITS} units")
        forward, backward = zip(*(_draw(k) for _ in range(_DRAWS)), strict=True)
        for direction, draws in (("forward", forward), ("backward", backward)):
            rows.append(_row(k, direction, draws, quantile))
            curves[k, direction] = torch.stack(list(draws)).mean(0)
    holds = all(bool(row["within"]) for row in rows)
    low, high = rows[0], rows[-2]
    words = (
        f"Forward, variance {low['k']:g}/n changes E|h|^2 by a factor of {math.exp(float(low['measured'])):.3f} a step "  # type: ignore[arg-type]
        f"(theory {float(low['k']) / 2:.3f}) and {high['k']:g}/n by {math.exp(float(high['measured'])):.3f} "  # type: ignore[arg-type]
        f"({float(high['k']) / 2:.3f}); the squared gradient does the same on its way back. "  # type: ignore[arg-type]
        + ("Every" if holds else "Not every")
        + f" measured slope has log(k/2) within its interval; {count} such intervals hold together with 95 % confidence."
    )

    def paint(figure: Any) -> None:
        for axes, direction in zip(figure.subplots(1, 2), ("forward", "backward"), strict=True):
            for colour, k in zip(COLOURS, VARIANCES, strict=False):
                values = curves[k, direction]
                axes.plot(values, "o", color=colour, ms=4, label=f"k = {k:g}")
                axes.plot([float(values[0]) * (k / 2) ** t for t in range(len(values))], "-", color=colour, lw=1)
            axes.set(yscale="log", xlabel="step" if direction == "forward" else "lag",
                     title="E|h|^2" if direction == "forward" else "E|dL/dh|^2")  # fmt: skip
            axes.legend()

    return Result(rows, words, holds, [Figure("Growth under variance k/n", "Points are measured, lines have the slope log(k/2).", paint)])  # fmt: skip


EXPERIMENT = Experiment(
    "relu-variance",
    "In a ReLU network whose recurrent weights have variance k/n, E|h|^2 and E|dL/dh|^2 grow by k/2 a step: 3/n explodes, "
    "1.5/n vanishes, 2/n keeps.",
    run,
)
