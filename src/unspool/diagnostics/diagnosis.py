"""A diagnosis: everything that is measured of a model in one pass, and the verdicts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unspool.diagnostics.gradient_flow import GradientFlow, gradient_flow
from unspool.diagnostics.recording import Recording, evaluating
from unspool.diagnostics.remedies import KnownTraining, Verdict, judge
from unspool.diagnostics.saturation import Saturation, saturation
from unspool.diagnostics.spectrum import Spectrum, spectrum


@dataclass(frozen=True)
class Diagnosis:
    """What was measured, one entry for each scan of the model, and what it means.

    Attributes:
        flows, saturations, spectra, recordings: see `gradient_flow`, `saturation`, `spectrum` and `record`.
        verdicts: the gravest first; one that says healthy if nothing is the matter.
        training: what was known.
    """

    flows: list[GradientFlow]
    saturations: list[Saturation]
    spectra: list[Spectrum]
    recordings: list[Recording]
    verdicts: list[Verdict]
    training: KnownTraining

    def to_values(self) -> dict[str, Any]:
        """All figures as plain values for JSON; what is not finite is None."""
        layers = [_values(*parts) for parts in zip(self.flows, self.saturations, self.spectra, strict=True)]
        verdicts = [
            {
                "kind": v.kind, "layer": v.layer, "words": v.words,
                "remedies": [{**vars(r), "flags": r.flags} for r in v.remedies],
            }
            for v in self.verdicts
        ]  # fmt: skip
        return {
            "verdict": self.verdicts[0].kind,
            "verdicts": verdicts,
            "training": vars(self.training),
            "layers": layers,
        }


def diagnose(
    model: nn.Module,
    loss: Callable[[], Tensor],
    at: Tensor | int | None = None,
    training: KnownTraining = KnownTraining(),
) -> Diagnosis:
    """Measures gradients, saturation and spectrum of every recurrent layer of a model, and judges.

    Args:
        model: holds `Recurrent` layers or modules of `unspool.nn`. It runs in evaluation mode, without dropout, and nothing
            of it is changed.
        loss: runs the model and returns a sum over the sequences of the loss of one step in each.
        at: [B] or one for all: that step; the last of each sequence unless given.
        training: what is known of its training; it makes the verdicts sharper.

    Raises:
        ConfigError: the model has no recurrent layer, or the loss does not depend on it.
    """
    with evaluating(model):
        flows, recordings = gradient_flow(model, loss, at)
    saturations = [saturation(one) for one in recordings]
    spectra = [spectrum(one) for one in recordings]
    return Diagnosis(flows, saturations, spectra, recordings, judge(flows, saturations, recordings, training), training)


def _values(flow: GradientFlow, saturated: Saturation, found: Spectrum) -> dict[str, Any]:
    constants = saturated.time_constants
    return {
        "layer": flow.layer,
        "reverse": flow.reverse,
        "memory_horizon": flow.memory_horizon,
        "horizon_is_bounded": flow.bounded,
        "growth": _number(flow.growth),
        "growth_low": _number(flow.growth_low),
        "growth_high": _number(flow.growth_high),
        "gradient_by_lag": {name: _numbers(norms) for name, norms in flow.norms.items()},
        "first_nonfinite": saturated.first_nonfinite,
        "state_norms": {name: _numbers(norms) for name, norms in saturated.state_norms.items()},
        "activations": [
            {"name": a.name, "kind": a.kind, "low": a.low, "high": a.high, "dead": a.dead, "spread": _number(a.spread)}
            for a in saturated.activations
        ],
        "time_constants": None if constants is None else _numbers(constants),
        "lyapunov_exponents": _numbers(found.exponents),
        "spectral_radius": {gate: _number(radius) for gate, radius in found.spectral_radius.items()},
        "state_size": found.size,
        "singular_directions": found.directions,
        "singular_values": [
            {"lag": lag, "values": _numbers(values)}
            for lag, values in zip(found.lags, found.singular_values, strict=True)
        ],
    }


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
