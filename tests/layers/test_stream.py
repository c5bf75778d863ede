import gc
import itertools
import warnings
import weakref

import pytest
import torch
from torch import nn

from catalogue import BUILDERS, UserCell
from unspool import (
    GRU,
    LSTM,
    SLSTM,
    Bidirectional,
    Elman,
    HiddenState,
    IndRNN,
    LayerNormLSTM,
    MinGRU,
    MinLSTM,
    Recurrent,
    Stack,
    Stream,
    stack_cells,
    zoneout,
)
from unspool.errors import ConfigError, ShapeError
from unspool.kernels import isa, parse, trace
from unspool.kernels.native_stream import summed
from unspool.kernels.tracing import Signature
from unspool.layers import Layer
from unspool.state import state_tensors

native = pytest.mark.skipif(not isa.instruction_sets(), reason="there is no native engine")
THREADED = 256  # units from which a stack of two layers takes two threads


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def instruction_set(request):
    before = isa.instruction_set()
    isa.force_instruction_set(request.param)
    yield request.param
    isa.force_instruction_set(before)


def fold(stream, x):
    return torch.stack([stream.step(step).clone() for step in x])


def check(layer, x, batch_size, **tolerances):
    layer.eval()
    stream, wanted = Stream(layer, batch_size), layer(x)
    torch.testing.assert_close(fold(stream, x), wanted.output.detach(), **tolerances)
    for own, given in zip(state_tensors(stream.state), state_tensors(wanted.state), strict=True):
        torch.testing.assert_close(own, given.detach(), **tolerances)
    return stream


def mixed():
    """Three kinds of layers; the middle one needs whole rows."""
    return [Recurrent(GRU(7, 33)), Recurrent(LayerNormLSTM(33, 21)), Recurrent(MinLSTM(21, 13))]


@pytest.mark.parametrize("batch_size", [1, 3, 17])
@pytest.mark.parametrize("name", BUILDERS)
def test_steps_of_a_stream_are_the_layer(name, batch_size):
    layer = Recurrent(BUILDERS[name](5, 14)).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Stream: slow steps")
        stream = check(layer, torch.randn(9, batch_size, 5), batch_size, atol=2e-6, rtol=1e-5)
    own_way = name.startswith("projected") or "output" in name or name == "own_projection"
    assert (stream.reason is not None) == (own_way or not isa.instruction_sets())


@native
@pytest.mark.parametrize("batch_size", [1, 3, 17])
@pytest.mark.parametrize("instruction_set", isa.instruction_sets(), indirect=True)
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_stacks_of_all_kinds_of_layers_on_every_instruction_set(threads, instruction_set, batch_size):
    for options in ({}, {"residual": True}, {"layer_norm": True}, {"residual": True, "layer_norm": True}):
        layers = [*mixed(), Recurrent(zoneout(LSTM(13, 13)))]
        stream = check(Stack(layers, **options), torch.randn(6, batch_size, 7), batch_size, atol=2e-6, rtol=1e-5)
        assert stream.explain().startswith(f"native engine, {instruction_set}, threads: 1,")


@native
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("instruction_set", isa.instruction_sets(), indirect=True)
@pytest.mark.parametrize("batch_size", [1, 3, 17])
@pytest.mark.parametrize("cell", [LSTM, GRU, IndRNN, SLSTM, LayerNormLSTM, MinGRU])
def test_two_threads_share_the_units_of_large_layers(cell, batch_size, instruction_set, threads):
    layer = stack_cells(cell, 301, THREADED + 5, 2, residual=True, layer_norm=True).eval()
    stream, x = Stream(layer, batch_size), torch.randn(30, batch_size, 301)
    assert stream.native.threads == 2
    found, wanted = fold(stream, x), layer(x).output.detach()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    torch.set_num_threads(1)
    alone = Stream(layer, batch_size)
    torch.testing.assert_close(fold(alone, x), found, atol=0, rtol=0)  # the same bits


@native
def test_a_users_cell_that_sums_over_its_units():
    class Centred(UserCell):
        def pointwise(self, x, h, state, vectors):
            new = super().pointwise(x, h, state, vectors).h
            return HiddenState(h=new - new.mean(-1, keepdim=True))

    stream = check(Recurrent(Centred(5, 19)), torch.randn(9, 3, 5), 3, atol=2e-6, rtol=1e-5)
    assert stream.reason is None


@native
@pytest.mark.parametrize("hidden_size", [31, THREADED])
@pytest.mark.parametrize("batch_size", [1, 3, 17])
def test_narrow_weights_are_near(batch_size, hidden_size):
    layer, x = stack_cells(GRU, 9, hidden_size, 2).eval(), torch.randn(8, batch_size, 9)
    stream = Stream(layer, batch_size, narrow=True)
    assert "bfloat16" in stream.explain()
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach(), atol=0.02, rtol=0.05)


def test_weights_are_followed_when_they_change():
    layer, x = stack_cells(LSTM, 3, 4, 2).eval(), torch.randn(4, 2, 3)
    stream = Stream(layer, 2)
    fold(stream, x)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    layer(x).output.square().sum().backward()
    optimizer.step()
    stream.reset()
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach())
    layer.load_state_dict(stack_cells(LSTM, 3, 4, 2).state_dict())
    stream.reset()
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach())
    layer.layers[1].cell.weight_hh = nn.Parameter(torch.zeros(16, 4))
    stream.refresh()
    stream.reset()
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach())


def test_streams_can_begin_anew_one_by_one():
    layer, x = Recurrent(SLSTM(3, 5)).eval(), torch.randn(6, 3, 3)
    stream = Stream(layer, 3)
    fold(stream, x[:3])
    stream.reset([1])
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[3, 1] = True
    torch.testing.assert_close(fold(stream, x[3:]), layer(x, reset=reset).output[3:].detach())
    stream.reset()
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach())


@pytest.mark.parametrize("layer", [Recurrent(LSTM(3, 5)), Stack([Recurrent(LSTM(3, 5)), Recurrent(GRU(5, 4))])])
def test_states_are_read_and_written_as_the_layers_own(layer):
    layer, x = layer.eval(), torch.randn(7, 2, 3)
    stream = Stream(layer, 2)
    fold(stream, x[:3])
    kept = stream.state
    wanted = layer(x[:3]).state
    assert type(kept) is type(wanted)
    first = fold(stream, x[3:])
    stream.state = kept
    torch.testing.assert_close(fold(stream, x[3:]), first, atol=0, rtol=0)
    stream.state = wanted
    torch.testing.assert_close(fold(stream, x[3:]), first)
    with pytest.raises(ShapeError, match=r"Stream: state must be tensors \[\[2, 5\]"):
        stream.state = layer.initial_state(3)


def test_the_output_is_one_tensor_and_the_input_may_be_written_in_place():
    layer, x = Recurrent(GRU(3, 5)).eval(), torch.randn(4, 2, 3)
    stream, other = Stream(layer, 2), Stream(layer, 2)
    outputs = [stream.step(step) for step in x]
    assert all(output is outputs[0] for output in outputs)
    for step in x:
        other.input.copy_(step)
        y = other.step()
    torch.testing.assert_close(y, outputs[-1], atol=0, rtol=0)


@native
def test_inputs_with_gaps_or_gradients_are_taken_and_others_refused():
    layer = Recurrent(GRU(3, 5)).eval()
    stream, wide = Stream(layer, 2), torch.randn(2, 6, requires_grad=True)
    y = stream.step(wide[:, ::2]).clone()
    torch.testing.assert_close(y, layer(wide[None, :, ::2]).output[0].detach())
    assert not y.requires_grad
    for wrong in (torch.randn(1, 3), torch.randn(2, 3).double(), torch.randn(2, 3, 1), [1.0]):
        with pytest.raises(ShapeError, match=r"Stream.step: x must be \[2, 3\] of torch.float32"):
            stream.step(wrong)


def test_a_layer_in_training_mode_is_refused():
    with pytest.raises(ConfigError, match="training mode"):
        Stream(Recurrent(GRU(3, 5)))
    with pytest.raises(ShapeError, match="batch_size"):
        Stream(Recurrent(GRU(3, 5)).eval(), 0)


@native
@pytest.mark.filterwarnings("ignore:unspool's native engine does not run")
def test_what_the_engine_cannot_run_goes_step_by_step_and_says_so():
    class Branching(UserCell):
        reference_only = True

    class Stepping(GRU):
        def step(self, x, state, noise=None):
            return super().step(x, state, noise)

    cases: dict[str, Layer] = {
        "reads out something else": Recurrent(Elman(3, 4, output_size=2)),
        "reference_only": Recurrent(Branching(3, 4)),
        "a step or unroll of its own": Recurrent(Stepping(3, 4)),
    }
    for reason, layer in cases.items():
        with pytest.warns(RuntimeWarning, match=f"Stream: slow steps in PyTorch: .*{reason}"):
            stream = Stream(layer.eval(), 2)
        x = torch.randn(5, 2, 3)
        torch.testing.assert_close(fold(stream, x), layer(x).output.detach())
        assert reason in stream.explain()
    with pytest.warns(RuntimeWarning, match="Bidirectional"):
        Stream(Stack([Bidirectional(GRU(3, 4), GRU(3, 4))]).eval())


def test_streams_in_float64_run_in_pytorch():
    layer, x = Recurrent(GRU(3, 4)).double().eval(), torch.randn(5, 2, 3, dtype=torch.float64)
    stream = Stream(layer, 2)
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach())
    assert stream.reason is not None


@native
def test_streams_made_under_inference_go_on_outside():
    layer, x = Recurrent(GRU(3, 4)).eval(), torch.randn(5, 2, 3)
    with torch.inference_mode():
        stream = Stream(layer, 2)
        stream.step(x[0])
    fold(stream, x[1:])
    stream.reset()
    torch.testing.assert_close(fold(stream, x), layer(x).output.detach())


@native
def test_a_stream_that_nobody_holds_is_gone():
    layer = Recurrent(GRU(3, 4)).eval()
    stream = Stream(layer)
    gone = weakref.ref(stream.native._engine) if hasattr(stream.native._engine, "__weakref__") else weakref.ref(stream)
    stream.step(torch.zeros(1, 3))
    gc.disable()
    try:
        del stream
        assert gone() is None  # without help from the garbage collector: there is no cycle
    finally:
        gc.enable()


def test_gates_are_summed_only_where_nothing_else_is_done_with_their_parts():
    lstm = parse(LSTM(3, 4).programs().forward)
    assert summed(lstm).size("h") == 0
    values = [torch.randn(2, 4) for _ in lstm.inputs]
    inputs = [x + h for x, h in zip(values[:4], values[4:8], strict=True)] + values[8:]
    for found, wanted in zip(summed(lstm)(*inputs), lstm(*values), strict=True):
        torch.testing.assert_close(found, wanted)
    assert summed(parse(GRU(3, 4).programs().forward)) is None
    assert summed(parse(IndRNN(3, 4).programs().forward)) is None
    signature = Signature(1, 1, 1)
    for more in (lambda x, h: x, lambda x, h: h, lambda x, h: x * h):
        program = trace(lambda x, h, s, *_, more=more: [(x[0] + h[0]).tanh() + more(x[0], h[0])], signature)
        assert summed(program) is None
    returned = trace(lambda x, h, s, *_: [x[0] + h[0]], signature)
    assert summed(returned).outputs == ("x0",)


@native
@pytest.mark.parametrize("sizes", list(itertools.product([1, 8, 9], [1, 5])))
def test_tiny_layers(sizes):
    input_size, hidden_size = sizes
    check(stack_cells(LSTM, input_size, hidden_size, 3), torch.randn(5, 2, input_size), 2)


@native
def test_a_stream_opens_under_any_default_type():
    layer, x = Recurrent(LSTM(3, 8)).eval(), torch.randn(4, 1, 3)
    torch.set_default_dtype(torch.float64)
    try:
        check(layer, x, 1, atol=2e-6, rtol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
