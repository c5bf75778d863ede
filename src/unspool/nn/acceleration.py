"""`accelerate`: PyTorch's recurrent modules inside any model become unspool's, in place, and back again."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from unspool.errors import ConfigError
from unspool.nn.cells import GRUCell, LSTMCell, RNNCell, StreamingCell
from unspool.nn.recurrent import GRU, LSTM, RNN, ScannedModule

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_NAMES = frozenset(theirs.__name__ for theirs in _OURS)
_READ_BY_FORWARD = (
    "forward",
    "check_forward_args",
    "check_input",
    "check_hidden_size",
    "get_expected_hidden_size",
    "get_expected_cell_size",
    "permute_hidden",
)


@dataclass(frozen=True)
class Finding:
    """One recurrent module of a model.

    Attributes:
        name: where it is, as in `named_modules`; empty for the model itself.
        kind: the name of its class before.
        reason: why it was left as it is; None where it was swapped.
    """

    name: str
    kind: str
    reason: str | None = None

    def __str__(self) -> str:
        place = f"{self.name or 'the model itself'} ({self.kind})"
        return f"{place}: swapped" if self.reason is None else f"{place}: left as it is, because {self.reason}"


class Acceleration:
    """What `accelerate` did to a model; ``str()`` of it is a line for each recurrent module.

    Attributes:
        findings: every recurrent module, in the order of `named_modules`.
    """

    def __init__(self, findings: list[Finding], swapped: list[nn.Module]):
        self.findings, self._swapped = findings, swapped

    @property
    def swapped(self) -> list[str]:
        """Names of the modules that run on unspool now."""
        return [one.name for one in self.findings if one.reason is None]

    @property
    def kept(self) -> dict[str, str]:
        """Names of the modules that were left as they are, and why."""
        return {one.name: one.reason for one in self.findings if one.reason is not None}

    def restore(self) -> None:
        """Makes PyTorch's modules of the swapped ones again; whatever they have learned stays."""
        for module in self._swapped:
            module.__class__ = _class_after_swap(module, to_ours=False)

    def __str__(self) -> str:
        if not self.findings:
            return "no recurrent module of torch.nn was found"
        return "\n".join(map(str, self.findings))


def accelerate(model: nn.Module) -> Acceleration:
    """Swaps every `torch.nn.RNN`, `LSTM`, `GRU` and their cells inside a model for unspool's, in place.

    ::

        report = unspool.accelerate(model)
        print(report)           # what was swapped, what was not, and why
        report.restore()        # and back

    A module keeps its identity, parameters, buffers, hooks and place; only its class changes, to one in `unspool.nn`. So
    optimizers, `state_dict` and references held elsewhere go on working. Subclasses that leave `forward` alone and
    parametrized modules are swapped too. ``isinstance(module, torch.nn.RNNBase)`` holds as before;
    ``isinstance(module, torch.nn.LSTM)`` holds for subclasses only, since torch.compile refuses its instances.

    Args:
        model: any module, or a recurrent one itself.

    Returns:
        The report; an accelerated model is left as it is.

    Raises:
        ConfigError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"accelerate: model must be a torch.nn.Module, got {type(model).__name__}.")
    findings, swapped = [], []
    for name, module in list(_find_recurrent(model)):
        reason = _refusal(module)
        findings.append(Finding(name, type(module).__name__, reason))
        if reason is None:
            module.__class__ = _class_after_swap(module, to_ours=True)
            swapped.append(module)
    return Acceleration(findings, swapped)


def restore(model: nn.Module) -> None:
    """Makes PyTorch's modules of all of unspool's inside a model, also in a copy of one that was accelerated."""
    for module in model.modules():
        ours = isinstance(module, ScannedModule | StreamingCell)
        if ours:
            module.__class__ = _class_after_swap(module, to_ours=False)


def _find_recurrent(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        scripted = getattr(module, "original_name", None) in _NAMES
        quantized = type(module).__name__ in _NAMES and type(module).__module__.startswith("torch.")
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) or scripted or quantized:
            yield name, module


def _refusal(module: nn.Module) -> str | None:
    kind = type(module)
    if isinstance(module, ScannedModule | StreamingCell):
        return "it is unspool's already"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted"
    theirs = next((one for one in kind.__mro__ if one in _OURS), None)
    if theirs is None:
        return f"{kind.__module__}.{kind.__qualname__} is none of torch.nn's six"
    own = [name for one in kind.__mro__[: kind.__mro__.index(theirs)] for name in vars(one)]
    ours = ScannedModule if issubclass(theirs, nn.RNNBase) else StreamingCell
    taken = [name for name in vars(ours) if not name.startswith("__")] + ["original", "theirs", "__init_subclass__"]
    for name in (*_READ_BY_FORWARD, *taken):
        if name in own:
            return f"{kind.__qualname__} has a {name} of its own"
    replaced = next((name for name in (*_READ_BY_FORWARD, *taken) if name in vars(module)), None)
    return None if replaced is None else f"its {replaced} was replaced"


def _class_after_swap(module: nn.Module, to_ours: bool) -> type[nn.Module]:
    kind = type(module)
    if not (parametrize.is_parametrized(module) and kind.__name__.startswith("Parametrized")):
        return _counterpart(kind, to_ours)
    # PyTorch has given the module a class with its properties, whose first base is the class that it had before
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (_counterpart(kind.__bases__[0], to_ours),), own)


def _counterpart(kind: Any, to_ours: bool) -> type[nn.Module]:
    if to_ours:
        return _OURS.get(kind) or _subclass(kind)
    return _THEIRS.get(kind) or vars(kind).get("original", kind)


@cache
def _subclass(kind: Any) -> type[nn.Module]:
    """A subclass of somebody else's subclass, with our forward before PyTorch's."""
    ours = ScannedModule if issubclass(kind, nn.RNNBase) else StreamingCell
    theirs = next(one for one in kind.__mro__ if one in _OURS)
    own = {"__module__": kind.__module__, "__reduce_ex__": _reduce_by_original, "original": kind, "theirs": theirs}
    return type(kind.__name__, (ours, kind), own)


def _reduce_by_original(module: Any, protocol: Any) -> Any:
    """Pickles a module, whose class exists in this process alone, by the class that it was made from."""
    return _rebuild, (type(module).original,), module.__getstate__()


def _rebuild(kind: Any) -> nn.Module:
    ours = _subclass(kind)
    return ours.__new__(ours)
