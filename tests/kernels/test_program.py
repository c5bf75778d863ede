import pytest
import torch
import torch.nn.functional as F

from catalogue import BUILDERS
from unspool.cells import GRU, LSTM, Elman, GatedCell
from unspool.errors import LoweringError
from unspool.kernels import (
    CellPrograms,
    Signature,
    fold,
    gated_scan,
    hoist,
    parse,
    trace,
    trace_adjoint,
    trace_tangent,
    with_probes,
)

ONE = Signature(x=1, h=0, states=1)
ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda a: F.celu(a, 0.7),
    "gelu": F.gelu,
    "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "softshrink": F.softshrink,
    "clamp": lambda a: a.clamp(-0.5, 0.8),
    "clamp_min": lambda a: a.clamp_min(0.1),
    "square": lambda a: a**2,
    "cube_root": lambda a: (a.abs() + 0.1).pow(1 / 3),
    "sqrt": lambda a: (1 + a * a).sqrt(),
    "rsqrt": lambda a: torch.rsqrt(1 + a * a),
    "reciprocal": lambda a: torch.reciprocal(2 + a.sin()),
    "log1p": lambda a: torch.log1p(a.abs()),
    "sin": torch.sin,
    "erf": torch.erf,
    "where": lambda a: torch.where((a > 0.2) & ~(a > 1.0), a.tanh(), -a),
    "masked_fill": lambda a: a.masked_fill(a < 0, 0.3),
    "in_place": lambda a: a.clone().mul_(2).add_(1),
    "lerp": lambda a: torch.lerp(a, a.tanh(), 0.3),
    "one_minus": lambda a: 1 - a,
    "maximum": lambda a: torch.maximum(a, -0.5 * a),
    "bool_arithmetic": lambda a: (a > 0) * a,
}


def _equations(function):
    return lambda x, h, s, *_: (function(x[0]) * 0.5 + s[0] * function(s[0]),)


def _gated(name):
    cell = BUILDERS[name](3, 4)
    noise = cell.draw_noise(1, 1)
    return cell, noise


GATED = [n for n in BUILDERS if isinstance(BUILDERS[n](2, 2), GatedCell) and n != "layer_norm_lstm"]


@pytest.mark.parametrize("name", GATED)
def test_text_parses_back_to_the_same_program(name):
    cell, noise = _gated(name)
    signature = cell.signature(noise)
    for tracer in (trace, trace_adjoint, trace_tangent):
        program = tracer(cell._grouped, signature)
        again = parse(program.text)
        assert again == program
        assert again.digest == program.digest


def test_gradients_of_the_two_parts_of_a_gate_are_one_value_for_the_lstm_and_not_for_the_gru():
    adjoint = parse(LSTM(2, 3).programs().adjoint)
    assert adjoint.outputs[:4] == adjoint.outputs[4:8]
    adjoint = parse(GRU(2, 3).programs().adjoint)
    assert adjoint.outputs[:2] == adjoint.outputs[3:5]
    assert adjoint.outputs[2] != adjoint.outputs[5]


def test_an_lstm_is_thirteen_operations():
    assert len(parse(LSTM(2, 3).programs().forward).instructions) == 13


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_adjoint_and_tangent_agree_with_autograd(name):
    equations = _equations(ACTIVATIONS[name])
    # with the values at which these functions have kinks among them
    x = torch.tensor([[0.0, 0.5, -0.5, 1.0, -1.0, 0.8, 3.0, -3.0, 6.0, 0.2]], dtype=torch.float64, requires_grad=True)
    s = torch.linspace(-4, 4, 10, dtype=torch.float64).unsqueeze(0).requires_grad_()
    (expected,) = equations((x,), (), (s,))
    (found,) = trace(equations, ONE)(x, s)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (x, s), cotangent)
    torch.testing.assert_close(tuple(trace_adjoint(equations, ONE)(x, s, cotangent)), wanted)
    tangents = torch.randn_like(x), torch.randn_like(s)
    _, wanted = torch.func.jvp(lambda x, s: equations((x,), (), (s,))[0], (x, s), tangents)
    torch.testing.assert_close(trace_tangent(equations, ONE)(x, s, *tangents)[0], wanted)


@pytest.mark.parametrize("name", ["softplus", "elu", "logsigmoid", "silu", "mish", "gelu"])
def test_adjoints_do_not_overflow_far_from_zero(name):
    equations = _equations(ACTIVATIONS[name])
    x = torch.tensor([[800.0, -800.0]], dtype=torch.float64)
    assert all(g.isfinite().all() for g in trace_adjoint(equations, ONE)(x, x, torch.ones_like(x)))


REFUSED = {
    "a reduction": (lambda a: a - a.mean(-1, keepdim=True), "mean"),
    "a full reduction": (lambda a: a - a.sum(), "sum"),
    "a product of matrices": (lambda a: a @ a.T @ a, "permute|mm"),
    "a softmax": (lambda a: a.softmax(-1), "softmax"),
    "chance": (lambda a: a * torch.rand_like(a), "rand_like"),
    "a special function": (torch.digamma, "digamma"),
    "another type": (lambda a: a.float(), "torch.float32"),
    "a branch": (lambda a: a if bool(a.sum() > 0) else -a, "torch.where"),
    "a number from a tensor": (lambda a: a * float(a[0, 0]), "torch.where"),
    "another shape": (lambda a: a.unsqueeze(0), "unsqueeze|shape"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_pointwise_is_refused_by_name(what):
    function, named = REFUSED[what]
    with pytest.raises(LoweringError, match=named):
        trace(lambda x, h, s, *_: (function(x[0]) + 0 * s[0],), ONE)


def test_a_tensor_that_is_no_input_is_refused():
    outside = torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(LoweringError, match="declare a parameter of shape \\[H\\] in `vectors`"):
        trace(lambda x, h, s, *_: (x[0] * outside,), ONE)


def test_the_error_names_the_cell():
    class Normed(GatedCell):
        gates = ("n",)

        def pointwise(self, x, h, state):
            return self.state_type(h=F.normalize(x[0] + h[0], dim=-1))

    with pytest.raises(LoweringError, match="Normed.pointwise: operation aten\\..* cannot be part of a program"):
        Normed(2, 3).programs()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with 'program"),
        ("program x 1\nt0 = fly x0\nreturn t0", "line 2: expected 'tN = OPERATION"),
        ("program x 1\nt0 = tanh t7\nreturn t0", "line 2: t7 is used before it is known"),
        ("program x 1\nt0 = tanh x0\nreturn tt", "line 3: 'tt' is neither a value nor a number"),
    ],
)
def test_broken_text_is_refused_with_its_line(text, message):
    with pytest.raises(LoweringError, match=message):
        parse(text)


def test_programs_are_traced_anew_when_a_setting_changes():
    cell = Elman(2, 3)
    before = cell.programs()
    assert cell.programs() is before
    cell.activation = torch.relu
    assert "tanh" in before.forward
    assert "tanh" not in cell.programs().forward


@pytest.mark.parametrize("name", ["lstm", "gru", "slstm", "user"])
def test_an_adjoint_cut_in_two_gives_the_same_gradients(name):
    adjoint = parse(BUILDERS[name](2, 3).programs().adjoint)
    early, late = hoist(adjoint)
    values = {v: torch.rand(4, 3, dtype=torch.float64) for v in adjoint.inputs}
    residuals = early(*(values[v] for v in early.inputs))
    found = late(*(values[f"d{i}"] for i in range(adjoint.size("d"))), *residuals)
    for a, b in zip(adjoint(*(values[v] for v in adjoint.inputs)), found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["lstm", "gru", "slstm"])
def test_the_gradient_of_a_probe_is_the_total_gradient_of_a_state(name):
    cell = BUILDERS[name](3, 4).double()
    weights, x = cell.weights(), torch.randn(6, 2, 3, dtype=torch.float64)
    gates, initial = cell.project(x, weights), torch.stack(tuple(cell.initial_state(2)))
    signature = cell.signature()
    forward = with_probes(trace(cell._grouped, signature))

    def probed(x, h, s, v, n, q):
        return [new + probe for new, probe in zip(cell._grouped(x, h, s), n, strict=True)]

    adjoint = trace_adjoint(probed, signature._replace(steps=signature.states))
    probes = torch.zeros(signature.states, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    programs = CellPrograms(forward.text, adjoint.text)
    states = gated_scan(programs, gates, weights.weight_hh, weights.bias_hh, initial, steps=probes)
    (found,) = torch.autograd.grad(states[0].sin().sum(), probes)

    reached = []

    def watched(x, h, s, *_):
        new = [t.clone() for t in cell._grouped(x, h, s)]  # the state as it is handed on
        [t.retain_grad() for t in new]
        reached.append(new)
        return new

    fold(watched, gates, weights.weight_hh, weights.bias_hh, initial)[0].sin().sum().backward()
    for t, state in enumerate(reached):
        for place, tensor in enumerate(state):
            torch.testing.assert_close(found[place, t], tensor.grad)
