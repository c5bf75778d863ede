import pytest
import torch
from torch import nn

from catalogue import BUILDERS
from unspool import (
    GRU,
    LSTM,
    Bidirectional,
    CheckpointedBPTT,
    LockedDropout,
    MinGRU,
    Recurrent,
    Stack,
    TruncatedBPTT,
    stack_cells,
    weight_drop,
    zoneout,
)
from unspool.errors import ConfigError, ShapeError
from unspool.layers import embed_with_dropout

D = torch.float64


def _load(cell, theirs, suffix):
    cell.load_state_dict({n.removesuffix(suffix): p for n, p in theirs.state_dict().items() if n.endswith(suffix)})


def test_a_stack_is_torchs_multi_layer_lstm():
    theirs = nn.LSTM(3, 5, num_layers=3).double()
    stack = stack_cells(LSTM, 3, 5, 3).double()
    for number, layer in enumerate(stack.layers):
        _load(layer.cell, theirs, f"_l{number}")
    x = torch.randn(7, 2, 3, dtype=D)
    output, state = stack(x)
    expected, (h, c) = theirs(x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(torch.stack([s.h for s in state]), h)
    torch.testing.assert_close(torch.stack([s.c for s in state]), c)


def test_bidirectional_layers_are_torchs():
    theirs = nn.GRU(3, 5, num_layers=2, bidirectional=True).double()
    layers = [Bidirectional(GRU(size, 5), GRU(size, 5)).double() for size in (3, 10)]
    for number, layer in enumerate(layers):
        _load(layer.forward_layer.cell, theirs, f"_l{number}")
        _load(layer.backward_layer.cell, theirs, f"_l{number}_reverse")
    x = torch.randn(7, 2, 3, dtype=D)
    torch.testing.assert_close(Stack(layers)(x).output, theirs(x)[0])


def test_a_reset_begins_anew_in_both_directions():
    layer = Bidirectional(GRU(3, 5), LSTM(3, 4)).double()
    x = torch.randn(9, 1, 3, dtype=D)
    reset = torch.zeros(9, 1, dtype=torch.bool)
    reset[4] = True
    apart = torch.cat([layer(x[:4]).output, layer(x[4:]).output])
    torch.testing.assert_close(layer(x, reset=reset).output, apart)
    padded = torch.cat([x, torch.full((2, 1, 3), torch.nan, dtype=D)])
    wild = torch.cat([reset, torch.ones(2, 1, dtype=torch.bool)])
    torch.testing.assert_close(layer(padded, None, torch.tensor([9]), wild).output[:9], apart)


def test_bidirectional_layers_refuse_to_stream():
    layer = Bidirectional(GRU(3, 5), GRU(3, 5))
    with pytest.raises(ShapeError, match="needs the whole sequence"):
        layer.step(torch.zeros(1, 3), layer.initial_state(1))
    with pytest.raises(ShapeError, match="a reversed layer needs the whole sequence"):
        Recurrent(GRU(3, 5), reverse=True).step(torch.zeros(1, 3), None)


@pytest.mark.parametrize("name", ["lstm", "mingru", "layer_norm_lstm", "zoneout_lstm", "dropout_gru", "dropout_indrnn"])
@pytest.mark.parametrize("segments", [None, 1, 3, 100])
@pytest.mark.parametrize("reverse", [False, True])
def test_checkpoints_do_not_change_outputs_or_gradients(name, segments, reverse):
    cell, x = BUILDERS[name](3, 5).double(), torch.randn(10, 2, 3, dtype=D, requires_grad=True)
    results = []
    for bptt in (CheckpointedBPTT(segments), TruncatedBPTT(1000)):
        torch.manual_seed(1)
        output, _ = Recurrent(cell, bptt, reverse)(x, lengths=torch.tensor([10, 6]))
        results.append((output, *torch.autograd.grad(output.sin().sum(), (x, *cell.parameters()))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reverse", [False, True])
def test_truncation_keeps_values_and_cuts_gradients_at_the_borders(reverse):
    cell, x = LSTM(3, 5).double(), torch.randn(10, 2, 3, dtype=D, requires_grad=True)
    full = Recurrent(cell, reverse=reverse)(x).output
    cut = Recurrent(cell, TruncatedBPTT(4), reverse)(x).output
    torch.testing.assert_close(cut, full)
    # the last segment that is read: steps 8 and 9 forwards, steps 3 to 0 backwards
    last, inside = (0, slice(0, 4)) if reverse else (9, slice(8, 10))
    (gradient,) = torch.autograd.grad(cut[last].sum(), x)
    (whole,) = torch.autograd.grad(full[last].sum(), x)
    torch.testing.assert_close(gradient[inside], whole[inside])
    gradient[inside] = 0
    assert not gradient.any()


def test_lengths_of_a_narrow_type_are_lengths():
    x, layer = torch.randn(300, 2, 3), Recurrent(GRU(3, 5), TruncatedBPTT(20))
    wide = torch.tensor([5, 200])
    assert torch.equal(layer(x, lengths=wide.to(torch.uint8)).output, layer(x, lengths=wide).output)


def test_truncation_leaves_the_gradient_of_a_given_initial_state():
    layer = Recurrent(GRU(3, 5), TruncatedBPTT(4))
    h = torch.randn(2, 5, requires_grad=True)
    layer(torch.randn(4, 2, 3), layer.cell.state_type(h)).output.sum().backward()
    assert h.grad.abs().sum() > 0


def test_checkpoints_run_again_under_the_autocast_of_the_forward_pass():
    cell, x = LSTM(3, 5), torch.randn(10, 2, 3)
    found = []
    for bptt in (CheckpointedBPTT(3), TruncatedBPTT(1000)):
        with torch.autocast("cpu", torch.bfloat16):
            output = Recurrent(cell, bptt)(x).output
        found.append(torch.autograd.grad(output.square().sum(), tuple(cell.parameters())))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "name", ["gru", "peephole_lstm", "projected_lstm", "layer_norm_lstm", "mingru", "zoneout_lstm"]
)
def test_checkpoints_allow_a_second_derivative(name):
    cell, x = BUILDERS[name](2, 3).double(), torch.randn(6, 2, 2, dtype=D, requires_grad=True)
    sources, found = (x, *cell.parameters()), []
    for bptt in (CheckpointedBPTT(2), TruncatedBPTT(100)):
        torch.manual_seed(2)
        layer = Recurrent(cell, bptt)
        output = layer(x, layer(x[:2]).state, lengths=torch.tensor([6, 3])).output
        first = torch.autograd.grad(output.square().sum(), sources, create_graph=True)
        found.append((*first, *torch.autograd.grad(sum(g.square().sum() for g in first), sources)))
    torch.testing.assert_close(*found)


def test_checkpoints_see_that_a_mask_was_overwritten():
    cell, reset = GRU(2, 3), torch.zeros(6, 1, dtype=torch.bool)
    output = Recurrent(cell, CheckpointedBPTT(2))(torch.randn(6, 1, 2), reset=reset).output
    reset[3] = True
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("bptt", [TruncatedBPTT(3), CheckpointedBPTT(3), TruncatedBPTT(1000)])
def test_weight_drop_draws_one_new_mask_for_each_pass(bptt):
    cell = LSTM(3, 40)
    assert weight_drop(cell, 0.5) == 1
    layer, x = Recurrent(cell, bptt), torch.randn(9, 2, 3)
    dropped = []
    for _ in range(2):
        layer.zero_grad()
        layer(x).output.sum().backward()
        gradient = cell.parametrizations.weight_hh.original.grad
        dropped.append(gradient == 0)
        assert 0.45 < dropped[-1].float().mean() < 0.55  # dropped weights, and only they, get no gradient at any step
    assert not torch.equal(*dropped)
    assert not torch.equal(layer(x).output, layer(x).output)
    layer.eval()
    assert torch.equal(layer(x).output, layer(x).output)


def test_weight_drop_changes_training_updates():
    """A rival's weight drop silently did nothing; here a step of training differs from one without it."""
    x, updated = torch.randn(9, 2, 3), []
    for probability in (0.0, 0.5):
        torch.manual_seed(3)
        cell = GRU(3, 8)
        weight_drop(cell, probability)
        optimizer = torch.optim.SGD(cell.parameters(), lr=1.0)
        Recurrent(cell)(x).output.square().sum().backward()
        optimizer.step()
        updated.append(cell.parametrizations.weight_hh.original.detach().clone())
    assert not torch.equal(*updated)


def test_weight_drop_finds_the_weights_of_a_wrapped_stack():
    assert weight_drop(stack_cells(lambda i, h: zoneout(GRU(i, h)), 3, 4, 3), 0.2) == 3
    with pytest.raises(ConfigError, match="has no parameter 'weight_hh'"):
        weight_drop(MinGRU(3, 4), 0.2)


def test_locked_dropout_drops_the_same_features_at_every_step():
    y = LockedDropout(0.5)(torch.ones(6, 4, 100))
    assert all(torch.equal(y[t], y[0]) for t in range(6))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(y[0, 0], y[0, 1])


def test_embedding_dropout_drops_a_symbol_wherever_it_occurs():
    embedding, tokens = nn.Embedding(50, 8), torch.randint(50, (40, 10))
    embedded = embed_with_dropout(embedding, tokens, 0.5, training=True)
    missing = (embedded == 0).all(-1)
    assert 0.2 < missing.float().mean() < 0.8
    for symbol in tokens.unique():
        assert len(missing[tokens == symbol].unique()) == 1
    torch.testing.assert_close(embed_with_dropout(embedding, tokens, 0.5, training=False), embedding(tokens))


@pytest.mark.parametrize("options", [{"locked": True}, {"locked": False}])
def test_dropout_stands_between_layers_and_not_after_the_last(options):
    stack = stack_cells(GRU, 3, 64, 2, dropout=0.9, **options)
    output, _ = stack(torch.randn(5, 2, 3))
    assert not (output == 0).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(torch.zeros(5, 2, 4)), "x must be \\[T, B, 3\\] for this cell, got \\[5, 2, 4\\]; build the cell"),
        (lambda r: r(torch.zeros(5, 3)), "got \\[5, 3\\]; time is the first axis"),
        (lambda r: r(torch.zeros(5, 2, 3), lengths=torch.tensor([5])), "lengths must be \\[2\\] integers, got \\[1\\]"),
        (lambda r: r(torch.zeros(5, 2, 3), lengths=torch.tensor([5, 6])), "lie in 0..5, got 5..6"),
        (lambda r: r(torch.zeros(5, 2, 3), lengths=torch.tensor([5.0, 1.0])), "integers"),
        (lambda r: r(torch.zeros(5, 2, 3), lengths=torch.tensor([True, False])), "integers, got \\[2\\] of torch.bool"),
        (
            lambda r: r(torch.zeros(5, 2, 3, dtype=D)),
            "x must be torch.float32 like the cell's parameters, got torch.float64",
        ),
        (lambda r: r.step(torch.zeros(2, 4), r.initial_state(2)), "Recurrent.step: x must be \\[B, 3\\]"),
        (lambda r: r(torch.zeros(5, 2, 3), reset=torch.zeros(5, 2)), "reset must be \\[5, 2\\] booleans"),
        (lambda r: r(torch.zeros(5, 2, 3), torch.zeros(2, 4)), "state must be a LSTMState \\(h, c\\), got Tensor"),
        (lambda r: r(torch.zeros(5, 2, 3), r.initial_state(3)), "state must be \\[2, 4\\], got \\[3, 4\\]"),
    ],
)
def test_wrong_shapes_are_answered_with_what_was_expected(call, message):
    with pytest.raises(ShapeError, match=message):
        call(Recurrent(LSTM(3, 4)))


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="writes 4 features and the next reads 5"):
        Stack([Recurrent(LSTM(3, 4)), Recurrent(LSTM(5, 4))])
    with pytest.raises(ShapeError, match="both cells read the same input"):
        Bidirectional(GRU(3, 4), GRU(4, 4))
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        TruncatedBPTT(0)
