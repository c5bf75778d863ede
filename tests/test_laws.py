"""The laws over the whole catalogue, every option and modifier, and a user's own cell."""

import pytest
import torch

from catalogue import BUILDERS
from unspool import Recurrent, Stack, testing


@pytest.mark.parametrize("name", BUILDERS)
def test_every_law_holds_for_a_cell(name):
    # small, since second derivatives cost the square of the number of parameters; two units normalized are only signs
    testing.check_cell(BUILDERS[name](*((3, 4) if name == "layer_norm_lstm" else (2, 2))))


@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_hold_when_read_backwards(name):
    testing.check_gradients(Recurrent(BUILDERS[name](2, 2), reverse=True), second=False)


@pytest.mark.parametrize("options", [{}, {"residual": True, "layer_norm": True}], ids=["plain", "residual_norm"])
def test_laws_hold_for_a_stack(options):
    layers = [Recurrent(BUILDERS[name](2, 2)) for name in ("gru", "mingru", "lstm")]
    stack = Stack(layers, **options).double()
    for check in (testing.check_split, testing.check_padding, testing.check_batch, testing.check_round_trip):
        check(stack)
    testing.check_reset(stack)
    testing.check_gradients(stack, num_steps=2)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7, 63, 257])
@pytest.mark.parametrize("name", ["lstm", "mingru"])
def test_folding_steps_gives_the_sequence_at_odd_lengths(name, num_steps):
    cell = BUILDERS[name](3, 5).double()
    x = torch.randn(num_steps, 2, 3, dtype=torch.float64)
    outputs, final = Recurrent(cell)(x)
    state = cell.initial_state(2)
    for t in range(num_steps):
        y, state = cell.step(x[t], state)
        torch.testing.assert_close(y, outputs[t])
    torch.testing.assert_close(tuple(state), tuple(final))
