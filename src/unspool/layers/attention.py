"""Attention: what a query looks for in a memory of vectors, by content."""

from typing import NamedTuple

import torch
from torch import nn

from unspool.errors import ConfigError, ShapeError
from unspool.types import Float, Int, Tensor

SCORES = ("dot", "general", "additive")


class Attended(NamedTuple):
    """What queries have found: weighted sums of the memory, and the weights, which sum to one over its steps."""

    context: Float[Tensor, "T B M"]
    weights: Float[Tensor, "T B S"]


class Attention(nn.Module):
    """Weights over a memory m_1..m_S for every query, and the memory's sum under them.

    ::

        dot:       score(q, m) = q . m                        Luong, Pham & Manning 2015 (arXiv 1508.04025)
        general:   score(q, m) = q . W m                      the same
        additive:  score(q, m) = v . tanh(W_q q + W_m m)      Bahdanau, Cho & Bengio 2015 (arXiv 1409.0473)
        weights = softmax over s of score(q, m_s);  context = sum_s weights_s m_s

    Steps beyond a memory's length get weight zero, whatever stands there.

    Args:
        score: one of `SCORES`.
        query_size: Q.
        memory_size: M; equal to Q for dot.
    """

    def __init__(self, score: str, query_size: int, memory_size: int):
        super().__init__()
        if score not in SCORES:
            raise ConfigError(f"Attention: score must be one of {', '.join(SCORES)}, got {score!r}.")
        if score == "dot" and query_size != memory_size:
            raise ShapeError(f"Attention: dot compares vectors of one size, got {query_size} and {memory_size}.")
        self.score, self.query_size, self.memory_size = score, query_size, memory_size
        self.key_map = nn.Identity() if score == "dot" else nn.Linear(memory_size, query_size, bias=False)
        if score == "additive":
            self.query_map = nn.Linear(query_size, query_size)
            self.vector = nn.Parameter(torch.empty(query_size).uniform_(-1, 1) * query_size**-0.5)

    def keys(self, memory: Float[Tensor, "S B M"]) -> Float[Tensor, "S B Q"]:
        """What queries are compared with: computed once for a memory, however many queries come."""
        return self.key_map(memory)

    def forward(
        self,
        queries: Float[Tensor, "T B Q"],
        memory: Float[Tensor, "S B M"],
        keys: Float[Tensor, "S B Q"],
        lengths: Int[Tensor, " B"],
    ) -> Attended:
        """Looks every query up in the memory of its row.

        Args:
            queries: [T, B, Q]; T may be steps of time or hypotheses side by side.
            memory: [S, B, M].
            keys: [S, B, Q], from `keys`.
            lengths: [B] integers in 1..S: steps of each memory.
        """
        if self.score == "additive":
            mixed = torch.tanh(self.query_map(queries).unsqueeze(2) + keys.transpose(0, 1))  # [T, B, S, Q]
            scores = (mixed @ self.vector).transpose(0, 1)
        else:
            scores = torch.bmm(queries.transpose(0, 1), keys.permute(1, 2, 0))  # [B, T, S]
        outside = torch.arange(len(memory), device=memory.device) >= lengths.unsqueeze(1)
        weights = scores.masked_fill(outside.unsqueeze(1), -torch.inf).softmax(-1)
        real = memory.transpose(0, 1).masked_fill(outside.unsqueeze(-1), 0.0)  # padding may hold anything
        return Attended(torch.bmm(weights, real).transpose(0, 1), weights.transpose(0, 1))
