"""Encoding: programs as arrays of integers, the form that an interpreter of tiles executes.

The machine knows *slots*, each a pointer to one tile: some units of one row, or the whole row where a program sums over
it. They are numbered::

    inputs | outputs | constants | scratch registers

An instruction is five integers: the operation's number, the target slot, and three operand slots, 0 where unused.
Truth is 1.0 and falsehood 0.0. All operations act unit by unit, so that a target may be one of its operands, but `sum`,
which fills its target with the sum of its operand's units.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unspool.errors import LoweringError
from unspool.kernels.program import WIDTH, Instruction, Operand, Program

OPERATIONS_IN_ORDER: tuple[str, ...] = ("mov", "neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt")
OPERATIONS_IN_ORDER += ("sin", "cos", "tanh", "sigmoid", "erf", "add", "sub", "mul", "div", "pow", "maximum", "minimum")
OPERATIONS_IN_ORDER += ("lt", "le", "gt", "ge", "eq", "ne", "not", "and", "or", "where", "sum", "fma", "fnma", "fms")
"""An operation's number is its place. fma(a, b, c) = a * b + c, fnma = c - a * b, fms = a * b - c."""

_NUMBERS = {operation: number for number, operation in enumerate(OPERATIONS_IN_ORDER)}


class EncodedProgram(NamedTuple):
    """A program for the interpreter.

    Attributes:
        code: [n, 5], one instruction a line.
        constants: the number that fills each constant's tile.
        width_constant: the place among the constants of H, which the machine puts in; -1 where there is none.
        num_inputs: I.
        num_outputs: O.
        num_scratch: scratch registers.
        has_reduction: whether a tile must be a whole row.
    """

    code: NDArray[np.int32]
    constants: NDArray[np.float64]
    width_constant: int
    num_inputs: int
    num_outputs: int
    num_scratch: int
    has_reduction: bool


def encode(program: Program, aliases: Mapping[int, int] | None = None) -> EncodedProgram:
    """Assigns slots to a program's values and writes it as integers.

    Args:
        program: what to encode.
        aliases: output and input positions that are the same memory; such an output is not written before the last
            read of the input.

    Raises:
        LoweringError: two outputs are said to be the same memory, or there is no such input or output.
    """
    aliases = dict(aliases or {})
    positions = set(range(len(program.inputs)))
    if not positions.issuperset(aliases.values()) or not aliases.keys() <= set(range(len(program.outputs))):
        raise LoweringError(f"encode: aliases name inputs or outputs that the program has not: {aliases}.")
    if len(set(aliases.values())) < len(aliases):
        raise LoweringError(f"encode: two outputs cannot take the place of one input: {aliases}.")
    return _Encoder(program, aliases).encode()


class _Encoder:
    """One encoding: where each value lives, which registers are free, and the code so far."""

    def __init__(self, program: Program, aliases: dict[int, int]):
        self.program, self.aliases = program, aliases
        self.instructions = _fuse(program)
        self.end = len(self.instructions)
        operands = [o for i in self.instructions for o in i.operands] + list(program.outputs)
        inputs, outputs = len(program.inputs), len(program.outputs)
        self.constants = list(dict.fromkeys(map(_spell, (o for o in operands if o == WIDTH or not isinstance(o, str)))))
        self.slots = {name: slot for slot, name in enumerate(program.inputs)}
        self.slots |= {word: inputs + outputs + place for place, word in enumerate(self.constants)}
        self.first_scratch = inputs + outputs + len(self.constants)
        self.free: list[int] = []
        self.num_scratch = 0
        self.code: list[tuple[int, ...]] = []

    def encode(self) -> EncodedProgram:
        last_read = {o: n for n, i in enumerate(self.instructions) for o in i.operands if isinstance(o, str)}
        last_read |= {str(o): self.end for n, o in enumerate(self.program.outputs) if self._moves_input(n, o)}
        homes = self._homes(last_read)
        last_read |= {str(o): self.end for o in self.program.outputs if isinstance(o, str) and o not in homes}
        for n, i in enumerate(self.instructions):
            sources = [self._slot(o) for o in i.operands]
            dying = {self._slot(o) for o in i.operands if isinstance(o, str) and last_read[o] == n}
            dying = {slot for slot in dying if slot >= self.first_scratch}
            if i.operation != "sum":
                self.free.extend(dying)
            self.slots[i.target] = homes[i.target] if i.target in homes else self._register()
            if i.operation == "sum":
                self.free.extend(dying)
            self._write(i.operation, self.slots[i.target], *sources)
            if i.target not in last_read and i.target not in homes:
                self.free.append(self.slots[i.target])
        self._move_outputs()
        return EncodedProgram(
            np.array(self.code, dtype=np.int32).reshape(-1, 5),
            np.array([np.nan if word == WIDTH else float(word) for word in self.constants], dtype=np.float64),
            self.constants.index(WIDTH) if WIDTH in self.constants else -1,
            len(self.program.inputs),
            len(self.program.outputs),
            self.num_scratch,
            any(i.operation == "sum" for i in self.instructions),
        )

    def _homes(self, last_read: Mapping[str, int]) -> dict[str, int]:
        """The values that are computed in the slot of an output right away."""
        homes: dict[str, int] = {}
        made = {i.target: n for n, i in enumerate(self.instructions)}
        for position, output in enumerate(self.program.outputs):
            if not isinstance(output, str) or output not in made or output in homes:
                continue
            place, is_sum = made[output], self.instructions[made[output]].operation == "sum"
            replaced = self.program.inputs[self.aliases[position]] if position in self.aliases else ""
            if last_read.get(replaced, -1) < place + (0 if is_sum else 1):
                homes[output] = len(self.program.inputs) + position
        return homes

    def _moves_input(self, position: int, output: Operand) -> bool:
        return output in self.program.inputs and self.slots[str(output)] != self.aliases.get(position)

    def _move_outputs(self) -> None:
        """Fills the outputs that were not computed in place, no input overwritten before all its copies are made."""
        pending: dict[int, int] = {}
        for position, output in enumerate(self.program.outputs):
            source, target = self._slot(output), len(self.program.inputs) + position
            if source not in (target, self.aliases.get(position)):
                pending[position] = source
        while pending:
            reads = Counter(pending.values())
            ready = next((p for p in pending if not reads[self.aliases.get(p, -1)]), None)
            if ready is None:  # inputs that change places
                replaced, register = self.aliases[next(iter(pending))], self._register()
                self._write("mov", register, replaced)
                pending = {p: register if source == replaced else source for p, source in pending.items()}
            else:
                self._write("mov", len(self.program.inputs) + ready, pending.pop(ready))

    def _register(self) -> int:
        if self.free:
            self.free.sort()
            return self.free.pop(0)
        self.num_scratch += 1
        return self.first_scratch + self.num_scratch - 1

    def _slot(self, operand: Operand) -> int:
        return self.slots[_spell(operand)]

    def _write(self, operation: str, target: int, *sources: int) -> None:
        self.code.append((_NUMBERS[operation], target, *sources, *(0,) * (3 - len(sources))))


def _fuse(program: Program) -> list[Instruction]:
    """The instructions, products of a single use drawn into the sum or difference that uses them."""
    uses = Counter(o for operands in (*(i.operands for i in program.instructions), program.outputs) for o in operands)
    products: dict[Operand, Instruction] = {}
    fused: list[Instruction] = []
    for i in program.instructions:
        if i.operation == "mul" and uses[i.target] == 1:
            products[i.target] = i
        candidates = [o for o in i.operands if o in products] if i.operation in ("add", "sub") else []
        if candidates:
            product = products[max(candidates, key=lambda o: fused.index(products[o]))]
            fused.remove(product)
            fused.append(Instruction(i.target, *_with_product(i, product)))
        else:
            fused.append(i)
    return fused


def _with_product(instruction: Instruction, product: Instruction) -> tuple[str, tuple[Operand, ...]]:
    first, second = instruction.operands
    other = second if first == product.target else first
    operation = "fma" if instruction.operation == "add" else "fms" if first == product.target else "fnma"
    return operation, (*product.operands, other)


def _spell(operand: Operand) -> str:
    return operand if isinstance(operand, str) else repr(float(operand))
