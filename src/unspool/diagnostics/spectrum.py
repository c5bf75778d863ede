"""Spectrum: how small changes of a state grow along a trajectory, and the eigenvalues of the recurrent matrices.

Jacobian-vector products come from PyTorch's forward-mode differentiation of the cell's own equations, in float64.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unspool.diagnostics.recording import Recording
from unspool.types import Noise

_MOST_DIRECTIONS = 512  # that are followed for singular values: seconds for the Jacobians of 64 steps


@dataclass(frozen=True)
class Spectrum:
    """How one layer stretches and shrinks changes of its state.

    Attributes:
        layer: its name.
        exponents: the leading Lyapunov exponents in nats per step, largest first; above zero changes grow.
        lags: steps k for which there are singular values.
        singular_values: for each lag, those of d state_{t+k} / d state_t, largest first. Of a state of more than 512 numbers
            those of its product with 512 random orthonormal directions, which are lower bounds.
        directions: how many directions were followed for them.
        size: numbers in a state.
        eigenvalues: of each gate's recurrent matrix, complex.
        spectral_radius: the largest magnitude among them.
    """

    layer: str
    exponents: Tensor
    lags: tuple[int, ...]
    singular_values: tuple[Tensor, ...]
    directions: int
    size: int
    eigenvalues: dict[str, Tensor] = field(repr=False)
    spectral_radius: dict[str, float]


@torch.no_grad()
def spectrum(recording: Recording, num_exponents: int = 16, most_steps: int = 200, row: int = 0) -> Spectrum:
    """Measures a recording along the trajectory of one sequence.

    Args:
        recording: what a scan did.
        num_exponents: how many exponents, at most the state's size.
        most_steps: steps of the trajectory to follow, its last ones, after the last reset.
        row: the sequence.
    """
    path = _Path(recording, row, most_steps)
    lags = tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= len(path.steps))
    directions = min(path.size, _MOST_DIRECTIONS)
    values = path.singular_values(lags, directions)
    eigenvalues = _eigenvalues(recording)
    radius = {gate: float(found.abs().max()) for gate, found in eigenvalues.items()}
    exponents = path.exponents(num_exponents)
    lags = lags[: len(values)]
    return Spectrum(recording.layer, exponents, lags, values, directions, path.size, eigenvalues, radius)


def lyapunov_exponents(recording: Recording, count: int = 16, most_steps: int = 10_000, row: int = 0) -> Tensor:
    """The leading Lyapunov exponents along a recorded trajectory, in nats per step, largest first.

    The QR method (Benettin et al. 1980; for recurrent networks Vogt et al. 2022, arXiv 2006.14123): orthonormal
    directions are carried through each step's Jacobian and made orthonormal again; exponents are the mean logs of how
    much each was stretched. A tenth of the steps is left for the directions to turn.
    """
    return _Path(recording, row, most_steps).exponents(count)


class _Path:
    """One sequence's trajectory in float64, and the Jacobian of each of its steps applied to tangents."""

    def __init__(self, recording: Recording, row: int, most_steps: int):
        self.cell = deepcopy(recording.cell).double().eval()
        self.weights = recording.weights.map(torch.Tensor.double)
        length = recording.x.shape[0] if recording.lengths is None else int(recording.lengths[row])
        self.x = recording.x[:, row].double()
        self.before = [s[:, row].double() for s in recording.before()]
        order = range(length - 1, -1, -1) if recording.reverse else range(length)
        marks = [
            place for place, t in enumerate(order) if recording.reset is not None and bool(recording.reset[t, row])
        ]
        after = order[marks[-1] + 1 :] if marks else order  # nothing of a state passes a reset
        # an empty memory has the log-scale -inf, whose tangent has no meaning
        self.steps = [t for t in after if all(bool(s[t].isfinite().all()) for s in self.before)][-most_steps:]
        self.sizes = [s.shape[-1] for s in self.before]
        self.size = sum(self.sizes)

    def apply(self, t: int, tangents: Tensor) -> Tensor:
        """The Jacobian of step t times tangents [K, size], one in each row."""
        count = len(tangents)
        x = self.x[t].expand(1, count, -1)

        def step(*state: Tensor) -> tuple[Tensor, ...]:
            new: Any = self.cell.unroll(x, self.cell.state_type(*state), self.weights, Noise())
            return tuple(value[0] for value in new)

        state = tuple(s[t].expand(count, -1).contiguous() for s in self.before)
        given = tuple(part.contiguous() for part in tangents.split(self.sizes, -1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, in its first forward-mode derivative
            return torch.cat(torch.func.jvp(step, state, given)[1], -1)

    def exponents(self, count: int) -> Tensor:
        count = min(count, self.size)
        if not self.steps:
            return torch.zeros(0, dtype=torch.float64)
        frame = self._frame(count)
        sums, counted = torch.zeros(count, dtype=torch.float64), 0
        for place, t in enumerate(self.steps):
            carried = self.apply(t, frame).cpu()
            if not bool(carried.isfinite().all()):
                break
            turned, stretched = torch.linalg.qr(carried.T)
            frame = turned.T.to(self.x.device)
            if place >= len(self.steps) // 10:
                sums, counted = sums + stretched.diagonal().abs().log(), counted + 1
        return (sums / max(1, counted)).sort(descending=True).values

    def singular_values(self, lags: Sequence[int], directions: int) -> tuple[Tensor, ...]:
        tangents, found = self._frame(directions), []
        steps = self.steps[-max(lags, default=0) :] if lags else []
        for place, t in enumerate(steps, start=1):
            tangents = self.apply(t, tangents)
            size = float(tangents.norm())
            if size and not 1e-100 < size < 1e100:  # what follows would be no numbers
                break
            if place in lags:
                found.append(torch.linalg.svdvals(tangents.cpu()))
        return tuple(found)

    def _frame(self, count: int) -> Tensor:
        """Orthonormal directions [K, size], always the same ones."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(self.size, count, dtype=torch.float64, generator=generator)
        frame: Tensor = torch.linalg.qr(drawn)[0].T
        return frame.to(self.x.device)


def _eigenvalues(recording: Recording) -> dict[str, Tensor]:
    weight, width = recording.weights.weight_hh, recording.cell.hidden_size
    if weight is None or weight.shape[-1] != width or not bool(weight.isfinite().all()):
        return {}
    blocks = weight.double().cpu().split(width)
    return {gate: torch.linalg.eigvals(block) for gate, block in zip(recording.cell.gates, blocks, strict=True)}
