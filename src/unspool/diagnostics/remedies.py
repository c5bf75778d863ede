"""Remedies: a verdict in words on each layer, and what to do about it, ranked, each with the figure that led to it.

The thresholds were set so that language models in good order, trained and not, on Python's documentation and on lines that
repeat themselves, are left in peace, and models broken on purpose are not: tests/diagnostics/test_repairs.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from unspool.cells import LinearCell
from unspool.diagnostics.gradient_flow import GradientFlow
from unspool.diagnostics.recording import Recording
from unspool.diagnostics.saturation import Activation, Saturation

KINDS = ("diverged", "exploding", "dead", "saturated", "truncated", "vanishing", "healthy")
"""Verdicts, the gravest first."""

_FEWEST = 4  # lags to judge by
_EXPLODES = 10.0  # how much larger a gradient is at the longest lag than at the shortest
_SATURATED = 0.6  # share of the gates' values near their bounds; 0.44 in a trained GRU (the demo's)
_DEAD = 0.5
_CUT_OFF = 0.25  # of its size that a gradient still has where it is cut; 0.13 in the demo's GRU
_SHORT, _FAST = 10, 0.75  # unless a dependency is named: a horizon below so many steps, at less than so much a step

_PASCANU = "Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063"
_BENGIO = "Bengio 2012, arXiv 1206.5533, section 3.1"
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
        return " ".join(_flag("-".join(name.split("_")), value) for name, value in self.settings.items())

    def __str__(self) -> str:
        return self.action + (f" ({self.flags})" if self.settings else "") + f"; {self.figure} [{self.reference}]"


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"


@dataclass(frozen=True)
class Verdict:
    """What is the matter with one layer: one of `KINDS`, in words, and remedies with the likeliest first."""

    kind: str
    layer: str
    words: str
    remedies: tuple[Remedy, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.layer}{': ' if self.layer else ''}{self.words}"


@dataclass(frozen=True)
class KnownTraining:
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
    training: KnownTraining = KnownTraining(),
) -> list[Verdict]:
    """At most one verdict on each scan, the gravest first; one that says healthy if there is no other.

    Args:
        flows, saturations, recordings: one for each scan, in the same order.
        training: what is known of it.
    """
    layers = [_Layer(*parts, training) for parts in zip(flows, saturations, recordings, strict=True)]
    found = [verdict for layer in layers if (verdict := _judge_layer(layer)) is not None]
    if not found:
        if all(len(f.total) < _FEWEST for f in flows):
            return [Verdict("healthy", "", f"sequences of fewer than {_FEWEST} steps are too short to judge.")]
        reached = ", ".join(f"{f.layer} {f.reach} steps, {f.growth:.3f} a step" for f in flows)
        return [Verdict("healthy", "", f"nothing is the matter. Memory horizon and growth of the gradient: {reached}.")]
    return sorted(found, key=lambda verdict: KINDS.index(verdict.kind))


@dataclass(frozen=True)
class _Layer:
    flow: GradientFlow
    saturation: Saturation
    recording: Recording
    training: KnownTraining

    @property
    def is_relu(self) -> bool:
        return any(a.kind == "relu" for a in self.saturation.activations)

    @property
    def is_gated(self) -> bool:
        """Whether its state can be kept by what the cell decides."""
        return self.recording.cell.keeping_gate is not None or isinstance(self.recording.cell, LinearCell)

    @property
    def bounded_gates(self) -> list[Activation]:
        """Gates with bounds, but for the one that keeps the state, which does so at its bound."""
        cell = self.recording.cell
        if isinstance(cell, LinearCell):
            return []
        return [
            a
            for a in self.saturation.activations
            if a.name in cell.gates and a.name != cell.keeping_gate and a.kind != "relu"
        ]

    @property
    def variance(self) -> float | None:
        """k, where the recurrent weights have the variance k/H; None without such weights."""
        weight = self.recording.weights.weight_hh
        return None if weight is None or weight.numel() < 2 else float(weight.double().var()) * weight.shape[-1]

    def verdict(self, kind: str, words: str, remedies: Iterator[Remedy]) -> Verdict:
        return Verdict(kind, self.flow.layer, words, tuple(remedies))


def _judge_layer(layer: _Layer) -> Verdict | None:
    checks = (_diverged, _exploding, _dead, _saturated, _truncated, _vanishing)  # as in KINDS
    if len(layer.flow.total) < _FEWEST:
        return _diverged(layer)
    return next((verdict for check in checks if (verdict := check(layer)) is not None), None)


def _diverged(layer: _Layer) -> Verdict | None:
    step = layer.saturation.first_nonfinite
    if step is None:
        return None
    said = f"the state is not finite from step {step} on"

    def remedies() -> Iterator[Remedy]:
        yield from _rescaled(layer)
        yield from _clipped(layer)
        yield from _slower(layer, said)

    return layer.verdict("diverged", f"{said}.", remedies())


def _exploding(layer: _Layer) -> Verdict | None:
    flow, last = layer.flow, len(layer.flow.total) - 1
    grown = float(flow.shares[-1])
    if flow.finite and not (last > 1 and grown > _EXPLODES and flow.growth_low > 1.0):
        return None
    over = int(flow.total.isfinite().long().cumprod(0).sum())
    end = f"{grown:.3g} times over {last} steps" if flow.finite else f"beyond all numbers after {over} steps"
    rate = "" if math.isnan(flow.growth) else f"by a factor of {flow.growth:.3f} a step, "

    def remedies() -> Iterator[Remedy]:
        yield from _rescaled(layer)
        yield from _clipped(layer)
        yield from _gated(layer, f"gradients grow {rate}{end}")
        yield from _slower(layer, f"gradients grow {rate}{end}")

    return layer.verdict("exploding", f"gradients explode, {rate}{end}.", remedies())


def _dead(layer: _Layer) -> Verdict | None:
    dead = max((a.dead for a in layer.saturation.activations), default=0.0)
    if dead < _DEAD:
        return None
    said = f"{dead:.0%} of the ReLU units are zero at every step that was looked at"

    def remedies() -> Iterator[Remedy]:
        if layer.variance is not None:
            yield Remedy("start again from recurrent weights of variance 2/H", said, _HE, _VARIANCE_OF_RELU)
        yield from _slower(layer, said)
        yield from _gated(layer, said)

    return layer.verdict("dead", f"{said} and have no gradient.", remedies())


def _saturated(layer: _Layer) -> Verdict | None:
    gates = layer.bounded_gates
    share = sum(a.low + a.high for a in gates) / max(1, len(gates))
    if share < _SATURATED:
        return None
    names, spread, k = " ".join(a.name for a in gates), max(a.spread for a in gates), layer.variance
    inputs = float(layer.recording.x.double().std()) if layer.recording.x.numel() > 1 else 0.0
    wide = f"what enters {names} has a standard deviation of up to {spread:.2g}"

    def remedies() -> Iterator[Remedy]:
        norm = Remedy("normalize what each layer reads", f"{wide}; inputs have one of {inputs:.2g}", _NORM, {"layer_norm": True})  # fmt: skip
        if k is None:
            yield norm
        else:
            weights = f"{wide}; the recurrent weights have variance {k:.3g}/H, PyTorch's default 0.33/H"
            settings = {"recurrent_variance": 0.0, "recurrent_initialization": "default"}
            anew = Remedy("start again from recurrent weights uniform in +-1/sqrt(H)", weights, _GLOROT, settings)
            yield from (anew, norm) if k > 3 else (norm, anew)
        yield from _slower(layer, f"{share:.0%} of the values lie near their bounds")

    words = f"{share:.0%} of the values of {names} lie within 5 % of their bounds, where derivatives are nearly zero."
    return layer.verdict("saturated", words, remedies())


def _truncated(layer: _Layer) -> Verdict | None:
    flow, cut = layer.flow, layer.training.truncation
    left = 0.0 if cut is None else flow.arriving(cut)
    if cut is None or left < _CUT_OFF:
        return None
    wanted = flow.memory_horizon if flow.bounded else 2 * max(flow.memory_horizon, cut)
    steps = min(16 * cut, max(2 * cut, 2 ** math.ceil(math.log2(max(2, wanted)))))
    said = (
        f"at {cut} steps and beyond up to {left:.0%} of the gradient is left; the memory horizon is {flow.reach} steps"
    )
    remedy = Remedy(f"let gradients run through {steps} steps", said, _WILLIAMS, {"bptt_steps": steps})
    words = f"training cuts gradients after {cut} steps, where up to {left:.0%} of their size is left."
    return layer.verdict("truncated", words, iter([remedy]))


def _vanishing(layer: _Layer) -> Verdict | None:
    flow, cell, asked = layer.flow, layer.recording.cell, layer.training.dependency
    needed = asked or _SHORT
    if not flow.bounded or flow.memory_horizon >= needed or len(flow.total) <= needed:
        return None
    if asked is None and not flow.growth_high < _FAST:
        return None
    constants = layer.saturation.time_constants
    said = f"the memory horizon is {flow.reach} steps, {'needed are' if asked else 'worth having are'} {needed}"

    def remedies() -> Iterator[Remedy]:
        yield from _gated(layer, said)
        if constants is not None:
            kept = f"the gate {cell.keeping_gate} keeps half of the units no longer than {float(constants.median()):.1f} steps"
            lag = max(3, needed)
            action = f"open the gate that keeps the state, for lags up to {lag}"
            yield Remedy(action, f"{kept}; {said}", _CHRONO, {"chrono_max_lag": lag})
        if layer.is_gated or layer.variance is None:
            return
        if layer.is_relu:
            settings = {"recurrent_variance": 0.0, "recurrent_initialization": "identity"}
            yield Remedy("begin from the identity (IRNN)", said, _IRNN, settings)
        if layer.variance < 0.9:
            figure = f"the recurrent weights have variance {layer.variance:.2f}/H; {said}"
            yield Remedy("begin from orthogonal recurrent matrices", figure, _SAXE, _ORTHOGONAL)

    words = (
        f"gradients vanish: each step leaves {flow.growth:.0%} of them, and less than 1 % arrives from more than "
        f"{flow.memory_horizon} steps back."
    )
    return layer.verdict("vanishing", words, remedies())


_VARIANCE_OF_RELU = {"recurrent_variance": 2.0, "recurrent_initialization": "default"}
_ORTHOGONAL = {"recurrent_variance": 0.0, "recurrent_initialization": "orthogonal"}


def _rescaled(layer: _Layer) -> Iterator[Remedy]:
    """New recurrent weights, where theirs are too large."""
    k = layer.variance
    if k is None:
        return
    if layer.is_relu and k > 2.1:
        figure = f"their variance is {k:.2f}/H, at which random weights let E|h|^2 grow by {k / 2:.2f} a step"
        action = "initialize the recurrent weights with variance 2/H, which keeps E|h|^2 in a ReLU network"
        yield Remedy(action, figure, _HE, _VARIANCE_OF_RELU)
    elif not layer.is_relu and k > 1.1:
        figure = f"the recurrent weights have variance {k:.2f}/H, an orthogonal matrix 1/H"
        action = "initialize each gate's recurrent matrix orthogonal, so that all its singular values are 1"
        yield Remedy(action, figure, _SAXE, _ORTHOGONAL)


def _clipped(layer: _Layer) -> Iterator[Remedy]:
    norm, clip = layer.training.gradient_norm, layer.training.clip
    if clip:
        return
    known = norm is not None and math.isfinite(norm) and norm > 0
    at = float(f"{norm:.1g}") if known else 1.0
    said = f"the typical norm of the gradient is {norm:.3g}" if known else "the gradient is not known to be clipped"
    yield Remedy(f"clip the gradient at norm {at:g}", said, f"{_PASCANU}, algorithm 1", {"gradient_clip": at})


def _slower(layer: _Layer, figure: str) -> Iterator[Remedy]:
    rate = layer.training.learning_rate
    settings = {} if rate is None else {"learning_rate": float(f"{rate / 4:.2g}")}
    yield Remedy("lower the learning rate to a quarter", figure, _BENGIO, settings)


def _gated(layer: _Layer, figure: str) -> Iterator[Remedy]:
    if not layer.is_gated:
        yield Remedy("take a cell whose gate can keep the state: LSTM or GRU", figure, _HOCHREITER, {"cell": "lstm"})
