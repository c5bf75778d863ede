"""CTC beside the sum over all alignments, in float64; windows, look-ahead and padding as their equations say."""

import itertools

import pytest
import torch

from unspool.cells import GRU, LSTM
from unspool.errors import ConfigError
from unspool.models.ctc import CTCModel, SpeechBatch, ctc_nats, needed_steps


def collapse(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def enumerated(chances, target):
    """log p(target): the sum over all paths that collapse to it."""
    steps, symbols = chances.shape
    paths = [p for p in itertools.product(range(symbols), repeat=steps) if collapse(p) == tuple(target)]
    return torch.stack([sum(chances[t, s] for t, s in enumerate(path)) for path in paths]).logsumexp(0)


CASES = [([1, 2], 4), ([1, 1], 4), ([1, 1], 3), ([2], 1), ([], 3), ([1, 2, 1], 5), ([2, 2, 2], 5)]


@pytest.mark.parametrize(("target", "steps"), CASES, ids=str)
def test_the_loss_and_its_gradient_are_those_of_enumeration(target, steps):
    torch.manual_seed(0)
    logits = torch.randn(5, 1, 3, dtype=torch.float64, requires_grad=True)
    expected = -enumerated(logits[:steps, 0].log_softmax(-1), target)
    (wanted,) = torch.autograd.grad(expected, logits)
    targets = torch.tensor([[*target, 1]])  # one more, which is none
    nats, feasible = ctc_nats(logits.log_softmax(-1), torch.tensor([steps]), targets, torch.tensor([len(target)]))
    assert feasible.tolist() == [True]
    torch.testing.assert_close(nats, expected)
    (found,) = torch.autograd.grad(nats, logits)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-9)


def test_what_cannot_be_aligned_counts_nothing_and_gets_no_gradient():
    logits = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    targets, lengths = torch.tensor([[1, 1], [1, 2]]), torch.tensor([2, 2])
    assert needed_steps(targets, lengths).tolist() == [3, 2]
    nats, feasible = ctc_nats(logits.log_softmax(-1), torch.tensor([2, 3]), targets, lengths)
    assert feasible.tolist() == [False, True]
    nats.backward()
    assert not logits.grad[:, 0].any()
    assert logits.grad[:, 1].any()
    nats, feasible = ctc_nats(logits.log_softmax(-1), torch.tensor([1, 1]), targets, lengths)
    assert nats.item() == 0.0
    assert not feasible.any()


SMALL = {"num_features": 3, "num_symbols": 4, "hidden_size": 6, "num_layers": 2}
OPTIONS = [{}, {"stride": 3, "window": 5}, {"channels": 7}, {"bidirectional": False, "look_ahead": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", [GRU, LSTM])
def test_padding_and_neighbours_change_nothing(options, cell):
    torch.manual_seed(1)
    model = CTCModel(build_cell=cell, **SMALL | options).double().eval()
    frames = torch.randn(11, 2, 3, dtype=torch.float64)
    lengths = torch.tensor([11, 7])
    alone, steps = model(frames[:7, 1:], lengths[1:])
    frames[7:, 1] = torch.nan
    together, both = model(frames, lengths)
    assert both[1] == steps[0] == -(-7 // model.stride)
    torch.testing.assert_close(together[: steps[0], 1:], alone)
    nats = model.loss(SpeechBatch(frames, lengths, torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])))
    nats.sum.backward()
    assert nats.count == 3
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_window_is_the_frames_of_its_step():
    model = CTCModel(build_cell=GRU, **SMALL, stride=2, window=3).eval()
    seen = []
    model.stack.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    frames = torch.arange(15.0).view(5, 1, 3)
    model(frames, torch.tensor([5]))
    rows = [frames[0:3], frames[2:5], torch.cat([frames[4:5], torch.zeros(2, 1, 3)])]
    torch.testing.assert_close(seen[0], torch.stack([row.flatten() for row in rows]).unsqueeze(1))


def test_looking_ahead_is_a_weighted_sum_of_steps_to_come():
    model = CTCModel(build_cell=GRU, **SMALL, bidirectional=False, look_ahead=2)
    h = torch.randn(5, 1, 6)
    torch.testing.assert_close(model.look(h), h[:3])  # before it has learned anything
    torch.nn.init.normal_(model.ahead)
    expected = sum(h[j : j + 3] * model.ahead[j] for j in range(3))
    torch.testing.assert_close(model.look(h), expected)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="window must be at least stride"):
        CTCModel(build_cell=GRU, **SMALL, stride=3, window=2)
    with pytest.raises(ConfigError, match="look_ahead must be 0 in a bidirectional model"):
        CTCModel(build_cell=GRU, **SMALL, look_ahead=1)
