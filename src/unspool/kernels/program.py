"""Programs: a cell's equations as a short list of operations on rows of H units that any backend can run.

A program is a pure value. It prints as text that parses back to the same program, so it can travel as a string
argument of an operator and needs no registry::

    program x 1 h 1 s 1
    t0 = add x0 h0
    t1 = tanh t0
    return t1

Inputs are named by group and position: ``x`` x-gates, ``h`` h-gates, ``s`` states, ``v`` vectors [H], ``n`` per-step
tensors [T, B, H], ``q`` per-sequence tensors [B, H], ``d`` cotangents or tangents, ``r`` values computed beforehand,
``y`` new states, ``k`` cotangents carried from the later step.

All operations are pointwise but ``sum``, which adds up the units of each row; what depends on sums and numbers alone is
a row value: one number for all units of a row. ``H``, the number of units, may stand wherever a number may::

    t3 = sum x0
    t4 = div t3 H

Programs are made from Python by `unspool.kernels.tracing`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from unspool.errors import LoweringError

GROUPS = "xhsvnqdryk"
WIDTH = "H"
REAL_UNARY: tuple[str, ...] = ("neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt")
REAL_UNARY += ("sin", "cos", "tanh", "sigmoid", "erf")
REAL_BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
LOGICAL = ("not", "and", "or")
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "and", "or"})
OPERATIONS = frozenset((*REAL_UNARY, *REAL_BINARY, *COMPARISONS, *LOGICAL, "where", "sum"))

_VALUE = re.compile(rf"[{GROUPS}t]\d+")

Operand = str | float
"""The name of a value, H, or a number; while a program is built also True or False, which are folded away."""


@dataclass(frozen=True)
class Instruction:
    """``target = operation operands``; an operand is the name of a value, H or a number."""

    target: str
    operation: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class Program:
    """A straight line of pointwise operations and sums over the units of a row.

    Attributes:
        sizes: how many inputs each group has, in the order of `GROUPS`; groups of size zero may be left out.
        instructions: in an order in which every operand is known before it is used.
        outputs: names of values, or numbers where an output is constant.
    """

    sizes: tuple[tuple[str, int], ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[Operand, ...]

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs, in the order in which a call takes them."""
        return tuple(f"{group}{i}" for group, size in self.sizes for i in range(size))

    @cached_property
    def text(self) -> str:
        """The program as text; `parse` gives the same program back."""
        header = " ".join(["program", *(f"{group} {size}" for group, size in self.sizes)])
        lines = [f"{i.target} = {i.operation} {' '.join(map(_spell, i.operands))}" for i in self.instructions]
        return "\n".join([header, *lines, f"return {' '.join(map(_spell, self.outputs))}"])

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return self.text

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many inputs there are of each group, in the order x h s v n q."""
        return tuple(self.size(group) for group in "xhsvnq")

    def size(self, group: str) -> int:
        """Number of inputs in a group."""
        return dict(self.sizes).get(group, 0)

    def __call__(self, *values: Tensor) -> list[Tensor]:
        """Runs the program on tensors of shapes that broadcast together; plain PyTorch, differentiable.

        Args:
            values: one tensor for each name in `inputs`, each with H units in its last axis.

        Returns:
            One tensor for each output, with H units in its last axis.
        """
        like = values[0]
        register: list[Tensor] = [*values, like.new_full((), like.shape[-1])] if self.measures else list(values)
        for function, operands in self._plan:
            register.append(function(*[register[o] if isinstance(o, int) else o for o in operands]))
        return [_widen(register[o] if isinstance(o, int) else like.new_full((), o), like) for o in self._places]

    @cached_property
    def measures(self) -> bool:
        """Whether H occurs in the program."""
        return any(WIDTH in operands for operands in (*(i.operands for i in self.instructions), self.outputs))

    @cached_property
    def rows(self) -> frozenset[str]:
        """Names of the computed values that are one number for all units of a row."""
        rows = set[str]()
        for i in self.instructions:
            if _is_row(i.operation, i.operands, rows):
                rows.add(i.target)
        return frozenset(rows)

    @cached_property
    def _positions(self) -> dict[str, int]:
        names = [*self.inputs, *([WIDTH] if self.measures else []), *(i.target for i in self.instructions)]
        return {name: position for position, name in enumerate(names)}

    @cached_property
    def _plan(self) -> list[tuple[Callable[..., Tensor], tuple[int | float, ...]]]:
        like = [0]  # a sum also takes the first input, which has all units
        return [
            (_TORCH[i.operation], (*map(self._place, i.operands), *(like if i.operation == "sum" else ())))
            for i in self.instructions
        ]

    @cached_property
    def _places(self) -> tuple[int | float, ...]:
        return tuple(map(self._place, self.outputs))

    def _place(self, operand: Operand) -> int | float:
        return self._positions[operand] if isinstance(operand, str) else operand


@lru_cache(maxsize=512)
def parse(text: str) -> Program:
    """Reads a program from its text.

    Raises:
        LoweringError: the text is not a program; the message names the line.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    words = lines[0].split() if lines else []
    if len(lines) < 2 or not words or words[0] != "program" or not lines[-1].startswith("return"):
        raise LoweringError("program text must begin with 'program GROUP SIZE ...' and end with 'return ...'.")
    sizes = tuple(zip(words[1::2], map(int, words[2::2]), strict=True))
    known = {f"{group}{i}" for group, size in sizes for i in range(size)}
    instructions = []
    for number, line in enumerate(lines[1:-1], start=2):
        target, equals, operation, *operands = line.split()
        if equals != "=" or operation not in OPERATIONS:
            raise LoweringError(f"program text, line {number}: expected 'tN = OPERATION ...', got {line!r}.")
        instructions.append(Instruction(target, operation, tuple(_read(word, known, number) for word in operands)))
        known.add(target)
    outputs = tuple(_read(word, known, len(lines)) for word in lines[-1].split()[1:])
    return Program(sizes, tuple(instructions), outputs)


class ProgramBuilder:
    """Collects instructions; equal ones are stored once, constants are folded, dead ones are dropped at the end."""

    def __init__(self, sizes: Sequence[tuple[str, int]]):
        self.sizes = tuple((group, size) for group, size in sizes if size)
        self._instructions: list[Instruction] = []
        self._known: dict[tuple[str, tuple[Operand, ...]], str] = {}
        self._rows: set[str] = set()

    def emit(self, operation: str, *operands: Operand) -> Operand:
        """Adds one operation and returns its value: a name, or a number where all operands are numbers."""
        if operation == "sum" and (operands[0] in self._rows or operands[0] == WIDTH or isinstance(operands[0], float)):
            return 0.0 if operands[0] == 0.0 else self.emit("mul", operands[0], WIDTH)
        folded = _fold(operation, operands)
        if folded is not None:
            return folded
        if operation in COMMUTATIVE:
            operands = tuple(sorted(operands, key=lambda o: (isinstance(o, float), str(o))))
        key = (operation, operands)
        if key not in self._known:
            target = f"t{len(self._instructions)}"
            self._instructions.append(Instruction(target, operation, operands))
            self._known[key] = target
            if _is_row(operation, operands, self._rows):
                self._rows.add(target)
        return self._known[key]

    def build(self, outputs: Sequence[Operand]) -> Program:
        """The finished program, without dead code and with values numbered anew."""
        return _renumber(Program(self.sizes, _alive(self._instructions, outputs), tuple(outputs)))


def replay(
    builder: ProgramBuilder, program: Program, renamed: Mapping[str, Operand] | None = None
) -> dict[str, Operand]:
    """Adds a program's instructions to a builder.

    Args:
        builder: equal instructions that it holds already are used again.
        program: what to add.
        renamed: what stands for a value of the program; other inputs stand for themselves.

    Returns:
        The value of each of the program's own values.
    """
    names: dict[str, Operand] = dict(renamed or {})
    for i in program.instructions:
        if i.target not in names:
            names[i.target] = builder.emit(i.operation, *(names.get(str(o), o) for o in i.operands))
    return names


def hoist(program: Program) -> tuple[Program, Program]:
    """Splits an adjoint into what does not depend on its cotangents and what does.

    Returns:
        Two programs. The first takes all inputs but group ``d`` and returns the values that the second needs; the
        second takes group ``d``, then those values as group ``r``, and returns the outputs. The first can run over all
        time steps at once, so that only the second is left inside the loop.
    """
    varying = {f"d{i}" for i in range(program.size("d"))}
    early, late = list[Instruction](), list[Instruction]()
    for instruction in program.instructions:
        depends = any(operand in varying for operand in instruction.operands)
        (late if depends else early).append(instruction)
        if depends:
            varying.add(instruction.target)
    wanted = [o for i in late for o in i.operands] + list(program.outputs)
    carried = list(dict.fromkeys(o for o in wanted if isinstance(o, str) and o != WIDTH and o not in varying))
    first = Program(tuple((g, n) for g, n in program.sizes if g != "d"), tuple(early), tuple(carried))
    names: dict[Operand, Operand] = {name: f"r{i}" for i, name in enumerate(carried)}
    second = Program(
        tuple((g, n) for g, n in (("d", program.size("d")), ("r", len(carried))) if n),
        tuple(Instruction(i.target, i.operation, tuple(names.get(o, o) for o in i.operands)) for i in late),
        tuple(names.get(o, o) for o in program.outputs),
    )
    return first, second


def _alive(instructions: Sequence[Instruction], outputs: Sequence[Operand]) -> tuple[Instruction, ...]:
    needed, alive = set(outputs), []
    for instruction in reversed(instructions):
        if instruction.target in needed:
            alive.append(instruction)
            needed.update(instruction.operands)
    return tuple(reversed(alive))


def _renumber(program: Program) -> Program:
    names: dict[Operand, Operand] = {i.target: f"t{n}" for n, i in enumerate(program.instructions)}
    instructions = tuple(
        Instruction(str(names[i.target]), i.operation, tuple(names.get(o, o) for o in i.operands))
        for i in program.instructions
    )
    return Program(program.sizes, instructions, tuple(names.get(o, o) for o in program.outputs))


def _is_row(operation: str, operands: tuple[Operand, ...], rows: set[str]) -> bool:
    return operation == "sum" or all(o in rows or o == WIDTH or not isinstance(o, str) for o in operands)


def _fold(operation: str, operands: tuple[Operand, ...]) -> Operand | None:
    """The value of an operation where it is a number, or one of its own operands; else None."""
    if operation == "mul" and 1.0 in operands:
        return operands[1] if operands[0] == 1.0 else operands[0]
    if operation == "add" and 0.0 in operands:
        return operands[1] if operands[0] == 0.0 else operands[0]
    if operation in ("sub", "div") and operands[1] == (0.0 if operation == "sub" else 1.0):
        return operands[0]
    if operation == "where" and isinstance(operands[0], bool):
        return operands[1] if operands[0] else operands[2]
    if operation in ("and", "or") and any(isinstance(o, bool) for o in operands):
        known, other = operands if isinstance(operands[0], bool) else operands[::-1]
        return other if known is (operation == "and") else known
    if operation != "where" and not any(isinstance(o, str) for o in operands):
        value = _TORCH[operation](*(torch.tensor(o, dtype=None if o is bool(o) else torch.float64) for o in operands))
        return bool(value) if value.dtype == torch.bool else float(value)
    return None


def _spell(operand: Operand) -> str:
    return operand if isinstance(operand, str) else repr(operand)


def _read(word: str, known: set[str], line: int) -> Operand:
    if word == WIDTH:
        return word
    if _VALUE.fullmatch(word):
        if word not in known:
            raise LoweringError(f"program text, line {line}: {word} is used before it is known.")
        return word
    try:
        return float(word)
    except ValueError:
        raise LoweringError(f"program text, line {line}: {word!r} is neither a value nor a number.") from None


def _sum(value: Tensor | float, like: Tensor) -> Tensor:
    value = value if isinstance(value, Tensor) else like.new_full((), value)
    if value.dim() == 0:
        return value * like.shape[-1]
    return value.expand(*value.shape[:-1], like.shape[-1]).sum(-1, keepdim=True)


def _widen(value: Tensor, like: Tensor) -> Tensor:
    """An output with all its units: a row value is repeated, a number fills a tensor."""
    if value.dim() == 0:
        return torch.zeros_like(like) + value
    return value.expand(*value.shape[:-1], like.shape[-1])


def _tensor_pair(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def apply(a: Tensor | float, b: Tensor | float) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        assert isinstance(like, Tensor)
        return function(*(o if isinstance(o, Tensor) else like.new_full((), o) for o in (a, b)))

    return apply


def _arithmetic(symbol: str) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "pow": lambda a, b: a**b,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
    }[symbol]
    return function


_TORCH: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in REAL_UNARY},
    **{name: _arithmetic(name) for name in (*REAL_BINARY[:5], *COMPARISONS, "and", "or")},
    "maximum": _tensor_pair(torch.maximum),
    "minimum": _tensor_pair(torch.minimum),
    "not": torch.logical_not,
    "where": torch.where,
    "sum": _sum,
}
