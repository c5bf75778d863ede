"""Beam search over any model that can take a step: the likeliest sequences that end with a given symbol.

Length penalty and coverage penalty: Wu et al. 2016 (arXiv 1609.08144, section 7). No repeated n-grams: Paulus, Xiong &
Socher 2017 (arXiv 1705.04304, section 2.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from unspool.errors import ConfigError
from unspool.types import Float, Int, Tensor


class BeamModel(Protocol):
    """What a beam search needs of a model. Rows are sentences times hypotheses, the sentence outside."""

    def step(self, tokens: Int[Tensor, " N"], state: Any) -> tuple[Float[Tensor, "N V"], Any]:
        """Logits of the next symbol after one more has been read."""

    def select(self, state: Any, rows: Int[Tensor, " M"]) -> Any:
        """The state of some rows, in that order; what belongs to a sentence stays with it."""

    def attention(self, state: Any) -> Float[Tensor, "N S"] | None:
        """Where each row has looked in its last step, if the model attends to something."""


@dataclass(frozen=True)
class Beam:
    """How to search.

    Attributes:
        size: hypotheses kept side by side; 1 is greedy search.
        length_penalty: alpha; a hypothesis of n symbols, its end included, is ranked by log p / ((5 + n) / 6)^alpha.
        coverage_penalty: beta; adds beta * sum over source steps of log min(1, attention that the step got in all).
        no_repeat_ngram: no n symbols occur twice in this order; 0: no such rule.
        num_best: hypotheses given back for each sentence, at most.
    """

    size: int = 5
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    no_repeat_ngram: int = 0
    num_best: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "num_best"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("length_penalty", "coverage_penalty", "no_repeat_ngram"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")
        if self.num_best > self.size:
            raise ConfigError(f"num_best must be at most size, {self.size}, got {self.num_best}.")


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


@torch.no_grad()
def beam_search(
    model: BeamModel,
    state: Any,
    first: Int[Tensor, " B"],
    end: int,
    max_lengths: Int[Tensor, " B"],
    beam: Beam = Beam(),
    forbidden: Sequence[int] = (),
    keep_attention: bool = False,
) -> list[list[Hypothesis]]:
    """The best sequences of each sentence, the best first.

    A sentence is done when no hypothesis that still grows can be ranked before the worst of its `num_best` ended ones. A
    hypothesis of the maximal length ends there. With a beam as large as the space the search is exhaustive.

    Args:
        model: takes steps.
        state: rows of it are sentences, in the order of `first`.
        first: the symbol that each sentence's sequences begin with; it is read and not given back.
        end: the symbol that ends a sequence.
        max_lengths: [B] symbols of a sequence at most, the end not included; at least 0.
        beam: how to search.
        forbidden: symbols that no sequence holds.
        keep_attention: hand out where the model looked.
    """
    search = _Search(model, state, first, end, max_lengths, beam, forbidden, keep_attention)
    while search.active:
        search.advance()
    return [sorted(found, key=lambda one: -one.score)[: beam.num_best] for found in search.found]


class _Search:
    """A search in progress; B counts the sentences that are not done."""

    def __init__(
        self,
        model: BeamModel,
        state: Any,
        first: Tensor,
        end: int,
        max_lengths: Tensor,
        beam: Beam,
        forbidden: Sequence[int],
        keep_attention: bool,
    ):
        self.model, self.beam, self.end, size = model, beam, end, beam.size
        self.device = first.device
        self.found: list[list[Hypothesis]] = [[] for _ in first]
        self.active = list(range(len(first)))  # which sentence each one of B is
        self.max_lengths = max_lengths.to(self.device)
        rows = torch.arange(len(first), device=self.device).repeat_interleave(size)
        self.state = model.select(state, rows)
        self.last = first[rows]
        self.totals = torch.full((len(first), size), -torch.inf, device=self.device)  # log p of each hypothesis
        self.totals[:, 0] = 0.0
        self.tokens = torch.zeros((len(first), size, 0), dtype=torch.long, device=self.device)
        self.forbidden = torch.tensor(list(forbidden), dtype=torch.long, device=self.device)
        self.keeps_attention, self.looks = keep_attention, list[Tensor]()
        self.covered: Tensor | None = None  # [B, K, S] attention that each source step has got

    def advance(self) -> None:
        """One symbol more for every hypothesis."""
        count, size = self.totals.shape
        logits, self.state = self.model.step(self.last, self.state)
        chances = logits.float().log_softmax(-1).view(count, size, -1)
        self._forbid(chances)
        attention = self.model.attention(self.state)
        if attention is not None:
            self._look(attention.view(count, size, -1))
        symbols = chances.shape[-1]
        ways = (self.totals.unsqueeze(-1) + chances).flatten(1)
        values, places = ways.topk(min(2 * size, ways.shape[1]))  # at most `size` of them end, so that as many can grow
        parents, symbol = places // symbols, places % symbols
        ends = symbol == self.end
        self._take_ended(values[:, :size], parents, ends[:, :size])
        growing = values.masked_fill(ends, -torch.inf)
        growing = torch.nn.functional.pad(growing, (0, max(0, size - growing.shape[1])), value=-torch.inf)
        self.totals, kept = growing.topk(size)
        kept = kept.clamp(max=values.shape[1] - 1)
        self._go_on(parents.gather(1, kept), symbol.gather(1, kept))

    def _forbid(self, chances: Float[Tensor, "B K V"]) -> None:
        chances[..., self.forbidden] = -torch.inf
        if self.beam.no_repeat_ngram:
            self._forbid_repetition(chances, self.beam.no_repeat_ngram)
        full = (self.tokens.shape[-1] >= self.max_lengths).nonzero().squeeze(1)
        if len(full):
            ended = chances[full, :, self.end].clone()
            chances[full] = -torch.inf
            chances[full, :, self.end] = ended

    def _forbid_repetition(self, chances: Float[Tensor, "B K V"], n: int) -> None:
        length = self.tokens.shape[-1]
        if length < n:
            return
        windows = self.tokens.unfold(-1, n, 1)  # [B, K, length - n + 1, n]
        recent = self.tokens[..., length - n + 1 :].unsqueeze(2)
        b, k, place = (windows[..., :-1] == recent).all(-1).nonzero(as_tuple=True)
        chances[b, k, windows[b, k, place, -1]] = -torch.inf

    def _look(self, attention: Float[Tensor, "B K S"]) -> None:
        if self.beam.coverage_penalty:
            self.covered = attention if self.covered is None else self.covered + attention
        if self.keeps_attention:
            self.looks.append(attention)

    def _rank(self, totals: Tensor, lengths: int | Tensor, covered: Tensor | None) -> Tensor:
        """Scores of hypotheses of so many symbols, their ends included."""
        scores = totals / ((5.0 + lengths) / 6.0) ** self.beam.length_penalty
        if covered is not None:
            scores = scores + self.beam.coverage_penalty * covered.clamp(max=1.0).log().sum(-1)
        return scores

    def _take_ended(self, values: Tensor, parents: Tensor, ends: Tensor) -> None:
        length = self.tokens.shape[-1] + 1
        b, c = (ends & (values > -torch.inf)).nonzero(as_tuple=True)
        if not len(b):
            return
        k = parents[b, c]
        covered = None if self.covered is None else self.covered[b, k]
        scores = self._rank(values[b, c], length, covered).tolist()
        rows = zip(b.tolist(), k.tolist(), values[b, c].tolist(), scores, self.tokens[b, k].tolist(), strict=True)
        for sentence, hypothesis, total, score, tokens in rows:
            looks = torch.stack([look[sentence, hypothesis] for look in self.looks]) if self.looks else None
            self.found[self.active[sentence]].append(Hypothesis(tokens, score, total, looks))

    def _go_on(self, parents: Int[Tensor, "B K"], symbols: Int[Tensor, "B K"]) -> None:
        """Moves to the hypotheses that grow, and lets go of the sentences that are done."""
        count, size = parents.shape
        alive = torch.tensor([b for b in range(count) if not self._is_done(b)], dtype=torch.long, device=self.device)
        parents = parents[alive]
        self.totals, self.max_lengths = self.totals[alive], self.max_lengths[alive]
        self.tokens = torch.cat([self._follow(self.tokens, alive, parents), symbols[alive].unsqueeze(-1)], -1)
        self.looks = [self._follow(look, alive, parents) for look in self.looks]
        if self.covered is not None:
            self.covered = self._follow(self.covered, alive, parents)
        self.active = [self.active[b] for b in alive.tolist()]
        if self.active:
            self.state = self.model.select(self.state, (alive.unsqueeze(1) * size + parents).flatten())
            self.last = symbols[alive].flatten()

    @staticmethod
    def _follow(tensor: Tensor, alive: Tensor, parents: Tensor) -> Tensor:
        return tensor[alive.unsqueeze(1), parents]

    def _is_done(self, b: int) -> bool:
        best = float(self.totals[b, 0])
        if best == -float("inf"):
            return True
        ended = self.found[self.active[b]]
        if len(ended) < self.beam.num_best:
            return False
        worst = sorted((one.score for one in ended), reverse=True)[self.beam.num_best - 1]
        # a hypothesis that grows only gets less likely; no coverage is better than a full one
        return worst >= float(self._rank(torch.tensor(best), int(self.max_lengths[b]) + 1, None))
