"""Sigmoid and tanh are bounded, but near their bounds gradients die."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unspool import Elman, Recurrent
from unspool.diagnostics import COLOURS, gradient_flow
from unspool.diagnostics import saturation as measure
from unspool_lab.experiment import Experiment, Figure, Result, Row, Say

SCALES = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}
_UNITS, _STEPS, _SEQUENCES, _SMALL = 256, 2, 256, 1e-3


def _theory(name: str, scale: float) -> float:
    """sqrt(E f'(z)^2) for z normal with a standard deviation of `scale`, by the trapezoid rule."""
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    f = ACTIVATIONS[name](scale * z)
    slopes = f * (1 - f) if name == "sigmoid" else 1 - f * f
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(float(torch.trapezoid(slopes.square() * density, z)))


def _measured(name: str, scale: float) -> tuple[float, float]:
    """The factor per step of a gradient that passes f' alone, from probes; and the share of values near the bounds."""
    cell = Elman(_UNITS, _UNITS, bias=False, activation=ACTIVATIONS[name]).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.eye(_UNITS))
        assert cell.weight_hh is not None
        cell.weight_hh.copy_(_SMALL * torch.eye(_UNITS))  # so small that z is x, yet a known factor for the gradient
    layer, x = Recurrent(cell), scale * torch.randn(_STEPS, _SEQUENCES, _UNITS, dtype=torch.float64)
    end = torch.randn(_SEQUENCES, _UNITS, dtype=torch.float64)
    (flow,), (one,) = gradient_flow(layer, lambda: (layer(x).output[-1] * end).sum())
    (activation,) = measure(one).activations

    factor = float(flow.total[1] / flow.total[0])
    return factor / _SMALL, activation.low + activation.high


def run(seed: int, say: Say) -> Result:
    """Derivative against the scale of what enters the activation."""
    torch.manual_seed(seed)
    rows: list[Row] = []
    for name in ACTIVATIONS:
        say(f"{name}: pre-activations of standard deviation {SCALES[0]:g} to {SCALES[-1]:g}")
        for scale in SCALES:
            theory, (measured, near) = _theory(name, scale), _measured(name, scale)
            rows.append(
                {"activation": name, "scale": scale, "theory": theory, "measured": measured, "near_bounds": near}
            )
    worst = max(abs(float(r["measured"]) / float(r["theory"]) - 1) for r in rows)  # type: ignore[arg-type]
    small, large = (next(r for r in rows if r["activation"] == "sigmoid" and r["scale"] == s) for s in (0.1, 16.0))
    holds = worst < 0.15
    words = (
        "The derivative that a gradient is multiplied with at each step falls as the activation is driven to its bounds: of a "
        f"sigmoid from {small['measured']:.3f} to {large['measured']:.3f} (root mean square), with {large['near_bounds']:.0%} of "
        f"its values within 5 % of a bound. Largest deviation from theory: {worst:.1%}."
    )

    def paint(figure: Any) -> None:
        slopes, shares = figure.subplots(1, 2)
        for colour, name in zip(COLOURS, ACTIVATIONS, strict=False):
            own = [r for r in rows if r["activation"] == name]
            scales = [r["scale"] for r in own]
            slopes.plot(scales, [r["theory"] for r in own], "-", color=colour)
            slopes.plot(scales, [r["measured"] for r in own], "o", color=colour, label=name)
            shares.plot(scales, [r["near_bounds"] for r in own], "o-", color=colour, label=name)
        slopes.set(xscale="log", yscale="log", xlabel="standard deviation of z", title="derivative, root mean square")
        shares.set(xscale="log", xlabel="standard deviation of z", title="share of values near the bounds", ylim=(0, 1))
        slopes.legend()
        shares.legend()

    return Result(
        rows, words, holds, [Figure("Saturation", "Points are measured through probes, lines are theory.", paint)]
    )


EXPERIMENT = Experiment(
    "saturation", "Sigmoid and tanh keep states bounded, but where they saturate their derivative, and with it the gradient, dies.", run
)  # fmt: skip
