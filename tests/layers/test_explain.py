import pytest
import torch

import unspool
from unspool import GRU, LSTM, Bidirectional, MinGRU, Recurrent, Stack, TruncatedBPTT, zoneout
from unspool.kernels import isa

native = pytest.mark.skipif(isa.instruction_set() is None, reason="the native engine is not built here")


class Slow(GRU):
    reference_only = True


@native
def test_a_native_scan_is_explained():
    (found,) = unspool.explain(Recurrent(LSTM(3, 4)), torch.zeros(7, 2, 3), lengths=torch.tensor([7, 3]))
    assert (found.layer, found.scan, found.path, found.reason) == ("LSTM", "gated", "native", None)
    assert found.sizes == (7, 2, 4)
    assert found.instruction_set == isa.instruction_set()
    assert found.threads in (1, torch.get_num_threads())
    assert found.programs.inference > 0
    assert found.programs.saved > 0
    assert str(found).startswith(f"LSTM: gated scan [T 7, B 2, H 4]; native engine, {isa.instruction_set()}, threads: ")


@native
def test_how_threads_share_a_linear_scan_is_said():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        splits = [
            unspool.explain(Recurrent(MinGRU(3, hidden_size)), torch.zeros(num_steps, batch_size, 3))[0].split
            for num_steps, batch_size, hidden_size in [(2, 1, 4), (2000, 1, 64), (100, 8, 64)]
        ]
    finally:
        torch.set_num_threads(before)
    assert splits == ["one thread", "time", "columns"]


def test_every_layer_of_a_stack_and_both_directions_are_named():
    stack = Stack([Recurrent(GRU(3, 4)), Bidirectional(zoneout(LSTM(4, 5)), MinGRU(4, 5))])
    names = [found.layer for found in unspool.explain(stack, torch.zeros(7, 2, 3))]
    assert names == ["layers.0 (GRU)", "layers.1.forward_layer (Zoneout)", "layers.1.backward_layer (MinGRU)"]


def test_a_layer_that_cuts_time_runs_several_scans():
    found = unspool.explain(Recurrent(LSTM(3, 4), TruncatedBPTT(5)), torch.zeros(7, 2, 3))
    assert [one.sizes for one in found] == [(5, 2, 4), (2, 2, 4)]


@native
def test_the_reference_path_says_why():
    (found,) = unspool.explain(Recurrent(LSTM(3, 4).double()), torch.zeros(7, 2, 3, dtype=torch.float64))
    assert (found.path, found.instruction_set) == ("reference", None)
    assert found.reason == "x is torch.float64; the native engine computes in float32"
    (found,) = unspool.explain(Recurrent(Slow(3, 4).double()), torch.zeros(7, 2, 3, dtype=torch.float64))
    assert found.reason == "Slow says reference_only"
    assert str(found).endswith("reference path, because Slow says reference_only")


def test_explaining_leaves_no_trace():
    layer, x = Recurrent(zoneout(LSTM(3, 4))), torch.zeros(7, 2, 3)
    before = torch.get_rng_state()
    unspool.explain(layer, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert not layer._forward_hooks
