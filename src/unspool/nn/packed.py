"""A `PackedSequence` as a padded tensor with lengths, and back."""

from typing import NamedTuple

import torch

from unspool.types import Float, Int, Tensor


class Packing(NamedTuple):
    """Where the rows of a `PackedSequence` lie in a padded sequence.

    Attributes:
        num_steps: T.
        batch_size: B.
        rows: [N] places in the T * B rows of the padded sequence; None where there is no padding.
        lengths: [B], falling; None where there is no padding.
    """

    num_steps: int
    batch_size: int
    rows: Int[Tensor, " N"] | None
    lengths: Int[Tensor, " B"] | None

    @classmethod
    def of(cls, batch_sizes: Int[Tensor, " T"], device: torch.device) -> "Packing":
        """From how many sequences each step has."""
        num_steps, batch_size = len(batch_sizes), int(batch_sizes[0])
        if int(batch_sizes[-1]) == batch_size:
            return cls(num_steps, batch_size, None, None)
        real = torch.arange(batch_size) < batch_sizes.unsqueeze(1)
        return cls(num_steps, batch_size, real.flatten().nonzero().squeeze(1).to(device), real.sum(0).to(device))

    def pad(self, data: Float[Tensor, "N F"]) -> Float[Tensor, "T B F"]:
        """The rows in their places, zeros in the others."""
        if self.rows is not None:
            data = data.new_zeros(self.num_steps * self.batch_size, data.shape[-1]).index_copy(0, self.rows, data)
        return data.view(self.num_steps, self.batch_size, -1)

    def pack(self, padded: Float[Tensor, "T B F"]) -> Float[Tensor, "N F"]:
        """The real rows."""
        flat = padded.reshape(self.num_steps * self.batch_size, padded.shape[-1])
        return flat if self.rows is None else flat.index_select(0, self.rows)
