import pytest
import torch

from unspool.errors import ShapeError
from unspool.kernels import fold_linear, linear_scan
from unspool.kernels.linear_scan import _scan

D = torch.float64


def _example(num_steps, batch_size=3, hidden_size=2):
    a = torch.rand(num_steps, batch_size, hidden_size, dtype=D, requires_grad=True)
    b = torch.randn(num_steps, batch_size, hidden_size, dtype=D, requires_grad=True)
    return a, b, torch.randn(batch_size, hidden_size, dtype=D, requires_grad=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 4, 5, 7, 8, 63, 257])
def test_the_scan_equals_the_loop_with_its_gradients(num_steps, reverse):
    inputs = _example(num_steps)
    found, expected = linear_scan(*inputs, reverse=reverse), fold_linear(*inputs, reverse=reverse)
    torch.testing.assert_close(found, expected)
    if num_steps:
        g = torch.randn_like(found)
        torch.testing.assert_close(torch.autograd.grad(found, inputs, g), torch.autograd.grad(expected, inputs, g))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_both_orders_are_exact_with_lengths_and_resets(reverse):
    a, b, h = _example(4)
    fresh = torch.randn(3, 2, dtype=D, requires_grad=True)
    lengths, reset = torch.tensor([4, 2, 0]), torch.rand(4, 3) < 0.4

    def run(a, b, h, fresh):
        return linear_scan(a, b, h, lengths=lengths, reset=reset, reset_state=fresh, reverse=reverse)

    assert torch.autograd.gradcheck(run, (a, b, h, fresh))
    assert torch.autograd.gradgradcheck(run, (a, b, h, fresh))


def test_the_operator_passes_torchs_own_checks():
    torch.library.opcheck(
        _scan, (*_example(5), torch.tensor([5, 2, 0]), torch.rand(5, 3) < 0.3, torch.zeros(3, 2, dtype=D), True)
    )


def test_what_is_beyond_a_length_is_never_touched():
    a, b, h = _example(5)
    poisoned = b.detach().clone()
    poisoned[3:, 0] = torch.nan
    lengths = torch.tensor([3, 5, 5])
    torch.testing.assert_close(linear_scan(a, poisoned, h, lengths=lengths), linear_scan(a, b, h, lengths=lengths))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match="a and b must be \\[T, B, H\\]"):
        linear_scan(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4), torch.zeros(2, 5))
