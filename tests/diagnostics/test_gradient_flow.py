import math

import pytest
import torch
from torch import nn

import unspool
from catalogue import BUILDERS
from unspool import Elman, FullBPTT, Recurrent, Stack, TruncatedBPTT
from unspool.diagnostics import diagnose, gradient_flow, record
from unspool.errors import ConfigError


def by_hand(layer, x, at):
    """|dL/ds_t| from autograd over a plain loop of steps, with the loss on the output of step `at`."""
    state, reached = layer.initial_state(x.shape[1]), []
    for t in range(at + 1):
        state = type(state)(*(s.clone() for s in state))
        if t:
            [s.retain_grad() for s in state if s.requires_grad]
            reached.append(state)
        output, state = layer.step(x[t], state)
    state = type(state)(*(s.clone().requires_grad_(True) if not s.requires_grad else s for s in state))
    return output, [*reached, state]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_norms_from_probes_are_those_of_an_unrolled_reference(name):
    layer = Recurrent(BUILDERS[name](3, 6)).double().eval()
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    (flow,), _ = gradient_flow(layer, lambda: layer(x).output[-1].sin().sum())

    output, reached = by_hand(layer, x, 8)
    output.sin().sum().backward()
    worst = 0.0
    for lag in range(1, 9):
        for place, state in enumerate(flow.gradient_by_lag):
            tensor = reached[8 - lag][place]
            wanted = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            norm = wanted.norm(dim=-1).square().mean().sqrt()
            torch.testing.assert_close(flow.gradient_by_lag[state][lag], norm, rtol=1e-6, atol=1e-12)
            worst = max(worst, float((flow.gradient_by_lag[state][lag] - norm).abs() / norm.clamp(min=1e-12)))
    print(f"{name}: probes beside the unrolled reference, largest relative difference {worst:.1e}")


def test_a_linear_recurrence_decays_as_its_matrix_does():
    cell = Elman(2, 4, activation=lambda a: a).double()
    with torch.no_grad():
        cell.weight_hh.copy_(0.9 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0])
    layer, x = Recurrent(cell), torch.randn(120, 3, 2, dtype=torch.float64)
    (flow,), _ = gradient_flow(layer, lambda: layer(x).output[-1].square().sum())
    assert math.isclose(flow.growth, 0.9, rel_tol=1e-9)
    assert flow.growth_low <= 0.9 + 1e-9
    assert flow.growth_high >= 0.9 - 1e-9
    assert flow.memory_horizon == math.floor(math.log(0.01) / math.log(0.9))
    assert flow.bounded
    assert math.isclose(flow.arriving(10), 0.9**10, rel_tol=1e-9)


def test_lengths_and_directions_move_the_lag():
    layer, x = Recurrent(Elman(2, 3), reverse=True), torch.randn(7, 2, 2)
    (flow,), _ = gradient_flow(layer, lambda: layer(x).output[0].sum(), at=0)
    assert flow.reverse
    assert len(flow.total) == 7
    assert flow.total[0] == pytest.approx(math.sqrt(3), rel=1e-5)
    ahead, lengths = Recurrent(Elman(2, 3)), torch.tensor([4, 7])
    (flow,), _ = gradient_flow(ahead, lambda: ahead(x, lengths=lengths).output[lengths - 1, torch.arange(2)].sum())
    assert flow.total[0] == pytest.approx(math.sqrt(3), rel=1e-5)
    assert flow.total.isfinite().all()
    assert len(flow.total) == 7


def test_every_layer_of_a_stack_and_of_an_accelerated_module_is_seen():
    stack, x = Stack([Recurrent(Elman(2, 3)), Recurrent(Elman(3, 4))]), torch.randn(5, 2, 2)
    flows, recordings = gradient_flow(stack, lambda: stack(x).output[-1].sum())
    assert [flow.layer for flow in flows] == ["layers.0", "layers.1"]
    assert torch.equal(recordings[1].states.h, stack(x).output)

    model = nn.ModuleDict({"rnn": nn.LSTM(2, 3, num_layers=2, bidirectional=True)})
    unspool.accelerate(model)
    flows, _ = gradient_flow(model, lambda: model["rnn"](x)[0][2].sum(), at=2)
    assert [flow.layer for flow in flows] == ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse"]
    assert [flow.reverse for flow in flows] == [False, True] * 2


def test_recording_leaves_the_model_as_it_was():
    layer = Recurrent(Elman(2, 3), TruncatedBPTT(2))
    module = unspool.nn.GRU(2, 3)
    with record(nn.ModuleList([layer, module])):
        assert not isinstance(layer.bptt, TruncatedBPTT)
    assert layer.bptt == TruncatedBPTT(2)
    assert module.bptt == FullBPTT()
    assert "bptt" not in vars(module)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(
        ConfigError, match=r"the loss ran no Recurrent layer or unspool.nn module; for modules of torch"
    ):
        gradient_flow(nn.Linear(2, 2), lambda: torch.zeros((), requires_grad=True))
    layer, x = Recurrent(Elman(2, 3)), torch.zeros(2, 1, 2)
    with pytest.raises(ConfigError, match=r"this one depends on no recurrent layer; is it detached\?"):
        gradient_flow(layer, lambda: layer(x).output.detach().sum())
    with pytest.raises(ConfigError, match=r"this one is \[1, 3\]"):
        gradient_flow(layer, lambda: layer(x).output[-1])
    with pytest.raises(ConfigError, match="layer read no step that the loss could be of"):
        gradient_flow(layer, lambda: layer(x[:0]).output.sum())
    for at in (2, -1, torch.tensor([5])):
        with pytest.raises(ConfigError, match=r"at must lie within each sequence, \[2\] steps long"):
            gradient_flow(layer, lambda: layer(x).output[-1].sum(), at=at)
    for at in (torch.tensor([1.0]), torch.tensor([1, 1])):
        with pytest.raises(ConfigError, match=r"at must be an integer, or \[1\] of them"):
            gradient_flow(layer, lambda: layer(x).output[-1].sum(), at=at)


def test_a_cell_that_takes_no_probes_is_named():
    class Stubborn(Elman):
        def unroll(self, x, state, weights, noise, *others):
            return super().unroll(x, state, weights, noise._replace(probes=None), *others)

    stack, x = Stack([Recurrent(Elman(2, 3)), Recurrent(Stubborn(3, 3))]), torch.zeros(4, 1, 2)
    with pytest.raises(
        ConfigError, match=r"no gradient reaches layers.1: .* the unroll of Stubborn does not add noise.probes"
    ):
        gradient_flow(stack, lambda: stack(x).output[-1].sum())


def test_the_interval_of_one_sequence_comes_from_its_steps():
    layer = Recurrent(Elman(2, 16)).double()
    x = torch.randn(200, 1, 2, dtype=torch.float64)
    (one,), _ = gradient_flow(layer, lambda: layer(x).output[-1].sum())
    (many,), _ = gradient_flow(layer, lambda: layer(x.repeat(1, 2, 1)).output[-1].sum())
    assert one.growth == pytest.approx(many.growth)
    assert one.growth_low < one.growth < one.growth_high
    assert many.growth_low == pytest.approx(many.growth_high)  # two sequences that are the same
    (short,), _ = gradient_flow(layer, lambda: layer(x[:3]).output[-1].sum())
    assert math.isnan(short.growth)


def test_modules_that_would_run_pytorchs_kernel_are_measured_too():
    module, x = unspool.nn.LSTM(2, 3, dtype=torch.float64), torch.randn(9, 2, 2, dtype=torch.float64)
    (flow,), _ = gradient_flow(module, lambda: module(x)[0][-1].sum())
    assert flow.layer == "l0"
    assert flow.growth > 0


@pytest.mark.parametrize("name", ["zoneout_lstm", "zoneout_mingru", "dropout_indrnn", "zoneout_dropout_user"])
def test_a_model_in_training_mode_is_diagnosed_in_evaluation_mode(name):
    layer, x = Recurrent(BUILDERS[name](3, 4)), torch.randn(8, 2, 3)
    trained = diagnose(layer.train(), lambda: layer(x).output[-1].sum())
    assert all(module.training for module in layer.modules())
    assert torch.equal(trained.flows[0].total, diagnose(layer.eval(), lambda: layer(x).output[-1].sum()).flows[0].total)
