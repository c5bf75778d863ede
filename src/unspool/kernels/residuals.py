"""What training keeps of a step: a forward program that saves the fewest values, and the backward program that reads them.

The forward and the adjoint of a cell are joined in one graph. The backward pass knows the states, the vectors and the
noise, but not the gates; what it needs of them is saved, and the rest computed again. The saved values are a minimum
vertex cut of the graph between the gates and the gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

from unspool.kernels.program import COMPARISONS, LOGICAL, WIDTH, Operand, Program, ProgramBuilder, replay

_NEVER = 1 << 30  # the cost of saving what cannot be saved


class TrainingPlan(NamedTuple):
    """The two programs of a training step.

    Attributes:
        forward: takes the forward program's inputs; returns the S new states, then the R saved values.
        backward: takes the groups ``r`` saved values, ``s`` previous states, ``y`` new states as the forward returned
            them, ``v``, ``n``, ``q``, ``d`` cotangents of the new states from outside and ``k`` from the later step;
            returns the adjoint's gradients, of x, h, s, v, n, q in this order. The cotangent of a state is d + k.
        same: for each h gate the x gate whose gradient is the same value, or None.
    """

    forward: Program
    backward: Program
    same: tuple[int | None, ...]

    @property
    def num_saved(self) -> int:
        """R, the number of values [B, H] that a step saves."""
        return self.backward.size("r")


def plan_training(forward: Program, adjoint: Program) -> TrainingPlan:
    """Cuts the graph of a cell's forward and adjoint in two where the fewest values cross.

    New states cost nothing, they are stored anyway; row values are computed again. Of all smallest cuts it is the one
    nearest to the gradients, so that the least is computed again.

    Args:
        forward: from `unspool.kernels.tracing.trace`.
        adjoint: of the same equations, from `unspool.kernels.tracing.trace_adjoint`.
    """
    builder = ProgramBuilder(adjoint.sizes)
    names = replay(builder, forward)
    states = [names.get(str(o), o) for o in forward.outputs]
    names = replay(builder, adjoint)
    gradients = [names.get(str(o), o) for o in adjoint.outputs]
    joint = builder.build([*states, *gradients])
    states, gradients = list(joint.outputs[: len(states)]), list(joint.outputs[len(states) :])
    saved = _in_order_of_gates(joint, _cut(joint, states, gradients))

    builder = ProgramBuilder(forward.sizes)
    names = replay(builder, joint)
    early = builder.build([names.get(str(o), o) for o in (*states, *saved)])

    sizes = dict(adjoint.sizes)
    counts = {"r": len(saved), "y": len(states), "k": sizes["d"]}
    builder = ProgramBuilder([(group, counts.get(group, sizes.get(group, 0))) for group in "rsyvnqdk"])
    renamed: dict[str, Operand] = {f"d{j}": builder.emit("add", f"d{j}", f"k{j}") for j in range(sizes["d"])}
    renamed |= {name: f"r{j}" for j, name in enumerate(saved)}
    renamed |= _new_states(joint, states)
    names = replay(builder, joint, renamed)
    late = builder.build([names.get(str(o), o) for o in gradients])
    x, h = forward.size("x"), forward.size("h")
    gradients_x, gradients_h = late.outputs[:x], late.outputs[x : x + h]
    return TrainingPlan(early, late, tuple(gradients_x.index(g) if g in gradients_x else None for g in gradients_h))


def _new_states(joint: Program, states: Sequence[Operand]) -> dict[str, Operand]:
    """The states that the backward pass knows only as new states, by the name of their value."""
    known = {name for name in joint.inputs if name[0] not in "xh"} | {WIDTH}
    return {o: f"y{j}" for j, o in reversed(list(enumerate(states))) if isinstance(o, str) and o not in known}


def _cut(joint: Program, states: Sequence[Operand], gradients: Sequence[Operand]) -> list[str]:
    """The values to save: a minimum vertex cut between the gates and what the backward pass reads of them."""
    known = _new_states(joint, states)
    varying = {f"d{j}" for j in range(joint.size("d"))}
    hidden = {name: 1 for name in joint.inputs if name[0] in "xh" and name not in known}  # with the cost of saving it
    network = _Network()
    for name in hidden:
        network.connect("source", f"{name} in", _NEVER)
    for i in joint.instructions:
        operands = dict.fromkeys(o for o in i.operands if o in hidden)
        if any(o in varying for o in i.operands):
            varying.add(i.target)
            for o in operands:
                network.connect(f"{o} out", "sink", _NEVER)
        elif operands and i.target not in known:
            fixed = i.target in joint.rows or i.operation in COMPARISONS or i.operation in LOGICAL
            hidden[i.target] = _NEVER if fixed else 1
            for o in operands:
                network.connect(f"{o} out", f"{i.target} in", _NEVER)
    for name, cost in hidden.items():
        network.connect(f"{name} in", f"{name} out", cost)
    for output in gradients:
        if output in hidden:
            network.connect(f"{output} out", "sink", _NEVER)
    behind = network.nearest_to_sink()
    return [name for name in hidden if f"{name} out" in behind and f"{name} in" not in behind]


def _in_order_of_gates(joint: Program, saved: Sequence[str]) -> list[str]:
    """Saved values so ordered that value j, where possible, comes of x gate j first: it may take that gate's place."""
    gates: dict[Operand, int] = {f"x{j}": j for j in range(joint.size("x"))}
    for i in joint.instructions:
        found = [gates[o] for o in i.operands if o in gates]
        if found:
            gates[i.target] = max(found)
    places: dict[int, str] = {}
    for name in saved:
        wanted = gates.get(name, len(saved))
        if wanted < len(saved):
            places.setdefault(wanted, name)
    rest = iter([name for name in saved if name not in places.values()])
    return [places[j] if j in places else next(rest) for j in range(len(saved))]


class _Network:
    """A flow network with named vertices; the graph of a cell has some hundred."""

    def __init__(self) -> None:
        self.capacity: dict[str, dict[str, int]] = {"source": {}, "sink": {}}

    def connect(self, tail: str, head: str, capacity: int) -> None:
        self.capacity.setdefault(tail, {})[head] = capacity
        self.capacity.setdefault(head, {}).setdefault(tail, 0)

    def nearest_to_sink(self) -> set[str]:
        """The vertices on the sink's side of the minimum cut that is nearest to the sink."""
        while path := self._path():
            amount = min(self.capacity[tail][head] for tail, head in path)
            for tail, head in path:
                self.capacity[tail][head] -= amount
                self.capacity[head][tail] += amount
        side, front = {"sink"}, ["sink"]
        while front:
            head = front.pop()
            reaching = [tail for tail in self.capacity[head] if self.capacity[tail][head] and tail not in side]
            side.update(reaching)
            front.extend(reaching)
        return side

    def _path(self) -> list[tuple[str, str]]:
        """A shortest way from source to sink that has capacity left, by its edges; empty if there is none."""
        came_from, front = {"source": ""}, ["source"]
        for tail in front:
            for head, capacity in self.capacity[tail].items():
                if capacity and head not in came_from:
                    came_from[head] = tail
                    front.append(head)
        path, head = list[tuple[str, str]](), "sink"
        while came_from.get(head):
            path.append((came_from[head], head))
            head = came_from[head]
        return path
