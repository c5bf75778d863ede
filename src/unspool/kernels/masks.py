"""Lengths and masks as the scans read them: time first, one column per sequence."""

import torch
from torch import Tensor


def active_steps(lengths: Tensor, num_steps: int) -> Tensor:
    """[T, B] booleans: true where step t lies within a sequence of the given length.

    Args:
        lengths: [B] integers.
        num_steps: T.
    """
    return torch.arange(num_steps, device=lengths.device).unsqueeze(1) < lengths.unsqueeze(0)


def clear_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [T, B, F] with zeros beyond the lengths, so that nothing there meets a product, where 0 * NaN is NaN."""
    if lengths is None:
        return x
    return torch.where(active_steps(lengths, len(x)).unsqueeze(-1), x, x.new_zeros(()))


def reset_within(reset: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """The reset mask [T, B] without marks beyond the lengths, where a state stands still."""
    return reset if reset is None or lengths is None else reset & active_steps(lengths, len(reset))
