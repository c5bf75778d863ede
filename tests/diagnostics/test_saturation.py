import math

import pytest
import torch

from catalogue import BUILDERS
from unspool import GRU, LSTM, Elman, MinGRU, Recurrent
from unspool.diagnostics import record, saturation


def recorded(layer, x, **others):
    with record(layer) as found, torch.no_grad():
        layer(x, **others)
    return found[0]


def test_gates_are_named_and_measured_as_the_equations_say():
    layer, x = Recurrent(LSTM(3, 5)), 4 * torch.randn(7, 2, 3)
    found = saturation(recorded(layer, x))
    assert [(a.name, a.kind) for a in found.activations] == [
        ("i", "sigmoid"), ("f", "sigmoid"), ("g", "tanh"), ("o", "sigmoid"), ("tanh(c)", "tanh"),
    ]  # fmt: skip
    states = layer.unroll(x).states
    before = torch.cat([torch.zeros(1, 2, 5), states.h[:-1]])
    gates = x @ layer.cell.weight_ih.T + layer.cell.bias_ih + before @ layer.cell.weight_hh.T + layer.cell.bias_hh
    i, f, g, _ = gates.chunk(4, -1)
    assert found.activations[0].low == pytest.approx(float((i.sigmoid() < 0.05).float().mean()))
    assert found.activations[0].high == pytest.approx(float((i.sigmoid() > 0.95).float().mean()))
    assert found.activations[2].low == pytest.approx(float((g.tanh() < -0.9).float().mean()))
    assert found.activations[0].spread == pytest.approx(float(i.detach().std()), rel=1e-4)
    torch.testing.assert_close(found.time_constants, -1 / f.sigmoid().double().mean((0, 1)).log(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.state_norms["c"], states.c.norm(dim=-1).square().mean(1).sqrt())
    assert found.first_nonfinite is None


def test_other_cells_have_their_own_activations():
    x = torch.randn(6, 2, 3)
    assert [a.name for a in saturation(recorded(Recurrent(GRU(3, 4)), x)).activations] == ["r", "z", "n"]
    assert all(a.kind == "sigmoid" for a in saturation(recorded(Recurrent(MinGRU(3, 4)), x)).activations)
    for name, build in BUILDERS.items():
        layer = Recurrent(build(3, 4)).eval()
        lengths = torch.tensor([6, 3])
        found = saturation(recorded(layer, x, lengths=lengths))
        assert all(0 <= a.low <= 1 and math.isfinite(a.spread) for a in found.activations), name


def test_dead_units_of_a_relu_are_counted():
    cell = Elman(3, 4, activation=torch.relu)
    with torch.no_grad():
        cell.bias_ih[:3] = -100.0
        cell.bias_ih[3] = 100.0
    (relu,) = saturation(recorded(Recurrent(cell), torch.randn(6, 2, 3))).activations
    assert (relu.kind, relu.dead, relu.low) == ("relu", 0.75, 0.75)


def test_the_first_step_that_is_not_finite_is_named():
    layer, x = Recurrent(Elman(3, 4)), torch.randn(6, 2, 3)
    x[4, 1, 0] = torch.nan
    assert saturation(recorded(layer, x)).first_nonfinite == 4
