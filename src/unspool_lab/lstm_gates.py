"""The LSTM's memory: along c, the gradient is the product of the forget gates (Gers et al. 2000, Learning to forget)."""

import math
from typing import Any

import torch
from torch import Tensor

from unspool import LSTM, Recurrent
from unspool.diagnostics import COLOURS, gradient_flow
from unspool.initializers import forget_bias_
from unspool_lab.experiment import Experiment, Figure, Result, Row, Say

BIASES = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0)
_UNITS, _STEPS, _SEQUENCES = 32, 60, 4


class CarryLSTM(LSTM):
    """The LSTM whose gates take h as it is but hand no gradient back to it: what is left runs along c alone."""

    def pointwise(self, x: Any, h: Any, state: Any) -> Any:
        return super().pointwise(x, tuple(gate.detach() for gate in h), state)


def _forget_gates(cell: LSTM, x: Tensor, h: Tensor) -> Tensor:
    """f_t of every step from the equations, given all h."""
    assert cell.weight_hh is not None
    assert cell.bias_ih is not None
    assert cell.bias_hh is not None
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    gates = x @ cell.weight_ih.T + cell.bias_ih + before @ cell.weight_hh.T + cell.bias_hh
    return torch.sigmoid(gates.chunk(4, -1)[1])


def _one(bias: float) -> tuple[Row, list[float]]:
    cell = CarryLSTM(8, _UNITS).double()
    forget_bias_(cell, bias)
    layer, x = Recurrent(cell), torch.randn(_STEPS, _SEQUENCES, 8, dtype=torch.float64)
    weight = torch.randn(_SEQUENCES, _UNITS, dtype=torch.float64)
    (flow,), (one,) = gradient_flow(layer, lambda: (layer.unroll(x).states.c[-1] * weight).sum())
    with torch.no_grad():
        forget = _forget_gates(cell, x, one.states.h)
        wanted = [weight]
        for t in range(_STEPS - 1, 0, -1):
            wanted.append(wanted[-1] * forget[t])
        theory = torch.stack(wanted).norm(dim=-1).square().mean(1).sqrt()
    error = float(((flow.gradient_by_lag["c"] - theory) / theory).abs().max())
    kept = math.log(0.5) / math.log(1 / (1 + math.exp(-bias)))
    row: Row = {
        "forget_bias": bias, "theory": 1 / (1 + math.exp(-bias)), "measured": flow.growth, "half_life": kept,
        "memory_horizon": flow.memory_horizon, "relative_error": error,
    }  # fmt: skip
    return row, flow.gradient_by_lag["c"].tolist()


def run(seed: int, say: Say) -> Result:
    """Retention against the forget bias, in float64."""
    torch.manual_seed(seed)
    rows: list[Row] = []
    curves: list[list[float]] = []
    for bias in BIASES:
        say(f"forget bias {bias:+g}")
        row, curve = _one(bias)
        rows.append(row)
        curves.append(curve)
    worst = max(float(r["relative_error"]) for r in rows)  # type: ignore[arg-type]
    holds = worst < 1e-6
    words = (
        f"|dL/dc_t| along c is the product of the forget gates, to {worst:.1e} (float64, {_STEPS} steps, gates that depend "
        "on x and h). With a bias b the gate stands near sigmoid(b): "
        + ", ".join(f"b = {r['forget_bias']:+g} keeps {r['measured']:.3f} a step" for r in rows[2:5])
        + "."
    )

    def paint(figure: Any) -> None:
        decay, factor = figure.subplots(1, 2)
        for colour, bias, curve in zip(COLOURS, BIASES, curves, strict=False):
            decay.plot([v / curve[0] for v in curve], color=colour, label=f"b = {bias:+g}")
        decay.set(yscale="log", ylim=(1e-6, 2), xlabel="lag", title="|dL/dc| by lag")
        decay.legend(fontsize=7)
        fine = [b / 10 for b in range(-30, 61)]
        factor.plot(fine, [1 / (1 + math.exp(-b)) for b in fine], color="#777777", label="sigmoid(b)")
        factor.plot(BIASES, [r["measured"] for r in rows], "o", color=COLOURS[0], label="measured")
        factor.set(xlabel="forget bias b", title="factor per step", ylim=(0, 1.05))
        factor.legend()

    return Result(
        rows, words, holds, [Figure("Retention", "How much of a gradient the forget gate lets through.", paint)]
    )


EXPERIMENT = Experiment(
    "lstm-gates", "Along the LSTM's cell state the gradient is multiplied by the forget gate alone: what opens it keeps memory.", run
)  # fmt: skip
