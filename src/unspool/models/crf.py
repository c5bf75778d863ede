"""A linear-chain conditional random field (Lafferty, McCallum & Pereira 2001): tags that depend on each other."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from unspool.types import Bool, Float, Int, Tensor


class Path(NamedTuple):
    """One way to tag a sentence, and its probability."""

    tags: list[int]
    probability: float


class CRF(nn.Module):
    """p(y | x) = exp(sum_t s_t[y_t] + A[y_{t-1}, y_t] + begin[y_1] + end[y_T]) / Z, s from a network.

    Args:
        num_tags: K.
        may_follow: whether tag j may come after tag i; None stands for the beginning and the end. What may not has
            probability zero, in training and in decoding.
    """

    allowed: Bool[Tensor, "K1 K1"]

    def __init__(self, num_tags: int, may_follow: Callable[[int | None, int | None], bool] = lambda i, j: True):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags + 1, num_tags + 1))  # the last row: begin; column: end
        places: list[int | None] = [*range(num_tags), None]
        allowed = torch.tensor([[may_follow(i, j) for j in places] for i in places])
        self.register_buffer("allowed", allowed, persistent=False)

    def scores(self) -> Float[Tensor, "K1 K1"]:
        """The transitions, what is not allowed at the lowest number."""
        return self.transitions.masked_fill(~self.allowed, -1e4)

    def log_likelihood(
        self, emissions: Float[Tensor, "T B K"], tags: Int[Tensor, "T B"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """log p(y | x) of each sentence; what lies beyond its length is not read."""
        return self._score(emissions, tags, lengths) - self._log_partition(emissions, lengths)

    def _score(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        scores, (num_steps, _, num_tags) = self.scores(), emissions.shape
        inside = torch.arange(num_steps, device=tags.device).unsqueeze(1) < lengths
        tags = torch.where(inside, tags, 0)
        own = emissions.gather(-1, tags.unsqueeze(-1)).squeeze(-1)
        steps = torch.cat([scores[num_tags, tags[:1]], scores[tags[:-1], tags[1:]]])
        last = tags.gather(0, (lengths - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
        return torch.where(inside, own + steps, 0.0).sum(0) + scores[last, num_tags]

    def _log_partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        scores, num_tags = self.scores(), emissions.shape[-1]
        steps = torch.arange(len(emissions), device=lengths.device).unsqueeze(1)
        emissions = torch.where((steps < lengths).unsqueeze(-1), emissions, 0.0)  # padding may hold anything
        alpha = scores[num_tags, :num_tags] + emissions[0]
        for t in range(1, len(emissions)):
            new = torch.logsumexp(alpha.unsqueeze(-1) + scores[:num_tags, :num_tags], 1) + emissions[t]
            alpha = torch.where((t < lengths).unsqueeze(-1), new, alpha)
        return torch.logsumexp(alpha + scores[:num_tags, num_tags], -1)

    @torch.no_grad()
    def decode(self, emissions: Float[Tensor, "T B K"], lengths: Int[Tensor, " B"], count: int = 1) -> list[list[Path]]:
        """The `count` likeliest ways to tag each sentence, the likeliest first, with their probabilities.

        Viterbi with a list of the best at each tag (Seshadri & Sundberg 1994).
        """
        partition = self._log_partition(emissions, lengths)
        return [self._best(emissions[: int(length), b], count, float(partition[b])) for b, length in enumerate(lengths)]

    def _best(self, emissions: Float[Tensor, "T K"], count: int, partition: float) -> list[Path]:
        scores, num_tags = self.scores(), emissions.shape[-1]
        if not len(emissions):
            return [Path([], 1.0)]
        best = (scores[num_tags, :num_tags] + emissions[0]).unsqueeze(0)  # [N, K] of each tag, the best first
        back: list[Tensor] = []
        for emission in emissions[1:]:
            ways = (best.unsqueeze(-1) + scores[:num_tags, :num_tags]).flatten(0, 1)  # [N * K, K]
            best, chosen = ways.topk(min(count, len(ways)), 0)
            best = best + emission
            back.append(chosen)
        ended = (best + scores[:num_tags, num_tags]).flatten()
        found = []
        for value, place in zip(*ended.topk(min(count, len(ended))), strict=True):
            if float(value) < -5e3:
                break  # only through what is not allowed
            tags, at = [int(place) % num_tags], int(place)
            for chosen in reversed(back):
                at = int(chosen[at // num_tags, at % num_tags])
                tags.append(at % num_tags)
            found.append(Path(tags[::-1], float((value - partition).exp())))
        return found
