"""Golden values: each cell against its paper's equations, written out once more in float64."""

import pytest
import torch

from unspool import (
    GRU,
    LSTM,
    SLSTM,
    CoupledLSTM,
    Elman,
    IndRNN,
    LayerNormLSTM,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    Recurrent,
)
from unspool.cells import find_cell
from unspool.errors import ConfigError, ShapeError

D = torch.float64
sigmoid, tanh = torch.sigmoid, torch.tanh


def _run(cell, x):
    return Recurrent(cell)(x)


def _parts(cell, names):
    """Weights W, U and joint bias b of each gate, by name."""
    cut = lambda t: dict(zip(names, t.split(cell.hidden_size), strict=True))  # noqa: E731
    bias = cell.bias_ih + cell.bias_hh if cell.bias_hh is not None else cell.bias_ih
    return cut(cell.weight_ih), None if cell.weight_hh is None else cut(cell.weight_hh), cut(bias)


def test_elman_is_the_textbooks_recurrence_with_its_output():
    cell = Elman(3, 4, activation=torch.sigmoid, output_size=2, output_activation=lambda y: y.softmax(-1)).double()
    x = torch.randn(5, 2, 3, dtype=D)
    output, _ = _run(cell, x)
    h = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        h = sigmoid(h @ cell.weight_hh.T + x[t] @ cell.weight_ih.T + cell.bias_ih + cell.bias_hh)
        y = (h @ cell.output_map.weight.T + cell.output_map.bias).softmax(-1)
        torch.testing.assert_close(output[t], y)


def test_peephole_lstm_follows_graves_2013():
    cell = PeepholeLSTM(3, 4).double()
    (W, U, b), x = _parts(cell, "ifgo"), torch.randn(5, 2, 3, dtype=D)
    output, _ = _run(cell, x)
    h = c = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        i = sigmoid(x[t] @ W["i"].T + h @ U["i"].T + cell.weight_ci * c + b["i"])
        f = sigmoid(x[t] @ W["f"].T + h @ U["f"].T + cell.weight_cf * c + b["f"])
        c = f * c + i * tanh(x[t] @ W["g"].T + h @ U["g"].T + b["g"])
        o = sigmoid(x[t] @ W["o"].T + h @ U["o"].T + cell.weight_co * c + b["o"])
        h = o * tanh(c)
        torch.testing.assert_close(output[t], h)


def test_coupled_lstm_writes_what_it_forgets():
    cell = CoupledLSTM(3, 4).double()
    (W, U, b), x = _parts(cell, "fgo"), torch.randn(5, 2, 3, dtype=D)
    output, _ = _run(cell, x)
    h = c = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        f, g, o = (x[t] @ W[k].T + h @ U[k].T + b[k] for k in "fgo")
        c = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(g)
        h = sigmoid(o) * tanh(c)
        torch.testing.assert_close(output[t], h)


def test_layer_norm_lstm_normalizes_each_gate_and_the_cell():
    cell = LayerNormLSTM(3, 4).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.uniform_(-1, 1)
    norm = lambda a: torch.nn.functional.layer_norm(a, (4,), eps=1e-5)  # noqa: E731
    (W, U, b), x = _parts(cell, "ifgo"), torch.randn(5, 2, 3, dtype=D)
    gains = dict(zip("ifgo", cell.gain_ih.split(4), strict=True))
    output, _ = _run(cell, x)
    h = c = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        a = {k: gains[k] * norm(x[t] @ W[k].T) + b[k] + getattr(cell, f"gain_h{k}") * norm(h @ U[k].T) for k in "ifgo"}
        c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * tanh(a["g"])
        h = sigmoid(a["o"]) * tanh(cell.gain_c * norm(c) + cell.bias_c)
        torch.testing.assert_close(output[t], h)


def test_indrnn_units_hear_only_themselves():
    cell = IndRNN(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=D)
    output, _ = _run(cell, x)
    h = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        h = torch.relu(x[t] @ cell.weight_ih.T + cell.bias_ih + cell.weight_u * h)
        torch.testing.assert_close(output[t], h)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_slstm_equals_its_equations_without_the_stabilizer(num_heads):
    cell = SLSTM(3, 4, num_heads=num_heads).double()
    x = torch.randn(6, 2, 3, dtype=D)
    output, _ = _run(cell, x)
    W, _, b = _parts(cell, "ifzo")
    d = 4 // num_heads
    U = {k: g.view(num_heads, d, d) for k, g in zip("ifzo", cell.weight_hh.split(4), strict=True)}
    h = c = n = torch.zeros(2, 4, dtype=D)
    for t in range(6):
        heads = h.view(2, num_heads, d)
        a = {k: x[t] @ W[k].T + b[k] + torch.einsum("bnj,nij->bni", heads, U[k]).reshape(2, 4) for k in "ifzo"}
        i, f = a["i"].exp(), sigmoid(a["f"])
        c, n = f * c + i * tanh(a["z"]), f * n + i
        h = sigmoid(a["o"]) * c / n
        torch.testing.assert_close(output[t], h)


def test_slstm_survives_gates_that_overflow_without_the_stabilizer():
    cell = SLSTM(1, 2)
    with torch.no_grad():
        cell.weight_ih[:2] = 1.0
    for size in (500.0, -500.0):
        x = torch.full((20, 1, 1), size, requires_grad=True)
        output, _ = _run(cell, x)
        output.sum().backward()
        assert output.isfinite().all()
        assert x.grad.isfinite().all()


def test_mingru_and_minlstm_follow_their_paper():
    x = torch.randn(5, 2, 3, dtype=D)
    gru, lstm = MinGRU(3, 4).double(), MinLSTM(3, 4).double()
    outputs, _ = _run(gru, x)
    W, _, b = _parts(gru, "zn")
    h = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        z = sigmoid(x[t] @ W["z"].T + b["z"])
        h = (1 - z) * h + z * (x[t] @ W["n"].T + b["n"])
        torch.testing.assert_close(outputs[t], h)
    outputs, _ = _run(lstm, x)
    W, _, b = _parts(lstm, "fin")
    h = torch.zeros(2, 4, dtype=D)
    for t in range(5):
        f, i = sigmoid(x[t] @ W["f"].T + b["f"]), sigmoid(x[t] @ W["i"].T + b["i"])
        h = f / (f + i) * h + i / (f + i) * (x[t] @ W["n"].T + b["n"])
        torch.testing.assert_close(outputs[t], h)


@pytest.mark.parametrize("kind", [LSTM, GRU, Elman])
def test_default_weights_are_uniform_as_torchs(kind):
    for parameter in kind(8, 64).parameters():
        assert parameter.abs().max() <= 1 / 8
        assert parameter.abs().max() > 0.11


def test_a_cell_is_found_by_name_or_by_module():
    assert find_cell("lstm") is LSTM
    assert find_cell("unspool.cells.gru:GRU") is GRU
    with pytest.raises(ConfigError, match="unknown cell 'lsmt'; did you mean 'lstm'\\?"):
        find_cell("lsmt")
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_cell("no_such_module:Cell")
    with pytest.raises(ConfigError, match="must be a subclass"):
        find_cell("torch.nn:LSTM")


def test_impossible_sizes_are_refused():
    with pytest.raises(ShapeError, match="at least 1, got 0, 4"):
        LSTM(0, 4)
    with pytest.raises(ShapeError, match="num_heads must divide hidden_size 4, got 3"):
        SLSTM(3, 4, num_heads=3)
