"""What may come next: the distribution that a step of a model gives each row, asked for no more than a search needs."""

from typing import Protocol

import torch

from unspool.kernels import Likeliest, linear_likeliest, linear_scores
from unspool.types import Float, Int, Tensor


class Choices(Protocol):
    """A distribution over the next symbol, for every row."""

    def likeliest(self, count: int) -> tuple[Float[Tensor, "N C"], Int[Tensor, "N C"]]:
        """Log-probabilities and symbols of the `count` likeliest (of all, where there are fewer), the likeliest first."""

    def log_probability(self, symbol: int) -> Float[Tensor, " N"]:
        """Of one symbol; asked after `likeliest`."""

    def all(self) -> Float[Tensor, "N V"]:
        """Log-probabilities of all symbols."""


class Softmax:
    """Choices by a softmax over logits.

    Args:
        logits: [N, V].
    """

    def __init__(self, logits: Float[Tensor, "N V"]):
        self.chances = logits.float().log_softmax(-1)

    def likeliest(self, count: int) -> tuple[Float[Tensor, "N C"], Int[Tensor, "N C"]]:
        """See `Choices`."""
        return self.chances.topk(min(count, self.chances.shape[-1]))

    def log_probability(self, symbol: int) -> Float[Tensor, " N"]:
        """See `Choices`."""
        return self.chances[:, symbol]

    def all(self) -> Float[Tensor, "N V"]:
        """See `Choices`."""
        return self.chances


class LinearSoftmax:
    """Choices by a softmax over a linear map of features, whose logits are never all held.

    Args:
        features: [N, D].
        weight: [V, D].
        bias: [V].
    """

    def __init__(self, features: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], bias: Float[Tensor, " V"]):
        self.features, self.weight, self.bias = features, weight, bias
        self.narrow = torch.is_autocast_enabled(features.device.type)
        self._found: Likeliest | None = None

    def likeliest(self, count: int) -> tuple[Float[Tensor, "N C"], Int[Tensor, "N C"]]:
        """See `Choices`."""
        self._found = linear_likeliest(self.features, self.weight, self.bias, count, self.narrow)
        return self._found.log_probabilities, self._found.symbols

    def log_probability(self, symbol: int) -> Float[Tensor, " N"]:
        """See `Choices`."""
        found = self._found or linear_likeliest(self.features, self.weight, self.bias, 1, self.narrow)
        return (self.features * self.weight[symbol]).sum(-1) + self.bias[symbol] - found.log_partition

    def all(self) -> Float[Tensor, "N V"]:
        """See `Choices`."""
        return linear_scores(self.features, self.weight, self.bias, self.narrow).log_softmax(-1)
