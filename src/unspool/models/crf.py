"""A linear-chain conditional random field (Lafferty, McCallum & Pereira 2001): tags that depend on each other."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from unspool.types import Bool, Float, Int, Tensor

_NEVER = -1e4  # a log-weight that no sum of others makes up for
_MOST_WEIGHTS = 1 << 24  # compared at a time in decoding


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
        learned: whether A, begin and end are learned; else they are zero, and only what may follow counts.

    Attributes:
        is_free: the tags of different words are independent: nothing is learned, and every tag may come after any other.
    """

    transitions: Float[Tensor, "K1 K1"]
    allowed: Bool[Tensor, "K1 K1"]

    def __init__(
        self,
        num_tags: int,
        may_follow: Callable[[int | None, int | None], bool] = lambda i, j: True,
        learned: bool = True,
    ):
        super().__init__()
        self.learned = learned
        zeros = torch.zeros(num_tags + 1, num_tags + 1)  # the last row: begin; column: end
        if learned:
            self.transitions = nn.Parameter(zeros)
        else:
            self.register_buffer("transitions", zeros, persistent=False)
        places: list[int | None] = [*range(num_tags), None]
        allowed = torch.tensor([[may_follow(i, j) for j in places] for i in places])
        self.register_buffer("allowed", allowed, persistent=False)
        self.is_free = not learned and bool(allowed.all())

    def scores(self) -> Float[Tensor, "K1 K1"]:
        """The transitions, what is not allowed at the lowest number."""
        return self.transitions.masked_fill(~self.allowed, _NEVER)

    def log_likelihood(
        self, emissions: Float[Tensor, "T B K"], tags: Int[Tensor, "T B"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """log p(the tags that are known | x) of each sentence; those that are `IGNORED` are summed over.

        Tsuboi et al. 2008 (COLING, "Training conditional random fields using incomplete annotations"). What lies beyond a sentence's length is not read.
        """
        known = nn.functional.one_hot(tags.clamp(min=0), emissions.shape[-1]).bool() | (tags < 0).unsqueeze(-1)
        both = torch.cat([emissions.masked_fill(~known, _NEVER), emissions], 1)
        seen, every = self._log_partition(both, lengths.repeat(2)).chunk(2)
        return seen - every

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
    def decode(self, emissions: Float[Tensor, "T B K"], lengths: Int[Tensor, " B"], count: int) -> list[list[Path]]:
        """The `count` likeliest ways to tag each sentence, the likeliest first, with their probabilities."""
        if not len(emissions):
            return [[Path([], 1.0)] for _ in lengths]
        emissions = emissions.log_softmax(-1)  # the same distribution, in numbers whose sums keep their digits
        if self.is_free:  # the `count` likeliest ways hold only tags that are among the `count` likeliest of their word
            emissions, own = emissions.topk(min(count, emissions.shape[-1]))
            tags, values = CRF(emissions.shape[-1], learned=False).to(emissions).viterbi(emissions, lengths, count)
            tags = own.transpose(0, 1).unsqueeze(1).expand(-1, tags.shape[1], -1, -1).gather(-1, tags.unsqueeze(-1))
            return self._paths(tags.squeeze(-1), values, values, lengths)
        most = max(1, _MOST_WEIGHTS // (count * emissions.shape[-1] ** 2))  # sentences at a time
        found = []
        for own, some in zip(emissions.split(most, 1), lengths.split(most), strict=True):
            tags, values = self.viterbi(own, some, count)
            found += self._paths(tags, values, values - self._log_partition(own, some).unsqueeze(1), some)
        return found

    @staticmethod
    def _paths(tags: Tensor, values: Tensor, log_probabilities: Tensor, lengths: Tensor) -> list[list[Path]]:
        probabilities = log_probabilities.exp().tolist()
        possible = (values > values[:, :1] + _NEVER / 2).tolist()  # the others go through what is not allowed
        return [
            [Path(way[:length], p) for way, p, is_possible in zip(*row, strict=True) if is_possible]
            if length
            else [Path([], 1.0)]
            for *row, length in zip(tags.tolist(), probabilities, possible, lengths.tolist(), strict=True)
        ]

    @torch.no_grad()
    def viterbi(
        self, emissions: Float[Tensor, "T B K"], lengths: Int[Tensor, " B"], count: int = 1
    ) -> tuple[Int[Tensor, "B N T"], Float[Tensor, "B N"]]:
        """The `count` likeliest ways to tag each sentence of at least one step, and their log-weights, not normalized.

        Viterbi with a list of the best at each tag (Seshadri & Sundberg 1994).
        """
        scores, num_tags = self.scores(), emissions.shape[-1]
        best = (scores[num_tags, :num_tags] + emissions[0]).unsqueeze(1)  # [B, N, K]: the N best that end in each tag
        back: list[Tensor] = []
        for t in range(1, len(emissions)):
            ways = (best.unsqueeze(-1) + scores[:num_tags, :num_tags]).flatten(1, 2)  # [B, N * K, K]
            kept = min(count, ways.shape[1])
            new, chosen = ways.max(1, keepdim=True) if kept == 1 else ways.topk(kept, 1)
            old = nn.functional.pad(best, (0, 0, 0, kept - best.shape[1]), value=-torch.inf)
            goes_on = (t < lengths).view(-1, 1, 1)
            best = torch.where(goes_on, new + emissions[t].unsqueeze(1), old)
            own = torch.arange(kept * num_tags, device=best.device).clamp(max=ways.shape[1] - 1).view(kept, num_tags)
            back.append(torch.where(goes_on, chosen, own))
        ended = (best + scores[:num_tags, num_tags]).flatten(1)
        values, at = ended.topk(min(count, ended.shape[1]))  # [B, M]
        tags = [at % num_tags]
        for chosen in reversed(back):
            at = chosen.flatten(1).gather(1, at)
            tags.append(at % num_tags)
        return torch.stack(tags[::-1], -1), values
