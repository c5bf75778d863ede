"""What a search for whole sequences needs of a model, what it gives, and the plainest search: drawing them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from unspool.config import check_bounds, require
from unspool.kernels import unchanged_weights
from unspool.search.choices import Choices
from unspool.search.sampling import Sampling, draw
from unspool.types import Float, Int, Tensor

PRECISIONS = ("float32", "bfloat16")


class SequenceModel(Protocol):
    """What a search needs of a model. Rows are sentences times hypotheses, the sentence outside."""

    def step(self, tokens: Int[Tensor, " N"], state: Any) -> tuple[Choices, Any]:
        """What may come after one more symbol has been read."""

    def select(self, state: Any, rows: Int[Tensor, " M"]) -> Any:
        """The state of some rows, in that order; what belongs to a sentence stays with it."""

    def attention(self, state: Any) -> Float[Tensor, "N S"] | None:
        """Where each row has looked in its last step, if the model attends to something."""


class Hypothesis(NamedTuple):
    """A sequence that a search has found.

    tokens: its symbols, the end symbol not included.
    score: what it is ranked by.
    log_probability: of the sequence and its end, in nats.
    attention: [n + 1, S] where the model looked at each symbol and the end; None unless asked for.
    """

    tokens: list[int]
    score: float
    log_probability: float
    attention: Float[Tensor, "N S"] | None


@dataclass
class Draws:
    """Sequences drawn by chance.

    Attributes:
        sampling: how a symbol is drawn.
        num_best: independent sequences of each sentence.
        generator: where chance comes from; it moves on with every search.
        precision: as in `Beam`.
    """

    sampling: Sampling
    num_best: int = 1
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    precision: str = "float32"

    def __post_init__(self) -> None:
        require(self.precision in PRECISIONS, "precision", self.precision, "float32 or bfloat16")
        check_bounds(self, {"at least 1": "num_best"})


@torch.no_grad()
@unchanged_weights()
def sample_sequences(
    model: SequenceModel,
    state: Any,
    first: Int[Tensor, " B"],
    end: int,
    max_lengths: Int[Tensor, " B"],
    draws: Draws,
    forbidden: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Sequences drawn symbol by symbol, the likeliest of each sentence first; scores are the model's log-probabilities.

    Args:
        model: takes steps.
        state: rows of it are sentences, in the order of `first`.
        first: the symbol that each sentence's sequences begin with; it is read and not given back.
        end: the symbol that ends a sequence.
        max_lengths: [B] symbols of a sequence at most, the end not included; at least 0.
        draws: how, and how many.
        forbidden: symbols that no sequence holds.
    """
    count = draws.num_best
    rows = torch.arange(len(first), device=first.device).repeat_interleave(count)
    state, last, limits = model.select(state, rows), first[rows], max_lengths.to(first.device)[rows]
    totals = torch.zeros(len(rows), device=first.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=first.device)
    drawn: list[Tensor] = []
    while not done.all():
        choices, state = model.step(last, state)
        chances = choices.all()
        last = draw(chances, draws.sampling, draws.generator, forbidden)
        last = torch.where(done | (len(drawn) >= limits), end, last)
        totals += chances.gather(1, last.unsqueeze(1)).squeeze(1).masked_fill(done, 0.0)
        done |= last == end
        drawn.append(last)
    tokens = torch.stack(drawn, 1).tolist()
    found = [
        Hypothesis(row[: row.index(end)], total, total, None)
        for row, total in zip(tokens, totals.tolist(), strict=True)
    ]
    return [sorted(found[at : at + count], key=lambda one: -one.score) for at in range(0, len(found), count)]
