import pytest
import torch

from catalogue import BUILDERS
from unspool.cells import GatedCell
from unspool.kernels import Signature, TrainingPlan, parse, plan_training, trace, trace_adjoint

GATED = [n for n in BUILDERS if isinstance(BUILDERS[n](2, 2), GatedCell)]
SAVED = {"lstm": 4, "gru": 4, "elman": 0, "elman_relu": 0, "indrnn": 0, "layer_norm_lstm": 8, "zoneout_lstm": 4}


def _plan(name):
    cell = BUILDERS[name](3, 4)
    programs = cell.programs(cell.draw_noise(1, 1))
    forward, adjoint = parse(programs.forward), parse(programs.adjoint)
    return forward, adjoint, plan_training(forward, adjoint)


def _values(adjoint):
    values = {v: torch.randn(5, 4, dtype=torch.float64) for v in adjoint.inputs}
    return values | {v: torch.rand(5, 4, dtype=torch.float64) + 0.5 for v in adjoint.inputs if v[0] in "sn"}


@pytest.mark.parametrize("name", GATED)
def test_a_plan_gives_the_gradients_of_the_adjoint(name):
    forward, adjoint, plan = _plan(name)
    values = _values(adjoint)
    wanted = adjoint(*(values[v] for v in adjoint.inputs))
    states = forward(*(values[v] for v in forward.inputs))
    new = plan.forward(*(values[v] for v in plan.forward.inputs))
    torch.testing.assert_close(new[: len(states)], states, atol=1e-12, rtol=1e-12)
    known = {v: values[v] for v in values if v[0] in "svnq"}
    known |= {f"y{j}": state for j, state in enumerate(states)}
    known |= {f"r{j}": saved for j, saved in enumerate(new[len(states) :])}
    for j in range(len(states)):
        known[f"d{j}"] = torch.randn(5, 4, dtype=torch.float64)
        known[f"k{j}"] = values[f"d{j}"] - known[f"d{j}"]
    found = plan.backward(*(known[v] for v in plan.backward.inputs))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    x = forward.size("x")
    for gate, place in enumerate(plan.same):
        assert place is None or torch.equal(found[x + gate], found[place])


@pytest.mark.parametrize("name", GATED)
def test_the_groups_of_a_plan(name):
    forward, adjoint, plan = _plan(name)
    assert plan.forward.sizes == forward.sizes
    assert [group for group, _ in plan.backward.sizes] == [g for g in "rsyvnqdk" if plan.backward.size(g)]
    assert all(plan.backward.size(group) == forward.size(group) for group in "svnq")
    assert plan.backward.size("y") == plan.backward.size("d") == plan.backward.size("k") == forward.size("s")
    assert len(plan.forward.outputs) == forward.size("s") + plan.num_saved
    assert len(plan.backward.outputs) == len(adjoint.outputs)
    assert not plan.forward.rows.intersection(plan.forward.outputs[forward.size("s") :])
    assert plan.num_saved <= forward.size("x") + forward.size("h")
    assert parse(plan.backward.text) == plan.backward


@pytest.mark.parametrize("name", SAVED)
def test_as_few_values_are_saved_as_the_graph_allows(name):
    assert _plan(name)[2].num_saved == SAVED[name]


def test_an_lstm_saves_its_gates_in_their_order_and_computes_no_sigmoid_again():
    _, _, plan = _plan("lstm")
    made = {i.target: i for i in plan.forward.instructions}
    saved = [made[name] for name in plan.forward.outputs[2:]]
    assert [i.operation for i in saved] == ["sigmoid", "sigmoid", "tanh", "sigmoid"]
    assert [made[i.operands[0]].operands[1] for i in saved] == ["x0", "x1", "x2", "x3"]
    assert [i.operation for i in plan.backward.instructions if i.operation in ("sigmoid", "tanh")] == ["tanh"]
    assert plan.same == (0, 1, 2, 3)


def test_a_gru_saves_its_gates_and_the_h_part_of_n():
    _, _, plan = _plan("gru")
    made = {i.target: i.operation for i in plan.forward.instructions}
    assert [made.get(name, name) for name in plan.forward.outputs[1:]] == ["sigmoid", "sigmoid", "tanh", "h2"]
    assert plan.same == (0, 1, None)


def test_a_state_that_is_an_input_a_number_or_another_state_is_no_obstacle():
    def equations(x, h, s, *_):
        c = x[0].tanh() * s[0]
        return c, x[1], s[0] * 0 + s[1], c, s[1] * c.exp() * x[1].sin()

    signature = Signature(2, 0, 5)
    forward, adjoint = trace(equations, signature), trace_adjoint(equations, signature)
    plan = plan_training(forward, adjoint)
    assert isinstance(plan, TrainingPlan)
    assert plan.num_saved == 1  # tanh: x1 is a new state, exp(c) is computed from one
    values = _values(adjoint)
    new = plan.forward(*(values[v] for v in plan.forward.inputs))
    known = values | {f"y{j}": new[j] for j in range(5)} | {"r0": new[5]}
    known |= {f"k{j}": torch.zeros(5, 4, dtype=torch.float64) for j in range(5)}
    found = plan.backward(*(known[v] for v in plan.backward.inputs))
    torch.testing.assert_close(found, adjoint(*(values[v] for v in adjoint.inputs)), atol=1e-12, rtol=1e-12)
