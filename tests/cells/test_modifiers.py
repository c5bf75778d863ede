import pytest
import torch

from catalogue import BUILDERS
from unspool import GRU, LSTM, SLSTM, Elman, MinGRU, ProjectedLSTM, Recurrent, recurrent_dropout, zoneout
from unspool.errors import ConfigError


def test_zoneout_keeps_the_stated_share_of_units():
    cell = zoneout(LSTM(3, 200), hidden=0.3, memory=0.6)
    trajectory = Recurrent(cell).unroll(torch.randn(50, 4, 3))
    for states, share in ((trajectory.states.h, 0.3), (trajectory.states.c, 0.6)):
        kept = (states[1:] == states[:-1]).float().mean()
        assert abs(float(kept) - share) < 0.02


def test_zoneout_in_evaluation_is_the_mean():
    cell = zoneout(Elman(3, 4), hidden=0.25).double().eval()
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    _, state = cell.step(x, cell.state_type(h))
    _, fresh = cell.cell.step(x, cell.state_type(h))
    torch.testing.assert_close(state.h, 0.25 * h + 0.75 * fresh.h)


def test_zoneout_leaves_the_normalizer_of_the_slstm_alone():
    inner = SLSTM(3, 4)
    cell = zoneout(inner, hidden=0.5).eval()
    x, state = torch.randn(2, 3), inner.initial_state(2)
    _, wrapped = cell.step(x, state)
    _, plain = inner.step(x, state)
    torch.testing.assert_close((wrapped.c, wrapped.n, wrapped.m), (plain.c, plain.n, plain.m))


def test_recurrent_dropout_draws_one_mask_for_all_steps():
    cell = recurrent_dropout(Elman(3, 64, activation=lambda a: a), 0.5)
    with torch.no_grad():
        cell.cell.weight_hh.copy_(torch.eye(64))
        cell.cell.weight_ih.zero_()
        cell.cell.bias_ih.fill_(1.0)
        cell.cell.bias_hh.zero_()
    output, _ = Recurrent(cell)(torch.zeros(5, 2, 3))
    silent = output[1] == 1.0  # what a unit adds to its own past is masked at every step, or at none
    assert 0.3 < silent.float().mean() < 0.7
    assert all(torch.equal(output[t] == 1.0, silent) for t in range(1, 5))
    assert torch.equal(output[4][~silent], torch.full_like(output[4][~silent], 31.0))


@pytest.mark.parametrize("name", ["dropout_gru", "dropout_mingru", "dropout_indrnn", "zoneout_mingru"])
def test_modifiers_are_silent_in_evaluation_and_noisy_in_training(name):
    layer, x = Recurrent(BUILDERS[name](3, 16)), torch.randn(6, 2, 3)
    assert not torch.equal(layer(x).output, layer(x).output)
    layer.eval()
    assert torch.equal(layer(x).output, layer(x).output)


def test_recurrent_dropout_of_a_linear_cell_scales_what_is_kept():
    cell = recurrent_dropout(MinGRU(3, 64), 0.5)
    noise = cell.draw_noise(4, 2)
    a, _ = cell.noisy_coefficients((torch.zeros(4, 2, 64), torch.zeros(4, 2, 64)), noise)
    assert set(a.unique().tolist()) == {0.0, 1.0}


def test_impossible_probabilities_are_refused():
    with pytest.raises(ConfigError, match="at least 0 and below 1, got 1.0"):
        zoneout(GRU(3, 4), 1.0)
    with pytest.raises(ConfigError, match="recurrent dropout: probability"):
        recurrent_dropout(GRU(3, 4), -0.1)


@pytest.mark.parametrize("modifier", [zoneout, recurrent_dropout])
def test_a_projected_lstm_is_not_wrapped(modifier):
    with pytest.raises(ConfigError, match="ProjectedLSTM cannot be wrapped"):
        modifier(ProjectedLSTM(3, 4))
