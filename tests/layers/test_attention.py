"""Attention against its equations, one query and one step at a time in float64."""

import pytest
import torch

from unspool.errors import ConfigError, ShapeError
from unspool.layers import SCORES, Attention

S, T, SIZE = 5, 3, 4
LENGTHS = [5, 2]


def by_hand(layer, query, memory):
    """Weights and context of one query over the real steps of one memory."""
    if layer.score == "additive":
        mixed = [torch.tanh(layer.query_map(query) + layer.key_map(m)) @ layer.vector for m in memory]
    else:
        mixed = [query @ layer.key_map(m) for m in memory]
    weights = torch.stack(mixed).softmax(0)
    return weights, sum(w * m for w, m in zip(weights, memory, strict=True))


@pytest.mark.parametrize("score", SCORES)
def test_every_query_is_the_equation_whatever_stands_beyond_the_lengths(score):
    torch.manual_seed(0)
    layer = Attention(score, SIZE, SIZE).double()
    queries, memory = torch.randn(T, 2, SIZE).double(), torch.randn(S, 2, SIZE).double()
    memory[LENGTHS[1] :, 1] = torch.nan
    found = layer(queries, layer.read(memory, torch.tensor(LENGTHS)))
    for b, length in enumerate(LENGTHS):
        for t in range(T):
            weights, context = by_hand(layer, queries[t, b], memory[:length, b])
            torch.testing.assert_close(found.weights[t, b, :length], weights)
            torch.testing.assert_close(found.context[t, b], context)
            assert not found.weights[t, b, length:].any()


@pytest.mark.parametrize("score", SCORES)
def test_padding_gets_no_gradient(score):
    layer = Attention(score, SIZE, SIZE)
    memory = torch.randn(S, 2, SIZE, requires_grad=True)
    layer(torch.randn(T, 2, SIZE), layer.read(memory, torch.tensor(LENGTHS))).context.sum().backward()
    assert not memory.grad[LENGTHS[1] :, 1].any()
    assert memory.grad[: LENGTHS[1], 1].abs().sum() > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="dot, general, additive"):
        Attention("cosine", 3, 3)
    with pytest.raises(ShapeError, match="dot compares"):
        Attention("dot", 3, 4)
