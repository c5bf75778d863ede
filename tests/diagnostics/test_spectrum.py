import math

import pytest
import torch

from catalogue import BUILDERS
from unspool import Elman, GatedCell, HiddenState, Recurrent
from unspool.diagnostics import lyapunov_exponents, record, spectrum


def recorded(layer, x):
    with record(layer) as found, torch.no_grad():
        layer(x)
    return found[0]


def test_lyapunov_exponents_of_a_linear_recurrence_are_the_logs_of_its_eigenvalues():
    cell = Elman(2, 5, activation=lambda a: a).double()
    eigenvalues = torch.tensor([1.1, 0.9, -0.7, 0.5, 0.2], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    with torch.no_grad():
        cell.weight_hh.copy_(basis @ torch.diag(eigenvalues) @ basis.T)
    one = recorded(Recurrent(cell), torch.randn(400, 1, 2, dtype=torch.float64))
    exponents = lyapunov_exponents(one, 5)
    torch.testing.assert_close(exponents, eigenvalues.abs().log(), rtol=1e-6, atol=1e-6)
    print(f"Lyapunov exponents: largest difference {float((exponents - eigenvalues.abs().log()).abs().max()):.1e}")
    found = spectrum(one, 3)
    assert len(found.exponents) == 3
    assert math.isclose(
        found.spectral_radius["h"] if "h" in found.spectral_radius else next(iter(found.spectral_radius.values())),
        1.1,
        rel_tol=1e-9,
    )
    for lag, values in zip(found.lags, found.singular_values, strict=True):
        torch.testing.assert_close(values, eigenvalues.abs().sort(descending=True).values ** lag)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_singular_values_are_those_of_the_jacobian_of_every_cell(name):
    layer = Recurrent(BUILDERS[name](3, 4)).double().eval()
    x = torch.randn(6, 1, 3, dtype=torch.float64)
    one = recorded(layer, x)
    found = spectrum(one)
    begin = 6 - found.lags[-1]
    state = tuple(s[begin] for s in one.before())

    def run(*state):
        new = layer(x[begin:], layer.cell.state_type(*state)).state
        return tuple(new)

    rows = torch.autograd.functional.jacobian(run, state)
    whole = torch.cat([torch.cat([part.flatten(2).squeeze(0).squeeze(1) for part in row], -1) for row in rows])
    torch.testing.assert_close(found.singular_values[-1], torch.linalg.svdvals(whole), rtol=1e-6, atol=1e-9)


def test_only_the_steps_after_the_last_reset_are_followed():
    layer, x = Recurrent(BUILDERS["elman"](3, 4)).double(), torch.randn(20, 1, 3, dtype=torch.float64)
    reset = torch.zeros(20, 1, dtype=torch.bool)
    reset[[3, 11]] = True
    with record(layer) as found, torch.no_grad():
        layer(x, reset=reset)
    after = spectrum(found[0])
    assert after.lags == (1, 2, 4, 8)  # steps 12 to 19
    torch.testing.assert_close(after.singular_values[-1], spectrum(recorded(layer, x[11:])).singular_values[-1])


def test_a_cell_with_parameters_of_its_own_in_float32_is_measured():
    class Own(GatedCell):
        gates = ("a",)

        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.map = torch.nn.Linear(input_size, hidden_size)

        def project(self, x, weights):
            return self.map(x)

        def pointwise(self, x, h, state):
            return HiddenState(torch.tanh(x[0] + h[0]))

    assert len(spectrum(recorded(Recurrent(Own(3, 4)), torch.randn(9, 1, 3))).exponents) == 4
