"""Gradient flow: how much of a loss reaches the states before it, as a function of the lag, in every layer.

The measure is |dL/ds_t|, the gradient of one step's loss with respect to the states of step t along all paths, read from
zero-valued probes in one pass of the fast engine (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, section 2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import nn

from unspool.diagnostics.recording import Recording, record
from unspool.errors import ConfigError
from unspool.types import Float, Int, Tensor

ARRIVES = 0.01
"""The share of a gradient that counts as arriving; beyond the memory horizon less than this does."""
_FITTED = 1e-8  # gradients smaller than this share of the first do not enter the fit: they teach nothing
_MOST_LAGS = 10_000


@dataclass(frozen=True)
class GradientFlow:
    """What reaches the states of one layer, by the lag between them and the loss.

    Attributes:
        layer: its name.
        reverse: it reads from the end, so that its lags run into the future.
        gradient_by_lag: for each state, the root mean square over the batch of |dL/ds|, [K]; the first is lag 0.
        total: the same of all states together, [K].
        growth: factor per step, fitted to log |dL/ds| from lag 1 on; 0 where nothing arrives, NaN with fewer than three lags.
        growth_low, growth_high: its 95 % confidence interval, from the slopes of the batch's sequences; of a single
            sequence, from the steps of its logarithm.
        memory_horizon: the last lag at which at least 1 % of the gradient at lag 0 (or 1, if that is larger) arrives.
        bounded: the horizon lies within the lags that were measured.
        finite: no gradient is NaN or infinite.
    """

    layer: str
    reverse: bool
    gradient_by_lag: dict[str, Tensor]
    total: Float[Tensor, " K"]
    growth: float
    growth_low: float
    growth_high: float
    memory_horizon: int
    bounded: bool
    finite: bool

    @property
    def reference(self) -> Float[Tensor, ""]:
        """What shares are of: `total` at lag 0 or 1, whichever is larger."""
        return _reference(self.total)

    @property
    def shares(self) -> Float[Tensor, " K"]:
        """`total` against its `reference`."""
        return self.total / self.reference

    @property
    def reach(self) -> str:
        """The horizon in words: with a plus where it lies beyond what was measured."""
        return f"{self.memory_horizon}{'' if self.bounded else '+'}"

    def arriving(self, lag: int) -> float:
        """The largest share that arrives at this lag or beyond it; 0 beyond the lags that were measured."""
        return float(self.shares[lag:].max()) if lag < len(self.total) else 0.0


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
        ConfigError: the loss ran no scan, or depends on none, or the cell of one takes no probes.
    """
    with record(model) as found, torch.enable_grad():
        value = loss()
    if not found:
        raise ConfigError(
            "gradient_flow: the loss ran no Recurrent layer or unspool.nn module; for modules of torch.nn call "
            "unspool.accelerate(model) first."
        )
    if not value.requires_grad or value.numel() != 1:
        what = f"is {list(value.shape)}" if value.numel() != 1 else "depends on no recurrent layer; is it detached?"
        raise ConfigError(f"gradient_flow: the loss must be one number with a gradient, this one {what}")
    probes = [probe for recording in found for probe in recording.probes]
    gradients = iter(torch.autograd.grad(value, probes, allow_unused=True))
    flows = []
    for recording in found:
        own = [next(gradients) for _ in recording.probes]
        if all(gradient is None for gradient in own) and len(recording.x):
            raise ConfigError(
                f"gradient_flow: no gradient reaches {recording.layer}: the loss does not depend on it, or the unroll of "
                f"{type(recording.cell).__name__} does not add noise.probes to its states."
            )
        flows.append(_flow(recording, _norms(recording, own, at)))
    return flows, found


def student_quantile(probability: float, freedom: int) -> float:
    """A quantile of Student's t distribution.

    Exact for one and two degrees of freedom, otherwise by the expansion about the normal distribution (Abramowitz &
    Stegun 26.7.5), to a hundredth from four on.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (place + 1) for place, term in enumerate(terms))


def _norms(recording: Recording, gradients: Sequence[Tensor | None], at: Tensor | int | None) -> Float[Tensor, "S K B"]:
    """|dL/ds| of each state by the lag from step `at`; NaN beyond a sequence's first step."""
    num_steps, batch_size = recording.x.shape[:2]
    last = torch.full((batch_size,), num_steps) if recording.lengths is None else recording.lengths.cpu()
    steps = _steps(last, at).to(recording.x.device)
    lags = torch.arange(min(num_steps, _MOST_LAGS), device=recording.x.device).unsqueeze(1)
    places = steps + lags if recording.reverse else steps - lags
    inside = (places >= 0) & (places < last.to(places))
    kept = places.clamp(0, max(0, num_steps - 1))
    found = []
    for probe, gradient in zip(recording.probes, gradients, strict=True):
        norms = (torch.zeros_like(probe) if gradient is None else gradient).double().norm(dim=-1)
        found.append(torch.where(inside, norms.gather(0, kept), torch.nan))
    whole = torch.stack(found)
    return whole[:, inside.any(1)]


def _steps(last: Int[Tensor, " B"], at: Tensor | int | None) -> Int[Tensor, " B"]:
    """The step whose loss is measured, of each sequence."""
    if at is None:
        return last - 1
    steps = torch.as_tensor(at).cpu()
    if steps.is_floating_point() or steps.shape not in ((), last.shape):
        raise ConfigError(f"gradient_flow: at must be an integer, or {list(last.shape)} of them, got {at}.")
    steps = steps.long().expand(len(last))
    if bool(((steps < 0) | (steps >= last)).any()):
        raise ConfigError(f"gradient_flow: at must lie within each sequence, {last.tolist()} steps long, got {at}.")
    return steps


def _flow(recording: Recording, norms: Float[Tensor, "S K B"]) -> GradientFlow:
    if not norms.shape[1]:
        raise ConfigError(f"gradient_flow: {recording.layer} read no step that the loss could be of.")
    rows = norms.square().sum(0).sqrt()
    total = rows.square().nanmean(1).sqrt()
    finite = bool(total.isfinite().all())
    growth, low, high = _fit(rows, total)
    reference = _reference(total)
    arrived = (~(total < ARRIVES * reference)).nonzero()  # what is not a number is not small
    horizon = int(arrived[-1]) if len(arrived) and float(reference) != 0 else 0
    each = {n: state.square().nanmean(1).sqrt().cpu() for n, state in zip(recording.names, norms, strict=True)}
    bounded = finite and horizon < len(total) - 1
    return GradientFlow(
        recording.layer, recording.reverse, each, total.cpu(), growth, low, high, horizon, bounded, finite
    )


def _reference(total: Float[Tensor, " K"]) -> Tensor:
    return total[:2].max()


def _fit(rows: Float[Tensor, "K B"], total: Float[Tensor, " K"]) -> tuple[float, float, float]:
    """Growth per step and its confidence interval: the mean of one least-squares slope for each sequence."""
    usable = ((total[1:] > _FITTED * _reference(total)) & total[1:].isfinite()).long().cumprod(0)  # without a gap
    logs = rows[1 : 1 + int(usable.sum())].clamp(min=1e-300).log()
    there = logs.isfinite() & (logs > math.log(1e-290))
    counts = there.sum(0)
    logs, there = logs[:, counts >= 3].nan_to_num(), there[:, counts >= 3].to(logs.dtype)
    if not there.numel():
        return (0.0, 0.0, 0.0) if len(total) > 1 and not float(total[1:].sum()) else (math.nan,) * 3
    counts = there.sum(0)
    lags = torch.arange(len(logs), dtype=logs.dtype, device=logs.device).unsqueeze(1)
    centred = (lags - (there * lags).sum(0) / counts) * there
    slopes = (centred * logs).sum(0) / centred.square().sum(0)
    # of one sequence: its logarithm is a sum of steps, whose spread says how well their mean is known
    samples = slopes if len(slopes) > 1 else logs[: int(counts[0]), 0].diff()
    error = float(samples.std() / math.sqrt(len(samples))) * student_quantile(0.975, len(samples) - 1)
    mean = float(slopes.mean())
    return math.exp(mean), math.exp(mean - error), math.exp(mean + error)
