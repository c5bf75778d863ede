"""Gradient flow: how much of a loss reaches the states before it, as a function of the lag, in every layer.

The measure is |dL/ds_t|, the gradient of one step's loss with respect to the states of step t along all paths, read from
zero-valued probes in one pass of the fast engine (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, section 2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unspool.diagnostics.recording import Recording, record
from unspool.errors import ConfigError

ARRIVES = 0.01
"""The share of a gradient that counts as arriving; beyond the memory horizon less than this does."""
_FITTED = 1e-8  # gradients smaller than this share of the first do not enter the fit
_MOST_LAGS = 10_000


@dataclass(frozen=True)
class GradientFlow:
    """What reaches the states of one layer, by the lag between them and the loss.

    Attributes:
        layer: its name.
        reverse: it reads from the end, so that its lags run into the future.
        norms: for each state, the root mean square over the batch of |dL/ds|, [lags]; the first is lag 0.
        total: the same of all states together.
        growth: factor per step, fitted to log |dL/ds| over the lags.
        growth_low, growth_high: its 95 % confidence interval, from the sequences of the batch.
        horizon: the last lag at which at least 1 % of the gradient at lag 0 (or 1, if that is larger) arrives.
        bounded: the horizon lies within the lags that were measured.
        finite: no gradient is NaN or infinite.
    """

    layer: str
    reverse: bool
    norms: dict[str, Tensor]
    total: Tensor
    growth: float
    growth_low: float
    growth_high: float
    horizon: int
    bounded: bool
    finite: bool

    def arriving(self, lag: int) -> float:
        """The share of the gradient that arrives at a lag or beyond it, against that at lag 0 or 1."""
        return float(self.total[lag:].max() / _reference(self.total)) if lag < len(self.total) else 0.0


def gradient_flow(
    model: nn.Module, loss: Callable[[], Tensor], at: Tensor | int | None = None
) -> tuple[list[GradientFlow], list[Recording]]:
    """Measures one backward pass from the loss of a single step.

    Args:
        model: holds `Recurrent` layers or modules of `unspool.nn`, at any depth.
        loss: runs the model and returns a sum over the sequences of the loss of one step in each.
        at: [B] or one for all: that step. The last step of each sequence unless given.

    Returns:
        One flow for each scan, in the order in which they ran, and the recordings.

    Raises:
        ConfigError: the model ran no scan, or the loss does not depend on any.
    """
    with record(model) as found, torch.enable_grad():
        value = loss()
    probes = [probe for one in found for probe in one.probes]
    if not found or not value.requires_grad:
        what = "holds no Recurrent layer or unspool.nn module" if not found else "has a loss that depends on none"
        raise ConfigError(
            f"gradient_flow: the model {what}; for torch.nn modules call unspool.accelerate(model) first."
        )
    gradients = iter(torch.autograd.grad(value, probes, allow_unused=True))
    measured = [_norms(one, [next(gradients) for _ in one.probes], at) for one in found]
    return [_flow(one, rows) for one, rows in zip(found, measured, strict=True)], found


def _norms(one: Recording, gradients: Sequence[Tensor | None], at: Tensor | int | None) -> Tensor:
    """|dL/ds| of each state, [S, lags, B], by the lag from step `at`; NaN before a sequence's first step."""
    num_steps, batch_size = one.x.shape[:2]
    last = torch.full((batch_size,), num_steps) if one.lengths is None else one.lengths.cpu()
    steps = (last - 1 if at is None else torch.as_tensor(at).expand(batch_size)).to(one.x.device)
    lags = torch.arange(min(num_steps, _MOST_LAGS), device=one.x.device).unsqueeze(1)
    places = steps + lags if one.reverse else steps - lags
    inside = (places >= 0) & (places < last.to(places))
    kept = places.clamp(0, num_steps - 1)
    found = []
    for probe, gradient in zip(one.probes, gradients, strict=True):
        norms = (torch.zeros_like(probe) if gradient is None else gradient).double().norm(dim=-1)
        found.append(torch.where(inside, norms.gather(0, kept), torch.nan))
    whole = torch.stack(found)
    return whole[:, inside.any(1)]


def _flow(one: Recording, norms: Tensor) -> GradientFlow:
    total_rows = norms.square().sum(0).sqrt()
    total = total_rows.square().nanmean(1).sqrt()
    finite = bool(total.isfinite().all())
    growth, low, high = _fit(total_rows, total)
    arrived = (~(total < ARRIVES * _reference(total))).nonzero()  # what is not a number is not small
    horizon = int(arrived[-1]) if len(arrived) and float(_reference(total)) > 0 else 0
    each = {name: rows.square().nanmean(1).sqrt().cpu() for name, rows in zip(one.names, norms, strict=True)}
    bounded = finite and horizon < len(total) - 1
    return GradientFlow(one.layer, one.reverse, each, total.cpu(), growth, low, high, horizon, bounded, finite)


def _reference(total: Tensor) -> Tensor:
    return total[:2].max()


def _fit(rows: Tensor, total: Tensor) -> tuple[float, float, float]:
    """Growth per step and its confidence interval: the mean of one least-squares slope for each sequence."""
    usable = ((total[1:] > _FITTED * _reference(total)) & total[1:].isfinite()).long().cumprod(0)  # without a gap
    logs = rows[1 : 1 + int(usable.sum())].clamp(min=1e-300).log()
    there = logs.isfinite() & (logs > math.log(1e-290))
    counts = there.sum(0)
    logs, there = logs[:, counts >= 3].nan_to_num(), there[:, counts >= 3].to(logs.dtype)
    if not there.numel():
        return (0.0, 0.0, 0.0) if not float(total[1:].sum()) else (math.nan,) * 3
    counts = there.sum(0)
    lags = torch.arange(len(logs), dtype=logs.dtype, device=logs.device).unsqueeze(1)
    centred = (lags - (there * lags).sum(0) / counts) * there
    across = centred.square().sum(0)
    slopes = (centred * logs).sum(0) / across
    error = float(slopes.std() / math.sqrt(len(slopes))) if len(slopes) > 1 else 0.0
    if len(slopes) == 1:  # one sequence: how far its points lie from the line
        rest = there * (logs - (there * logs).sum(0) / counts) - slopes * centred
        error = float((rest.square().sum(0) / (counts - 2) / across).sqrt())
    mean = float(slopes.mean())
    return math.exp(mean), math.exp(mean - 1.96 * error), math.exp(mean + 1.96 * error)
