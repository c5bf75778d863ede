"""Types that every floor shares: jaxtyping's array types and the shape letters of the house.

T time, B batch, I input, H hidden, G gates, L layers, V vocabulary. Inside the house tensors are time first, [T, B, ...].
"""

from typing import NamedTuple, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor


class HasGates(Protocol):
    """What an initializer needs to know of a cell: gate names in order, and PyTorch's four parameters."""

    hidden_size: int

    @property
    def gates(self) -> tuple[str, ...]: ...

    @property
    def keeping_gate(self) -> str | None: ...

    @property
    def weight_hh(self) -> Tensor | None: ...

    @property
    def bias_ih(self) -> Tensor | None: ...

    @property
    def bias_hh(self) -> Tensor | None: ...


class Noise(NamedTuple):
    """What is added to one pass from outside: what a cell draws at random, and probes; None where there is nothing.

    probes: for each state a tensor [T, B, size] that is added to it at every step, as it is read out and handed on. The
    gradient of a probe that is zero is dL/dstate_t, along all paths.
    """

    steps: Float[Tensor, "N T B H"] | None = None
    sequences: Float[Tensor, "M B H"] | None = None
    recurrent_mask: Float[Tensor, "B H"] | None = None
    probes: tuple[Tensor, ...] | None = None

    def between(self, first: int, last: int) -> "Noise":
        """The noise of the steps first..last."""
        steps = None if self.steps is None else self.steps[:, first:last]
        probes = None if self.probes is None else tuple(probe[first:last] for probe in self.probes)
        return self._replace(steps=steps, probes=probes)


__all__ = ["Bool", "Float", "HasGates", "Int", "Noise", "Tensor"]
