"""unspool.nn against torch.nn: the same numbers, gradients, errors; and what it takes besides."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import unspool
import unspool.nn as ours
from unspool.kernels.isa import instruction_sets

KINDS = ("RNN", "LSTM", "GRU")
OPTIONS = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional"), values, strict=True))
    for values in itertools.product((1, 2), (True, False), (True, False), (True, False))
]


def pair(kind, *args, **kwargs):
    """PyTorch's module and ours, from the same seed."""
    made = []
    for home in (nn, ours):
        torch.manual_seed(1)
        made.append(getattr(home, kind)(*args, **kwargs))
    return made


def tensors(result):
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data, *(t for t in result[1:] if t is not None)]
    return [tensor for part in result for tensor in tensors(part)]


def agree(theirs, mine, *args, gradients=True):
    wanted, found = tensors(theirs(*args)), tensors(mine(*args))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    if gradients:
        grads = [
            torch.autograd.grad(sum(t.square().sum() for t in out if t.requires_grad), list(m.parameters()))
            for m, out in ((theirs, wanted), (mine, found))
        ]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def an_input(layout, batch_first):
    if layout == "packed":
        return pack_sequence([torch.randn(n, 4) for n in (5, 4, 2)])
    if layout == "unsorted":
        return pack_sequence([torch.randn(n, 4) for n in (2, 5, 4)], enforce_sorted=False)
    if layout == "one length":
        return pack_sequence([torch.randn(5, 4) for _ in range(3)])
    if layout == "unbatched":
        return torch.randn(5, 4)
    return torch.randn((3, 5, 4) if batch_first else (5, 3, 4))


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("layout", ["padded", "unbatched", "packed", "unsorted", "one length"])
@pytest.mark.parametrize("kind", [*KINDS, "projected"])
def test_the_same_numbers_and_gradients(kind, layout, given_hx):
    extra = {"proj_size": 3} if kind == "projected" else {}
    for options in OPTIONS:
        theirs, mine = pair("LSTM" if kind == "projected" else kind, 4, 6, **options, **extra)
        hx = None
        if given_hx:
            rows = options["num_layers"] * (2 if options["bidirectional"] else 1)
            batch = () if layout == "unbatched" else (3,)
            hx = torch.randn(rows, *batch, extra.get("proj_size", 6))
            hx = (hx, torch.randn(rows, *batch, 6)) if mine.mode == "LSTM" else hx
        agree(theirs, mine, an_input(layout, options["batch_first"]), hx)


def test_relu_and_float64():
    agree(*pair("RNN", 4, 6, nonlinearity="relu"), torch.randn(5, 3, 4))
    agree(*pair("GRU", 4, 6, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64))


def test_dropout_between_layers_draws_what_pytorch_draws():
    theirs, mine = pair("LSTM", 4, 6, num_layers=3, dropout=0.5)
    x, results = torch.randn(5, 3, 4), []
    for module in (theirs, mine):
        torch.manual_seed(5)
        results.append(module(x)[0])
    torch.testing.assert_close(*results)
    mine.eval()
    assert torch.equal(mine(x)[0], mine(x)[0])


def test_modules_are_pytorch_s_own_kind():
    theirs, mine = pair("LSTM", 4, 6, 2, bidirectional=True)
    assert isinstance(mine, nn.RNNBase)
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())
    assert [len(names) for names in mine.all_weights] == [4] * 4


BAD = {
    "too few axes": (torch.randn(4), None),
    "too many axes": (torch.randn(1, 5, 3, 4), None),
    "features": (torch.randn(5, 3, 7), None),
    "type": (torch.randn(5, 3, 4, dtype=torch.float64), None),
    "hx batch": (torch.randn(5, 3, 4), torch.randn(1, 2, 6)),
    "hx layers": (torch.randn(5, 3, 4), torch.randn(2, 3, 6)),
    "hx axes": (torch.randn(5, 3, 4), torch.randn(3, 6)),
    "hx of one sequence": (torch.randn(5, 4), torch.randn(1, 1, 6)),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_pytorch_s(kind, what):
    x, hx = BAD[what]
    hx = (hx, hx) if kind == "LSTM" and hx is not None else hx
    theirs, mine = pair(kind, 4, 6)
    with pytest.raises((ValueError, RuntimeError, AttributeError)) as wanted:
        theirs(x, hx)
    with pytest.raises(type(wanted.value)) as found:
        mine(x, hx)
    assert str(found.value) == str(wanted.value)
    with pytest.raises(type(wanted.value)):
        mine(x, hx, return_all_states=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda home: home.RNN(4, 6, nonlinearity="sin"),
        lambda home: home.GRU(4, 6, proj_size=2),
        lambda home: home.LSTM(4, 6, proj_size=6),
        lambda home: home.LSTM(4, 6, dropout=2),
        lambda home: home.RNN(4, 0),
        lambda home: home.GRU(4, 6)(torch.randn(5, 3, 4), (torch.randn(1, 3, 6),)),
        lambda home: home.LSTM(4, 6)(torch.randn(5, 3, 4), [torch.randn(1, 3, 6)]),
    ],
)
def test_errors_of_constructors_and_of_odd_states_are_pytorch_s(build):
    with pytest.raises(Exception) as wanted:
        build(nn)
    with pytest.raises(type(wanted.value)) as found:
        build(ours)
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_are_packing_without_packing(kind, bidirectional):
    theirs, mine = pair(kind, 4, 6, 2, batch_first=True, bidirectional=bidirectional)
    lengths = [2, 5, 4]
    x = torch.randn(3, 5, 4)
    x[0, 2:] = float("nan")  # padding may hold anything
    packed, hidden = theirs(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    wanted, _ = pad_packed_sequence(packed, batch_first=True)
    output, found = mine(x, lengths=torch.tensor(lengths))
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(tensors(found), tensors(hidden))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_begins_a_new_sequence_in_both_directions(kind):
    mine = getattr(ours, kind)(4, 6, 2, bidirectional=True)
    x, reset = torch.randn(7, 1, 4), torch.zeros(7, 1, dtype=torch.bool)
    reset[3] = True
    whole, _ = mine(x, reset=reset)
    torch.testing.assert_close(whole, torch.cat([mine(x[:3])[0], mine(x[3:])[0]]))


@pytest.mark.parametrize("batch_first", [False, True])
def test_all_states(batch_first):
    mine = ours.LSTM(4, 6, 2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(3, 5, 4)
    output, (h_n, c_n), (h, c) = mine(x, return_all_states=True)
    steps = 1 if batch_first else 0
    assert h.shape == (4, *x.shape[:2], 6) == c.shape
    torch.testing.assert_close(torch.cat([h[2], h[3]], -1), output)
    last, first = h.select(steps + 1, -1), h.select(steps + 1, 0)
    torch.testing.assert_close(torch.stack([last[0], first[1], last[2], first[3]]), h_n)
    last, first = c.select(steps + 1, -1), c.select(steps + 1, 0)
    torch.testing.assert_close(torch.stack([last[0], first[1], last[2], first[3]]), c_n)
    assert ours.GRU(4, 6)(torch.randn(5, 4), return_all_states=True)[2].shape == (1, 5, 6)


def test_what_goes_with_padding_alone_is_refused_with_a_packed_sequence():
    with pytest.raises(unspool.UnspoolError, match="pad_packed_sequence"):
        ours.LSTM(4, 6)(an_input("packed", False), return_all_states=True)


def test_lengths_beyond_the_sequence_are_refused():
    with pytest.raises(unspool.UnspoolError, match=r"LSTM: lengths must lie in 0\.\.5, got 1\.\.6"):
        ours.LSTM(4, 6)(torch.randn(5, 2, 4), lengths=torch.tensor([1, 6]))
    with pytest.raises(unspool.UnspoolError, match=r"LSTM: lengths must be a tensor, got list"):
        ours.LSTM(4, 6)(torch.randn(5, 2, 4), lengths=[1, 2])


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_reset_in_another_layout_than_the_input_is_refused(batch_first):
    with pytest.raises(unspool.UnspoolError, match=r"GRU: reset must be \[5, 2\] booleans"):
        ours.GRU(4, 6, batch_first=batch_first)(torch.randn(5, 2, 4), reset=torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(unspool.UnspoolError, match=r"GRU: reset must be \[5\] booleans"):
        ours.GRU(4, 6, batch_first=batch_first)(torch.randn(5, 4), reset=torch.zeros(5, 1, dtype=torch.bool))


def test_a_reset_goes_with_batch_first_one_sequence_and_lengths():
    mine = ours.GRU(4, 6, bidirectional=True, batch_first=True)
    x, reset = torch.randn(2, 7, 4), torch.zeros(2, 7, dtype=torch.bool)
    reset[:, 3] = True
    whole, _ = mine(x, reset=reset, lengths=torch.tensor([7, 5]))
    torch.testing.assert_close(whole[0], torch.cat([mine(x[0, :3])[0], mine(x[0, 3:])[0]]))
    torch.testing.assert_close(whole[1, :5], torch.cat([mine(x[1, :3])[0], mine(x[1, 3:5])[0]]))
    assert not whole[1, 5:].any()
    torch.testing.assert_close(mine(x[0], reset=reset[0])[0], whole[0])


@pytest.mark.parametrize("size", [(0, 3), (5, 0)])
def test_nothing_to_read(size):
    mine = ours.LSTM(4, 6, 2, bidirectional=True)
    hx = torch.randn(4, size[1], 6), torch.randn(4, size[1], 6)
    output, final = mine(torch.randn(*size, 4), hx)
    assert output.shape == (*size, 12)
    if size[0] == 0:
        torch.testing.assert_close(final, hx)


def test_explain_says_who_computes():
    layer = ours.LSTM(4, 6, 2, bidirectional=True, batch_first=True)
    scans = unspool.explain(layer, torch.randn(3, 5, 4))
    assert [(scan.layer, scan.sizes) for scan in scans] == [("LSTM", (5, 3, 6))] * 4
    if instruction_sets():
        assert {scan.path for scan in scans} == {"native"}
    (scan,) = unspool.explain(layer.double(), torch.randn(3, 5, 4, dtype=torch.float64))
    assert (scan.path, scan.sizes) == ("torch", (5, 3, 6))
    if instruction_sets():
        assert "PyTorch's own kernel, because the input is torch.float64" in str(scan)


def test_another_device_runs_on_pytorch_s_kernel_and_says_so_once():
    mine, x = ours.GRU(4, 6, device="meta"), torch.empty(5, 3, 4, device="meta")
    with pytest.warns(RuntimeWarning, match=r"unspool\.nn\.GRU: PyTorch's own kernel runs.*on meta") as said:
        output, _ = mine(x)
    assert output.shape == (5, 3, 6)
    assert said[0].filename == __file__
    mine(x)  # silently: a warning would be an error here


def test_what_pytorch_cannot_do_runs_on_scans_everywhere(monkeypatch):
    monkeypatch.setattr("unspool.nn.recurrent.reason_for_torch", lambda data: "the input is elsewhere")
    theirs, mine = pair("GRU", 4, 6)
    x = torch.randn(5, 3, 4)
    assert torch.equal(theirs(x)[0], mine(x)[0])
    torch.testing.assert_close(theirs(x)[0], mine(x, lengths=torch.tensor([5, 5, 5]))[0])


@pytest.mark.parametrize("kind", [*KINDS, "RNNCell", "LSTMCell", "GRUCell"])
def test_a_stream_takes_the_same_steps(kind):
    _, mine = pair(kind, 4, 6)
    mine.eval()
    x, state, outputs = torch.randn(5, 2, 4), None, []
    for step in x:
        if kind.endswith("Cell"):
            state = mine(step, state)
            outputs.append(state[0] if kind == "LSTMCell" else state)
        else:
            output, state = mine(step.unsqueeze(0), state)
            outputs.append(output[0])
    stream = mine.stream(batch_size=2)
    for step, wanted in zip(x, outputs, strict=True):
        torch.testing.assert_close(stream.step(step), wanted)
    with torch.no_grad():
        next(mine.parameters()).mul_(2)  # the same parameters: a stream follows them
    fresh = stream.step(x[0]).clone()
    with pytest.raises(unspool.UnspoolError):
        mine.train().stream()
    assert not torch.allclose(fresh, outputs[0])


def test_a_stream_of_what_needs_the_future_is_refused():
    with pytest.raises(unspool.UnspoolError, match=r"LSTM\.stream: a layer that reads from the end too"):
        ours.LSTM(4, 6, bidirectional=True).eval().stream()
    with pytest.raises(unspool.UnspoolError, match=r"LSTM\.stream: a layer that has a projection"):
        ours.LSTM(4, 6, proj_size=2).eval().stream()
