"""Attention: what a query looks for in a memory of vectors, by content."""

from typing import NamedTuple

import torch
from torch import nn

from unspool.config import require
from unspool.errors import ShapeError
from unspool.types import Bool, Float, Int, Tensor

SCORES = ("dot", "general", "additive")


class Attended(NamedTuple):
    """What queries have found: weighted sums of the memory, and the weights, which sum to one over its steps."""

    context: Float[Tensor, "T B M"]
    weights: Float[Tensor, "T B S"]


class Memory(NamedTuple):
    """What is looked at, laid out for many queries.

    values: [B, S, M], zero beyond lengths.  keys: [B, S, Q] what queries are compared with.  outside: [B, 1, S] beyond lengths.
    """

    values: Float[Tensor, "B S M"]
    keys: Float[Tensor, "B S Q"]
    outside: Bool[Tensor, "B 1 S"]


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
        require(score in SCORES, "Attention: score", score, f"one of {', '.join(SCORES)}")
        if score == "dot" and query_size != memory_size:
            raise ShapeError(f"Attention: dot compares vectors of one size, got {query_size} and {memory_size}.")
        self.score, self.query_size, self.memory_size = score, query_size, memory_size
        self.key_map = nn.Identity() if score == "dot" else nn.Linear(memory_size, query_size, bias=False)
        if score == "additive":
            self.query_map = nn.Linear(query_size, query_size)
            self.vector = nn.Parameter(torch.empty(query_size).uniform_(-1, 1) * query_size**-0.5)

    def read(self, memory: Float[Tensor, "S B M"], lengths: Int[Tensor, " B"]) -> Memory:
        """Prepares a memory, once, however many queries come.

        Args:
            memory: [S, B, M].
            lengths: [B] integers in 1..S: steps of each memory.
        """
        outside = (torch.arange(len(memory), device=memory.device) >= lengths.unsqueeze(1)).unsqueeze(1)
        values = memory.transpose(0, 1).masked_fill(outside.transpose(1, 2), 0.0)  # padding may hold anything
        keys = self.key_map(values)
        return Memory(values.to(keys.dtype), keys, outside)

    def forward(self, queries: Float[Tensor, "T B Q"], memory: Memory) -> Attended:
        """Looks every query up in the memory of its row.

        Args:
            queries: [T, B, Q]; T may be steps of time or hypotheses side by side.
            memory: from `read`.
        """
        if self.score == "additive":
            mixed = torch.tanh(self.query_map(queries).transpose(0, 1).unsqueeze(2) + memory.keys.unsqueeze(1))
            scores = mixed @ self.vector  # [B, T, S]
        else:
            scores = torch.bmm(queries.transpose(0, 1), memory.keys.transpose(1, 2))
        weights = scores.masked_fill(memory.outside, -torch.inf).softmax(-1)
        return Attended(torch.bmm(weights, memory.values).transpose(0, 1), weights.transpose(0, 1))
