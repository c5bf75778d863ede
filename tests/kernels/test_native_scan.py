"""Law Backend: the native engine gives what the equations give in float64, for every cell and every option."""

import copy
import itertools

import pytest
import torch

from catalogue import BUILDERS
from unspool import LSTM, Recurrent
from unspool.cells import GatedCell, programs
from unspool.kernels import isa, native_scan
from unspool.kernels.scan_inputs import ScanInputs
from unspool.state import map_state, state_tensors
from unspool.testing import TOLERANCES, observe

pytestmark = pytest.mark.skipif(isa.instruction_set() is None, reason="the native engine is not built here")

GATED = [name for name in BUILDERS if isinstance(BUILDERS[name](2, 2), GatedCell)]
SIZES = [(1, 1, 1, 1), (5, 2, 3, 4), (7, 3, 5, 19), (2, 9, 33, 64), (9, 1, 4, 130), (6, 17, 70, 72)]  # T, B, I, H
PROGRAMS = {}
OPTIONS = list(itertools.product([False, True], repeat=3))  # reverse, lengths, resets


@pytest.fixture(autouse=True)
def _one_trace_for_all_sizes(monkeypatch):
    """Tracing would take most of the time here; no cell of the catalogue has equations that depend on its sizes."""
    settings = programs._settings

    def without_sizes(module):
        return tuple(
            s for s in settings(module) if not isinstance(s, tuple) or s[0] not in ("input_size", "hidden_size")
        )

    monkeypatch.setattr(programs, "_settings", without_sizes)
    monkeypatch.setattr(programs, "_PROGRAMS", PROGRAMS)


def _state(cell, batch_size):
    x = torch.randn(3, batch_size, cell.input_size, dtype=torch.float64)
    with torch.no_grad():
        _, state = Recurrent(copy.deepcopy(cell).eval())(x)
    return map_state(lambda s: s.detach().requires_grad_(), state)


def _compare(cell, sizes, reverse=False, with_lengths=False, with_resets=False, training=True, narrow=False):
    num_steps, batch_size, _, _ = sizes
    cell = cell.double().train(training)
    x = torch.randn(num_steps, batch_size, cell.input_size, dtype=torch.float64)
    lengths = torch.randint(0, num_steps + 1, (batch_size,)) if with_lengths else None
    reset = torch.rand(num_steps, batch_size) < 0.3 if with_resets else None
    state, noise = _state(cell, batch_size), cell.draw_noise(num_steps, batch_size)
    single = copy.deepcopy(cell).float()

    def run(cell, dtype, x, state):
        drawn = type(noise)(*(None if t is None else t.to(dtype) for t in noise))
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            states = cell.unroll(x, state, cell.weights(), drawn, lengths, reset, reverse)
        real = torch.ones(num_steps, batch_size, dtype=torch.bool)
        if lengths is not None:
            real = torch.arange(num_steps)[:, None] < lengths
        whole = torch.cat([torch.where(real.unsqueeze(-1), s, 0.0) for s in states], -1)
        return whole, map_state(lambda s: s[0 if reverse else -1], states)

    def seen(cell, dtype):
        given = x.to(dtype).requires_grad_()
        before = map_state(lambda s: s.detach().to(dtype).requires_grad_(), state)
        return observe(lambda x, state: run(cell, dtype, x, state), cell, given, before)

    expected, found = seen(cell, torch.float64), seen(single, torch.float32)
    absolute, relative = TOLERANCES[torch.bfloat16 if narrow else torch.float32]
    for name, value in expected.items():
        finite = value[value.isfinite()]
        scale = max(1.0, float(finite.abs().max())) if len(finite) else 1.0
        torch.testing.assert_close(
            found[name].double(),
            value,
            atol=absolute * scale,
            rtol=relative,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.fixture
def instruction_set(request):
    before = isa.instruction_set()
    isa.force_instruction_set(request.param)
    yield request.param
    isa.force_instruction_set(before)


@pytest.fixture(params=[0, 1, 2], ids=["one_thread", "by_units", "by_sequences"])
def sharing(request, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2 if request.param else 1)
    monkeypatch.setattr(native_scan, "SPLIT", request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("instruction_set", isa.instruction_sets(), indirect=True)
@pytest.mark.parametrize("name", GATED)
def test_every_cell_at_every_size(name, instruction_set):
    for sizes in SIZES:
        _, _, input_size, hidden_size = sizes
        if name != "slstm_heads" or hidden_size % 2 == 0:
            _compare(BUILDERS[name](input_size, hidden_size), sizes)


@pytest.mark.parametrize(("reverse", "lengths", "resets"), OPTIONS)
@pytest.mark.parametrize("name", GATED)
def test_every_cell_with_every_option(name, reverse, lengths, resets, sharing):
    _compare(BUILDERS[name](5, 34), (5, 3, 5, 34), reverse, lengths, resets)


@pytest.mark.parametrize("name", GATED)
def test_without_gradients_the_states_are_the_same(name, sharing):
    layer, x = Recurrent(BUILDERS[name](5, 34)).eval(), torch.randn(7, 3, 5)
    expected = layer(x, lengths=torch.tensor([7, 0, 4]))
    with torch.no_grad():
        found = layer(x, lengths=torch.tensor([7, 0, 4]))
    torch.testing.assert_close(tuple(state_tensors(found)), tuple(state_tensors(expected)))


@pytest.mark.parametrize("instruction_set", isa.instruction_sets(), indirect=True)
@pytest.mark.parametrize("name", ["lstm", "gru", "layer_norm_lstm", "dropout_gru", "zoneout_lstm"])
def test_products_in_bfloat16(name, instruction_set, sharing):
    # the norm over few units magnifies rounding, in any engine
    sizes = (5, 3, 7, 201) if name == "layer_norm_lstm" else (5, 3, 7, 35)
    for reverse, lengths, resets in OPTIONS:
        _compare(BUILDERS[name](*sizes[2:]), sizes, reverse, lengths, resets, narrow=True)


@pytest.mark.parametrize("name", ["lstm", "gru", "elman", "layer_norm_lstm"])
def test_units_shared_by_threads_give_what_one_thread_gives(name):
    for sizes in [(9, 1, 64, 256), (5, 2, 30, 520)]:
        _compare(BUILDERS[name](*sizes[2:]), sizes)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_results_are_the_same_bits_every_time(num_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    layer, x = Recurrent(LSTM(40, 96)), torch.randn(30, 6, 40)

    def run():
        layer.zero_grad()
        output, _ = layer(x)
        output.square().sum().backward()
        return [output.detach(), *(p.grad.clone() for p in layer.parameters())]

    first = run()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
    torch.set_num_threads(before)


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    layer, x = Recurrent(LSTM(5, 8)), torch.randn(6, 2, 5)
    total = layer(x).output.sum()
    first = torch.autograd.grad(total, list(layer.parameters()), retain_graph=True)
    second = torch.autograd.grad(total, list(layer.parameters()))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_nan_and_infinity_pass_through():
    layer, x = Recurrent(LSTM(5, 8)), torch.zeros(3, 2, 5)
    x[1, 0, 0], x[1, 1, 0] = torch.nan, torch.inf
    output, _ = layer(x)
    assert output[0].isfinite().all()
    assert output[1:, 0].isnan().all()
    exact, _ = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(output[:, 1].double(), exact[:, 1], equal_nan=True, rtol=1e-4, atol=1e-5)


def test_memory_beyond_the_lengths_is_never_read():
    layer, lengths = Recurrent(LSTM(5, 8)), torch.tensor([4, 0, 2])
    x = torch.full((4, 3, 5), torch.nan)
    for b, length in enumerate(lengths):
        x[:length, b] = 1.0
    x.requires_grad_()
    output, state = layer(x, lengths=lengths)
    output.sum().backward()
    assert all(
        t.isfinite().all() for t in (output, *state_tensors(state), x.grad, *(p.grad for p in layer.parameters()))
    )


def test_what_the_engine_refuses_is_said():
    x = torch.zeros(2, 1, 3, dtype=torch.float64)
    inputs = ScanInputs(x, None, None, None, None, torch.zeros(1, 1, 3, dtype=torch.float64))
    assert native_scan.refusal(inputs) == "x is torch.float64; the native engine computes in float32"


def test_the_interpreters_operations_are_those_of_the_encoding():
    from unspool.kernels.encoding import OPERATIONS_IN_ORDER

    assert tuple(isa._native.operations()) == OPERATIONS_IN_ORDER
