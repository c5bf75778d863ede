import pytest
import torch
import torch.nn.functional as F

from catalogue import BUILDERS
from unspool.cells import GRU, LSTM, Elman, GatedCell
from unspool.errors import LoweringError
from unspool.kernels import ProgramBuilder, Signature, hoist, parse, trace, trace_adjoint

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


GATED = [n for n in BUILDERS if isinstance(BUILDERS[n](2, 2), GatedCell)]


@pytest.mark.parametrize("name", GATED)
def test_text_parses_back_to_the_same_program(name):
    cell, noise = _gated(name)
    signature = cell.signature(noise)
    for tracer in (trace, trace_adjoint):
        program = tracer(cell.grouped, signature)
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
def test_forward_and_adjoint_agree_with_autograd(name):
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


@pytest.mark.parametrize("name", ["softplus", "elu", "logsigmoid", "silu", "mish", "gelu"])
def test_adjoints_do_not_overflow_far_from_zero(name):
    equations = _equations(ACTIVATIONS[name])
    x = torch.tensor([[800.0, -800.0]], dtype=torch.float64)
    assert all(g.isfinite().all() for g in trace_adjoint(equations, ONE)(x, x, torch.ones_like(x)))


REFUSED = {
    "a reduction over the batch": (lambda a: a - a.mean(0, keepdim=True), "mean"),
    "a full reduction": (lambda a: a - a.sum(), "sum"),
    "a maximum over the units": (lambda a: a - a.amax(-1, keepdim=True), "amax"),
    "another norm": (lambda a: a / torch.linalg.vector_norm(a, 3, -1, keepdim=True), "norm of order 3"),
    "a power of the number of units": (lambda a: a / a.shape[-1] ** 0.5, "1.73205 with H = 3, 2.82843 with H = 8"),
    "another course for other sizes": (lambda a: a.tanh() if a.shape[-1] > 5 else a, "same operations for every"),
    "a product of matrices": (lambda a: a @ a.T @ a, "permute|mm"),
    "a softmax": (lambda a: a.softmax(-1), "softmax"),
    "chance": (lambda a: a * torch.rand_like(a), "rand_like"),
    "a special function": (torch.digamma, "digamma"),
    "another type": (lambda a: a.float(), "torch.float32"),
    "a branch": (lambda a: a if bool(a.sum() > 0) else -a, "torch.where"),
    "a number from a tensor": (lambda a: a * float(a[0, 0]), "torch.where"),
    "another shape": (lambda a: a.unsqueeze(0), "unsqueeze|shape"),
}


REDUCTIONS = {
    "sum": lambda a: a * a.sum(-1, keepdim=True),
    "sum_of_a_row": lambda a: a * a.sum(-1, keepdim=True).tanh().expand(a.shape).sum(-1, keepdim=True),
    "mean": lambda a: a - a.mean(-1, keepdim=True),
    "mean_without_its_axis": lambda a: a - a.sin().mean(-1).unsqueeze(-1),
    "a_row_as_a_state": lambda a: a.square().mean(-1, keepdim=True),
    "variance": lambda a: a * a.var(-1, keepdim=True),
    "biased_variance": lambda a: a * a.var(-1, keepdim=True, unbiased=False),
    "standard_deviation": lambda a: a / (1 + a.std(-1, keepdim=True)),
    "norm": lambda a: a / (1 + torch.linalg.vector_norm(a, dim=-1, keepdim=True)),
    "normalize": lambda a: F.normalize(a, dim=-1),
    "layer_norm": lambda a: F.layer_norm(a, (a.shape[-1],)),
    "softmax_by_hand": lambda a: a.exp() / a.exp().sum(-1, keepdim=True),
    "sizes": lambda a: a / a.shape[-1] + 2 * a.shape[-1] + (a.shape[-1] - 1) * a.sin() / (a.shape[-1] - 1.0),
}


@pytest.mark.parametrize("units", [2, 5, 63])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_the_units_agree_with_autograd_for_any_number_of_units(name, units):
    def equations(x, h, s, v, *_):
        return (REDUCTIONS[name](x[0]) * 0.5 + s[0] * REDUCTIONS[name](s[0] * v[0]),)

    signature = ONE._replace(vectors=1)
    values = [torch.randn(*shape, units, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (3, 4), ())]
    x, s, v = values
    (expected,) = equations((x,), (), (s,), (v,))
    program = trace(equations, signature)
    assert parse(program.text) == program
    torch.testing.assert_close(program(*values)[0], expected)
    cotangent = torch.randn_like(expected)
    gx, gs, gv = torch.autograd.grad(expected, values, cotangent)
    adjoint = trace_adjoint(equations, signature)
    for found in (adjoint(*values, cotangent), [g.clone() for g in _in_two(adjoint, [*values, cotangent])]):
        torch.testing.assert_close((found[0], found[1], found[2].expand(3, 4, units).sum((0, 1))), (gx, gs, gv))


def _in_two(adjoint, values):
    early, late = hoist(adjoint)
    return late(values[-1], *early(*values[:-1]))


def test_a_state_that_is_one_number_for_a_row_has_all_its_units():
    program = parse("program x 1\nt0 = sum x0\nt1 = sum t0\nt2 = sum 2.0\nt3 = sub H 1.0\nreturn t0 t1 t2 t3 H 5.0")
    x = torch.randn(3, 2, 4)
    total = x.sum(-1, keepdim=True).expand(3, 2, 4)
    wanted = (total, 4 * total, *(torch.full_like(x, number) for number in (8.0, 3.0, 4.0, 5.0)))
    torch.testing.assert_close(tuple(program(x)), wanted)
    assert program.rows == {"t0", "t1", "t2", "t3"}


def test_sums_of_what_is_the_same_for_all_units_are_products():
    builder = ProgramBuilder([("x", 1)])
    row = builder.emit("tanh", builder.emit("sum", "x0"))
    values = [builder.emit("sum", value) for value in (row, 2.0, 1.0, 0.0, "H")]
    lines = builder.build(values).text.splitlines()
    assert lines[3:] == ["t2 = mul H t1", "t3 = mul H 2.0", "t4 = mul H H", "return t2 t3 H 0.0 t4"]


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
            return self.state_type(h=(x[0] + h[0]).cumsum(-1))

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


def test_a_division_that_rounds_is_refused():
    with pytest.raises(LoweringError, match="a division that rounds"):
        trace(lambda x, h, s, v, n, q: [torch.div(x[0], s[0], rounding_mode="floor")], Signature(1, 0, 1))


def test_the_upper_bound_wins_where_bounds_cross():
    program = trace(lambda x, h, s, v, n, q: [torch.clamp(x[0], min=s[0], max=h[0])], Signature(1, 1, 1))
    x, high, low = torch.randn(3, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(program(x, high, low)[0], torch.clamp(x, min=low, max=high))
