"""Lengths and masks as the scans read them: time first, one column per sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.types import Bool, Int


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
    return torch.where(active_steps(lengths.to(x.device), x.shape[0]).unsqueeze(-1), x, x.new_zeros(()))


def reset_within(reset: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """The reset mask [T, B] without marks beyond the lengths, where a state stands still."""
    return reset if reset is None or lengths is None else reset & active_steps(lengths.to(reset.device), reset.shape[0])


def backward_resets(reset: Bool[Tensor, "T B"] | None, lengths: Int[Tensor, " B"] | None) -> Bool[Tensor, "T B"] | None:
    """Where a backward direction begins anew: at the step before each mark, which is a sequence's end."""
    if reset is None:
        return None
    inside = reset_within(reset, lengths)
    assert inside is not None
    return torch.cat([inside[1:], torch.zeros_like(inside[:1])])


def check_lengths(lengths: Tensor | None, num_steps: int, batch_size: int, caller: str) -> None:
    """Refuses lengths that do not fit a sequence [T, B, ...].

    Raises:
        ShapeError: in the name of the caller.
    """
    if lengths is None:
        return
    _check_tensor("lengths", lengths, caller)
    if lengths.shape != (batch_size,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ShapeError(
            f"{caller}: lengths must be [{batch_size}] integers, got {list(lengths.shape)} of {lengths.dtype}."
        )
    if (
        batch_size
        and not torch.compiler.is_compiling()
        and not 0 <= int(lengths.min()) <= int(lengths.max()) <= num_steps
    ):
        raise ShapeError(
            f"{caller}: lengths must lie in 0..{num_steps}, got {int(lengths.min())}..{int(lengths.max())}."
        )


def check_reset(reset: Tensor | None, shape: Sequence[int], caller: str) -> None:
    """Refuses marks that are no booleans of this shape.

    Raises:
        ShapeError: in the name of the caller.
    """
    if reset is None:
        return
    _check_tensor("reset", reset, caller)
    if tuple(reset.shape) != tuple(shape) or reset.dtype != torch.bool:
        raise ShapeError(f"{caller}: reset must be {list(shape)} booleans, got {list(reset.shape)} of {reset.dtype}.")


def _check_tensor(name: str, mask: object, caller: str) -> None:
    if not isinstance(mask, Tensor):
        raise ShapeError(f"{caller}: {name} must be a tensor, got {type(mask).__name__}; use torch.tensor({name}).")
