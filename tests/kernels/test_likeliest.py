"""The likeliest symbols of a fused softmax are PyTorch's in float64, at any size, on any path and number of threads."""

import itertools

import pytest
import torch
from torch.nn import functional

from unspool.errors import ShapeError
from unspool.kernels import isa, linear_likeliest

native = pytest.mark.skipif(isa.instruction_set() is None, reason="the native engine is not built here")
SIZES = list(itertools.product([1, 5, 63, 257], [1, 7, 1000, 1003], [1, 5, 70]))  # N, V, D


@pytest.fixture(params=isa.instruction_sets())
def instruction_set(request):
    before = isa.instruction_set()
    isa.force_instruction_set(request.param)
    yield request.param
    isa.force_instruction_set(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _check(x, weight, bias, count, dtype=torch.float32):
    given = [None if t is None else t.to(dtype) for t in (x, weight, bias)]
    found = linear_likeliest(*given, count)
    chances = functional.linear(x, weight, bias).log_softmax(-1)
    count = min(count, len(weight))
    assert found.symbols.shape == (len(x), count)
    assert all(len(set(row)) == count for row in found.symbols.tolist())
    torch.testing.assert_close(found.log_probabilities.double(), chances.topk(count).values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chances.gather(1, found.symbols), found.log_probabilities.double(), atol=1e-5, rtol=1e-5)
    expected = functional.linear(x, weight, bias).logsumexp(-1)
    torch.testing.assert_close(found.log_partition.double(), expected, atol=1e-5, rtol=1e-5)


def _inputs(rows, symbols, features, with_bias=True):
    x, weight = torch.randn(rows, features, dtype=torch.float64), torch.randn(symbols, features, dtype=torch.float64)
    return x, weight, torch.randn(symbols, dtype=torch.float64) if with_bias else None


@native
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size(size, instruction_set, threads):
    torch.manual_seed(0)
    for count, with_bias in ((1, True), (13, False), (600, True)):
        _check(*_inputs(*size, with_bias), count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plain_pytorch_gives_the_same(dtype, monkeypatch):
    monkeypatch.setattr(isa, "_native", None)
    torch.manual_seed(1)
    _check(*_inputs(7, 300, 20), 9, dtype)


@native
def test_equal_scores_come_in_the_order_of_symbols(threads):
    found = linear_likeliest(torch.zeros(3, 4), torch.zeros(500, 4), None, 5)
    assert found.symbols.tolist() == [[0, 1, 2, 3, 4]] * 3


@native
def test_scores_that_are_no_numbers_or_minus_infinity(threads):
    weight, bias = torch.zeros(300, 2), torch.zeros(300)
    bias[7], bias[8] = -torch.inf, 1.0
    found = linear_likeliest(torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]), weight, bias, 3)
    assert found.symbols[0].tolist() == [8, 0, 1]
    assert torch.isfinite(found.log_probabilities[0]).all()
    assert torch.isnan(found.log_partition[1])
    everything = linear_likeliest(torch.zeros(1, 2), weight, bias, 300)
    assert sorted(everything.symbols[0, :299].tolist()) == [s for s in range(300) if s != 7]


def test_gradients_are_pytorchs():
    x = torch.randn(3, 4, requires_grad=True)
    linear_likeliest(x, torch.randn(9, 4), None, 2).log_probabilities.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    "given",
    [
        (torch.zeros(2, 3), torch.zeros(4, 2), None, 1),
        (torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3), 1),
        (torch.zeros(2, 3), torch.zeros(0, 3), None, 1),
        (torch.zeros(2, 3), torch.zeros(4, 3), None, 0),
    ],
)
def test_sizes_that_do_not_fit(given):
    with pytest.raises(ShapeError, match="linear_likeliest"):
        linear_likeliest(*given)


@native
def test_products_in_bfloat16_round_their_factors(instruction_set, threads):
    torch.manual_seed(2)
    x, weight, bias = (t.float() for t in _inputs(37, 500, 33))
    found = linear_likeliest(x, weight, bias, 500, narrow=True)
    rounded = functional.linear(x.bfloat16().double(), weight.bfloat16().double(), bias.double()).log_softmax(-1)
    values = torch.empty_like(rounded).scatter(1, found.symbols, found.log_probabilities.double())
    torch.testing.assert_close(values, rounded, atol=1e-4, rtol=1e-4)
