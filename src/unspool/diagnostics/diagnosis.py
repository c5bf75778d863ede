"""A diagnosis: everything that is measured of a model in one pass, and the verdicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
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
        """All numbers as plain values for JSON, under the names of the attributes; what is not finite stays so."""
        parts = zip(self.flows, self.saturations, self.spectra, strict=True)
        return {
            "verdict": self.verdicts[0].kind,
            "verdicts": [
                {**_plain(v), "remedies": [{**_plain(r), "flags": r.flags} for r in v.remedies]} for v in self.verdicts
            ],
            "training": _plain(self.training),
            "layers": [{name: value for part in layer for name, value in _plain(part).items()} for layer in parts],
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


def _plain(value: Any) -> Any:
    """Dataclasses, tensors and what holds them as what JSON knows, to six digits; fields without a repr are left out."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.repr}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
