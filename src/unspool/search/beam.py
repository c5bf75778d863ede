"""Beam search over any model that can take a step: the likeliest sequences that end with a given symbol.

Length penalty and coverage penalty: Wu et al. 2016 (arXiv 1609.08144, section 7). No repeated n-grams: Paulus, Xiong &
Socher 2017 (arXiv 1705.04304, section 2.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unspool.config import check_bounds, require
from unspool.errors import DivergenceError
from unspool.kernels import unchanged_weights
from unspool.search.choices import Choices
from unspool.search.sequences import PRECISIONS, Hypothesis, SequenceModel
from unspool.types import Float, Int, Tensor


@dataclass(frozen=True)
class Beam:
    """How to search.

    Attributes:
        size: hypotheses kept side by side; 1 is greedy search.
        length_penalty: alpha; a hypothesis of n symbols, its end included, is ranked by log p / ((5 + n) / 6)^alpha.
        coverage_penalty: beta; adds beta * sum over source steps of log min(1, attention that the step got in all).
        no_repeat_ngram: no n symbols occur twice in this order; 0: no such rule.
        num_best: hypotheses given back for each sentence, at most.
        precision: of the model's matrix products, where it can choose: float32 or bfloat16.
    """

    size: int = 5
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    no_repeat_ngram: int = 0
    num_best: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        require(self.precision in PRECISIONS, "precision", self.precision, "float32 or bfloat16")
        penalties = "length_penalty coverage_penalty no_repeat_ngram"
        check_bounds(self, {"at least 1": "size num_best", "between 0 and 100": penalties})
        require(self.num_best <= self.size, "num_best", self.num_best, f"at most size, {self.size}")


@torch.no_grad()
@unchanged_weights()
def beam_search(
    model: SequenceModel,
    state: Any,
    first: Int[Tensor, " B"],
    end: int,
    max_lengths: Int[Tensor, " B"],
    beam: Beam = Beam(),
    forbidden: Sequence[int] = (),
    keep_attention: bool = False,
) -> list[list[Hypothesis]]:
    """The best sequences of each sentence, the best first.

    A sentence is done when `size` hypotheses have ended, or no hypothesis that still grows can be ranked before the worst of
    its `num_best` ended ones. A hypothesis of the maximal length ends there. With a beam as large as the space the search
    is exhaustive.

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
        model: SequenceModel,
        state: Any,
        first: Tensor,
        end: int,
        max_lengths: Tensor,
        beam: Beam,
        forbidden: Sequence[int],
        keep_attention: bool,
    ):
        self.model, self.beam, self.end = model, beam, end
        self.device = first.device
        self.found: list[list[Hypothesis]] = [[] for _ in first]
        self.active = list(range(len(first)))  # which sentence each one of B is
        self.max_lengths = max_lengths.to(self.device)
        self.state, self.last = state, first
        # log p of each hypothesis: of one at first, then of `size`
        self.totals = torch.zeros((len(first), 1), device=self.device)
        self.tokens = torch.zeros((len(first), 1, 0), dtype=torch.long, device=self.device)
        self.forbidden = torch.tensor(list(forbidden), dtype=torch.long, device=self.device)
        self.num_ended = torch.zeros(len(first), dtype=torch.long, device=self.device)
        self.best = torch.full((len(first), beam.num_best), -torch.inf, device=self.device)  # scores of ended ones
        self.keeps_attention, self.looks = keep_attention, list[Tensor]()
        self.covered: Tensor | None = None  # [B, K, S] attention that each source step has got

    def advance(self) -> None:
        """One symbol more for every hypothesis."""
        size = self.beam.size
        choices, self.state = self.model.step(self.last, self.state)
        attention = self.model.attention(self.state)
        if attention is not None:
            self._look(attention.unflatten(0, self.totals.shape))
        chances, symbols = self._allowed(choices)
        ways = (self.totals.unsqueeze(-1) + chances).flatten(1)
        if ways.isnan().any():
            raise DivergenceError("the search met probabilities that are no numbers; the model's weights are damaged.")
        values, places = ways.topk(min(2 * size, ways.shape[1]))  # at most `size` of them end, so that as many can grow
        parents, symbol = places // symbols.shape[-1], symbols.flatten(1).gather(1, places)
        ends = symbol == self.end
        self._take_ended(values[:, :size], parents, ends[:, :size])
        growing = values.masked_fill(ends, -torch.inf)
        growing = torch.nn.functional.pad(growing, (0, max(0, size - growing.shape[1])), value=-torch.inf)
        totals, kept = growing.topk(size)
        kept = kept.clamp(max=values.shape[1] - 1)
        self._go_on(totals, parents.gather(1, kept), symbol.gather(1, kept))

    def _allowed(self, choices: Choices) -> tuple[Float[Tensor, "B K C"], Int[Tensor, "B K C"]]:
        """Log-probabilities and symbols of as many ways on of each hypothesis as can matter; -inf is no way."""
        repetitions = self._repetitions().flatten(0, 1)
        banned = torch.cat([self.forbidden.expand(len(repetitions), -1), repetitions], -1)
        chances, symbols = choices.likeliest(2 * self.beam.size + banned.shape[-1])
        if banned.shape[-1]:
            is_banned = (symbols.unsqueeze(-1) == banned.unsqueeze(1)).any(-1)
            chances = chances.masked_fill(is_banned, -torch.inf)
        full = (self.tokens.shape[-1] >= self.max_lengths).repeat_interleave(self.totals.shape[1])
        if full.any():
            chances[full] = -torch.inf
            chances[full, 0] = choices.log_probability(self.end)[full]
            symbols[full, 0] = self.end
        return chances.unflatten(0, self.totals.shape), symbols.unflatten(0, self.totals.shape)

    def _repetitions(self) -> Int[Tensor, "B K R"]:
        """Symbols that would repeat an n-gram, of each hypothesis; -1 is none."""
        n, length = self.beam.no_repeat_ngram, self.tokens.shape[-1]
        if not n or length < n:
            return self.tokens[..., :0]
        windows = self.tokens.unfold(-1, n, 1)  # [B, K, length - n + 1, n]
        recent = self.tokens[..., length - n + 1 :].unsqueeze(2)
        return windows[..., -1].masked_fill(~(windows[..., :-1] == recent).all(-1), -1)

    def _look(self, attention: Float[Tensor, "B K S"]) -> None:
        if self.beam.coverage_penalty:
            self.covered = attention if self.covered is None else self.covered + attention
        if self.keeps_attention:
            self.looks.append(attention)

    def _rank(self, totals: Tensor, lengths: int | Tensor, covered: Tensor | None) -> Tensor:
        """Scores of hypotheses of so many symbols, their ends included."""
        scores = totals / ((5.0 + lengths) / 6.0) ** self.beam.length_penalty
        if covered is not None:
            scores = scores + self.beam.coverage_penalty * covered.log().sum(-1)
        return scores

    def _take_ended(self, values: Tensor, parents: Tensor, ends: Tensor) -> None:
        length = self.tokens.shape[-1] + 1
        ends = ends & (values > -torch.inf)
        b, c = ends.nonzero(as_tuple=True)
        if not len(b):
            return
        k = parents[b, c]
        covered = None
        if self.covered is not None:  # a step that no hypothesis has looked at is padding
            seen = self.covered.amax(1) > 0
            covered = torch.where(seen[b], self.covered[b, k].clamp(1e-6, 1.0), 1.0)
        ranks = self._rank(values[b, c], length, covered)
        scores = torch.full_like(values, -torch.inf).index_put((b, c), ranks)
        self.best = torch.cat([self.best, scores], -1).topk(self.beam.num_best).values
        self.num_ended += ends.sum(-1)
        rows = zip(
            b.tolist(), k.tolist(), values[b, c].tolist(), ranks.tolist(), self.tokens[b, k].tolist(), strict=True
        )
        for sentence, hypothesis, total, score, tokens in rows:
            looks = torch.stack([look[sentence, hypothesis] for look in self.looks]) if self.looks else None
            self.found[self.active[sentence]].append(Hypothesis(tokens, score, total, looks))

    def _go_on(self, totals: Float[Tensor, "B K"], parents: Int[Tensor, "B K"], symbols: Int[Tensor, "B K"]) -> None:
        """Moves to the hypotheses that grow, and lets go of the sentences that are done."""
        before = self.totals.shape[1]
        alive = (~self._are_done(totals[:, 0])).nonzero().squeeze(1)
        parents = parents[alive]
        self.totals, self.max_lengths = totals[alive], self.max_lengths[alive]
        self.num_ended, self.best = self.num_ended[alive], self.best[alive]
        self.tokens = torch.cat([self._follow(self.tokens, alive, parents), symbols[alive].unsqueeze(-1)], -1)
        self.looks = [self._follow(look, alive, parents) for look in self.looks]
        if self.covered is not None:
            self.covered = self._follow(self.covered, alive, parents)
        self.active = [self.active[b] for b in alive.tolist()]
        if self.active:
            self.state = self.model.select(self.state, (alive.unsqueeze(1) * before + parents).flatten())
            self.last = symbols[alive].flatten()

    def _are_done(self, growing: Float[Tensor, " B"]) -> Tensor:
        """Of each sentence, from the log p of its likeliest hypothesis that grows."""
        # a hypothesis that grows only gets less likely; no coverage is better than a full one
        hope = self._rank(growing, self.max_lengths + 1, None)
        return (growing == -torch.inf) | (self.num_ended >= self.beam.size) | (self.best[:, -1] >= hope)

    @staticmethod
    def _follow(tensor: Tensor, alive: Tensor, parents: Tensor) -> Tensor:
        return tensor[alive.unsqueeze(1), parents]
