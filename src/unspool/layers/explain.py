"""`explain`: what each scan of a layer does with an input, found by running it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unspool.kernels import Explanation
from unspool.kernels.explanation import recording
from unspool.layers.recurrent import Recurrent


def explain(
    module: nn.Module, x: Tensor, state: Any = None, lengths: Tensor | None = None, reset: Tensor | None = None
) -> list[Explanation]:
    """Runs a layer once, without gradients, and says of each of its scans which path it takes and why.

    ::

        for scan in unspool.explain(layer, x):
            print(scan)

    Args:
        module: a `Recurrent`, `Stack` or `Bidirectional`, a module of `unspool.nn`, or any other that takes such arguments.
        x: [T, B, I]; other arguments as in `Recurrent.forward`.

    Returns:
        One explanation for each scan, in the order in which they run; more than one of a layer whose BPTT cuts time into
        segments. The random numbers that the layer draws are not missed afterwards.
    """
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), recording() as found:
        handles = [
            layer.register_forward_hook(_label(name, found))
            for name, layer in module.named_modules()
            if "parametrizations" not in name.split(".")
        ]
        given = {name: value for name, value in (("lengths", lengths), ("reset", reset)) if value is not None}
        try:
            module(*((x,) if state is None else (x, state)), **given)
        finally:
            for handle in handles:
                handle.remove()
    return found


def _label(name: str, found: list[Explanation]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that names what has been found since the last layer ended."""

    def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
        cell = type(layer.cell if isinstance(layer, Recurrent) else layer).__name__
        for place, one in enumerate(found):
            if one.layer is None:
                found[place] = replace(one, layer=f"{name} ({cell})" if name else cell)

    return hook
