import math

import pytest
import torch

from unspool import GRU, LSTM, CoupledLSTM, Elman, IndRNN, MinGRU, initializers
from unspool.errors import ConfigError


@pytest.mark.parametrize("k", [1.0, 2.0, 3.0])
def test_variance_is_k_over_n(k):
    cell = Elman(4, 300)
    initializers.variance_(cell, k)
    assert abs(float(cell.weight_hh.detach().var()) * 300 / k - 1) < 0.02


def test_every_gate_becomes_orthogonal():
    cell = LSTM(4, 32)
    initializers.orthogonal_(cell, gain=1.5)
    for gate in cell.weight_hh.split(32):
        torch.testing.assert_close(gate @ gate.T, 2.25 * torch.eye(32), atol=1e-5, rtol=0)


def test_identity_with_relu_carries_a_state_on():
    cell = Elman(4, 8, activation=torch.relu)
    initializers.identity_(cell)
    h = torch.rand(2, 8)
    torch.testing.assert_close(cell.step(torch.zeros(2, 4), cell.state_type(h))[0], h)


def test_forget_bias_is_the_whole_bias_of_the_gate():
    cell = LSTM(4, 8)
    initializers.forget_bias_(cell, 2.0)
    total = (cell.bias_ih + cell.bias_hh).split(8)
    assert torch.equal(total[1], torch.full((8,), 2.0))
    assert not torch.equal(total[0], torch.full((8,), 2.0))


@pytest.mark.parametrize(("kind", "gate"), [(LSTM, 1), (CoupledLSTM, 0), (GRU, 1)])
def test_chrono_spreads_memory_up_to_the_longest_lag(kind, gate):
    cell = kind(4, 1000)
    initializers.chrono_(cell, 100)
    bias = cell.bias_ih.split(1000)[gate]
    assert bias.min() >= 0
    assert bias.max() <= math.log(99)
    assert abs(float(bias.detach().exp().mean()) - 50) < 3
    if kind is LSTM:
        torch.testing.assert_close(cell.bias_ih.split(1000)[0], -bias)


def test_what_a_cell_does_not_have_cannot_be_set():
    with pytest.raises(ConfigError, match="has no recurrent matrix"):
        initializers.orthogonal_(IndRNN(3, 4))
    with pytest.raises(ConfigError, match="names no gate that keeps its state"):
        initializers.forget_bias_(MinGRU(3, 4))
    with pytest.raises(ConfigError, match="at least 3 steps, got 2"):
        initializers.chrono_(LSTM(3, 4), 2)
