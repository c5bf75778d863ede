import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from catalogue import BUILDERS
from unspool import GRU, LSTM, Elman, ProjectedLSTM, Recurrent
from unspool.errors import ShapeError
from unspool.kernels import ScanInputs, gated_scan
from unspool.kernels.gated_scan import _scan, _scan_backward
from unspool.testing import TOLERANCES

PEERS = {
    "lstm": (LSTM, torch.nn.LSTM),
    "gru": (GRU, torch.nn.GRU),
    "rnn_tanh": (Elman, torch.nn.RNN),
    "rnn_relu": (
        lambda i, h: Elman(i, h, activation=torch.relu),
        lambda i, h, **o: torch.nn.RNN(i, h, nonlinearity="relu", **o),
    ),
    "projected_lstm": (lambda i, h: ProjectedLSTM(i, h, 4), lambda i, h, **o: torch.nn.LSTM(i, h, proj_size=4, **o)),
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


@pytest.mark.parametrize("with_state", [False, True], ids=["from_zero", "from_a_state"])
@pytest.mark.parametrize("dtype", [D, torch.float32])
@pytest.mark.parametrize("name", PEERS)
def test_outputs_states_and_gradients_are_those_of_torch_nn(name, dtype, with_state):
    ours, theirs = _pair(name)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x = torch.randn(11, 3, 5, dtype=dtype, requires_grad=True)
    given = [torch.rand(3, size, dtype=dtype, requires_grad=True) for size in ours.state_sizes]
    stacked = [s.unsqueeze(0) for s in given]
    output, state = Recurrent(ours)(x, ours.state_type(*given) if with_state else None)
    expected, final = theirs(x, (tuple(stacked) if len(stacked) > 1 else stacked[0]) if with_state else None)
    named = {n.removesuffix("_l0"): p for n, p in theirs.named_parameters()}
    inputs = [x, *(given if with_state else ())]
    cotangents = [torch.randn_like(t) for t in (output, *state)]
    wanted_final = [s[0] for s in _final(final)]
    mine = torch.autograd.grad((output, *state), (*inputs, *ours.parameters()), cotangents)
    wanted = torch.autograd.grad(
        (expected, *wanted_final), (*inputs, *(named[n] for n, _ in ours.named_parameters())), cotangents
    )
    absolute, relative = TOLERANCES[dtype]
    torch.testing.assert_close(
        (output, *state, *mine), (expected, *wanted_final, *wanted), atol=absolute, rtol=relative
    )


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
        torch.testing.assert_close(output[:length, b], expected[:length, b, output.shape[-1] :])


def _operands(name, dtype, with_lengths):
    """A cell's programs, and tensors of one short pass with all that the cell and the scan can take."""
    cell = BUILDERS[name](3, 4).to(dtype)
    noise, batch = cell.draw_noise(2, 2), 2
    weights = [None if w is None else w.detach().requires_grad_() for w in cell.weights()[:5]]
    weight_ih, bias_ih, weight_hh, bias_hh, vectors = weights
    state = torch.rand(len(cell.state_type._fields), batch, 4, dtype=dtype, requires_grad=True)
    inputs = ScanInputs(
        torch.randn(2, batch, 3, dtype=dtype, requires_grad=True), weight_ih, bias_ih, weight_hh, bias_hh, state, vectors,
        noise.steps, noise.sequences, noise.recurrent_mask, torch.tensor([2, 1]) if with_lengths else None,
        torch.tensor([[False, True], [True, False]]),
        torch.zeros_like(state, requires_grad=True),
    )  # fmt: skip
    return cell.programs(noise), inputs


QUICK_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def _check_operators(name, dtype, with_lengths, backward_checks):
    programs, inputs = _operands(name, dtype, with_lengths)
    torch.library.opcheck(_scan, (*programs, False, False, True, *inputs))
    *states, buffer = (t.detach() for t in _scan(*programs, False, False, True, *inputs))
    states = [s.requires_grad_() for s in states]
    cotangents = [torch.randn_like(s, requires_grad=True) for s in states]
    arguments = (cotangents, states, buffer, *programs, False, False, *inputs)
    torch.library.opcheck(_scan_backward, arguments, test_utils=backward_checks)


@pytest.mark.parametrize(("dtype", "with_lengths"), [(D, True), (torch.float32, True), (torch.float32, False)])
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole_lstm", "dropout_gru", "zoneout_lstm", "dropout_indrnn"])
def test_the_operators_pass_torchs_own_checks(name, dtype, with_lengths):
    _check_operators(name, dtype, with_lengths, QUICK_CHECKS)


def test_the_gradients_own_gradient_can_be_compiled():
    _check_operators("dropout_indrnn", torch.float32, True, (*QUICK_CHECKS, "test_aot_dispatch_dynamic"))


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
        ({"weight_ih": torch.zeros(12, 16)}, "weight_ih must be \\[16, 16\\]"),
        ({"weight_hh": torch.zeros(16, 3)}, "weight_hh must be \\[16, 4\\]"),
        ({"weight_hh": None}, "weight_hh must be \\[16, 4\\]"),
        ({"initial_state": torch.zeros(1, 2, 4)}, "initial_state must be \\[2, 2, 4\\]"),
        ({"vectors": torch.zeros(1, 4)}, "vectors must be \\[0, 4\\]"),
        ({"bias_ih": torch.zeros(4)}, "bias_ih must be \\[16\\]"),
        ({"bias_hh": torch.zeros(15)}, "bias_hh must be \\[16\\]"),
        ({"recurrent_mask": torch.zeros(1, 4)}, "recurrent_mask must be \\[2, 4\\]"),
        ({"lengths": torch.tensor([5])}, "lengths must be \\[2\\]"),
        ({"lengths": torch.tensor([-2, 5])}, "lengths must lie in 0..5, got -2..5"),
        ({"lengths": torch.tensor([7, 5])}, "lengths must lie in 0..5, got 5..7"),
        ({"reset": torch.zeros(5, 1, dtype=torch.bool)}, "reset must be \\[5, 2\\]"),
        ({"reset": torch.zeros(5, 2)}, "reset must be booleans"),
        ({"reset": torch.zeros(5, 2, dtype=torch.bool), "reset_state": torch.zeros(2, 4)}, "reset_state must be"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    arguments = {"weight_ih": None, "bias_ih": None, "bias_hh": None, "x": torch.zeros(5, 2, 16)}
    arguments |= {"weight_hh": torch.zeros(16, 4), "initial_state": torch.zeros(2, 2, 4)} | change
    with pytest.raises(ShapeError, match=message):
        gated_scan(LSTM(3, 4).programs(), ScanInputs(**arguments))


@pytest.mark.parametrize("with_lengths", [False, True], ids=["whole", "lengths"])
def test_a_compiled_layer_gives_the_numbers_of_an_eager_one(with_lengths):
    layer, x = Recurrent(LSTM(3, 4)), torch.randn(5, 2, 3, requires_grad=True)
    lengths = torch.tensor([5, 3]) if with_lengths else None

    def run(layer):
        output, state = layer(x, lengths=lengths)
        gradients = torch.autograd.grad(output.sin().sum() + state.c.sum(), (x, *layer.parameters()))
        return output, *state, *gradients

    torch._dynamo.reset()
    torch.testing.assert_close(run(torch.compile(layer, fullgraph=True, backend="aot_eager")), run(layer))


@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_functional_gradients_are_those_of_backward(dtype):
    layer, x = Recurrent(LSTM(3, 4)).to(dtype), torch.randn(5, 2, 3, dtype=dtype)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).output.sin().sum()

    found = torch.func.grad(loss)(parameters, x)
    wanted = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
    torch.testing.assert_close(tuple(found.values()), wanted)


def test_gradients_of_a_narrow_loop_are_summed_in_float32():
    layer, x = Recurrent(GRU(4, 8)), torch.randn(1000, 2, 4)
    parameters = dict(layer.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(layer, parameters, (x,)).output.square().mean()

    exact = torch.func.grad(loss)(parameters)["cell.weight_hh"]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = torch.func.grad(loss)(parameters)["cell.weight_hh"]
    assert (narrow - exact).norm() < 0.02 * exact.norm()


def test_a_vectorized_map_gives_each_batch_its_own_gradients():
    layer, x = Recurrent(LSTM(3, 4)).double(), torch.randn(3, 5, 2, 3, dtype=D)
    gradient = torch.func.grad(lambda x: layer(x).output.sin().sum())
    torch.testing.assert_close(torch.func.vmap(gradient)(x), torch.stack([gradient(one) for one in x]))


def test_tracing_does_not_depend_on_what_surrounds_the_first_call():
    expected = LSTM(3, 4).programs()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert LSTM(3, 4).programs() == expected
