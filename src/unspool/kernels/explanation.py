"""What a scan does with its inputs: which path it takes and why, and how much a step computes and saves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch

from unspool.kernels import isa, native_linear_scan, native_scan
from unspool.kernels.native_linear_scan import LinearInputs
from unspool.kernels.program import parse
from unspool.kernels.residuals import plan_training
from unspool.kernels.scan_inputs import ScanInputs
from unspool.kernels.tracing import CellPrograms


class ProgramSizes(NamedTuple):
    """Operations in a cell's programs, for each unit and step.

    Attributes:
        inference: of a forward pass without gradients.
        training: of a forward pass that saves values for the backward pass.
        backward: of the backward pass.
        saved: values that a step saves besides its states.
    """

    inference: int
    training: int
    backward: int
    saved: int


@dataclass(frozen=True)
class Explanation:
    """One scan, explained; ``str()`` of it is one readable line.

    Attributes:
        scan: 'gated' or 'linear'.
        path: 'native', 'reference', or 'torch': the kernel of PyTorch's own module.
        sizes: T, B and H.
        reason: why the path is not the native one; None where it is.
        instruction_set: what the native engine runs on; None on the reference path.
        threads: how many may take part.
        programs: None for a linear scan, and for equations that are no program.
        split: how the threads share the scan: a gated one 'units' or 'sequences', a linear one 'columns' or 'time';
            'one thread' where there is no team.
        layer: the name of the layer that ran the scan, and its cell's.
    """

    scan: str
    path: str
    sizes: tuple[int, int, int]
    reason: str | None = None
    instruction_set: str | None = None
    threads: int = 1
    programs: ProgramSizes | None = None
    split: str | None = None
    layer: str | None = None

    def __str__(self) -> str:
        steps, batch_size, hidden_size = self.sizes
        parts = [f"{self.scan} scan [T {steps}, B {batch_size}, H {hidden_size}]"]
        if self.path == "native":
            shared = f" sharing {self.split}" if self.split and self.threads > 1 else ""
            parts.append(f"native engine, {self.instruction_set}, threads: {self.threads}{shared}")
        else:
            name = "PyTorch's own kernel" if self.path == "torch" else "reference path"
            parts.append(f"{name}, because {self.reason}")
        if self.programs is not None:
            p = self.programs
            parts.append(f"operations a step: {p.inference}, in training {p.training} and {p.backward} backward")
            parts.append(f"values saved a step: {p.saved}")
        return ("" if self.layer is None else f"{self.layer}: ") + "; ".join(parts)


def explain_scan(programs: CellPrograms | None, inputs: ScanInputs, narrow: bool, refused: str = "") -> Explanation:
    """Explains `gated_scan` on these inputs.

    Args:
        programs: forward and adjoint; None for equations that are no program.
        inputs: the tensors.
        narrow: whether matrix products are in bfloat16.
        refused: why the native engine is not asked at all.
    """
    reason = refused or native_scan.refusal(inputs)
    sizes = (*inputs.x.shape[:2], inputs.initial_state.shape[-1])
    counts = None if programs is None else _count(programs, native=reason is None)
    return _explanation("gated", sizes, reason, counts, None if reason else native_scan.split(inputs, narrow))


def explain_linear_scan(inputs: LinearInputs) -> Explanation:
    """Explains `linear_scan` on these inputs."""
    reason, sizes = native_linear_scan.refusal(inputs), tuple(inputs.a.shape)
    split = native_linear_scan.split(*sizes) if reason is None else None
    return _explanation("linear", sizes, reason, None, split)


@contextmanager
def recording() -> Iterator[list[Explanation]]:
    """Collects an explanation of every scan that runs in ordinary eager code meanwhile, in their order."""
    found: list[Explanation] = []
    token = _recorder.set(found)
    try:
        yield found
    finally:
        _recorder.reset(token)


def note(explain: Callable[[], Explanation]) -> None:
    """Hands an explanation to whoever is `recording`."""
    if torch.compiler.is_compiling():
        return
    found = _recorder.get()
    if found is not None:
        found.append(explain())


_recorder: ContextVar[list[Explanation] | None] = ContextVar("recorder", default=None)


def _explanation(
    scan: str, sizes: tuple[int, ...], reason: str | None, programs: ProgramSizes | None, split: str | None
) -> Explanation:
    steps, batch_size, hidden_size = sizes
    native = reason is None
    return Explanation(
        scan,
        "native" if native else "reference",
        (steps, batch_size, hidden_size),
        reason,
        isa.instruction_set() if native else None,
        1 if split == "one thread" else torch.get_num_threads(),
        programs,
        split,
    )


def _count(programs: CellPrograms, native: bool) -> ProgramSizes:
    forward, adjoint = parse(programs.forward), parse(programs.adjoint)
    inference = len(forward.instructions)
    if not native:
        return ProgramSizes(inference, inference, len(adjoint.instructions), 0)
    plan = plan_training(forward, adjoint)
    return ProgramSizes(inference, len(plan.forward.instructions), len(plan.backward.instructions), plan.num_saved)
