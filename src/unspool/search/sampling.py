"""Sampling: drawing symbols one after the other from any model that can take a step.

Top-k: Fan et al. 2018 (arXiv 1805.04833). Top-p, the nucleus: Holtzman et al. 2019 (arXiv 1904.09751).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from unspool.config import check_bounds
from unspool.types import Float, Int, Tensor


class StepModel(Protocol):
    """What search needs of a model: logits of the next symbol after one more has been read."""

    def step(self, tokens: Int[Tensor, " B"], state: Any) -> tuple[Float[Tensor, "B V"], Any]: ...


@dataclass(frozen=True)
class Sampling:
    """How a symbol is drawn.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest symbol.
        top_k: only the k likeliest symbols; 0 for all.
        top_p: only the likeliest symbols that together have at least this probability; 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_bounds(self, {"at least 0": "temperature top_k", "above 0 and at most 1": "top_p"})


def filter_logits(logits: Float[Tensor, "B V"], sampling: Sampling) -> Float[Tensor, "B V"]:
    """Logits at the temperature, with -inf for the symbols that top-k and top-p leave out; one is always left.

    The two filters look at the distribution after the temperature; top-p looks at what top-k has left.
    """
    if sampling.temperature < 1e-30:
        best = torch.full_like(logits, -torch.inf)
        return best.scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature  # so that no temperature overflows
    if 0 < sampling.top_k < logits.shape[-1]:
        chosen = logits.topk(sampling.top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, chosen.indices, chosen.values)
    if sampling.top_p < 1.0:
        ordered, places = logits.sort(descending=True, dim=-1)
        shares = ordered.softmax(-1)
        before = shares.cumsum(-1) - shares
        before[..., 0] = 0.0
        kept = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, places, kept)
    return logits


def sample(
    model: StepModel,
    state: Any,
    logits: Float[Tensor, "B V"],
    sampling: Sampling,
    generator: torch.Generator,
    forbidden: Sequence[int] = (),
) -> Iterator[Int[Tensor, " B"]]:
    """Symbols without end; the caller takes as many as it wants.

    Args:
        model: takes one step.
        state: after all that has been read.
        logits: of the first symbol to draw.
        sampling: how to draw.
        generator: where chance comes from.
        forbidden: symbols that are never drawn.

    Yields:
        The next symbol of each row.
    """
    while True:
        tokens = draw(logits, sampling, generator, forbidden)
        yield tokens
        logits, state = model.step(tokens, state)


def draw(
    logits: Float[Tensor, "B V"], sampling: Sampling, generator: torch.Generator, forbidden: Sequence[int] = ()
) -> Int[Tensor, " B"]:
    """One symbol of each row; arguments as in `sample`."""
    if forbidden:
        banned = torch.tensor(list(forbidden), dtype=torch.long, device=logits.device)
        logits = logits.index_fill(-1, banned, -torch.inf)
    probabilities = filter_logits(logits, sampling).softmax(-1)
    return torch.multinomial(probabilities.cpu(), 1, generator=generator).squeeze(-1).to(logits.device)
