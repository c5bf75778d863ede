import numpy as np
import pytest
import torch

from catalogue import BUILDERS
from unspool.cells import GatedCell
from unspool.errors import LoweringError
from unspool.kernels import OPERATIONS_IN_ORDER, encode, parse, plan_training
from unspool.kernels.program import OPERATIONS, REAL_UNARY

GATED = [n for n in BUILDERS if isinstance(BUILDERS[n](2, 2), GatedCell)]
UNITS = 5


def _truth(function):
    return lambda *operands: function(*operands).double()


MACHINE = {
    **{name: getattr(torch, name) for name in REAL_UNARY},
    **{name: getattr(torch, name) for name in ("sub", "mul", "div", "pow", "add", "maximum", "minimum")},
    **{name: _truth(getattr(torch, name)) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    "mov": lambda a: a,
    "not": _truth(lambda a: a == 0),
    "and": _truth(lambda a, b: (a != 0) & (b != 0)),
    "or": _truth(lambda a, b: (a != 0) | (b != 0)),
    "where": lambda a, b, c: torch.where(a != 0, b, c),
    "sum": lambda a: a.sum(-1, keepdim=True),
    "fma": lambda a, b, c: a * b + c,
    "fnma": lambda a, b, c: c - a * b,
    "fms": lambda a, b, c: a * b - c,
}
OPERANDS = {"where": 3, "fma": 3, "fnma": 3, "fms": 3, "mov": 1, "not": 1, "sum": 1, **dict.fromkeys(REAL_UNARY, 1)}


def _execute(encoded, values, aliases):
    """The machine: every slot an array, aliases the same array, what nobody wrote NaN."""
    empty = torch.full((3, UNITS), torch.nan, dtype=torch.float64)
    slots = [value.clone() for value in values]
    slots += [slots[aliases[o]] if o in aliases else empty.clone() for o in range(encoded.num_outputs)]
    for place, number in enumerate(encoded.constants):
        slots.append(torch.full_like(empty, UNITS if place == encoded.width_constant else number))
    constants = len(slots)
    slots += [empty.clone() for _ in range(encoded.num_scratch)]
    for number, target, *operands in encoded.code.tolist():
        operation = OPERATIONS_IN_ORDER[number]
        used = OPERANDS.get(operation, 2)
        assert not any(operands[used:])
        assert encoded.num_inputs <= target < constants - len(encoded.constants) or target >= constants
        assert operation != "sum" or slots[target] is not slots[operands[0]]
        slots[target].copy_(MACHINE[operation](*(slots[o] for o in operands[:used])).expand(3, UNITS))
    return slots[encoded.num_inputs : encoded.num_inputs + encoded.num_outputs]


def _check(program, aliases=None):
    aliases = aliases or {}
    values = [torch.rand(3, UNITS, dtype=torch.float64) * 2 - (0 if v[0] in "syr" else 1) for v in program.inputs]
    encoded = encode(program, aliases)
    assert encoded.code.dtype == np.int32
    assert encoded.has_reduction == any(i.operation == "sum" for i in program.instructions)
    wanted = [value.double() for value in program(*values)]
    torch.testing.assert_close(_execute(encoded, values, aliases), wanted, atol=1e-12, rtol=1e-10, equal_nan=True)
    return encoded


def _operations(encoded):
    return [OPERATIONS_IN_ORDER[number] for number in encoded.code[:, 0]]


@pytest.mark.parametrize("name", GATED)
def test_encoded_programs_of_the_catalogue_give_the_same_values(name):
    cell = BUILDERS[name](3, 4)
    programs = cell.programs(cell.draw_noise(1, 1))
    forward, adjoint = parse(programs.forward), parse(programs.adjoint)
    _check(forward)
    _check(adjoint)
    plan = plan_training(forward, adjoint)
    gates, states, products = forward.size("x"), forward.size("s"), forward.size("h")
    in_place = range(min(gates, plan.num_saved))
    _check(plan.forward, {states + j: j for j in in_place})
    carried = plan.backward.inputs.index("k0")
    over = {j: j for j in in_place} | {gates + products + j: carried + j for j in range(states)}
    _check(plan.backward, over)


def test_every_operation_has_a_number():
    assert set(OPERATIONS_IN_ORDER) == OPERATIONS | {"mov", "fma", "fnma", "fms"}
    assert len(set(OPERATIONS_IN_ORDER)) == len(OPERATIONS_IN_ORDER)


def test_products_of_a_single_use_are_drawn_into_sums_and_differences():
    def check(*lines):
        return _operations(_check(parse("\n".join(["program x 3", *lines]))))

    assert check("t0 = mul x0 x1", "t1 = add t0 x2", "return t1") == ["fma"]
    assert check("t0 = mul x0 x1", "t1 = add x2 t0", "return t1") == ["fma"]
    assert check("t0 = mul x0 x1", "t1 = sub t0 x2", "return t1") == ["fms"]
    assert check("t0 = mul x0 x0", "t1 = sub 1.0 t0", "return t1") == ["fnma"]
    assert check("t0 = mul x0 x1", "t1 = mul x1 x2", "t2 = sub t0 t1", "return t2") == ["mul", "fnma"]
    assert check("t0 = mul x0 x1", "t1 = add t0 t0", "return t1") == ["mul", "add"]
    assert check("t0 = mul x0 x1", "t1 = add t0 x2", "return t1 t0") == ["mul", "add"]


def test_registers_are_used_again_and_a_sum_has_one_of_its_own():
    chain = parse("program x 1\nt0 = exp x0\nt1 = sin t0\nt2 = cos t1\nt3 = sum t2\nt4 = tanh t3\nreturn t4")
    encoded = _check(chain)
    assert encoded.num_scratch == 2
    assert encoded.code[-1, 1] == encoded.num_inputs


def test_an_output_waits_for_the_last_read_of_the_input_whose_place_it_takes():
    late = parse("program x 2\nt0 = tanh x0\nt1 = mul x0 x1\nreturn t0 t1")
    assert _operations(_check(late, {0: 0})) == ["tanh", "mul", "mov"]
    assert _operations(_check(late, {0: 1})) == ["tanh", "mul", "mov"]
    assert _operations(_check(late, {1: 0})) == ["tanh", "mul"]
    assert _operations(_check(late)) == ["tanh", "mul"]
    reduced = parse("program x 1\nt0 = sum x0\nreturn t0")
    assert _operations(_check(reduced, {0: 0})) == ["sum", "mov"]


@pytest.mark.parametrize(
    ("returned", "aliases", "moves"),
    [
        ("x0 x1", {0: 0, 1: 1}, 0),
        ("x1 x0", {0: 0, 1: 1}, 3),
        ("x1 x2 x0", {0: 0, 1: 1, 2: 2}, 4),
        ("x1 x2 2.5", {0: 0, 1: 1, 2: 2}, 3),
        ("x1 x1 x0 x0 H", {0: 0, 1: 1}, 4),
        ("t0 x0 t0", {0: 0}, 2),
        ("x0 t0 0.0 -0.0", {1: 0}, 4),
    ],
)
def test_outputs_that_are_inputs_numbers_or_one_value(returned, aliases, moves):
    program = parse(f"program x 3\nt0 = tanh x2\nreturn {returned}")
    assert _operations(_check(program, aliases)).count("mov") == moves


def test_outputs_of_one_memory_are_refused():
    program = parse("program x 1\nreturn x0 x0")
    with pytest.raises(LoweringError, match="two outputs cannot take the place of one input"):
        encode(program, {0: 0, 1: 0})
    with pytest.raises(LoweringError, match="that the program has not"):
        encode(program, {0: 1})
