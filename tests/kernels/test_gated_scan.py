import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from catalogue import BUILDERS
from unspool import GRU, LSTM, Elman, Recurrent
from unspool.errors import ShapeError
from unspool.kernels import gated_scan
from unspool.kernels.gated_scan import _scan, _scan_backward

PEERS = {
    "lstm": (LSTM, torch.nn.LSTM),
    "gru": (GRU, torch.nn.GRU),
    "rnn_tanh": (Elman, torch.nn.RNN),
    "rnn_relu": (
        lambda i, h: Elman(i, h, activation=torch.relu),
        lambda i, h, **o: torch.nn.RNN(i, h, nonlinearity="relu", **o),
    ),
}
D = torch.float64


def _pair(name, **options):
    ours, theirs = PEERS[name][0](5, 7).double(), PEERS[name][1](5, 7, **options).double()
    ours.load_state_dict(
        {n.removesuffix("_l0"): p for n, p in theirs.state_dict().items() if n.endswith("l0")}, strict=False
    )
    return ours, theirs


def _final(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("name", PEERS)
def test_outputs_states_and_gradients_are_those_of_torch_nn(name):
    ours, theirs = _pair(name)
    x = torch.randn(11, 3, 5, dtype=D, requires_grad=True)
    output, state = Recurrent(ours)(x)
    expected, final = theirs(x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(tuple(state), tuple(s[0] for s in _final(final)))
    g = torch.randn_like(output)
    mine = torch.autograd.grad(output, (x, *ours.parameters()), g)
    named = {n.removesuffix("_l0"): p for n, p in theirs.named_parameters()}
    wanted = torch.autograd.grad(expected, (x, *(named[n] for n, _ in ours.named_parameters())), g)
    torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("name", PEERS)
def test_lengths_give_what_torch_gives_for_packed_sequences(name):
    ours, theirs = _pair(name)
    x, lengths = torch.randn(9, 4, 5, dtype=D), torch.tensor([3, 9, 1, 6])
    output, state = Recurrent(ours)(x, lengths=lengths)
    packed, final = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed)
    for b, length in enumerate(lengths):
        torch.testing.assert_close(output[:length, b], expected[:length, b])
    torch.testing.assert_close(tuple(state), tuple(s[0] for s in _final(final)))


@pytest.mark.parametrize("name", PEERS)
def test_reading_backwards_gives_torchs_second_direction(name):
    _, theirs = _pair(name, bidirectional=True)
    ours = PEERS[name][0](5, 7).double()
    suffix = "_l0_reverse"
    ours.load_state_dict({n.removesuffix(suffix): p for n, p in theirs.state_dict().items() if n.endswith(suffix)})
    x, lengths = torch.randn(9, 4, 5, dtype=D), torch.tensor([3, 9, 1, 6])
    output, _ = Recurrent(ours, reverse=True)(x, lengths=lengths)
    expected, _ = pad_packed_sequence(theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))[0])
    for b, length in enumerate(lengths):
        torch.testing.assert_close(output[:length, b], expected[:length, b, 7:])


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole_lstm", "dropout_gru", "zoneout_lstm", "dropout_indrnn"])
def test_the_operators_pass_torchs_own_checks(name):
    cell = BUILDERS[name](3, 4).double()
    noise, weights, batch = cell.draw_noise(5, 2), cell.weights(), 2
    vectors = None if weights.vectors is None else weights.vectors.detach().requires_grad_()
    x = cell.project(torch.randn(5, batch, 3, dtype=D), weights).detach().requires_grad_()
    state = torch.randn(len(cell.state_type._fields), batch, 4, dtype=D, requires_grad=True)
    masks = (noise.recurrent_mask, torch.tensor([5, 3]), torch.rand(5, batch) < 0.3, torch.zeros_like(state))
    inputs = (
        x,
        weights.weight_hh,
        weights.bias_hh,
        state,
        vectors,
        noise.steps,
        noise.sequences,
        *masks,
        False,
    )
    programs = cell.programs(noise)
    torch.library.opcheck(_scan, (programs.forward, programs.adjoint, *inputs))
    states = _scan(programs.forward, programs.adjoint, *inputs).detach().requires_grad_()
    torch.library.opcheck(_scan_backward, (torch.randn_like(states), states, programs.adjoint, *inputs))


@pytest.mark.parametrize(("num_steps", "batch_size"), [(0, 2), (3, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("name", ["lstm", "indrnn", "layer_norm_lstm", "mingru", "zoneout_lstm"])
def test_empty_sequences_and_batches_are_sequences_and_batches(name, num_steps, batch_size):
    cell = BUILDERS[name](3, 4)
    x = torch.randn(num_steps, batch_size, 3, requires_grad=True)
    lengths = torch.full((batch_size,), num_steps)
    output, state = Recurrent(cell)(x, lengths=lengths)
    assert output.shape == (num_steps, batch_size, 4)
    assert all(s.shape == (batch_size, 4) for s in state)
    if num_steps:
        output.sum().backward()
        assert x.grad.shape == x.shape


def test_a_penalty_on_the_norm_of_gradients_trains():
    cell = LSTM(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=D, requires_grad=True)
    (gradient,) = torch.autograd.grad(Recurrent(cell)(x).output.sum(), x, create_graph=True)
    ((gradient.norm() - 1) ** 2).backward()
    assert all(p.grad.abs().sum() > 0 for p in (cell.weight_hh, cell.weight_ih))


def test_a_third_derivative_exists():
    x = torch.randn(2, 1, 1, dtype=D, requires_grad=True)
    layer = Recurrent(Elman(1, 1).double())
    first = torch.autograd.grad(layer(x).output.sum(), x, create_graph=True)[0].sum()
    second = torch.autograd.grad(first, x, create_graph=True)[0].sum()
    (third,) = torch.autograd.grad(second, x)
    assert third.abs().sum() > 0


def test_states_of_all_steps_are_differentiable_outputs():
    layer = Recurrent(LSTM(3, 4))
    x = torch.randn(5, 2, 3, requires_grad=True)
    trajectory = layer.unroll(x)
    trajectory.states.c[2].sum().backward()
    assert x.grad[:3].abs().sum() > 0
    assert not x.grad[3:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 2, 13)}, "x must be \\[5, 2, 16\\]"),
        ({"weight_hh": torch.zeros(16, 3)}, "weight_hh must be \\[16, 4\\]"),
        ({"weight_hh": None}, "weight_hh must be \\[16, 4\\]"),
        ({"initial_state": torch.zeros(1, 2, 4)}, "initial_state must be \\[2, 2, 4\\]"),
        ({"vectors": torch.zeros(1, 4)}, "vectors must be \\[0, 4\\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    arguments = {"x": torch.zeros(5, 2, 16), "weight_hh": torch.zeros(16, 4), "bias_hh": None}
    arguments |= {"initial_state": torch.zeros(2, 2, 4)} | change
    with pytest.raises(ShapeError, match=message):
        gated_scan(LSTM(3, 4).programs(), **arguments)


def test_tracing_does_not_depend_on_what_surrounds_the_first_call():
    expected = LSTM(3, 4).programs()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert LSTM(3, 4).programs() == expected
