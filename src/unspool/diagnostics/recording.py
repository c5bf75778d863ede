"""Recording: what each scan of a model read and reached in one pass, with zero-valued probes on its states."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unspool.cells import Cell, CellWeights
from unspool.layers import BPTT, Recurrent
from unspool.nn.recurrent import ScannedModule
from unspool.types import Noise


@dataclass(frozen=True)
class Recording:
    """One scan as it ran.

    Attributes:
        layer: name of the module in the model; of a module with several layers, with PyTorch's suffix.
        cell: the `Cell` whose equations ran.
        x: [T, B, I], detached.
        initial: the state before the first step.
        states: those after every step, [T, B, size] each, detached.
        weights: what the pass worked with, detached.
        probes: zeros [T, B, size] for each state; their gradient is dL/dstate_t.
        lengths, reset, reverse: as in `Recurrent.forward`.
    """

    layer: str
    cell: Any
    x: Tensor
    initial: Any
    states: Any
    weights: CellWeights
    probes: tuple[Tensor, ...]
    lengths: Tensor | None
    reset: Tensor | None
    reverse: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the states."""
        return self.cell.state_type._fields

    def before(self) -> Any:
        """The states that every step began from, [T, B, size] each."""
        fresh = self.initial if self.reset is None else self.cell.initial_state(self.x.shape[1])
        found = []
        for states, initial, new in zip(self.states, self.initial, fresh, strict=True):
            first = initial.detach().unsqueeze(0)
            shifted = torch.cat([states[1:], first]) if self.reverse else torch.cat([first, states[:-1]])
            marked = None if self.reset is None else self.reset.unsqueeze(-1)
            found.append(shifted if marked is None else torch.where(marked, new.detach(), shifted))
        return type(self.states)(*found)


class _Probed(BPTT):
    """Full backpropagation through time that adds probes and keeps what it sees."""

    def __init__(self, names: Iterator[str], found: list[Recording]):
        self.names, self.found = names, found

    def unroll(
        self,
        cell: Cell,
        x: Tensor,
        state: Any,
        weights: CellWeights,
        noise: Noise,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        reverse: bool = False,
    ) -> Any:
        weights = weights.map(
            torch.Tensor.detach
        )  # the gradients of weights are not asked for and would cost a third of the pass
        probes = tuple(s.new_zeros((x.shape[0], *s.shape), requires_grad=torch.is_grad_enabled()) for s in state)
        states = cell.unroll(x, state, weights, noise._replace(probes=probes), lengths, reset, reverse)
        kept = type(states)(*(s.detach() for s in states))
        before = type(states)(*(s.detach() for s in state))
        self.found.append(
            Recording(next(self.names), cell, x.detach(), before, kept, weights, probes, lengths, reset, reverse)
        )
        return states


def _names(name: str, module: nn.Module) -> Iterator[str]:
    """A name for each scan of a module, in their order; over again when it is called again."""
    if isinstance(module, Recurrent):
        while True:
            yield name or "layer"
    assert isinstance(module, ScannedModule)
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    while True:
        yield from (f"{name}.l{n}{suffix}".lstrip(".") for n in range(module.num_layers) for suffix in suffixes)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While it is open, a module and all in it are in evaluation mode."""
    training = [one for one in module.modules() if one.training]
    module.eval()
    try:
        yield
    finally:
        for one in training:
            one.training = True


@contextmanager
def record(model: nn.Module) -> Iterator[list[Recording]]:
    """While it is open, every scan of the model runs with probes and is kept in the list, in the order of the calls.

    Gradients then run through whole sequences, whatever the layers' own way (`bptt`); weights of recurrent layers get none.
    """
    found: list[Recording] = []
    scanned = [(n, m) for n, m in model.named_modules() if isinstance(m, Recurrent | ScannedModule)]
    own = [(module, vars(module).get("bptt")) for _, module in scanned]
    for name, module in scanned:
        module.bptt = _Probed(_names(name, module), found)
    try:
        yield found
    finally:
        for module, before in own:
            if before is None:
                del module.bptt
            else:
                module.bptt = before
