import warnings

import pytest
import torch
from torch.autograd import forward_ad

from unspool import GRU, LSTM, MinGRU, Recurrent
from unspool.kernels import dispatch, isa

native = pytest.mark.skipif(isa.instruction_set() is None, reason="the native engine is not built here")


class Slow(GRU):
    reference_only = True


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    dispatch.warn_once.cache_clear()


def _run(cell, dtype):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Recurrent(cell.to(dtype))(torch.zeros(2, 1, 3, dtype=dtype))
    return [str(w.message) for w in caught]


@native
@pytest.mark.parametrize("cell", [LSTM, MinGRU])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_are_said_to_be_slow_once(cell, dtype):
    (message,) = _run(cell(3, 4), dtype)
    assert message.startswith("unspool's native engine does not run this scan, and the reference path is slow: ")
    assert f" is {dtype}; " in message
    assert message.endswith("keep the parameters in float32, and use torch.autocast for products in bfloat16.")
    assert _run(cell(3, 4), dtype) == []


@native
def test_a_cell_that_is_no_program_is_said_to_be_slow_once():
    (message,) = _run(Slow(3, 4), torch.float32)
    assert "Slow says reference_only; docs/add-a-cell.md says what can be traced" in message
    assert _run(Slow(3, 4), torch.float32) == []


@pytest.mark.parametrize("cell", [LSTM, MinGRU, Slow])
def test_float64_is_silent(cell):
    assert _run(cell(3, 4), torch.float64) == []


@native
@pytest.mark.parametrize("cell", [LSTM, MinGRU])
def test_float32_is_silent(cell):
    assert _run(cell(3, 4), torch.float32) == []


@pytest.mark.parametrize("cell", [LSTM, MinGRU, Slow])
def test_without_the_engine_float32_says_how_to_get_it(cell, monkeypatch):
    monkeypatch.setattr(isa, "_native", None)
    monkeypatch.setattr(isa, "_absent", "is not built")
    monkeypatch.setattr(isa, "_warned", False)
    (message,) = _run(cell(3, 4), torch.float32)
    assert "C++20 compiler" in message
    assert _run(cell(3, 4), torch.float32) == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # PyTorch's own, in its first tangent
@pytest.mark.parametrize("cell", [LSTM, MinGRU])
def test_tangents_and_negated_views_come_through(cell):
    layer, x, d = Recurrent(cell(3, 8)).requires_grad_(False), torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, d)).output).tangent
    torch.testing.assert_close(tangent, torch.func.jvp(lambda x: layer(x).output, (x,), (d,))[1])
    torch.testing.assert_close(layer(torch._neg_view(x)).output, layer(-x).output)
