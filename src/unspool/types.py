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
    """What a cell draws at random for one pass: None where it draws nothing."""

    steps: Float[Tensor, "N T B H"] | None = None
    sequences: Float[Tensor, "M B H"] | None = None
    recurrent_mask: Float[Tensor, "B H"] | None = None

    def between(self, first: int, last: int) -> "Noise":
        """The noise of the steps first..last."""
        return self if self.steps is None else self._replace(steps=self.steps[:, first:last])


__all__ = ["Bool", "Float", "HasGates", "Int", "Noise", "Tensor"]
