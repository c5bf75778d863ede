"""Weights that are packed once for many calls: the numbers are those of calls that pack them anew."""

import pytest
import torch

from unspool.cells import GRU, LSTM, Elman
from unspool.kernels import isa, linear_likeliest, native_scan, unchanged_weights
from unspool.layers import Recurrent

native = pytest.mark.skipif(not isa.instruction_sets(), reason="the native engine is not built here")


def run(layer, x, narrow):
    state = type(layer.initial_state(1))(
        *(torch.full((x.shape[1], layer.cell.hidden_size), 0.3) for _ in layer.initial_state(1))
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        return layer(x, state).output


@native
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("cell", [Elman, LSTM, GRU])
def test_a_scan_gives_the_same_bits(cell, narrow, threads, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = Recurrent(cell(37, 72)).eval()
        inputs = [
            torch.randn(t, b, 37) for t, b in ((1, 300), (1, 300), (1, 5), (3, 2), (1, 1), (2, 40), (1, 300), (0, 4))
        ]
        for split in (0, 1, 2, 3):
            monkeypatch.setattr(native_scan, "SPLIT", split)
            anew = [run(layer, x, narrow) for x in inputs]
            with unchanged_weights():
                kept = [run(layer, x, narrow) for x in inputs]
            assert all(torch.equal(a, b) for a, b in zip(anew, kept, strict=True))
        with unchanged_weights():  # one memory for all ways of sharing the work
            for split in (1, 2, 3, 0, 2, 1):
                monkeypatch.setattr(native_scan, "SPLIT", split)
                torch.testing.assert_close(run(layer, inputs[0], narrow), anew[0], rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


@native
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("size", [7, 32])
def test_the_likeliest_symbols_are_the_same(size, narrow):
    weight, bias, x = torch.nn.Parameter(torch.randn(500, size)), torch.randn(500), torch.randn(9, size)
    with torch.no_grad():
        anew = linear_likeliest(x, weight, bias, 5, narrow)
        with unchanged_weights():
            for _ in range(2):
                assert all(
                    torch.equal(a, b) for a, b in zip(anew, linear_likeliest(x, weight, bias, 5, narrow), strict=True)
                )


@native
def test_what_changes_is_seen_outside_and_in_training():
    layer, x = Recurrent(LSTM(4, 8)), torch.randn(2, 3, 4)
    with unchanged_weights():
        first = run(layer, x, False)
    with torch.no_grad():
        layer.cell.weight_hh.mul_(2.0)
    second = run(layer, x, False)
    assert not torch.equal(first, second)
    with unchanged_weights():
        assert torch.equal(run(layer, x, False), second)
        layer.cell.weight_hh.data.mul_(2.0)
        trained = layer(x).output
    assert torch.equal(trained.detach(), layer(x).output.detach())


@native
def test_a_weight_that_takes_the_place_of_another_is_packed_anew():
    with torch.no_grad(), unchanged_weights():
        for _ in range(20):
            weight, x = torch.nn.Parameter(torch.randn(50, 4)), torch.randn(3, 4)
            scores = x.bfloat16().float() @ weight.bfloat16().float().T
            assert torch.equal(linear_likeliest(x, weight, None, 1, narrow=True).symbols[:, 0], scores.argmax(-1))
            del weight


@native
def test_a_tensor_that_is_no_parameter_is_packed_anew():
    x, weight = torch.randn(3, 4), torch.randn(9, 4)
    with torch.no_grad(), unchanged_weights():
        first = linear_likeliest(x, weight, None, 2, narrow=True)
        weight.neg_()
        assert not torch.equal(first.symbols, linear_likeliest(x, weight, None, 2, narrow=True).symbols)
