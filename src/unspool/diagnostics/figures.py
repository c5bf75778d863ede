"""Figures of a diagnosis as SVG text, drawn with matplotlib: gradients by lag, states, saturation, spectrum."""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unspool.diagnostics.diagnosis import Diagnosis
from unspool.diagnostics.gradient_flow import ARRIVES
from unspool.diagnostics.spectrum import Spectrum
from unspool.errors import ConfigError

COLOURS = ("#3b6ea8", "#d1662f", "#4a9a62", "#a9445b", "#7d5ba6", "#8a7a3a", "#3a9aa0", "#777777")
_STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False,
    "axes.grid": True, "grid.color": "#e8e8e8", "axes.axisbelow": True, "svg.hashsalt": "unspool",
}  # fmt: skip


def draw(paint: Callable[[Any], None], width: float = 9.0, height: float = 3.0) -> str:
    """One figure as an SVG element.

    Args:
        paint: draws into a matplotlib Figure.
        width, height: in inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need the matplotlib package: pip install 'unspool[plots]'.") from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()[text.getvalue().index("<svg") :]


def figures(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """All figures of a diagnosis: a title, what is to be seen in it, and the SVG."""
    found = [
        (
            "Gradient by lag",
            "How much of the gradient of one step's loss reaches the states at each lag (all states of a layer together, root "
            f"mean square over sequences), against that at lag 0 or 1. The dotted line is at {ARRIVES:.0%}: the memory horizon.",
            draw(lambda f: _lags(f, diagnosis), height=3.4),
        ),
        (
            "The same as a map",
            "One row for each state of each layer; a step to the left is a step further from the loss.",
            draw(
                lambda f: _map(f, diagnosis), height=1.1 + 0.35 * sum(len(f.gradient_by_lag) for f in diagnosis.flows)
            ),
        ),
        (
            "Size of the states over time",
            "A norm that keeps growing drives what reads it into saturation; one near zero carries nothing.",
            draw(lambda f: _norms(f, diagnosis)),
        ),
    ]
    if any(s.activations for s in diagnosis.saturations):
        rows = sum(len(s.activations) for s in diagnosis.saturations)
        what = (
            "Share of the values of each gate and activation within 5 % of the lower and the upper bound (of a ReLU: zeros). "
            "There the derivative is nearly zero."
        )
        found.append(("Saturation", what, draw(lambda f: _saturation(f, diagnosis), height=0.9 + 0.22 * rows)))
    if any(s.time_constants is not None for s in diagnosis.saturations):
        what = "Steps after which the gate that keeps the state has let 1/e of it remain, for the units of each layer."
        found.append(("How long units keep", what, draw(lambda f: _constants(f, diagnosis))))
    what = (
        "Left: eigenvalues of each gate's recurrent matrix and the unit circle. Middle: the leading Lyapunov exponents; above "
        "zero, changes of the state grow (chaos). Right: singular values of the state's Jacobian over k steps"
    )
    for one in diagnosis.spectra:
        followed = (
            f" along {one.directions} of {one.size} random directions: lower bounds."
            if one.directions < one.size
            else "."
        )
        found.append((f"Spectrum of {one.layer}", what + followed, draw(partial(_spectrum, one=one))))
    return found


def _lags(figure: Any, diagnosis: Diagnosis) -> None:
    axes = figure.subplots()
    for colour, flow in zip(_colours(diagnosis.flows), diagnosis.flows, strict=True):
        shares = _positive(flow.shares)
        label = f"{flow.layer}: {flow.growth:.3f} a step, horizon {flow.reach}"
        axes.plot(range(len(shares)), shares, color=colour, label=label, lw=1.6)
        if flow.bounded:
            axes.plot([flow.memory_horizon], [shares[flow.memory_horizon]], "o", color=colour, ms=5)
    axes.axhline(ARRIVES, color="#555555", lw=0.8, ls=":")
    if diagnosis.training.truncation:
        axes.axvline(diagnosis.training.truncation, color="#a9445b", lw=0.9, ls="--")
        axes.annotate(" cut in training", (diagnosis.training.truncation, 1.0), color="#a9445b", xycoords=("data", "axes fraction"), va="top")  # fmt: skip
    axes.set(yscale="log", xlabel="lag in steps", ylabel="share of |dL/dstate|", xlim=(None, _seen(diagnosis)))
    axes.set_ylim(bottom=max(1e-8, axes.get_ylim()[0]))
    axes.legend(loc="best")


def _seen(diagnosis: Diagnosis) -> int:
    """Lags worth showing: until the last layer has lost all but a millionth, and what training cuts."""
    seen = [(~(flow.shares <= 1e-6)).nonzero() for flow in diagnosis.flows]
    least = [int(lags[-1]) for lags in seen if len(lags)]
    wanted = max([*(2 * lag for lag in least), diagnosis.training.truncation or 0, 20])
    return min(wanted, max(len(f.total) for f in diagnosis.flows))


def _map(figure: Any, diagnosis: Diagnosis) -> None:
    axes = figure.subplots()
    rows, names = [], []
    lags = _seen(diagnosis)
    for flow in diagnosis.flows:
        for name, norms in flow.gradient_by_lag.items():
            shares = _positive(norms[:lags] / flow.reference)
            rows.append([math.log10(v) if v == v else math.nan for v in shares] + [math.nan] * (lags - len(shares)))
            names.append(f"{flow.layer} {name}")
    image = axes.imshow(rows, aspect="auto", cmap="viridis", vmin=-6, vmax=0.5, interpolation="nearest")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="lag in steps")
    axes.invert_xaxis()
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="log10", pad=0.01)


def _norms(figure: Any, diagnosis: Diagnosis) -> None:
    axes = figure.subplots()
    for colour, state in zip(_colours(diagnosis.saturations), diagnosis.saturations, strict=True):
        for style, (name, norms) in zip(("-", "--", ":", "-."), state.state_norms.items(), strict=False):
            axes.plot(_positive(norms, keep_zero=True), style, color=colour, label=f"{state.layer} {name}", lw=1.2)
    axes.set(xlabel="step", ylabel="|state|", ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _saturation(figure: Any, diagnosis: Diagnosis) -> None:
    axes = figure.subplots()
    bars = [(f"{s.layer} {a.name}", a.low, a.high) for s in diagnosis.saturations for a in s.activations][::-1]
    places = range(len(bars))
    axes.barh(places, [low for _, low, _ in bars], color=COLOURS[0], label="near the lower bound")
    axes.barh(places, [high for *_, high in bars], left=[low for _, low, _ in bars], color=COLOURS[1], label="near the upper bound")  # fmt: skip
    axes.set_yticks(places, [name for name, *_ in bars])
    axes.set(xlim=(0, 1), xlabel="share of values")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _constants(figure: Any, diagnosis: Diagnosis) -> None:
    axes = figure.subplots()
    kept = [(s.layer, s.time_constants) for s in diagnosis.saturations if s.time_constants is not None]
    edges = torch.logspace(-1, 4, 41).tolist()
    for colour, (layer, constants) in zip(_colours(kept), kept, strict=True):
        values = constants.clamp(edges[0], edges[-1]).tolist()
        axes.hist(values, edges, histtype="stepfilled", alpha=0.55, color=colour, label=layer)
    axes.set(xscale="log", xlabel="time constant in steps", ylabel="units")
    axes.legend(loc="best")


def _spectrum(figure: Any, one: Spectrum) -> None:
    plane, exponents, singular = figure.subplots(1, 3)
    around = torch.linspace(0, 2 * math.pi, 200)
    plane.plot(around.cos().tolist(), around.sin().tolist(), color="#999999", lw=0.8)
    for colour, (gate, values) in zip(_colours(one.eigenvalues), one.eigenvalues.items(), strict=True):
        plane.plot(
            values.real.tolist(),
            values.imag.tolist(),
            ".",
            ms=3,
            color=colour,
            label=f"{gate}: radius {one.spectral_radius[gate]:.2f}",
        )
    plane.set(aspect="equal", title="eigenvalues of W_hh" if one.eigenvalues else "no recurrent matrix")
    if one.eigenvalues:
        plane.legend(loc="upper left", bbox_to_anchor=(0, -0.1), fontsize=7)
    exponents.bar(range(1, len(one.exponents) + 1), one.exponents.tolist(), color=COLOURS[0])
    exponents.axhline(0, color="#333333", lw=0.8)
    exponents.set(title="Lyapunov exponents", xlabel="place", ylabel="nats per step")
    for colour, lag, values in zip(_colours(one.lags), one.lags, one.singular_values, strict=True):
        singular.plot(range(1, len(values) + 1), _positive(values), color=colour, label=f"k = {lag}")
    singular.set(yscale="log", title="singular values over k steps", xlabel="place")
    singular.set_ylim(bottom=max(1e-9, singular.get_ylim()[0]))
    singular.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)


def _colours(things: Any) -> Sequence[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(things))]


def _positive(values: Tensor, keep_zero: bool = False) -> list[float]:
    """Numbers to draw; NaN, which leaves a gap, for what a logarithm cannot show."""
    return [v if math.isfinite(v) and (v > 0 or keep_zero) else math.nan for v in values.tolist()]
