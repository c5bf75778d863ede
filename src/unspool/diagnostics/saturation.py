"""Saturation: how much of each gate lies at its bounds, dead ReLUs, how long the forget gate keeps, states over time.

What is bounded is read off the traced program, so that a cell of one's own is measured like those of the catalogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unspool.cells import GatedCell
from unspool.diagnostics.recording import Recording, evaluating
from unspool.errors import LoweringError
from unspool.kernels import Instruction, Program, parse
from unspool.kernels.program import Operand

NEAR = 0.05
"""A value is near a bound within this share of the distance between the bounds."""
_BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}


@dataclass(frozen=True)
class Activation:
    """One sigmoid, tanh or ReLU of a cell's equations, over all steps, sequences and units.

    Attributes:
        name: its gate; or what it is applied to, as in ``tanh(c)``.
        kind: sigmoid, tanh or relu.
        low, high: share of values within 5 % of the lower and of the upper bound; of a ReLU, share of zeros and 0.
        dead: share of the units of a ReLU that are zero at every step.
        spread: standard deviation of what it is applied to.
        values: [N, H] a sample of its values, rows in the order of time.
    """

    name: str
    kind: str
    low: float
    high: float
    dead: float
    spread: float
    values: Tensor = field(repr=False)


@dataclass(frozen=True)
class Saturation:
    """What one layer's activations and states did.

    Attributes:
        layer: its name.
        activations: those of its equations; empty where the cell has no program.
        time_constants: [H] steps after which a unit's keeping gate has let 1/e of its state remain, from the mean gate;
            None without such a gate.
        state_norms: for each state, [T] the root mean square over the batch of its norm; beyond its length a state stands still.
        first_nonfinite: the first step with a NaN or infinite state; None where there is none.
    """

    layer: str
    activations: tuple[Activation, ...]
    time_constants: Tensor | None
    state_norms: dict[str, Tensor]
    first_nonfinite: int | None


@torch.no_grad()
def saturation(recording: Recording, most_rows: int = 4096) -> Saturation:
    """Measures a recording.

    Args:
        recording: what a scan did.
        most_rows: how many of its T*B rows are looked at; evenly spaced.
    """
    norms = {
        n: s.norm(dim=-1).square().mean(1).sqrt().cpu() for n, s in zip(recording.names, recording.states, strict=True)
    }
    bad = [
        # where a state begins at -inf, that is the log-scale of an empty memory
        (~(s < torch.inf) if bool((begin == -torch.inf).any()) else ~s.isfinite()).flatten(1).any(1)
        for s, begin in zip(recording.states, recording.initial, strict=True)
    ]
    steps = torch.stack(bad).any(0).nonzero()
    first = None if not len(steps) else int(steps[-1 if recording.reverse else 0])
    with evaluating(recording.cell):
        activations = _activations(recording, most_rows)
    keeping = [a for a in activations if a.name == recording.cell.keeping_gate and a.kind == "sigmoid"]
    constants = -1 / keeping[0].values.double().mean(0).clamp(1e-6, 1 - 1e-7).log() if keeping else None
    return Saturation(recording.layer, activations, constants, norms, first)


def _activations(recording: Recording, most_rows: int) -> tuple[Activation, ...]:
    try:
        program = parse(
            recording.cell.programs().forward
            if isinstance(recording.cell, GatedCell)
            else recording.cell.step_program()
        )
    except LoweringError:
        return ()
    found = _find(program, recording.cell.gates, recording.names)
    if not found or not recording.x.numel():
        return ()
    exposed = Program(program.sizes, program.instructions, tuple(v for f in found for v in f[2:]))
    values = iter(exposed(*_inputs(recording, most_rows)))
    return tuple(_measure(name, kind, next(values), next(values)) for name, kind, _, _ in found)


def _inputs(recording: Recording, most_rows: int) -> list[Tensor]:
    """What the program takes, for evenly spaced rows [N, H] of the real steps."""
    num_steps, batch_size = recording.x.shape[:2]
    rows = torch.arange(num_steps * batch_size, device=recording.x.device)
    if recording.lengths is not None:
        rows = rows[(rows // batch_size) < recording.lengths.to(rows.device)[rows % batch_size]]
    rows = rows[:: max(1, -(-len(rows) // most_rows))]
    weights, width = recording.weights, recording.cell.hidden_size
    x = recording.cell.project(recording.x.flatten(0, 1)[rows].unsqueeze(0), weights)[0].to(recording.states[0].dtype)
    state = [s.flatten(0, 1)[rows] for s in recording.before()]
    inputs = list(x.split(width, -1))
    if weights.weight_hh is not None:
        weight = weights.matrices[0] if weights.matrices else weights.weight_hh  # h is a projection: W_hh takes it
        inputs += nn.functional.linear(state[0], weight, weights.bias_hh).split(width, -1)
    if isinstance(recording.cell, GatedCell) or weights.weight_hh is None:
        inputs += state
    return inputs + ([] if weights.vectors is None else list(weights.vectors.unbind(0)))


def _find(program: Program, gates: tuple[str, ...], states: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """Each bounded activation: its name, its kind, the value itself and what it is applied to."""
    made = {i.target: i for i in program.instructions}
    news = dict(zip(program.outputs, states, strict=False))
    reached: dict[str, frozenset[int]] = {}  # gates that a value depends on, not through another activation
    found: list[tuple[str, str, str, str]] = []
    for i in program.instructions:
        below: set[int] = set()
        for operand in i.operands:
            if isinstance(operand, str) and operand[0] in "xh":
                below.add(int(operand[1:]))
            below |= reached.get(str(operand), frozenset())
        kind, source = i.operation, i.operands[0] if i.operands else None
        if i.operation == "where" and _is_relu(i.operands, made):
            kind, source = "relu", i.operands[2]
        if kind in (*_BOUNDS, "relu") and isinstance(source, str):
            name = gates[min(below)] if len(below) == 1 else f"{kind}({news.get(source, source)})"
            found.append((name, kind, i.target, source))
            below = set()
        reached[i.target] = frozenset(below)
    return found


def _is_relu(operands: tuple[Operand, ...], made: Mapping[str, Instruction]) -> bool:
    """Whether ``where condition 0 a`` is ``relu(a)``: PyTorch's own lowers to that."""
    condition = made.get(str(operands[0]))
    return (
        condition is not None
        and operands[1] == 0.0
        and condition.operation == "le"
        and condition.operands == (operands[2], 0.0)
    )


def _measure(name: str, kind: str, values: Tensor, source: Tensor) -> Activation:
    spread = float(source.std()) if source.numel() > 1 else 0.0
    if kind == "relu":
        zero = values <= 0
        return Activation(
            name, kind, float(zero.float().mean()), 0.0, float(zero.all(0).float().mean()), spread, values
        )
    low, high = _BOUNDS[kind]
    near = NEAR * (high - low)
    return Activation(
        name, kind, float((values < low + near).float().mean()), float((values > high - near).float().mean()), 0.0,
        spread, values,
    )  # fmt: skip
