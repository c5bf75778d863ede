"""The likeliest symbols of a softmax over a linear map: what a search asks of a model at each step.

::

    scores = x @ weight.T + bias;   log p = scores - log sum exp(scores);   the greatest `count` of each row

The native engine (`native/likeliest.h`: float32 on a CPU, without gradients) never holds the scores of all symbols; everywhere
else it is plain PyTorch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unspool.errors import ShapeError
from unspool.kernels import isa
from unspool.kernels.cross_entropy import linear_scores
from unspool.kernels.dispatch import is_eager, is_transformed, refusal
from unspool.kernels.kept import keep
from unspool.types import Float, Int


class Likeliest(NamedTuple):
    """Symbols in the order of their probability.

    log_probabilities, symbols: [N, C], falling.  log_partition: [N] log sum exp of a row's scores.
    """

    log_probabilities: Float[Tensor, "N C"]
    symbols: Int[Tensor, "N C"]
    log_partition: Float[Tensor, " N"]


def linear_likeliest(
    x: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    count: int,
    narrow: bool = False,
) -> Likeliest:
    """The `count` likeliest symbols of each row (all, where there are fewer), with their log-probabilities in nats.

    Args:
        x: one row of features per prediction.
        weight: one row per symbol.
        bias: of each symbol.
        count: at least 1.
        narrow: matrix products in bfloat16 (their sums in float32), all else in the type of x.

    Raises:
        ShapeError: sizes do not fit together.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or not len(weight) or count < 1:
        raise ShapeError(
            "linear_likeliest: x must be [N, D] and weight [V, D] with the same D, V and count at least 1, "
            f"got {list(x.shape)}, {list(weight.shape)} and count {count}."
        )
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ShapeError(f"linear_likeliest: bias must be [{len(weight)}], got {list(bias.shape)}.")
    count, given = min(count, len(weight)), (x, weight, bias)
    wants_gradients = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    native = is_eager(given) and not is_transformed() and refusal(("x", "weight", "bias"), given) is None
    if wants_gradients or not native:
        scores = linear_scores(x, weight, bias, narrow)
        log_partition = scores.logsumexp(-1)
        values, symbols = scores.topk(count)
        return Likeliest(values - log_partition.unsqueeze(-1), symbols, log_partition)
    found = Likeliest(x.new_empty(len(x), count), x.new_empty(len(x), count, dtype=torch.long), x.new_empty(len(x)))
    dense = [None if t is None else t.detach().contiguous() for t in given]
    pairs = None
    if narrow and x.shape[1] % 2 == 0 < x.shape[1]:  # two entries in the place of one
        pairs = keep(lambda: weight.detach().bfloat16().contiguous().view(torch.int32), weight, narrow=True)
    isa._native.likeliest(*dense, pairs, count, narrow, torch.get_num_threads(), *found)
    return found
