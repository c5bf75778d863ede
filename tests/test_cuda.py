"""On a GPU the scans are plain PyTorch, and nothing of a model stays behind on the CPU."""

import warnings

import pytest
import torch

import unspool
from small_model import make, reopen
from unspool import nn, testing
from unspool.diagnostics import Signal, selective_units
from unspool.layers import CheckpointedBPTT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
LENGTHS = torch.tensor([5, 2, 4])


@pytest.mark.parametrize("cell", [unspool.LSTM, unspool.MinGRU, unspool.LayerNormLSTM])
def test_a_cell_that_lies_on_the_gpu_can_be_checked(cell):
    testing.check_cell(cell(4, 6).cuda())
    testing.check_round_trip(unspool.Recurrent(cell(4, 6).cuda()))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_and_marks_may_lie_on_the_cpu(bidirectional):
    reset = torch.rand(5, 3) < 0.3
    cells = unspool.LayerNormLSTM(4, 6), unspool.LayerNormLSTM(4, 6)
    layer, x = unspool.Bidirectional(*cells) if bidirectional else unspool.Recurrent(cells[0]), torch.randn(5, 3, 4)
    expected = layer(x, None, LENGTHS, reset).output
    torch.testing.assert_close(layer.cuda()(x.cuda(), None, LENGTHS, reset).output.cpu(), expected)
    module = nn.LSTM(4, 6, bidirectional=bidirectional)
    expected = module(x, lengths=LENGTHS, reset=reset)[0]
    torch.testing.assert_close(module.cuda()(x.cuda(), lengths=LENGTHS, reset=reset)[0].cpu(), expected)


def test_checkpointed_bptt_of_a_module_does_not_warn():
    module = nn.GRU(4, 6).cuda()
    module.bptt = CheckpointedBPTT(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(torch.randn(9, 3, 4, device="cuda"))[0].sum().backward()


def test_units_of_states_on_the_gpu():
    values = torch.randn(80, 3, device="cuda")
    values[:, 1] = torch.tensor([float(place % 10) for place in range(80)])
    best = selective_units([Signal("layer", "h", values, -1.0, 1.0)], list("abcdefghi\n") * 8)[0]
    assert best.unit == 1


def test_a_run_begun_on_the_cpu_goes_on_here(tmp_path):
    _, trainer = make(tmp_path)
    trainer.advance()
    trainer.save()
    place = tmp_path / "model" / "model.json"
    place.write_text(place.read_text(encoding="utf-8").replace('"device": "cpu"', '"device": "cuda"'), encoding="utf-8")
    moved = reopen(tmp_path)
    assert moved.device.type == "cuda"
    assert moved.resume()
    moved.run()
