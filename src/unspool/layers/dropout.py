"""Dropout for sequences: locked over time, of whole embeddings, and of recurrent weights."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from unspool.config import require
from unspool.errors import ConfigError
from unspool.types import Float, Int, Tensor


class LockedDropout(nn.Module):
    """Drops the same features at every step of a sequence (Gal & Ghahramani 2016, arXiv 1512.05287).

    Args:
        probability: of a feature's being dropped; the others are scaled by 1 / (1 - probability).
    """

    def __init__(self, probability: float):
        super().__init__()
        require(0.0 <= probability < 1.0, "LockedDropout: probability", probability, "at least 0 and below 1")
        self.probability = probability

    def forward(self, x: Float[Tensor, "*T B F"]) -> Float[Tensor, "*T B F"]:
        """x is a sequence [T, B, F] or one step [B, F]."""
        if not self.training or not self.probability:
            return x
        return x * nn.functional.dropout(torch.ones_like(x[0] if x.dim() == 3 else x), self.probability)

    def extra_repr(self) -> str:
        return str(self.probability)


def embed_with_dropout(
    embedding: nn.Embedding, tokens: Int[Tensor, "*N"], probability: float, training: bool
) -> Float[Tensor, "*N E"]:
    """Embeds tokens, dropping whole rows of the table: a dropped symbol is missing wherever it occurs in the batch.

    Gal & Ghahramani 2016 (arXiv 1512.05287, section 3.2); Merity et al. 2017 (arXiv 1708.02182, section 4.3).
    """
    if not training or not probability:
        return embedding(tokens)
    kept = nn.functional.dropout(embedding.weight.new_ones(embedding.num_embeddings, 1), probability)
    return embedding(tokens) * kept[tokens]


class WeightDrop(nn.Module):
    """DropConnect as a parametrization: a new mask on a weight for each pass (Merity et al. 2017, section 2).

    Args:
        probability: of a weight's being zero; the others are scaled by 1 / (1 - probability).
    """

    def __init__(self, probability: float):
        super().__init__()
        require(0.0 <= probability < 1.0, "WeightDrop: probability", probability, "at least 0 and below 1")
        self.probability = probability

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with some entries zero in training, itself in evaluation."""
        return nn.functional.dropout(weight, self.probability, self.training)

    def extra_repr(self) -> str:
        return str(self.probability)


def weight_drop(module: nn.Module, probability: float, name: str = "weight_hh") -> int:
    """Puts `WeightDrop` on every parameter of this name in a module.

    A layer reads its weights once for each pass over a sequence, so that one mask holds for all its steps.

    Returns:
        The number of parameters found.

    Raises:
        ConfigError: there is none.
    """
    owners = [m for m in module.modules() if m._parameters.get(name) is not None]
    if not owners:
        raise ConfigError(f"weight_drop: {type(module).__name__} has no parameter {name!r}.")
    for owner in owners:
        parametrize.register_parametrization(owner, name, WeightDrop(probability))
    return len(owners)
