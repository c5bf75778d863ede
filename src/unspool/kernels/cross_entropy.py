"""The softmax over a vocabulary fused with its cross-entropy: scores are never held for all rows at once.

::

    scores = x @ weight.T + bias;   nats = sum over rows n of -log softmax(scores[n])[targets[n]]

On the native engine (`native/cross_entropy.h`: float32 on a CPU, called from ordinary eager code) the gradients are computed
with the loss, since they are linear in what comes from above, and the backward pass only scales them. Everywhere else, and
for gradients of gradients, it is plain PyTorch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unspool.errors import ShapeError
from unspool.kernels import isa
from unspool.kernels.dispatch import is_eager, is_transformed, refusal
from unspool.types import Float, Int

_MOST_SCORES = 1 << 22  # in memory at a time where PyTorch computes a loss without gradients


def linear_cross_entropy(
    x: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    ignore_index: int = -100,
    narrow: bool = False,
) -> Float[Tensor, ""]:
    """The cross-entropy of a linear map's softmax, summed over rows, in nats.

    Args:
        x: one row of features per prediction.
        weight: one row per symbol.
        bias: of each symbol.
        targets: the symbol that each row should predict, or `ignore_index`.
        ignore_index: rows with this target give no loss and no gradient.
        narrow: matrix products in bfloat16 (their sums in float32), all else in the type of x.

    Raises:
        ShapeError: sizes do not fit together, or a target is no symbol.
    """
    _check(x, weight, bias, targets)
    given = (x, weight, bias)
    if not is_eager((*given, targets)) or is_transformed():
        return _reference(x, weight, bias, targets, ignore_index, narrow)
    if x.device.type == "cpu":
        _check_range(targets, len(weight), ignore_index)
    if refusal(("x", "weight", "bias"), given) is not None:
        return _reference(x, weight, bias, targets, ignore_index, narrow)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
        return _LinearCrossEntropy.apply(x, weight, bias, targets, ignore_index, narrow)
    return _run(x, weight, bias, targets, ignore_index, narrow, [False] * 3)[0]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ShapeError(
            "linear_cross_entropy: x must be [N, D] and weight [V, D] with the same D, "
            f"got {list(x.shape)} and {list(weight.shape)}."
        )
    for name, tensor, size in (("bias", bias, len(weight)), ("targets", targets, len(x))):
        if tensor is not None and tuple(tensor.shape) != (size,):
            raise ShapeError(f"linear_cross_entropy: {name} must be [{size}], got {list(tensor.shape)}.")
    if targets.dtype != torch.int64:
        raise ShapeError(f"linear_cross_entropy: targets must be int64, got {targets.dtype}; call .long() on them.")


def _check_range(targets: Tensor, num_symbols: int, ignore_index: int) -> None:
    outside = ((targets < 0) | (targets >= num_symbols)) & (targets != ignore_index)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ShapeError(
            f"linear_cross_entropy: targets must be in [0, {num_symbols}) or {ignore_index}, "
            f"got {int(targets[row])} in row {row}; is the vocabulary the one that made the targets?"
        )


class _LinearCrossEntropy(torch.autograd.Function):
    """The native engine's loss, with gradients kept for the first backward pass, which writes over them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, narrow: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, targets)
        ctx.ignore_index, ctx.narrow = ignore_index, narrow
        nats, ctx.gradients = _run(x, weight, bias, targets, ignore_index, narrow, list(ctx.needs_input_grad[:3]))
        return nats

    @staticmethod
    def backward(ctx: Any, grad_nats: Tensor) -> Any:  # type: ignore[override]
        x, weight, bias, targets = ctx.saved_tensors
        if torch.is_grad_enabled():
            free = _gradients(x, weight, bias, targets, ctx.ignore_index, ctx.narrow, grad_nats)
            kept = [g if wanted else None for g, wanted in zip(free, ctx.needs_input_grad, strict=False)]
            return (*kept, None, None, None)
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward pass through a retained graph
            _, gradients = _run(x, weight, bias, targets, ctx.ignore_index, ctx.narrow, list(ctx.needs_input_grad[:3]))
        scale = float(grad_nats)
        if scale != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(scale)
        return (*gradients, None, None, None)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, narrow: bool, needed: list[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    given: list[Any] = [None if t is None else t.detach().contiguous() for t in (x, weight, bias)]
    gradients: list[Any] = [
        torch.empty_like(t) if t is not None and wanted else None for t, wanted in zip(given, needed, strict=True)
    ]
    nats = isa._native.linear_cross_entropy(
        *given, targets.contiguous(), ignore_index, narrow, torch.get_num_threads(), *gradients
    )
    return x.new_tensor(nats), gradients


def linear_scores(x: Tensor, weight: Tensor, bias: Tensor | None, narrow: bool) -> Tensor:
    """x @ weight.T + bias in the type of x, the product's factors rounded to bfloat16 if `narrow`."""
    with torch.autocast(x.device.type, enabled=False):
        if not narrow:
            return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        scores = functional.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).to(x.dtype)
        return scores if bias is None else scores + bias


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, narrow: bool
) -> Tensor:
    def nats(x: Tensor, targets: Tensor) -> Tensor:
        scores = linear_scores(x, weight, bias, narrow)
        return functional.cross_entropy(scores, targets, ignore_index=ignore_index, reduction="sum")

    rows = max(1, _MOST_SCORES // max(1, len(weight)))
    if torch.is_grad_enabled() or len(x) <= rows:
        return nats(x, targets)
    return torch.stack([nats(*part) for part in zip(x.split(rows), targets.split(rows), strict=True)]).sum()


def _gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, narrow: bool, grad_nats: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of x, weight and bias, from operations that have gradients themselves."""
    kept = targets != ignore_index
    x_kept, symbols = x[kept], targets[kept]
    softmax = linear_scores(x_kept, weight, bias, narrow).softmax(-1)
    scores = (softmax - functional.one_hot(symbols, len(weight)).to(x.dtype)) * grad_nats
    rows = kept.nonzero().squeeze(-1)
    grad_x = torch.zeros_like(x).index_copy(0, rows, scores @ weight)
    return grad_x, scores.T @ x_kept, None if bias is None else scores.sum(0)
