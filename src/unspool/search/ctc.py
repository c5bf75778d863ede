"""From log-probabilities of frames to symbols: the best path, and a beam over prefixes with other scores fused.

Prefix search: Graves et al. 2006, section 3.2; with a beam and a language model: Hannun et al. 2014 (arXiv 1408.2873).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from unspool.config import check_bounds, require

BLANK = 0
_NONE = -math.inf


class Spoken(NamedTuple):
    """Symbols that a search has found in frames.

    symbols: without blanks.
    steps: the step at which each symbol was surest.
    chances: its probability there.
    log_probability: of the symbols given the frames, all alignments summed (of the best path alone: of that path), in nats.
    score: what it is ranked by.
    """

    symbols: list[int]
    steps: list[int]
    chances: list[float]
    log_probability: float
    score: float


class Scorer(Protocol):
    """What a beam adds to the score of a prefix that grows, in nats."""

    def start(self) -> Any:
        """The state of the empty prefix."""

    def extend(self, state: Any, symbol: int) -> tuple[float, Any]:
        """What one more symbol adds, and the state after it."""

    def finish(self, state: Any) -> float:
        """What it adds that nothing follows."""


@dataclass(frozen=True)
class PrefixBeam:
    """How to search.

    Attributes:
        size: prefixes kept side by side.
        symbol_bonus: nats for each symbol, against a language model's liking for short texts.
        prune: symbols so many nats less likely than a step's likeliest are not tried there.
        num_best: texts given back, at most.
    """

    size: int = 16
    symbol_bonus: float = 0.0
    prune: float = 8.0
    num_best: int = 1

    def __post_init__(self) -> None:
        check_bounds(self, {"at least 1": "size num_best", "finite": "symbol_bonus"})
        require(self.prune > 0, "prune", self.prune, "above 0")
        require(self.num_best <= self.size, "num_best", self.num_best, f"at most size, {self.size}")


class GreedySearch:
    """The likeliest path, step by step: what is said so far is known at once."""

    def __init__(self) -> None:
        self.symbols, self.steps, self.chances = list[int](), list[int](), list[float]()
        self.step, self.last, self.total = 0, BLANK, 0.0

    def advance(self, chances: np.ndarray) -> None:
        """Takes [V] log-probabilities of one step more."""
        symbol = int(chances.argmax())
        chance = float(chances[symbol])
        self.total += chance
        if symbol not in (BLANK, self.last):
            self.symbols.append(symbol)
            self.steps.append(self.step)
            self.chances.append(math.exp(chance))
        elif symbol != BLANK and math.exp(chance) > self.chances[-1]:
            self.steps[-1], self.chances[-1] = self.step, math.exp(chance)
        self.last, self.step = symbol, self.step + 1

    def best(self, finished: bool = True) -> list[Spoken]:
        """What has been found, one text."""
        return [Spoken(list(self.symbols), list(self.steps), list(self.chances), self.total, self.total)]


class PrefixSearch:
    """A beam over prefixes, step by step.

    Args:
        beam: how to search.
        scorers: each with its weight.
    """

    def __init__(self, beam: PrefixBeam = PrefixBeam(), scorers: Sequence[tuple[float, Scorer]] = ()):
        self.beam, self.scorers, self.step = beam, list(scorers), 0
        root = _Prefix(None, BLANK, [scorer.start() for _, scorer in self.scorers], 0.0)
        root.blank = 0.0
        self.prefixes = [root]

    def advance(self, chances: np.ndarray) -> None:
        """Takes [V] log-probabilities of one step more."""
        least = float(chances.max()) - self.beam.prune
        tried = [(int(s), float(chances[s])) for s in np.flatnonzero(chances >= least) if s != BLANK]
        reached: dict[int, _Prefix] = {}
        for prefix in self.prefixes:
            total = _add(prefix.blank, prefix.symbol)
            reached[id(prefix)] = prefix
            prefix.next_blank = _add(prefix.next_blank, total + float(chances[BLANK]))
            for symbol, chance in tried:
                before = total
                if symbol == prefix.last:
                    again = prefix.symbol >= prefix.blank and chance > prefix.peak
                    prefix.hear(prefix.symbol + chance, chance, self.step, again)
                    before = prefix.blank
                if before > _NONE:
                    grown = prefix.children.get(symbol) or self._grow(prefix, symbol)
                    anew = before >= _add(grown.blank, grown.symbol)  # else most alignments have heard it before
                    grown.hear(before + chance, chance, self.step, anew)
                    reached[id(grown)] = grown
        for prefix in reached.values():
            prefix.blank, prefix.symbol = prefix.next_blank, prefix.next_symbol
            prefix.next_blank = prefix.next_symbol = _NONE
        ranked = sorted(reached.values(), key=lambda one: -one.score())
        alive = [one for one in ranked[: self.beam.size] if one.score() > _NONE]
        self.prefixes = alive or ranked[:1]
        for prefix in ranked[len(self.prefixes) :]:
            prefix.blank = prefix.symbol = _NONE
            prefix.forget()
        self.step += 1

    def best(self, finished: bool = True) -> list[Spoken]:
        """The best texts so far, the best first; `finished`: with what scorers say of their ends."""
        found = [self._spoken(prefix, finished) for prefix in self.prefixes]
        return sorted(found, key=lambda one: -one.score)[: self.beam.num_best]

    def _grow(self, prefix: "_Prefix", symbol: int) -> "_Prefix":
        gained, states = self.beam.symbol_bonus, []
        for (weight, scorer), state in zip(self.scorers, prefix.states, strict=True):
            score, after = scorer.extend(state, symbol)
            gained += weight * score
            states.append(after)
        grown = _Prefix(prefix, symbol, states, prefix.bonus + gained)
        prefix.children[symbol] = grown
        return grown

    def _spoken(self, prefix: "_Prefix", finished: bool) -> Spoken:
        chain, node = [], prefix
        while node.parent is not None:
            chain.append(node)
            node = node.parent
        chain.reverse()
        total, score = _add(prefix.blank, prefix.symbol), prefix.score()
        if finished:
            score += sum(w * s.finish(state) for (w, s), state in zip(self.scorers, prefix.states, strict=True))
        return Spoken([n.last for n in chain], [n.step for n in chain], [math.exp(n.peak) for n in chain], total, score)


class _Prefix:
    """A prefix: log-probabilities of the alignments that end in a blank and in its last symbol, and its extra score."""

    __slots__ = ("blank", "bonus", "children", "last", "next_blank", "next_symbol", "parent", "peak", "states", "step",
                 "symbol")  # fmt: skip

    def __init__(self, parent: "_Prefix | None", last: int, states: list[Any], bonus: float):
        self.parent, self.last, self.states, self.bonus = parent, last, states, bonus
        self.children: dict[int, _Prefix] = {}
        self.blank = self.symbol = self.next_blank = self.next_symbol = _NONE
        self.step, self.peak = 0, _NONE

    def hear(self, total: float, chance: float, step: int, is_there: bool) -> None:
        """Alignments that hear the last symbol at a step; `is_there`: the surest of them all hear it there."""
        self.next_symbol = _add(self.next_symbol, total)
        if is_there and total > _NONE:
            self.peak, self.step = chance, step

    def forget(self) -> None:
        """Lets go of what has left the beam and leads to nothing in it, so that memory grows with the text alone."""
        node = self
        while node.parent is not None and not node.children and _add(node.blank, node.symbol) == _NONE:
            node.parent.children.pop(node.last, None)
            node = node.parent

    def score(self) -> float:
        return _add(self.blank, self.symbol) + self.bonus


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NONE else a + math.log1p(math.exp(b - a))
