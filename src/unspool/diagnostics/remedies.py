"""Remedies: a verdict in words on each layer, and what to do about it, ranked, each with the figure that led to it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from unspool.diagnostics.gradient_flow import GradientFlow
from unspool.diagnostics.recording import Recording
from unspool.diagnostics.saturation import Saturation

KINDS = ("diverged", "exploding", "dead", "saturated", "truncated", "vanishing", "healthy")
"""Verdicts, the gravest first."""

_EXPLODES = 10.0  # how much larger a gradient is at the longest lag than at the shortest
_SATURATED = 0.6  # share of a gate's values near its bounds; trained gates of healthy models reach a third
_DEAD = 0.5
_CUT_OFF = 0.25  # of its size that a gradient still has where it is cut
_SHORT, _FAST = 10, 0.75  # unless a dependency is named: a horizon below so many steps, at less than so much a step

_PASCANU = "Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063"
_HE = "He et al. 2015, arXiv 1502.01852, equation 10"
_SAXE = "Saxe et al. 2014, arXiv 1312.6120"
_HOCHREITER = "Hochreiter & Schmidhuber 1997, Long short-term memory"
_CHRONO = "Tallec & Ollivier 2018, arXiv 1804.11188, equation 16"
_IRNN = "Le et al. 2015, arXiv 1504.00941"
_GLOROT = "Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
_NORM = "Ba et al. 2016, arXiv 1607.06450"
_WILLIAMS = "Williams & Peng 1990, An efficient gradient-based algorithm for on-line training of recurrent networks"


@dataclass(frozen=True)
class Remedy:
    """One thing to do.

    Attributes:
        action: in words.
        figure: the measurement that led to it.
        reference: where it comes from.
        settings: the same as settings of `unspool train`, where they can say it.
    """

    action: str
    figure: str
    reference: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """The settings as flags of the command line."""
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.settings.items())


@dataclass(frozen=True)
class Verdict:
    """What is the matter with one layer: one of `KINDS`, in words, and remedies with the likeliest first."""

    kind: str
    layer: str
    words: str
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True)
class Training:
    """What is known of the training of a model; all of it may be unknown.

    Attributes:
        truncation: steps after which gradients are cut.
        dependency: steps over which the task needs memory.
        clip: the norm at which gradients are clipped; 0: never.
        gradient_norm: a typical norm of the gradient of all weights.
        learning_rate: at its highest.
    """

    truncation: int | None = None
    dependency: int | None = None
    clip: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None


def judge(
    flows: Sequence[GradientFlow],
    saturations: Sequence[Saturation],
    recordings: Sequence[Recording],
    training: Training = Training(),
) -> list[Verdict]:
    """Verdicts, the gravest first, and within one kind in the order of the layers; one that says healthy if there is no other.

    Args:
        flows, saturations, recordings: one for each scan, in the same order.
        training: what is known of it.
    """
    found: list[Verdict] = []
    for flow, state, one in zip(flows, saturations, recordings, strict=True):
        found += _of_layer(_Layer(flow, state, one, training))
    if not found:
        horizons = ", ".join(
            f"{f.layer} {f.horizon}{'' if f.bounded else '+'} steps at {f.growth:.3f} a step" for f in flows
        )
        return [Verdict("healthy", "", f"Gradients neither explode nor vanish: {horizons}.")]
    return sorted(found, key=lambda verdict: KINDS.index(verdict.kind))


@dataclass(frozen=True)
class _Layer:
    flow: GradientFlow
    state: Saturation
    one: Recording
    training: Training

    @property
    def is_relu(self) -> bool:
        return any(a.kind == "relu" for a in self.state.activations)

    @property
    def variance(self) -> float | None:
        """k, where the recurrent weights have the variance k/H."""
        weight = self.one.weights.weight_hh
        return None if weight is None or weight.numel() < 2 else float(weight.double().var()) * weight.shape[-1]


def _of_layer(layer: _Layer) -> Iterator[Verdict]:
    """At most one verdict on gradients, and what else is the matter."""
    flow, state = layer.flow, layer.state
    if state.first_nonfinite is not None:
        words = f"{flow.layer}: diverged; its state is not finite from step {state.first_nonfinite} on."
        yield Verdict("diverged", flow.layer, words, tuple(_against_divergence(layer)))
        return
    grown = float(flow.total[-1] / flow.total[:2].max()) if flow.finite and len(flow.total) > 2 else math.inf
    if not flow.finite or (grown > _EXPLODES and flow.growth_low > 1.0):
        over = int(flow.total.isfinite().long().cumprod(0).sum())
        end = f"{grown:.3g} over {len(flow.total) - 1} steps" if flow.finite else f"beyond all numbers in {over} steps"
        words = f"{flow.layer}: gradients explode, by a factor of {flow.growth:.3f} a step, {end}."
        yield Verdict("exploding", flow.layer, words, tuple(_against_explosion(layer)))
        return
    dead = max((a.dead for a in state.activations), default=0.0)
    if dead >= _DEAD:
        words = f"{flow.layer}: {dead:.0%} of the ReLU units are dead: zero at every step, without a gradient."
        yield Verdict("dead", flow.layer, words, tuple(_against_death(layer, dead)))
        return
    gates = [a for a in state.activations if a.name in layer.one.cell.gates and a.name != layer.one.cell.keeping_gate]
    bounded = [a for a in gates if a.kind != "relu"]
    share = sum(a.low + a.high for a in bounded) / max(1, len(bounded))
    if share >= _SATURATED:
        names = " ".join(a.name for a in bounded)
        words = f"{flow.layer}: saturated; {share:.0%} of the values of {names} lie within 5 % of their bounds."
        yield Verdict("saturated", flow.layer, words, tuple(_against_saturation(layer, share)))
        return
    cut = layer.training.truncation
    if cut is not None and cut < len(flow.total) and flow.arriving(cut) >= _CUT_OFF:
        words = (
            f"{flow.layer}: truncated too early; training cuts gradients after {cut} steps, where they still have "
            f"{flow.arriving(cut):.0%} of their size."
        )
        yield Verdict("truncated", flow.layer, words, tuple(_against_truncation(layer, cut)))
        return
    needed, asked = layer.training.dependency or _SHORT, layer.training.dependency is not None
    fast = asked or flow.growth_high < _FAST
    if flow.bounded and flow.horizon < needed and len(flow.total) > needed and fast:
        words = (
            f"{flow.layer}: gradients vanish by {flow.growth:.3f} a step; less than 1 % arrives from more than "
            f"{flow.horizon} steps back."
        )
        yield Verdict("vanishing", flow.layer, words, tuple(_against_vanishing(layer, needed)))


def _scale(layer: _Layer) -> Iterator[Remedy]:
    """New recurrent weights, where theirs are too large."""
    k = layer.variance
    if k is None:
        return
    if layer.is_relu and k > 2.1:
        yield Remedy(
            "initialize the recurrent weights with variance 2/H, which keeps E|h|^2 in a ReLU network",
            f"their variance is {k:.2f}/H: E|h|^2 grows by {k / 2:.2f} a step", _HE, {"recurrent_variance": 2.0},
        )  # fmt: skip
    elif not layer.is_relu and k > 1.1:
        yield Remedy(
            "initialize each gate's recurrent matrix orthogonal, so that all its singular values are 1",
            f"the recurrent weights have variance {k:.2f}/H, an orthogonal matrix 1/H", _SAXE,
            {"recurrent_variance": 0.0, "recurrent_initialization": "orthogonal"},
        )  # fmt: skip


def _clip(layer: _Layer) -> Iterator[Remedy]:
    norm, clip = layer.training.gradient_norm, layer.training.clip
    if clip:
        return
    at = 1.0 if norm is None or not math.isfinite(norm) else float(f"{norm:.1g}")
    said = "typical norm unknown" if norm is None else f"the typical norm of the gradient is {norm:.3g}"
    yield Remedy(f"clip the gradient at norm {at:g}", said, f"{_PASCANU}, algorithm 1", {"gradient_clip": at})


def _slower(layer: _Layer, figure: str) -> Iterator[Remedy]:
    rate = layer.training.learning_rate
    settings = {} if rate is None else {"learning_rate": float(f"{rate / 4:.2g}")}
    yield Remedy("lower the learning rate to a quarter", figure, _PASCANU, settings)


def _gated(layer: _Layer, figure: str) -> Iterator[Remedy]:
    if layer.one.cell.keeping_gate is None:
        yield Remedy("take a cell whose gate can keep the state: LSTM or GRU", figure, _HOCHREITER, {"cell": "lstm"})


def _against_divergence(layer: _Layer) -> Iterator[Remedy]:
    step = f"the state is not finite from step {layer.state.first_nonfinite} on"
    yield from _scale(layer)
    yield from _clip(layer)
    yield from _slower(layer, step)


def _against_explosion(layer: _Layer) -> Iterator[Remedy]:
    yield from _scale(layer)
    yield from _clip(layer)
    yield from _gated(layer, f"gradients grow by {layer.flow.growth:.3f} a step")
    yield from _slower(layer, f"gradients grow by {layer.flow.growth:.3f} a step")


def _against_death(layer: _Layer, dead: float) -> Iterator[Remedy]:
    said = f"{dead:.0%} of the units are zero at every step"
    settings = {"recurrent_variance": 2.0}
    yield Remedy("start again from recurrent weights of variance 2/H and zero biases", said, _HE, settings)
    yield from _slower(layer, said)
    yield from _gated(layer, said)


def _against_saturation(layer: _Layer, share: float) -> Iterator[Remedy]:
    spread = max((a.spread for a in layer.state.activations), default=math.nan)
    k, x = layer.variance, float(layer.one.x.double().std()) if layer.one.x.numel() > 1 else 1.0
    wide = f"what enters the gates has a standard deviation of up to {spread:.1f}; beyond 3 a sigmoid lies within 5 %"
    anew = Remedy(
        "start again from recurrent weights uniform in +-1/sqrt(H)",
        f"{wide}; the recurrent weights have variance {k:.3g}/H, those of the default 0.33/H" if k else wide,
        _GLOROT, {"recurrent_variance": 0.0, "recurrent_initialization": "default"},
    )  # fmt: skip
    norm = Remedy("normalize what each layer reads", f"{wide}; inputs have a standard deviation of {x:.2g}", _NORM,
                  {"layer_norm": True})  # fmt: skip
    yield from (anew, norm) if k is not None and k > 3 else (norm, anew)
    yield from _slower(layer, f"{share:.0%} of the values lie near their bounds")


def _against_truncation(layer: _Layer, cut: int) -> Iterator[Remedy]:
    flow = layer.flow
    reach = flow.horizon if flow.bounded else 2 * max(flow.horizon, cut)
    steps = min(16 * cut, max(2 * cut, 2 ** math.ceil(math.log2(max(2, reach)))))
    more = "" if flow.bounded else " or more"
    said = f"{flow.arriving(cut):.0%} of the gradient is left at {cut} steps; the horizon is {flow.horizon} steps{more}"
    yield Remedy(f"let gradients run through {steps} steps", said, _WILLIAMS, {"bptt_steps": steps})


def _against_vanishing(layer: _Layer, needed: int) -> Iterator[Remedy]:
    flow, cell, constants = layer.flow, layer.one.cell, layer.state.time_constants
    said = f"{flow.growth:.3f} a step; the horizon is {flow.horizon} steps, wanted are {needed}"
    yield from _gated(layer, said)
    if constants is not None:
        median = float(constants.median())
        lag = max(3, needed)
        kept = f"the gate {cell.keeping_gate} keeps half of the units no longer than {median:.1f} steps"
        yield Remedy(
            f"open the gate that keeps the state, for lags up to {lag}", f"{kept}; {said}", _CHRONO,
            {"chrono_max_lag": lag},
        )  # fmt: skip
    elif layer.is_relu:
        yield Remedy("begin from the identity (IRNN)", said, _IRNN, {"recurrent_initialization": "identity"})
    if layer.variance is not None and layer.variance < 0.9 and cell.keeping_gate is None:
        figure = f"the recurrent weights have variance {layer.variance:.2f}/H; {said}"
        yield Remedy(
            "begin from orthogonal recurrent matrices", figure, _SAXE, {"recurrent_initialization": "orthogonal"}
        )
