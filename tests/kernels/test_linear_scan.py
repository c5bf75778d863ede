import itertools

import pytest
import torch

from unspool.errors import ShapeError
from unspool.kernels import fold_linear, isa, linear_scan, native_linear_scan
from unspool.kernels.linear_scan import _scan
from unspool.testing import TOLERANCES

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


@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_the_operator_passes_torchs_own_checks(dtype):
    a, b, h = (t.detach().to(dtype).requires_grad_() for t in _example(5))
    reset, fresh = torch.rand(5, 3) < 0.3, torch.zeros(3, 2, dtype=dtype)
    torch.library.opcheck(_scan, (a, b, h, torch.tensor([5, 2, 0]), reset, fresh, True))


def test_what_is_beyond_a_length_is_never_touched():
    a, b, h = _example(5)
    poisoned = b.detach().clone()
    poisoned[3:, 0] = torch.nan
    lengths = torch.tensor([3, 5, 5])
    torch.testing.assert_close(linear_scan(a, poisoned, h, lengths=lengths), linear_scan(a, b, h, lengths=lengths))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match="a and b must be \\[T, B, H\\]"):
        linear_scan(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4), torch.zeros(2, 5))


def test_masks_that_do_not_fit_are_named():
    a, h = torch.zeros(3, 2, 4), torch.zeros(2, 4)
    with pytest.raises(ShapeError, match="lengths must be \\[2\\] integers, got \\[3\\]"):
        linear_scan(a, a, h, lengths=torch.tensor([1, 2, 3]))
    with pytest.raises(ShapeError, match="reset must be \\[3, 2\\] booleans, got \\[2, 3\\]"):
        linear_scan(a, a, h, reset=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match="reset_state must be \\[2, 4\\], got \\[4\\]"):
        linear_scan(a, a, h, reset=torch.zeros(3, 2, dtype=torch.bool), reset_state=torch.zeros(4))


def test_the_transforms_of_torch_func_see_through_the_scan():
    a, b, h = (t.detach().float() for t in _example(5))

    def total(a):
        return linear_scan(a, b, h, lengths=torch.tensor([5, 2, 0])).square().sum()

    (expected,) = torch.autograd.grad(total(given := a.clone().requires_grad_()), given)
    torch.testing.assert_close(torch.func.grad(total)(a), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(torch.stack([a, a]))[1], expected)


native = pytest.mark.skipif(isa.instruction_set() is None, reason="the native engine is not built here")
OPTIONS = list(itertools.product([False, True], repeat=3))  # reverse, lengths, resets
ROWS = [(1, 1), (1, 5), (3, 1), (1, 64), (3, 19), (2, 67), (1, 33), (5, 130), (2, 520)]  # B, H


@pytest.fixture
def instruction_set(request):
    before = isa.instruction_set()
    isa.force_instruction_set(request.param)
    yield request.param
    isa.force_instruction_set(before)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _observe(scan, dtype, tensors, grad):
    """The states and the gradients of a, b, the initial state and the reset state."""
    given = [t.detach().to(dtype).requires_grad_() for t in tensors]
    states = scan(*given)
    grads = torch.autograd.grad(states, given, grad.to(dtype), allow_unused=True)
    return [t.detach().double() for t in (states, *grads) if t is not None]


def _compare(num_steps, batch_size, hidden_size, reverse, with_lengths, with_resets):
    shape = (num_steps, batch_size, hidden_size)
    a, b, grad = torch.rand(shape), torch.randn(shape), torch.randn(shape)
    tensors = (a, b, torch.randn(shape[1:]), torch.randn(shape[1:]))
    lengths = torch.randint(0, num_steps + 1, (batch_size,)) if with_lengths else None
    reset = torch.rand(num_steps, batch_size) < 0.1 if with_resets else None
    if lengths is not None:
        real = (torch.arange(num_steps)[:, None] < lengths).unsqueeze(-1)
        a, b = (torch.where(real, t, torch.nan) for t in (a, b))
    poisoned = (a, b, *tensors[2:])

    def scan(a, b, h, fresh):
        return linear_scan(a, b, h, lengths=lengths, reset=reset, reset_state=fresh, reverse=reverse)

    expected = _observe(scan, D, tensors, grad)
    found, again = (_observe(scan, torch.float32, poisoned, grad) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    for one, exact in zip(found, expected, strict=True):
        scale = max([1.0, *exact.abs().flatten().tolist()])
        absolute, relative = TOLERANCES[torch.float32]
        torch.testing.assert_close(one, exact, atol=absolute * scale, rtol=relative)


@native
@pytest.mark.parametrize("instruction_set", isa.instruction_sets(), indirect=True)
@pytest.mark.parametrize(("reverse", "lengths", "resets"), OPTIONS)
def test_the_native_scan_gives_what_float64_gives(reverse, lengths, resets, instruction_set, threads):
    for num_steps, (batch_size, hidden_size) in itertools.product([1, 2, 7, 63, 257], ROWS):
        _compare(num_steps, batch_size, hidden_size, reverse, lengths, resets)


@native
@pytest.mark.parametrize(("reverse", "lengths", "resets"), OPTIONS)
def test_threads_that_share_time_give_what_float64_gives(reverse, lengths, resets, threads):
    for num_steps, batch_size, hidden_size in [(2000, 1, 33), (700, 3, 19), (40000, 1, 1)]:
        assert native_linear_scan.split(num_steps, batch_size, hidden_size) == (
            "time" if threads == 2 else "one thread"
        )
        _compare(num_steps, batch_size, hidden_size, reverse, lengths, resets)


@native
@pytest.mark.parametrize("shape", [(0, 2, 3), (3, 0, 3), (3, 2, 0), (0, 0, 0)])
@pytest.mark.parametrize("resets", [False, True])
def test_nothing_gives_nothing(shape, resets, threads):
    reset = torch.zeros(shape[:2], dtype=torch.bool) if resets else None
    a, h, fresh = (torch.ones(s).requires_grad_() for s in (shape, shape[1:], shape[1:]))
    states = linear_scan(a, a, h, reset=reset, reset_state=fresh)
    grads = torch.autograd.grad(states.sum(), (a, h), allow_unused=True)
    assert states.shape == shape
    assert all(not g.any() for g in grads if not shape[0])


@native
def test_three_threads_share_time_deterministically():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    for options in OPTIONS:
        _compare(2000, 2, 17, *options)
    torch.set_num_threads(before)


@native
@pytest.mark.usefixtures("threads")
def test_a_product_that_overflows_spoils_no_zero():
    a, h = torch.full((40000, 1, 1), 10.0), torch.zeros(1, 1)
    assert not linear_scan(a, torch.zeros_like(a), h).any()


@native
@pytest.mark.usefixtures("threads")
def test_a_reset_ends_what_is_infinite():
    a, b, h = torch.full((40000, 1, 1), 0.5), torch.zeros(40000, 1, 1), torch.full((1, 1), torch.inf)
    reset = torch.zeros(40000, 1, dtype=torch.bool)
    reset[20000] = True
    states = linear_scan(a, b, h, reset=reset)
    assert states[:20000].isinf().all()
    assert not states[20000:].any()


@native
def test_the_second_order_of_the_native_scan_is_that_of_the_operator():
    tensors = [t.detach().requires_grad_() for t in _example(6)]
    reset, lengths = torch.rand(6, 3) < 0.3, torch.tensor([6, 3, 0])

    def second(dtype):
        given = [t.detach().to(dtype).requires_grad_() for t in tensors]
        states = linear_scan(*given, lengths=lengths, reset=reset)
        first = torch.autograd.grad(states.square().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), given)

    for found, exact in zip(second(torch.float32), second(D), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


@native
def test_the_native_scan_takes_views_and_compiles():
    a, b, h = torch.rand(4, 3, 5).transpose(0, 1), torch.randn(3, 8, 5)[:, ::2], torch.randn(5, 4).T
    expected = fold_linear(a, b, h)
    torch.testing.assert_close(linear_scan(a, b, h), expected)
    torch.testing.assert_close(torch.compile(linear_scan, backend="aot_eager")(a, b, h), expected)


@native
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_numbers_that_are_no_floats_are_not_read_as_floats(dtype):
    a, b, h = (torch.randint(-3, 4, shape).to(dtype) for shape in ((5, 2, 3), (5, 2, 3), (2, 3)))
    assert torch.equal(linear_scan(a, b, h), fold_linear(a, b, h))


def test_a_scan_of_no_steps_gives_a_reset_state_no_gradient():
    fresh, nothing = torch.ones(2, 8, requires_grad=True), torch.zeros(0, 2, 8)
    reset = torch.zeros(0, 2, dtype=torch.bool)
    linear_scan(nothing, nothing, torch.zeros(2, 8), reset=reset, reset_state=fresh).sum().backward()
    assert not fresh.grad.any()
