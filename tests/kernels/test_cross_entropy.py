"""The fused softmax gives PyTorch's cross-entropy and gradients in float64, at any size and on any path."""

import itertools

import pytest
import torch
from torch.nn import functional

from unspool.errors import ShapeError
from unspool.kernels import isa, linear_cross_entropy
from unspool.testing import TOLERANCES

native = pytest.mark.skipif(isa.instruction_set() is None, reason="the native engine is not built here")
instruction_sets = pytest.mark.parametrize("instruction_set", isa.instruction_sets(), indirect=True)

SIZES = list(itertools.product([1, 5, 63, 257], [1, 7, 1000, 1003], [1, 5, 64, 70]))  # N, V, D
IGNORED = -7


def _inputs(num_rows, num_symbols, features, with_bias=True, dtype=torch.float64):
    x, weight = torch.randn(num_rows, features, dtype=dtype), torch.randn(num_symbols, features, dtype=dtype)
    bias = torch.randn(num_symbols, dtype=dtype) if with_bias else None
    return x, weight / features**0.5, bias, torch.randint(0, num_symbols, (num_rows,))


def _observe(loss, inputs, dtype, scale=0.5):
    given = [None if t is None else t.detach().to(dtype, copy=True).requires_grad_() for t in inputs[:3]]
    nats = loss(*given, inputs[3])
    (nats * scale).backward()
    return [nats.detach(), *(t.grad for t in given if t is not None)]


def _expected(x, weight, bias, targets):
    scores = functional.linear(x, weight, bias)
    return functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")


def _fused(x, weight, bias, targets):
    return linear_cross_entropy(x, weight, bias, targets, IGNORED)


def _fused_narrow(x, weight, bias, targets):
    return linear_cross_entropy(x, weight, bias, targets, IGNORED, narrow=True)


both_types = pytest.mark.parametrize("loss", [_fused, _fused_narrow])


def _compare(inputs, loss=_fused, tolerance=torch.float32):
    expected, found = _observe(_expected, inputs, torch.float64), _observe(loss, inputs, torch.float32)
    absolute, relative = TOLERANCES[tolerance]
    for name, e, f in zip(("nats", "x", "weight", "bias"), expected, found, strict=False):
        scale = max([1.0, *e.abs().flatten().tolist()]) if e.numel() else 1.0
        torch.testing.assert_close(
            f.double(), e, atol=absolute * scale, rtol=relative, msg=lambda m, n=name: f"{n}: {m}"
        )


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


@native
@instruction_sets
def test_every_size(instruction_set, threads):
    for sizes in SIZES:
        _compare(_inputs(*sizes))


@native
@instruction_sets
@pytest.mark.parametrize("with_bias", [True, False])
def test_rows_that_are_ignored_give_no_loss_and_no_gradient(instruction_set, threads, with_bias):
    for sizes in [(5, 7, 5), (300, 11, 70), (257, 1003, 33)]:
        inputs = _inputs(*sizes, with_bias)
        inputs[3][torch.rand(sizes[0]) < 0.4] = IGNORED
        inputs[3][-1] = IGNORED
        _compare(inputs)


@native
@instruction_sets
def test_nothing_to_predict(instruction_set):
    inputs = _inputs(9, 300, 20)
    inputs[3].fill_(IGNORED)
    _compare(inputs)
    _compare(_inputs(0, 300, 20))


@native
@instruction_sets
def test_narrow_products_stay_near(instruction_set, threads):
    for sizes in [(1, 7, 1), (63, 1003, 70), (257, 40, 33), (1500, 300, 37), (710, 3, 64), (33, 600, 31)]:
        _compare(_inputs(*sizes), _fused_narrow, torch.bfloat16)


@native
@instruction_sets
def test_narrow_products_of_numbers_that_bfloat16_holds_give_the_loss_of_float32(instruction_set, threads):
    for sizes in [(40, 300, 33), (1500, 150, 64), (1, 1, 1)]:
        x, weight, bias, targets = _inputs(*sizes)
        x, weight = x.bfloat16().double(), weight.bfloat16().double()
        nats = _fused_narrow(*(t.float().requires_grad_() for t in (x, weight, bias)), targets)
        torch.testing.assert_close(nats.double(), _expected(x, weight, bias, targets), atol=1e-4, rtol=1e-5)


@native
@instruction_sets
@both_types
def test_only_the_gradients_that_are_wanted(instruction_set, loss):
    x, weight, bias, targets = _inputs(70, 500, 33, dtype=torch.float32)
    every = _observe(loss, (x, weight, bias, targets), torch.float32, 1.0)[1:]
    for wanted in itertools.product([False, True], repeat=3):
        given = [t.clone().requires_grad_(w) for t, w in zip((x, weight, bias), wanted, strict=True)]
        nats = loss(*given, targets)
        assert nats.requires_grad == any(wanted)
        if nats.requires_grad:
            nats.backward()
        for tensor, gradient, is_wanted in zip(given, every, wanted, strict=True):
            assert torch.equal(tensor.grad, gradient) if is_wanted else tensor.grad is None


@native
@both_types
def test_the_same_bits_every_time_and_without_gradients(threads, loss):
    inputs = _inputs(257, 1003, 70)
    first, second = _observe(loss, inputs, torch.float32), _observe(loss, inputs, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with torch.no_grad():
        assert torch.equal(loss(*(t.float() for t in inputs[:3]), inputs[3]), first[0])


@native
@instruction_sets
@both_types
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_loss_that_is_none(instruction_set, loss, value):
    for row, column, sizes in [(3, 2, (20, 300, 8)), (350, 20, (710, 300, 33))]:
        x, weight, bias, targets = _inputs(*sizes, dtype=torch.float32)
        x[row, column] = value
        found = _observe(loss, (x, weight, bias, targets), torch.float32)
        assert found[0].isnan()
        assert found[1][row].isnan().all()
        assert found[1][torch.arange(len(x)) != row].isfinite().all()


@native
@instruction_sets
@both_types
def test_symbols_that_are_ruled_out(instruction_set, loss):
    inputs = _inputs(63, 600, 8)
    inputs[2][:300] = float("-inf")  # whole tiles of them
    inputs[3].clamp_(min=300)
    _compare(inputs, loss, torch.float32 if loss is _fused else torch.bfloat16)


@native
def test_scores_of_any_size_do_not_overflow():
    inputs = _inputs(63, 600, 8)
    inputs[2][:] += 1e4 * torch.randn(600, dtype=torch.float64).float().double()
    _compare(inputs)


@native
@instruction_sets
@both_types
def test_gradients_sum_to_nothing_however_large_the_scores(instruction_set, loss):
    x, weight, bias, targets = _inputs(64, 300, 8)
    _, _, _, grad_bias = _observe(loss, (x, weight, bias + 1e5, targets), torch.float32, 1.0)
    torch.testing.assert_close(grad_bias.sum(), torch.tensor(0.0), atol=1e-4, rtol=0.0)


@native
def test_a_retained_graph_gives_the_same_gradients_again():
    x, weight, bias, targets = _inputs(40, 130, 9, dtype=torch.float32)
    given = [t.requires_grad_() for t in (x, weight, bias)]
    nats = _fused(*given, targets) * 3.0
    first = [g.clone() for g in torch.autograd.grad(nats, given, retain_graph=True)]
    second = torch.autograd.grad(nats, given, retain_graph=True)
    third = torch.autograd.grad(nats * 2.0, given)
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(2.0 * a, c)


@native
def test_gradients_of_gradients_on_the_native_path():
    inputs = _inputs(20, 30, 9)
    inputs[3][::4] = IGNORED

    def second_order(loss, dtype):
        given = [t.to(dtype, copy=True).requires_grad_() for t in inputs[:3]]
        gradients = torch.autograd.grad(loss(*given, inputs[3]).square(), given, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), given)

    for expected, found in zip(
        second_order(_expected, torch.float64), second_order(_fused, torch.float32), strict=True
    ):
        torch.testing.assert_close(found.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


def test_gradients_of_gradients_in_float64():
    x, weight, bias, targets = _inputs(5, 7, 3)
    targets[1] = IGNORED
    given = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: _fused(*t, targets), given)
    assert torch.autograd.gradgradcheck(lambda *t: _fused(*t, targets), given)


def test_without_gradients_pytorch_sees_some_rows_at_a_time(monkeypatch):
    inputs = _inputs(63, 100, 5)
    monkeypatch.setattr("unspool.kernels.cross_entropy._MOST_SCORES", 1000)
    with torch.no_grad():
        torch.testing.assert_close(_fused(*inputs), _expected(*inputs))


def test_transforms_see_plain_operations():
    x, weight, bias, targets = _inputs(6, 11, 4, dtype=torch.float32)
    (expected,) = torch.autograd.grad(_expected(x.requires_grad_(), weight, bias, targets), x)
    torch.testing.assert_close(torch.func.grad(_fused)(x.detach(), weight, bias, targets), expected)


def test_errors_say_what_was_expected():
    x, weight, bias, targets = _inputs(6, 11, 4, dtype=torch.float32)
    with pytest.raises(ShapeError, match=r"x must be \[N, D\] and weight \[V, D\] with the same D, got \[6, 3\] and"):
        linear_cross_entropy(x[:, :3], weight, bias, targets)
    with pytest.raises(ShapeError, match=r"bias must be \[11\], got \[10\]"):
        linear_cross_entropy(x, weight, bias[1:], targets)
    with pytest.raises(ShapeError, match=r"targets must be int64, got torch.int32; call .long\(\)"):
        linear_cross_entropy(x, weight, bias, targets.int())
    targets[4] = 11
    with pytest.raises(ShapeError, match=r"targets must be in \[0, 11\) or -100, got 11 in row 4"):
        linear_cross_entropy(x, weight, bias, targets)
    targets[4] = -1
    with pytest.raises(ShapeError, match=r"got -1 in row 4; is the vocabulary"):
        linear_cross_entropy(x, weight, bias, targets)
